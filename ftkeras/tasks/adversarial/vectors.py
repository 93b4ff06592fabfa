"""Training against small changes of word vectors (Miyato, Dai and Goodfellow 2017).

Tokens cannot change a little, but the vectors that the network reads can. A client cannot send
changed vectors to a served model: this regularises, it is no defence.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.graph import GraphModel, flatten
from ftkeras.tasks.adversarial.attack import Losses, gradient_of, noise_of, unit
from ftkeras.tasks.adversarial.evaluation import cross_entropies

_NEAR = 0.1  # the distance for measuring an answer's curvature, in spreads of the vectors


@dataclass(frozen=True)
class Divided:
    """A model of tokens, divided at the vectors that it reads.

    Args:
        before: From the model's inputs to the numbers of tokens, int (b, steps).
        table: The layer that turns them into vectors.
        after: From [vectors (b, steps, channels), *the model's inputs] to its output.
    """

    before: GraphModel
    table: keras.layers.Embedding
    after: GraphModel

    def read(self, inputs: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the numbers of tokens (b, steps), and their vectors (b, steps, channels)."""
        ids = self.before(inputs)
        return ids, self.table(ids)

    @staticmethod
    def real(inputs: Any, ids: tf.Tensor) -> tf.Tensor:
        """Returns 1 for tokens, 0 for padding, float32 (b, steps, 1)."""
        mask = inputs.get("padding_mask") if isinstance(inputs, dict) else None
        return tf.cast(ids != 0 if mask is None else mask, tf.float32)[..., None]

    def answer(self, vectors: tf.Tensor, ids: tf.Tensor, inputs: Any, training: bool) -> tf.Tensor:
        """Returns the model's outputs for these vectors."""
        given = [vectors, *self.before.graph.in_order(inputs)]
        return self.after(given, training=training, mask=[self.table.compute_mask(ids)])

    def spread(self) -> tf.Tensor:
        """Returns the root of the mean variance of the vectors' numbers."""
        table = tf.cast(tf.convert_to_tensor(self.table.embeddings), tf.float32)
        return tf.stop_gradient(tf.sqrt(tf.reduce_mean(tf.math.reduce_variance(table, axis=0))))


def divide(model: keras.Model) -> Divided:
    """Divides a model at its largest embedding, the one of tokens.

    Raises:
        UserError: It has none, or it is hidden in another layer.
    """
    graph = flatten(model)
    steps = () if graph is None else graph.steps
    places = [i for i, s in enumerate(steps) if isinstance(s.operation, keras.layers.Embedding)]
    if graph is None or not places:
        raise UserError(
            "task adversarial: the backbone has no layer keras.layers.Embedding of its own, or it "
            "is hidden in another layer, so its vectors cannot be changed. Take another backbone, "
            "such as gru."
        )
    at = max(places, key=lambda place: steps[place].operation.input_dim)
    ids, [vectors] = steps[at].inputs[0], steps[at].outputs
    before = dataclasses.replace(graph, steps=steps[:at], outputs=(ids,), structure=ids)
    rest = (*steps[:at], *steps[at + 1 :])
    after = dataclasses.replace(graph, steps=rest, inputs=(vectors, *graph.inputs), names=())
    return Divided(
        GraphModel(before, "before_vectors"),
        steps[at].operation,
        GraphModel(after, "after_vectors"),
    )


def perturbation(
    losses: Losses, vectors: tf.Tensor, real: tf.Tensor, length: float | tf.Tensor
) -> tf.Tensor:
    """Returns the change of each text's vectors that raises its loss most, to first order.

    Args:
        losses: From vectors to the values to raise, (b,); each depends on its own text alone.
        vectors: float32 (b, steps, channels).
        real: float32 (b, steps, 1), 0 for padding, which is not changed.
        length: The Euclidean length of a whole text's change.

    Returns:
        float32 (b, steps, channels), constant for gradients.
    """
    return tf.stop_gradient(length * unit(gradient_of(losses, vectors) * real))


class VectorsModel(keras.Model):
    """A classifier whose loss adds that of texts with changed vectors.

    While the change is computed, the network is in inference mode. Metrics and validation use the
    texts as they are.

    Args:
        inputs: Numbers of tokens; 0 is padding.
        outputs: Logits (n, classes).
        epsilon: Length of a text's change, in spreads of the vectors (see `Divided.spread`).
            Miyato et al. normalise the vectors instead. Both keep the change from being small
            beside long vectors.
        weight: Weight of the loss of changed texts.
        virtual: Whether the change moves the answer most (virtual adversarial training), instead
            of the loss.
        seed: Decides the random starts of `virtual`, with the optimizer's step.
    """

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        *,
        epsilon: float,
        weight: float = 1.0,
        virtual: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self._divided = divide(self)
        self._epsilon, self._weight, self._virtual = epsilon, weight, virtual
        self._seed = seed
        self._divergence = keras.losses.KLDivergence()

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Returns the loss of the texts; training adds that of changed ones."""
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training or not self._weight:
            return loss
        ids, vectors = self._divided.read(x)
        change = self._change(tf.cast(vectors, tf.float32), ids, x, y)
        changed = self._divided.answer(tf.cast(vectors, tf.float32) + change, ids, x, True)
        if self._virtual:
            clean = tf.nn.softmax(tf.stop_gradient(tf.cast(y_pred, tf.float32)))
            return loss + self._weight * self._divergence(
                clean, tf.nn.softmax(tf.cast(changed, tf.float32)), sample_weight
            )
        return loss + self._weight * self.loss(y, changed, sample_weight)

    def _change(self, vectors: tf.Tensor, ids: tf.Tensor, x: Any, y: tf.Tensor) -> tf.Tensor:
        """Returns the change of the vectors."""
        real, spread = self._divided.real(x, ids), self._divided.spread()
        start = vectors

        def answer(changed: tf.Tensor) -> tf.Tensor:
            return tf.cast(self._divided.answer(changed, ids, x, False), tf.float32)

        if self._virtual:  # the divergence is flat at the text itself: one power iteration
            y = tf.stop_gradient(tf.nn.softmax(answer(vectors)))
            step = tf.cast(tf.convert_to_tensor(self.optimizer.iterations), tf.int64)
            noise = noise_of(vectors, ids, step + (self._seed << 32))
            start = vectors + _NEAR * spread * unit(noise * real)
        return perturbation(
            lambda changed: cross_entropies(y, answer(changed)),
            start,
            real,
            self._epsilon * spread,
        )
