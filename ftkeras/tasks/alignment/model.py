"""Two towers that meet in one space, and the losses that bring their pairs together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from ftkeras.backbones import Backbone, Block
from ftkeras.devices.replicas import sum_over_replicas
from ftkeras.errors import UserError
from ftkeras.model.assemble import backbone_features
from ftkeras.model.head import shared_layers

PROJECTION = "projection"
_MOST = 100.0  # what similarities are multiplied with at most (Radford et al. 2021)
_SIGMOID_BIAS = -10.0  # Zhai et al. 2023: most pairs of a batch do not fit


@dataclass(frozen=True)
class Towers(Backbone):
    """The backbones of both towers; the blocks of both, their names with the tower's before.

    Args:
        sides: The backbones by the name of their tower: what people call what they take.
    """

    sides: Mapping[str, Backbone] = field(default_factory=dict)

    @classmethod
    def of(cls, sides: Mapping[str, Backbone]) -> Towers:
        """Returns both as one."""
        first = next(iter(sides.values()))
        blocks = tuple(
            Block(f"{side}/{block.name}", block.layers)
            for side, backbone in sides.items()
            for block in backbone.blocks
        )
        names = {backbone.model.name for backbone in sides.values()}
        if len(names) < len(sides):
            raise UserError(
                f"task alignment: the models of both towers are called {names.pop()!r}. Save one "
                "of them under another name."
            )
        inputs = {
            side: keras.tree.map_structure(
                lambda x: keras.Input(x.shape[1:], dtype=x.dtype), backbone.model.input
            )
            for side, backbone in sides.items()
        }
        features = [sides[side].model(x) for side, x in inputs.items()]
        both = keras.Model(keras.tree.flatten(inputs), features)  # where adapters are looked for
        fields = {f.name: getattr(first, f.name) for f in dataclasses.fields(Backbone)}
        fields |= {"model": both, "name": " and ".join(b.name for b in sides.values())}
        return cls(**{**fields, "blocks": blocks}, sides=sides)


@keras.saving.register_keras_serializable(package="ftkeras")
class Meeting(keras.layers.Layer):
    """Puts the two embeddings of a pair side by side, with what turns similarities into logits.

    A loss of pairs needs no more than what it returns: logits are
    `scale * pictures @ texts.T + bias`. Scale and bias are learned.

    Args:
        scale: What cosine similarities are multiplied with at first.
        bias: What is added to them at first; 0 stays 0 for the loss softmax, which does not see it.

    Call arguments:
        inputs: Two float (batch, units).

    Returns:
        float32 (batch, 2 * units + 2): unit vectors of the pictures, of the texts, scale and bias.
    """

    def __init__(self, scale: float = 1 / 0.07, bias: float = 0.0, **kwargs: Any):
        super().__init__(dtype="float32", **kwargs)
        self._first = (scale, bias)

    def build(self, input_shape: Any) -> None:
        scale, bias = self._first
        # By that name no optimizer pulls them to 0.
        self.bias = self.add_weight(
            shape=(2,),
            initializer=lambda shape, dtype=None: keras.ops.array([math.log(scale), bias]),
            name="bias",
        )

    def set(self, scale: float) -> None:
        """Sets the scale."""
        self.bias.assign([math.log(scale), float(self.bias[1])])

    def call(self, inputs: Any) -> Any:
        ops = keras.ops
        both = [ops.normalize(ops.cast(x, "float32"), epsilon=1e-6) for x in inputs]
        ones = ops.ones_like(both[0][:, :1])
        scale = ops.minimum(ops.exp(self.bias[0]), _MOST)
        return ops.concatenate([*both, ones * scale, ones * self.bias[1]], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (input_shape[0][0], 2 * input_shape[0][-1] + 2)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.pop("dtype")
        return {**config, "scale": self._first[0], "bias": self._first[1]}


def build_towers(
    towers: Towers,
    *,
    units: int,
    heads: Mapping[str, Mapping[str, Any]],
    temperature: float = 0.07,
    sigmoid: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Returns the model of both towers, from what both take to what `Meeting` returns.

    Each tower is a nested model by its name, from what it takes to its projection.

    Args:
        towers: The backbones.
        units: Width of the space.
        heads: By tower, options of `ftkeras.model.head.shared_layers`.
        temperature: What similarities are divided by at first.
        sigmoid: Whether the loss is the sigmoid one, which has a bias.
        seed: Seed of initialisers and dropout.

    Raises:
        UserError: Both towers have an input of one name.
    """
    models = [
        _tower(name, backbone, units, heads[name], seed + number)
        for number, (name, backbone) in enumerate(towers.sides.items())
    ]
    names = [x.name for model in models for x in model.inputs]
    if len(set(names)) < len(names):
        raise UserError(
            f"task alignment: both towers take an input {names[0]!r}. Take towers of two kinds."
        )
    inputs = {
        x.name: keras.Input(x.shape[1:], name=x.name, dtype=x.dtype)
        for model in models
        for x in model.inputs
    }
    embeddings = []
    for model in models:
        own = {x.name: inputs[x.name] for x in model.inputs}
        embeddings.append(model(own if len(own) > 1 else next(iter(own.values()))))
    meeting = Meeting(1 / temperature, _SIGMOID_BIAS if sigmoid else 0.0, name="meeting")
    return keras.Model(inputs, meeting(embeddings), name="towers")


def _tower(
    name: str, backbone: Backbone, units: int, head: Mapping[str, Any], seed: int
) -> keras.Model:
    inputs, features, mask = backbone_features(backbone)
    x = shared_layers(features, mask=mask, front=backbone.front, seed=seed, **head)
    projection = keras.layers.Dense(
        units,
        kernel_initializer=keras.initializers.GlorotUniform(seed),
        dtype="float32",
        name=PROJECTION,
    )
    return keras.Model(inputs, projection(x), name=name)


def embeddings_of(said: Any) -> tuple[Any, Any]:
    """Returns the pictures' and the texts' embeddings, (n, units) each, of what a model said."""
    units = (said.shape[-1] - 2) // 2
    return said[:, :units], said[:, units : 2 * units]


@keras.saving.register_keras_serializable(package="ftkeras")
class Contrastive(keras.losses.Loss):
    """Brings pairs together and keeps the others of a batch apart.

    softmax is the mean of two cross-entropies: of the text that fits a picture among all texts, and
    of the picture that fits a text (CLIP: Radford et al. 2021). sigmoid asks of each picture with
    each text whether they fit (SigLIP: Zhai et al. 2023). A picture and a text of another pair that
    fit all the same, since the picture has that text, too, count as neither.

    A batch on several replicas is one batch: each sees the examples of all.

    Args:
        kind: softmax or sigmoid.
    """

    def __init__(self, kind: str = "softmax", name: str = "contrastive", **kwargs: Any):
        super().__init__(name=name, **kwargs)
        self.kind = kind

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of each pair, (b,).

        Args:
            y_true: The number of the pair's text, then those of all texts of its picture, and -1.
            y_pred: What `Meeting` returns.
        """
        y_true, y_pred = tf.cast(y_true, tf.float32), tf.cast(y_pred, tf.float32)
        own = tf.shape(y_pred)[0]
        (numbers, fits), at = _everyones([y_true, y_pred])
        (pictures, texts), (scale, bias) = embeddings_of(y_pred), (y_pred[0, -2], y_pred[0, -1])
        all_pictures, all_texts = embeddings_of(fits)
        rows = tf.range(at, at + own)
        paired = tf.one_hot(rows, tf.shape(fits)[0])  # (b, all)
        to_texts = scale * tf.matmul(pictures, all_texts, transpose_b=True) + bias  # (b, all)
        also = _has(y_true[:, 1:], numbers[:, 0])
        if self.kind == "sigmoid":
            signs = 2.0 * paired - 1.0
            counted = tf.maximum(paired, 1.0 - also)
            return -tf.reduce_sum(counted * tf.math.log_sigmoid(signs * to_texts), axis=1)
        to_pictures = scale * tf.matmul(texts, all_pictures, transpose_b=True) + bias
        back = tf.transpose(_has(numbers[:, 1:], y_true[:, 0]))
        return 0.5 * (_entropy(to_texts, paired, also) + _entropy(to_pictures, paired, back))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kind": self.kind}


def _has(own: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """Returns which pictures, with their own numbers (a, most), have which texts (b,): (a, b)."""
    same = tf.equal(own[:, :, tf.newaxis], numbers)  # (a, most, b)
    return tf.cast(tf.reduce_any(same, axis=1), tf.float32)


def _entropy(logits: tf.Tensor, paired: tf.Tensor, also: tf.Tensor) -> tf.Tensor:
    """Returns the cross-entropy of each row, (b,), without others that fit, too."""
    kept = tf.where((also > 0) & (paired == 0), -1e9, logits)
    return tf.nn.softmax_cross_entropy_with_logits(paired, kept)


def _everyones(tensors: list[tf.Tensor]) -> tuple[list[tf.Tensor], Any]:
    """Returns tensors (b, ...) of all replicas, one after the other, and at which row one's begin.

    All replicas have equally many rows.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensors, 0
    count, index = context.num_replicas_in_sync, context.replica_id_in_sync_group
    places = tf.one_hot(index, count)  # (replicas,)
    spread = [tf.einsum("r,bc->rbc", places, x) for x in tensors]
    whole = [tf.reshape(x, [-1, x.shape[-1]]) for x in sum_over_replicas(spread)]
    return whole, index * tf.shape(tensors[0])[0]


def batch_recall(y_true: Any, y_pred: Any) -> Any:
    """Returns 1 for each pair whose text is the nearest of its batch to the picture, (b,)."""
    pictures, texts = embeddings_of(y_pred)
    nearest = tf.argmax(tf.matmul(pictures, texts, transpose_b=True), axis=1)
    own = tf.gather(y_true[:, 0], nearest)[:, tf.newaxis]
    # `==` of a batch of unknown size would have no rank.
    return tf.cast(tf.reduce_any(tf.equal(y_true[:, 1:], own), axis=1), tf.float32)
