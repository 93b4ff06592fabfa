"""A phase: a stretch of training with its own trainable weights and learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ftkeras.errors import UserError


@dataclass(frozen=True)
class Phase:
    """What trains, for how long, at what rate.

    Args:
        name: A name for logs and plots.
        epochs: How many passes over the training data.
        learning_rate: The phase's peak rate.
        train: Selectors of what trains; see `ftkeras.phases.selectors`.
        warmup: The share of the phase over which the rate rises linearly from zero.
        decay: How the rate falls to zero afterwards: "constant" (not at all), "cosine" (Loshchilov
            and Hutter 2017) or "linear".
        layer_decay: Rates fall by this factor from block to block, from the head down to the input
            (Bao et al. 2022); 1 is off.
        rates: Learning rates for single selectors, in place of the phase's own.
        batch_norm: "frozen": batch normalisation uses its pretrained statistics, and its scale and
            offset train only where `norm`, `bias` or `re:` names them. "train": it trains like any
            other layer wherever it is selected.

    Raises:
        UserError: A number is out of range.

    Example:
        >>> Phase("top", train=["head", "blocks[-2:]"], epochs=10, learning_rate=1e-4).warmup
        0.0
    """

    name: str
    epochs: int
    learning_rate: float
    train: Sequence[str] = ("head",)
    warmup: float = 0.0
    decay: Literal["constant", "cosine", "linear"] = "cosine"
    layer_decay: float = 1.0
    rates: Mapping[str, float] = field(default_factory=dict)
    batch_norm: Literal["frozen", "train"] = "frozen"

    def __post_init__(self) -> None:
        if isinstance(self.train, str):
            object.__setattr__(self, "train", (self.train,))
        if self.epochs < 1:
            raise UserError(f"phase {self.name!r}: epochs must be at least 1, got {self.epochs}.")
        if not self.learning_rate > 0:
            raise UserError(
                f"phase {self.name!r}: learning_rate must be above 0, got {self.learning_rate}."
            )
        if not 0 <= self.warmup < 1:
            raise UserError(
                f"phase {self.name!r}: warmup is a share of the phase, from 0 to below 1; "
                f"got {self.warmup}."
            )
        if not 0 < self.layer_decay <= 1:
            raise UserError(
                f"phase {self.name!r}: layer_decay is above 0 and at most 1, got {self.layer_decay}."
            )
        for selector, rate in self.rates.items():
            if not rate > 0:
                raise UserError(
                    f"phase {self.name!r}: rates: {selector!r} must be above 0, got {rate}. To freeze "
                    "weights, leave them out of train."
                )
        if self.decay not in ("constant", "cosine", "linear"):
            raise UserError(
                f"phase {self.name!r}: decay must be constant, cosine or linear, got {self.decay!r}."
            )
        if self.batch_norm not in ("frozen", "train"):
            raise UserError(
                f"phase {self.name!r}: batch_norm must be frozen or train, got {self.batch_norm!r}."
            )


def check_phases(phases: Sequence[Phase]) -> tuple[Phase, ...]:
    """Returns the phases as a tuple, having checked that there are some and that names differ."""
    names = [phase.name for phase in phases]
    if not names:
        raise UserError("phases: there must be at least one.")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"phases: the name {name!r} is given twice; names must differ.")
    return tuple(phases)
