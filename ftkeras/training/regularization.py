"""L2 and L2-SP: penalties on weights that any `model.fit` minimises with the loss."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import keras
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.phases.selectors import Weight, is_kernel


class TrainingPenalty(keras.callbacks.Callback):
    """Switches penalties off in validation, so that they are not in `val_loss`.

    Otherwise `val_loss` would include the weights, and other ones in each phase.
    """

    def __init__(self) -> None:
        super().__init__()
        # A variable, because traced functions read its changes.
        self._on = tf.Variable(1.0, trainable=False, name="penalty_on")

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._on.assign(1.0)  # also after a validation that broke off

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._on.assign(0.0)

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        self._on.assign(1.0)


class WeightPenalty(TrainingPenalty):
    """Adds `l2 * sum(w^2)`, or `l2_sp * sum((w - w_pretrained)^2)`, to the training loss.

    L2-SP (Li, Grandvalet and Davoine 2018, "Explicit inductive bias for transfer learning with
    convolutional networks") pulls a backbone to its first weights, not to zero. The paper's alpha /
    2 is `l2_sp` here, as in Keras's L2.

    It sets `regularizer` of the variables themselves. Keras adds that to the loss for the weights
    that train at the moment, once for any number of replicas, before loss scaling. Layers' configs
    do not contain it, so the saved model loads without ftkeras. A regulariser that a weight already
    had is replaced. As a callback it keeps the penalty out of `val_loss`.

    Decoupled weight decay pulls the same weights to zero: leave `anchored` out of it.

    Args:
        weights: The weights to penalise, usually those that any phase trains. Biases and
            normalisation are left out, as from weight decay.
        l2: Strength for weights without a pretrained value; with `l2_sp` 0, for all.
        l2_sp: Strength for weights of blocks. Their current values are the anchor, kept once per
            device: make this before a checkpoint is loaded, in the strategy's scope.
        new_blocks: Names of blocks that were given fresh weights: they have no pretrained value.

    Raises:
        UserError: A strength is below 0.

    Example:
        ```python
        weights = weights_of(model, backbone.blocks)
        penalty = WeightPenalty(weights.all, l2=1e-4, l2_sp=1e-3)
        model.fit(inputs, labels, callbacks=[penalty])
        ```
    """

    def __init__(
        self,
        weights: Iterable[Weight],
        *,
        l2: float = 0.0,
        l2_sp: float = 0.0,
        new_blocks: Collection[str] = (),
    ):
        super().__init__()
        for name, strength in (("l2", l2), ("l2_sp", l2_sp)):
            if not strength >= 0:
                raise UserError(f"{name}: the strength must be at least 0, got {strength}.")
        self.anchored: tuple[Weight, ...] = ()
        self._anchors: list[tuple[Any, tf.Variable]] = []
        for weight in weights:
            if not is_kernel(weight):
                continue
            if l2_sp and weight.block is not None and weight.block not in new_blocks:
                self.anchored += (weight,)
                start = keras.ops.convert_to_tensor(weight.variable)
                anchor = tf.Variable(start, trainable=False, name="anchor")
                self._anchors.append((weight.variable, anchor))
                weight.variable.regularizer = self._pull(l2_sp, anchor)
            elif l2:
                weight.variable.regularizer = self._pull(l2, 0.0)

    def anchor_again(self) -> None:
        """Takes the current weights as the pretrained ones."""
        for variable, anchor in self._anchors:
            anchor.assign(keras.ops.convert_to_tensor(variable))

    def _pull(self, strength: float, anchor: tf.Variable | float) -> Callable[[Any], tf.Tensor]:
        def penalty(value: Any) -> tf.Tensor:
            distance = tf.convert_to_tensor(value) - anchor
            return self._on * strength * tf.reduce_sum(tf.square(distance))

        return penalty
