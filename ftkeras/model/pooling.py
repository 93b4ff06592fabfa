"""From a backbone's features to one vector per example."""

from __future__ import annotations

from typing import Any

import keras

from ftkeras.backbones.backbone import gives_of
from ftkeras.errors import UserError, did_you_mean

# By kind of features; the first is the default.
POOLINGS = {
    "map": ("avg", "max", "avg_max"),
    "sequence": ("mean", "max", "first", "last", "attention"),
    "vector": ("none", "pooler"),  # the backbone pools itself
}


def pool(
    features: keras.KerasTensor,
    pooling: str | None = None,
    mask: keras.KerasTensor | None = None,
    front: int = 0,
) -> keras.KerasTensor:
    """Returns one vector per example; the layer that makes it is named `head_pool`.

    Args:
        features: A map (batch, height, width, channels), a sequence (batch, steps, channels), or a
            vector (batch, channels), which is returned as it is.
        pooling: For a map "avg", "max", or "avg_max" (both side by side). For a sequence "mean",
            "max", "first", "last" or "attention"; see `SequencePooling`. For a vector "none", or
            "pooler" if a Transformer's own pooler made it. None takes the first that fits, or
            "first" for a sequence with `front`.
        mask: For a sequence, (batch, steps): true for steps, false for padding. None for the Keras
            mask of `features`, if it has one.
        front: For a sequence, how many of its first steps are not part of the example. "first"
            takes the first of them, the class token; all others leave them out.

    Returns:
        (batch, channels); "avg_max" gives twice as many channels.

    Raises:
        UserError: The features are none of the three, or the pooling does not fit them.
    """
    gives = gives_of(features.shape)
    fitting = POOLINGS[gives]
    if pooling is None:
        pooling = "first" if front else fitting[0]
    if pooling not in fitting:
        raise UserError(
            f"head.pooling: {pooling!r} does not fit a backbone that gives a {gives}, "
            f"{tuple(features.shape)}; choose {', '.join(fitting)}.{did_you_mean(pooling, fitting)}"
        )
    if gives == "vector":
        return features
    if gives == "sequence":
        if front and pooling != "first":
            features = keras.layers.Cropping1D((front, 0), name="head_parts")(features)
        return SequencePooling(pooling, name="head_pool")(features, mask=mask)
    return _pool_map(features, pooling)


def _pool_map(features: keras.KerasTensor, pooling: str) -> keras.KerasTensor:
    average, maximum = keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D
    if pooling == "avg":
        return average(name="head_pool")(features)
    if pooling == "max":
        return maximum(name="head_pool")(features)
    both = [average(name="head_pool_avg")(features), maximum(name="head_pool_max")(features)]
    return keras.layers.Concatenate(name="head_pool")(both)  # (batch, 2 * channels)


@keras.saving.register_keras_serializable(package="ftkeras")
class SequencePooling(keras.layers.Layer):
    """Makes one vector of a sequence, without its padding.

    Keras's own pooling divides by zero if all is padding, and its maximum includes padding. Here a
    sequence without a real step gives zeros. To load a saved model with this layer by Keras alone,
    import this module first.

    Args:
        pooling: "mean" or "max" over the real steps; "first" or "last" of the real steps;
            "attention": a mean with the weights softmax(x . query / sqrt(channels)). The query
            is learned and starts at zero, which is the mean.

    Call arguments:
        inputs: Float (batch, steps, channels).
        mask: (batch, steps), bool or numbers: true for real steps. None: all steps are real.

    Returns:
        Float (batch, channels).

    Example:
        >>> x = keras.ops.array([[[1.0], [3.0], [9.0]]])
        >>> SequencePooling("mean")(x, mask=keras.ops.array([[True, True, False]])).numpy()
        array([[2.]], dtype=float32)
    """

    def __init__(self, pooling: str = "mean", **kwargs: Any):
        super().__init__(**kwargs)
        if pooling not in POOLINGS["sequence"]:
            raise UserError(
                f"pooling: {pooling!r} is none of {', '.join(POOLINGS['sequence'])}."
                f"{did_you_mean(pooling, POOLINGS['sequence'])}"
            )
        self.pooling = pooling

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if self.pooling == "attention":
            self.query = self.add_weight(
                shape=(input_shape[-1],), initializer="zeros", name="query"
            )

    def call(self, inputs: Any, mask: Any = None) -> Any:
        ops = keras.ops
        x = ops.cast(inputs, "float32")  # a long sum in half precision would be rounded
        mask = ops.ones_like(x[..., 0], "bool") if mask is None else ops.cast(mask, "bool")
        real = mask[..., None]  # (batch, steps, 1)
        if self.pooling == "max":
            pooled = ops.max(ops.where(real, x, -float("inf")), axis=1)
        else:
            pooled = ops.sum(self._shares(x, mask)[..., None] * ops.where(real, x, 0.0), axis=1)
        pooled = ops.where(ops.any(real, axis=1), pooled, 0.0)  # (batch, channels)
        return ops.cast(pooled, self.compute_dtype)

    def _shares(self, x: Any, mask: Any) -> Any:
        """Returns the weight of each step, (batch, steps): 0 for padding; they sum to 1."""
        ops = keras.ops
        ones = ops.cast(mask, "float32")
        if self.pooling == "mean":
            return ones / ops.maximum(ops.sum(ones, axis=1, keepdims=True), 1.0)
        if self.pooling == "attention":
            query = ops.cast(self.query, "float32")
            scores = ops.sum(x * query, axis=-1) / float(x.shape[-1]) ** 0.5
            return ops.softmax(ops.where(mask, scores, -1e30), axis=1) * ones
        count = ops.cumsum(ones, axis=1)
        if self.pooling == "last":
            count = ops.sum(ones, axis=1, keepdims=True) - count + 1.0  # from the end
        return ones * ops.cast(count == 1.0, "float32")

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        return None  # no steps are left

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pooling": self.pooling}
