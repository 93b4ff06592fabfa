"""A phase, declared by the same class in configs and in scripts.

Nothing here imports TensorFlow. `ftkeras.phases` gives the fields their effect.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, StrictBool, StrictStr, ValidationError, field_validator
from pydantic import model_validator as validator
from pydantic.dataclasses import dataclass

from ftkeras.config.errors import explain
from ftkeras.config.fields import (
    Fraction,
    LeftOut,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Selectors,
    Strength,
    field_names,
    left_out,
    without_null_characters,
)
from ftkeras.errors import UserError

Decay = Literal["constant", "cosine", "linear", "step", "one_cycle"]
BatchNorm = Literal["frozen", "train", "recalibrate"]
LENGTHS = ("epochs", "steps", "until")
"""A phase has exactly one of these fields."""

_LARGER_IS_BETTER = ("accuracy", "auc", "precision", "recall", "f1", "map", "r2")
_SMALLER_IS_BETTER = ("loss", "error", "mae", "mape", "mse", "rmse", "nll", "ece")
_CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

T = TypeVar("T")


def larger_is_better(metric: str) -> bool:
    """Whether a metric is to be maximised; its name decides.

    Example:
        >>> larger_is_better("val_accuracy"), larger_is_better("val_loss")
        (True, False)
    """
    # Any text may come before the metric's own name: an output's name, or a class.
    own = metric.rpartition(".")[2]
    return not own.endswith(_SMALLER_IS_BETTER) and any(part in own for part in _LARGER_IS_BETTER)


def improves(metric: str, value: float, best: float | None, min_delta: float = 0.0) -> bool:
    """Whether a metric's value is better than the best so far, by more than `min_delta`.

    Any value is better than none, and than one that is not a number.
    """
    if best is None or math.isnan(best):
        return True
    return (value - best if larger_is_better(metric) else best - value) > min_delta


def _one_line_errors(cls: type[T]) -> type[T]:
    """Makes the class raise `UserError` in scripts; configs do not call `__init__`."""
    validated = cls.__init__

    @functools.wraps(validated)
    def __init__(self: T, *args: Any, **fields: Any) -> None:
        named = dict(zip(field_names(cls), args, strict=False)) | fields
        try:
            validated(self, *map(_plain, args), **{k: _plain(v) for k, v in fields.items()})
        except ValidationError as error:
            raise UserError(_one_line(cls, named, error)) from None

    cls.__init__ = __init__  # type: ignore[method-assign,assignment]
    return cls


def _plain(value: Any) -> Any:
    """Returns a number for a scalar of numpy or TensorFlow."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def _one_line(cls: type, named: Mapping[str, Any], error: ValidationError) -> str:
    item = error.errors()[0]
    names = field_names(cls)
    parts = [names[p] if isinstance(p, int) and p < len(names) else p for p in item["loc"][:1]]
    where = ".".join(map(str, [*parts, *item["loc"][1:]]))
    who = cls.__name__.lower() + (f" {named['name']!r}" if "name" in named else "")
    return f"{who}: {where + ': ' if where else ''}{explain(item, cls)}"


@_one_line_errors
@dataclass(frozen=True, config=_CONFIG)
class Until:
    """Ends a phase once a metric stops improving."""

    metric: StrictStr = "val_loss"
    """A logged metric; in a config also `val_` and a metric of `evaluation.json`, such as
    val_macro_f1. The direction follows from its name."""
    patience: PositiveInt = 2
    """How many epochs without improvement end the phase."""
    min_delta: NonNegativeFloat = 0.0
    """The smallest change that counts as an improvement."""
    max_epochs: PositiveInt = 20
    """The phase's longest duration in epochs; learning-rate decays span it."""
    restore_best: StrictBool = True
    """Whether the next phase starts from the weights of the best epoch."""

    _no_null_characters = field_validator("*")(without_null_characters)


@_one_line_errors
@dataclass(frozen=True, config=_CONFIG)
class Phase:
    """A phase of training. A later phase inherits the fields that it leaves out.

    A field that is left out is None until `resolve_phases` fills it.

    Raises:
        UserError: A value is out of range.

    Example:
        >>> Phase("top", train=["head", "blocks[-2:]"], epochs=10, learning_rate=1e-4).epochs
        10
    """

    name: StrictStr
    """A name for logs and plots."""
    epochs: PositiveInt | None = None
    """How many passes over the training data. Give this, steps or until."""
    learning_rate: LeftOut[PositiveFloat] = left_out()
    """The phase's peak learning rate."""
    train: LeftOut[Selectors] = left_out(["head"])
    """Which weights train: any of head, all, none, blocks[-2:], block:NAME, re:PATTERN, norm, bias,
    lora, base; the head by default."""
    steps: PositiveInt | None = None
    """How many steps; the phase may end within an epoch."""
    until: Until | None = None
    """Ends the phase once a metric stops improving."""
    warmup: LeftOut[Fraction] = left_out(0.0)
    """The share of the phase's steps over which the rate rises linearly from zero; 0 by default."""
    decay: LeftOut[Decay] = left_out("cosine")
    """How the rate falls after the warm-up; cosine by default."""
    layer_decay: LeftOut[Annotated[float, Field(gt=0.0, le=1.0, strict=True)]] = left_out(1.0)
    """Rates fall by this factor from block to block, from the head down to the input (Bao et al.
    2022); 1, the default, is off."""
    rates: LeftOut[Mapping[StrictStr, PositiveFloat]] = left_out({})
    """Learning rates for single selectors, instead of the phase's own: {norm: 1.0e-5}."""
    batch_norm: LeftOut[BatchNorm] = left_out("frozen")
    """Statistics of batch normalisation. frozen, the default: pretrained; scale and offset train
    only if norm, bias or re: names them. train: like any other layer. recalibrate: estimated on
    these data when the phase begins, and then frozen."""
    dropout: Fraction | None = None
    """The rate of the head's dropout layers in this phase; default: the rate in `head`."""
    augmentation: Strength | None = None
    """The strength of augmentation in this phase."""
    label_smoothing: Fraction | None = None
    """The loss's label smoothing in this phase; default: the value in `loss`."""

    _no_null_characters = field_validator("*")(without_null_characters)

    @validator(mode="after")
    def _one_length(self) -> Phase:
        if sum(getattr(self, name) is not None for name in LENGTHS) > 1:
            raise ValueError("give one of epochs, steps and until, not several.")
        return self

    def length(self, steps_per_epoch: int | None) -> float:
        """Returns the phase's length in epochs, the longest if `until` may end it sooner.

        Raises:
            UserError: The length is in steps, and how many an epoch has is unknown.
        """
        if self.steps is not None:
            if not steps_per_epoch:
                raise UserError(
                    f"phase {self.name!r}: its length is in steps, so steps_per_epoch is needed."
                )
            return self.steps / steps_per_epoch
        if self.until is not None:
            return float(self.until.max_epochs)
        return float(self.epochs or 0)
