"""Metrics that count each example once, whatever its weight in the loss."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="ftkeras")
class Unweighted(keras.metrics.Metric):
    """Another metric over the examples whose weight is not 0, each counted once.

    Give it to `compile` as one of `weighted_metrics`. Keras would otherwise include the weights of
    classes or of examples. Examples of weight 0, such as those without a known answer and the
    padding of batches, are left out.

    Args:
        metric: The other metric; its name is kept.

    Example:
        ```python
        accuracy = Unweighted(keras.metrics.CategoricalAccuracy(name="accuracy"))
        model.compile("adam", "categorical_crossentropy", weighted_metrics=[accuracy])
        ```
    """

    def __init__(self, metric: keras.metrics.Metric):
        super().__init__(name=metric.name)
        self._metric = metric

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Counts a batch.

        Args:
            y_true: Labels, (b, ...).
            y_pred: Answers, (b, ...).
            sample_weight: Weights in the loss, (b,), or None.
        """
        if sample_weight is not None:
            sample_weight = keras.ops.cast(
                keras.ops.convert_to_tensor(sample_weight) > 0, "float32"
            )
        self._metric.update_state(y_true, y_pred, sample_weight)

    def result(self) -> Any:
        """Returns the other metric's result."""
        return self._metric.result()

    def reset_state(self) -> None:
        """Resets the other metric."""
        self._metric.reset_state()

    def get_config(self) -> dict[str, Any]:
        """Returns the other metric's config."""
        return {"metric": keras.saving.serialize_keras_object(self._metric)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Unweighted:
        """Makes one from what `get_config` returned."""
        return cls(keras.saving.deserialize_keras_object(config["metric"]))
