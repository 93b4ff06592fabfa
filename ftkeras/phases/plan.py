"""The plan: phases bound to a model and a data set, before anything trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ftkeras.console import table
from ftkeras.phases.freezing import trained_weights
from ftkeras.phases.phase import Phase, check_phases
from ftkeras.phases.schedule import learning_rate
from ftkeras.phases.selectors import Weights


@dataclasses.dataclass(frozen=True)
class PlannedBlock:
    """What a phase does with one block, or with the head.

    Attributes:
        name: The block's name, or "head".
        parameters: How many numbers in it can train.
        trained: How many of them this phase trains.
        tensors: How many weights this phase trains.
    """

    name: str
    parameters: int
    trained: int
    tensors: int


@dataclasses.dataclass(frozen=True)
class PlannedPhase:
    """One phase, resolved: `first_epoch` counts from 0; rates are those of its steps."""

    name: str
    train: tuple[str, ...]
    batch_norm: str
    first_epoch: int
    epochs: int
    steps: int
    peak_rate: float
    first_rate: float
    last_rate: float
    parameters: int
    blocks: tuple[PlannedBlock, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """All phases, resolved against a model and a number of steps an epoch."""

    parameters: int
    steps_per_epoch: int
    phases: tuple[PlannedPhase, ...]

    @property
    def epochs(self) -> int:
        """The epochs of all phases together."""
        return sum(phase.epochs for phase in self.phases)

    def as_json(self) -> dict[str, Any]:
        """Returns the plan as plain dicts and lists."""
        return dataclasses.asdict(self)


def make_plan(weights: Weights, phases: Sequence[Phase], steps_per_epoch: int) -> Plan:
    """Resolves phases: which weights train when, for how many steps, at what rates.

    Raises:
        UserError: A selector isn't understood or selects nothing.
    """
    planned: list[PlannedPhase] = []
    first_epoch = 0
    for phase in check_phases(phases):
        trained = {
            id(weight.variable): weight
            for weight in trained_weights(weights, phase.train, phase.batch_norm)
        }
        steps = phase.epochs * steps_per_epoch
        planned.append(
            PlannedPhase(
                name=phase.name,
                train=tuple(phase.train),
                batch_norm=phase.batch_norm,
                first_epoch=first_epoch,
                epochs=phase.epochs,
                steps=steps,
                peak_rate=phase.learning_rate,
                first_rate=learning_rate(phase, 0, steps),
                last_rate=learning_rate(phase, steps - 1, steps),
                parameters=sum(weight.size for weight in trained.values()),
                blocks=_blocks(weights, set(trained)),
            )
        )
        first_epoch += phase.epochs
    return Plan(sum(weight.size for weight in weights.all), steps_per_epoch, tuple(planned))


def format_plan(plan: Plan) -> str:
    """Returns the plan as a table of phases and, below it, a table of blocks."""
    rows = [
        (
            phase.name,
            ", ".join(phase.train),
            phase.epochs,
            phase.steps,
            f"{phase.parameters:,}",
            f"{phase.first_rate:.2g} .. {phase.peak_rate:.2g} .. {phase.last_rate:.2g}",
            phase.batch_norm,
        )
        for phase in plan.phases
    ]
    header = ("phase", "trains", "epochs", "steps", "parameters", "learning rate", "batch norm")
    blocks = [
        (block.name, f"{block.parameters:,}", *(_state(phase.blocks[i]) for phase in plan.phases))
        for i, block in enumerate(plan.phases[0].blocks)
    ]
    names = ("block", "parameters", *(phase.name for phase in plan.phases))
    return f"{table(rows, header)}\n\n{table(blocks, names)}\n"


def _blocks(weights: Weights, trained: set[int]) -> tuple[PlannedBlock, ...]:
    planned = []
    for name in (*weights.blocks, None):
        inside = [weight for weight in weights.all if weight.block == name]
        training = [weight for weight in inside if id(weight.variable) in trained]
        planned.append(
            PlannedBlock(
                name=name or "head",
                parameters=sum(weight.size for weight in inside),
                trained=sum(weight.size for weight in training),
                tensors=len(training),
            )
        )
    return tuple(planned)


def _state(block: PlannedBlock) -> str:
    if not block.trained:
        return "frozen"
    if block.trained == block.parameters:
        return "trains"
    return f"trains {100 * block.trained / block.parameters:.0f}%"
