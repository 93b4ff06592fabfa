"""Small changes of images that raise a loss as much as possible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

Losses = Callable[[tf.Tensor], tf.Tensor]

# Half precision would lose the tiny gradients of pixels; multiplying by a power of two is exact.
_SCALE = 1024.0


@dataclass(frozen=True)
class Attack:
    """Projected gradient ascent on the values (Madry et al. 2018); one step of it is FGSM.

    Its random start depends on a seed and the input alone, so that it is the same however inputs
    are divided among devices.

    Args:
        norm: "linf" bounds each value's change, "l2" the Euclidean length of an input's change.
        budget: The bound, in pixel values of 0..255.
        steps: How many steps.
        step: Length of a step, in the same norm and unit.
        random_start: Whether to begin at a random change within the budget, not at the input.

    Example:
        ```python
        attack = Attack("linf", budget=4.0, steps=20, step=0.5)
        attacked = attack(lambda inputs: cross_entropies(labels, model(inputs)), inputs, seed=0)
        ```
    """

    norm: str
    budget: float
    steps: int
    step: float
    random_start: bool = True

    def __call__(
        self,
        losses: Losses,
        inputs: tf.Tensor,
        seed: int | tf.Tensor,
        share: float | tf.Tensor = 1.0,
    ) -> tf.Tensor:
        """Returns the inputs, changed within the budget; pixel values stay in 0..255.

        Args:
            losses: From inputs to the values to raise, (b,); each depends on its own input alone.
            inputs: float32 (b, height, width, channels), values 0..255.
            seed: Decides the start, together with each input.
            share: Which share of the budget and of the step is used, 0 to 1.
        """

        def climb(done: tf.Tensor, change: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            gradient = gradient_of(losses, inputs + change)
            return done + 1, self._within(
                change + share * self.step * self._direction(gradient), inputs, share
            )

        change = self._start(inputs, seed, share) if self.random_start else tf.zeros_like(inputs)
        # A loop in the graph: ten steps unrolled would be ten networks to compile.
        _, change = tf.while_loop(
            lambda done, _: done < self.steps,
            climb,
            (tf.constant(0), change),
            maximum_iterations=self.steps,
        )
        return tf.stop_gradient(inputs + change)

    def _start(
        self, inputs: tf.Tensor, seed: int | tf.Tensor, share: float | tf.Tensor
    ) -> tf.Tensor:
        noise = noise_of(inputs, inputs, seed)
        if self.norm == "l2":
            # In so many dimensions nearly all of the ball's volume is near its surface.
            noise = self._direction(noise)
        return self._within(share * self.budget * noise, inputs, share)

    def _direction(self, gradient: tf.Tensor) -> tf.Tensor:
        """Returns the direction of the steepest rise of the loss in the norm, at length 1."""
        if self.norm == "linf":
            return tf.sign(gradient)
        return unit(gradient)

    def _within(self, change: tf.Tensor, inputs: tf.Tensor, share: float | tf.Tensor) -> tf.Tensor:
        """Returns the change, clipped to the budget and to the range of pixels."""
        budget = share * self.budget
        if self.norm == "linf":
            change = tf.clip_by_value(change, -budget, budget)
        else:
            change = change * tf.minimum(1.0, budget / tf.maximum(_length(change), 1e-12))
        return tf.clip_by_value(inputs + change, 0.0, 255.0) - inputs


def gradient_of(losses: Losses, inputs: tf.Tensor) -> tf.Tensor:
    """Returns the gradient of each input's own loss, times a constant, in the inputs' shape."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        total = tf.reduce_sum(losses(inputs)) * _SCALE
    gradient = tape.gradient(total, inputs)
    # Values that overflowed carry no information.
    return tf.where(tf.math.is_finite(gradient), gradient, 0.0)


def unit(change: tf.Tensor) -> tf.Tensor:
    """Returns each input's change at the Euclidean length 1; zeros stay zeros."""
    return change / tf.maximum(_length(change), 1e-12)


def noise_of(inputs: tf.Tensor, examples: tf.Tensor, seed: int | tf.Tensor) -> tf.Tensor:
    """Returns uniform noise from -1 to 1 in the shape of some inputs, float32 (b, ...).

    Args:
        inputs: The values to add noise to.
        examples: The rows that decide the noise, with the seed, (b, ...).
        seed: An int64 scalar.
    """
    shape = tf.shape(inputs)[1:]

    def draw(key: tf.Tensor) -> tf.Tensor:
        noise = tf.random.stateless_uniform(shape, key, -1.0, 1.0)
        return tf.ensure_shape(noise, inputs.shape[1:])

    return tf.map_fn(draw, _keys(examples, seed), fn_output_signature=tf.float32)


def _length(change: tf.Tensor) -> tf.Tensor:
    axes = tuple(range(1, change.shape.rank))
    return tf.sqrt(tf.reduce_sum(tf.square(change), axis=axes, keepdims=True))


def _keys(inputs: tf.Tensor, seed: int | tf.Tensor) -> tf.Tensor:
    """Returns a seed per input, int64 (b, 2), from its values; integer sums ignore the order."""
    flat = tf.cast(tf.round(tf.cast(inputs, tf.float32) * 256.0), tf.int64)
    flat = tf.reshape(flat, (tf.shape(inputs)[0], tf.reduce_prod(tf.shape(inputs)[1:])))
    positions = tf.range(tf.shape(flat)[1])
    weights = tf.cast(positions, tf.int64) * 2654435761 % 2147483647 + 1
    own = tf.reduce_sum(flat * weights, axis=1)
    return tf.stack([own, tf.fill(tf.shape(own), tf.cast(seed, tf.int64))], axis=1)
