"""Label smoothing that phases can set: in the targets, before any loss sees them."""

from __future__ import annotations

from typing import Any

import keras

from ftkeras.errors import UserError

_ONE_LABEL = (
    keras.losses.CategoricalCrossentropy,
    keras.losses.CategoricalFocalCrossentropy,
)
_SEVERAL_LABELS = (keras.losses.BinaryCrossentropy, keras.losses.BinaryFocalCrossentropy)
_FOR_EXAMPLE = "keras.losses.CategoricalCrossentropy(from_logits=True)"


@keras.saving.register_keras_serializable("ftkeras")
class Smoothed(keras.losses.Loss):
    """A loss of smoothed targets: a share of each target is spread over all answers.

    Keras's losses have label smoothing of their own, but fix it when they are made. Of this one a
    phase sets how much (`Phase(label_smoothing=0.1)`).

    One-hot targets become `y * (1 - a) + a / classes`; those of yes-or-no questions (binary
    cross-entropy) become `y * (1 - a) + a / 2` (Szegedy et al. 2016, "Rethinking the inception
    architecture for computer vision"). The numbers are those of Keras's `label_smoothing`.

    Args:
        loss: The loss of the smoothed targets, without label smoothing of its own.
        amount: The share that is spread in phases without `label_smoothing`, from 0 to below 1.
        multi_label: Whether targets are answers to yes-or-no questions rather than one-hot. Left
            out, Keras's cross-entropies and focal losses decide; other losses need it.
        name: The name; that of `loss` by default.

    Raises:
        UserError: The loss takes class indices, isn't a loss object, or smooths by itself.

    Example:
        >>> loss = Smoothed(keras.losses.CategoricalCrossentropy(from_logits=True), 0.1)
        >>> loss.smooth([[1.0, 0.0]]).numpy()
        array([[0.95, 0.05]], dtype=float32)
    """

    def __init__(
        self,
        loss: keras.losses.Loss,
        amount: float = 0.0,
        multi_label: bool | None = None,
        name: str | None = None,
    ):
        _check(loss, amount, multi_label)
        super().__init__(name=name or loss.name, reduction=loss.reduction, dtype=loss.dtype)
        self.loss = loss
        self.amount = amount
        self.multi_label = isinstance(loss, _SEVERAL_LABELS) if multi_label is None else multi_label
        self.phase_amount: float | None = None
        """What a phase sets, in place of `amount`, before the train function is traced."""

    def smooth(self, targets: Any) -> Any:
        """Returns the targets that the wrapped loss gets.

        Args:
            targets: One-hot or multi-hot, any dtype; the classes are on the last axis.
        """
        amount = self.amount if self.phase_amount is None else self.phase_amount
        targets = keras.ops.cast(targets, self.dtype)
        if not amount:
            return targets
        answers = 2 if self.multi_label else keras.ops.shape(targets)[-1]
        return targets * (1.0 - amount) + amount / keras.ops.cast(answers, self.dtype)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.loss.call(self.smooth(y_true), y_pred)

    def get_config(self) -> dict[str, Any]:
        return {
            "loss": keras.saving.serialize_keras_object(self.loss),
            "amount": self.amount,
            "multi_label": self.multi_label,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Smoothed:
        loss = keras.saving.deserialize_keras_object(config["loss"])
        return cls(**{**config, "loss": loss})


def smoothed_losses(model: keras.Model) -> list[Smoothed]:
    """Returns the losses that a model was compiled with and that a phase can smooth."""
    return [loss for loss in _losses(model) if isinstance(loss, Smoothed)]


def check_losses(model: keras.Model) -> None:
    """Refuses losses whose smoothing a phase could not set.

    Losses of numbers, and a person's own, stay as they are beside a `Smoothed`.

    Raises:
        UserError: No loss is a `Smoothed`, or a cross-entropy isn't.
    """
    plain = [loss for loss in _losses(model) if _is_cross_entropy(loss)]
    if plain or not smoothed_losses(model):
        found = f"; {_names(plain[0])[0]} is not" if plain else ""
        raise UserError(
            "label_smoothing: a phase can set it only if each loss of classes is a Smoothed"
            f"{found}. Compile the model with loss=ftkeras.Smoothed({_FOR_EXAMPLE}) or similar."
        )


def _losses(model: keras.Model) -> list[Any]:
    return [loss for loss in keras.tree.flatten(model.loss) if loss is not None]


def _is_cross_entropy(loss: Any) -> bool:
    return not isinstance(loss, Smoothed) and any(
        name == "ce" or "crossentropy" in name.lower().replace("_", "") for name in _names(loss)
    )


def _names(loss: Any) -> list[str]:
    """Returns a loss's names: the string that it is, its function's, or those of its classes."""
    if isinstance(loss, str):
        return [loss]
    if isinstance(loss, keras.losses.Loss):
        return [kind.__name__ for kind in type(loss).__mro__]
    return [getattr(loss, "__name__", type(loss).__name__)]


def _check(loss: Any, amount: float, multi_label: bool | None) -> None:
    if not isinstance(loss, keras.losses.Loss):
        raise UserError(f"Smoothed: give it a loss object, such as {_FOR_EXAMPLE}, not {loss!r}.")
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        raise UserError(
            "Smoothed: targets that are class indices cannot be smoothed. Use "
            f"{_FOR_EXAMPLE} and one-hot targets (keras.ops.one_hot)."
        )
    if getattr(loss, "label_smoothing", 0.0):
        raise UserError(
            "Smoothed: the loss smooths its targets already. Make it without label_smoothing and "
            "give the amount to Smoothed."
        )
    if multi_label is None and not isinstance(loss, (*_ONE_LABEL, *_SEVERAL_LABELS)):
        raise UserError(
            f"Smoothed: say multi_label=True if the targets of {type(loss).__name__} are answers "
            "to yes-or-no questions, multi_label=False if they are one-hot."
        )
    if not 0 <= amount < 1:
        raise UserError(f"Smoothed: amount must be from 0 to below 1, got {amount!r}.")
