"""A phase: a stretch of training with its own trainable weights and learning rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ftkeras.errors import UserError

Decay = Literal["constant", "cosine", "linear", "step", "one_cycle"]
BatchNorm = Literal["frozen", "train", "recalibrate"]

DECAYS = ("constant", "cosine", "linear", "step", "one_cycle")
BATCH_NORMS = ("frozen", "train", "recalibrate")
_LENGTHS = ("epochs", "steps", "until")
_DEFAULTS: dict[str, Any] = {
    "train": ("head",),
    "warmup": 0.0,
    "decay": "cosine",
    "layer_decay": 1.0,
    "rates": {},
    "batch_norm": "frozen",
}

_LARGER_IS_BETTER = ("accuracy", "auc", "precision", "recall", "f1", "map")


def larger_is_better(metric: str) -> bool:
    """Whether a metric is to be maximised, told by its name.

    Example:
        >>> larger_is_better("val_accuracy"), larger_is_better("val_loss")
        (True, False)
    """
    # A head may have any name, which comes before the metric's own.
    return not metric.endswith("loss") and any(part in metric for part in _LARGER_IS_BETTER)


@dataclass(frozen=True)
class Until:
    """Ends a phase once a metric stops improving.

    Args:
        metric: A logged metric; the direction follows from its name.
        patience: How many epochs without improvement end the phase.
        min_delta: The smallest change that counts as an improvement.
        max_epochs: When the phase ends all the same; decays are laid out over this length.
        restore_best: Whether the next phase starts from the weights of the best epoch.
    """

    metric: str = "val_loss"
    patience: int = 2
    min_delta: float = 0.0
    max_epochs: int = 20
    restore_best: bool = True

    def improves(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than `best` by at least `min_delta`."""
        if best is None:
            return True
        gain = value - best if larger_is_better(self.metric) else best - value
        return gain > self.min_delta


@dataclass(frozen=True)
class Phase:
    """What trains, for how long, at what rate. A later phase inherits what it leaves out.

    Args:
        name: A name for logs and plots.
        epochs: How many passes over the training data; or give `steps`, or `until`.
        learning_rate: The phase's peak rate.
        train: Selectors of what trains; see `ftkeras.phases.selectors`. The head by default.
        steps: How many steps the phase lasts; it may end within an epoch.
        until: Ends the phase once a metric stops improving.
        warmup: The share of the phase over which the rate rises linearly from zero. 0 by default.
        decay: How the rate falls afterwards; see `ftkeras.phases.schedule`. Cosine by default.
        layer_decay: Rates fall by this factor from block to block, from the head down to the input
            (Bao et al. 2022); 1, the default, is off.
        rates: Learning rates for single selectors, in place of the phase's own.
        batch_norm: "frozen" (the default): batch normalisation uses its pretrained statistics, and
            its scale and offset train only where `norm`, `bias` or `re:` names them. "train": it
            trains like any other layer wherever it is selected. "recalibrate": its statistics are
            estimated anew on the training data when the phase begins, and are frozen then.
        dropout: Rate of the dropout layers outside the blocks; None leaves them as they are.
        augmentation: Strength of augmentation, for a pipeline that asks for it.
        label_smoothing: Label smoothing of the loss; None leaves it as it is.

    Raises:
        UserError: A value is out of range.

    Example:
        >>> Phase("top", train=["head", "blocks[-2:]"], epochs=10, learning_rate=1e-4).epochs
        10
    """

    name: str
    epochs: int | None = None
    learning_rate: float | None = None
    train: Sequence[str] | None = None
    steps: int | None = None
    until: Until | None = None
    warmup: float | None = None
    decay: Decay | None = None
    layer_decay: float | None = None
    rates: Mapping[str, float] | None = None
    batch_norm: BatchNorm | None = None
    dropout: float | None = None
    augmentation: str | None = None
    label_smoothing: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.train, str):
            object.__setattr__(self, "train", (self.train,))
        if sum(getattr(self, name) is not None for name in _LENGTHS) > 1:
            raise UserError(
                f"phase {self.name!r}: give one of epochs, steps and until, not several."
            )
        for name in ("epochs", "steps"):
            value = getattr(self, name)
            self._check(name, value is None or value >= 1, "at least 1")
        rate = self.learning_rate
        self._check("learning_rate", rate is None or rate > 0, "above 0")
        for name in ("warmup", "dropout", "label_smoothing"):
            value = getattr(self, name)
            self._check(name, value is None or 0 <= value < 1, "a share, from 0 to below 1")
        self._check("decay", self.decay in (None, *DECAYS), f"one of {', '.join(DECAYS)}")
        policies = ", ".join(BATCH_NORMS)
        self._check("batch_norm", self.batch_norm in (None, *BATCH_NORMS), f"one of {policies}")
        decay = self.layer_decay
        self._check("layer_decay", decay is None or 0 < decay <= 1, "above 0 and at most 1")
        rates = (self.rates or {}).values()
        self._check("rates", all(r > 0 for r in rates), "above 0; to freeze, leave it out of train")

    def _check(self, field: str, good: bool, expected: str) -> None:
        if not good:
            value = getattr(self, field)
            raise UserError(f"phase {self.name!r}: {field} must be {expected}, got {value!r}.")


def scale_rates(phase: Phase, factor: float) -> Phase:
    """Returns the phase with all its learning rates multiplied.

    Example:
        >>> scale_rates(Phase("head", learning_rate=0.25, rates={"norm": 0.5}), 2.0).rates
        {'norm': 1.0}
    """
    rate = None if phase.learning_rate is None else phase.learning_rate * factor
    rates = {name: value * factor for name, value in phase.rates.items()} if phase.rates else None
    return dataclasses.replace(phase, learning_rate=rate, rates=rates or phase.rates)


@dataclass(frozen=True)
class ResolvedPhase:
    """A phase with nothing left out; see `Phase` for the fields."""

    name: str
    epochs: int | None
    steps: int | None
    until: Until | None
    learning_rate: float
    train: Sequence[str]
    warmup: float
    decay: Decay
    layer_decay: float
    rates: Mapping[str, float]
    batch_norm: BatchNorm
    dropout: float | None
    augmentation: str | None
    label_smoothing: float | None

    def length(self, steps_per_epoch: int | None) -> float:
        """Returns the phase's length in epochs, the longest where `until` may end it sooner.

        Raises:
            UserError: The phase is given in steps, and nobody knows how many an epoch has.
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


def resolve_phases(phases: Sequence[Phase]) -> tuple[ResolvedPhase, ...]:
    """Returns the phases with what they leave out taken from the one before, or the defaults.

    Raises:
        UserError: There is no phase, two have one name, or the first has no length or rate.

    Example:
        >>> first = Phase("head", epochs=2, learning_rate=1e-3, decay="linear")
        >>> resolve_phases([first, Phase("top", train=["all"])])[1].decay
        'linear'
    """
    if not phases:
        raise UserError("phases: there must be at least one.")
    names = [phase.name for phase in phases]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"phases: the name {twice[0]!r} is given twice; names must differ.")
    known = dict(_DEFAULTS)
    resolved = []
    for phase in phases:
        said = {
            field.name: getattr(phase, field.name)
            for field in dataclasses.fields(phase)
            if getattr(phase, field.name) is not None
        }
        if any(name in said for name in _LENGTHS):
            known = {name: value for name, value in known.items() if name not in _LENGTHS}
        known |= said
        if "learning_rate" not in known:
            raise UserError(f"phase {phase.name!r}: learning_rate is missing.")
        if not any(name in known for name in _LENGTHS):
            raise UserError(f"phase {phase.name!r}: one of epochs, steps and until is missing.")
        fields = [field.name for field in dataclasses.fields(ResolvedPhase)]
        values: dict[str, Any] = {name: known.get(name) for name in fields}
        resolved.append(ResolvedPhase(**values))
    return tuple(resolved)
