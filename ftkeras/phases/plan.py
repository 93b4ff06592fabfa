"""The plan: phases bound to a model and a data set, before anything trains."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from ftkeras.console import counted, table
from ftkeras.errors import UserError
from ftkeras.phases.activations import Activations, activations
from ftkeras.phases.clock import PhaseClock
from ftkeras.phases.freezing import trained_weights
from ftkeras.phases.groups import Group, canonical_paths
from ftkeras.phases.install import template_of
from ftkeras.phases.phase import Phase, resolve_phases
from ftkeras.phases.schedule import turning_points
from ftkeras.phases.selectors import Weight, Weights, select

_SMALL_BATCH = 16
_SAMPLES = 60  # of a phase's learning rate
_HIGH_RATE = 1e-3  # for pretrained weights under an Adam-like optimizer
_ROBUST = (  # these do best at rates several times as high (docs/text.md)
    *(keras.layers.Embedding, keras.layers.RNN),
    *(keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell),
)


@dataclasses.dataclass(frozen=True)
class PlannedBlock:
    """What a phase does with one block, or with the head.

    Attributes:
        name: The block's name, or "head".
        parameters: How many numbers in it can train.
        trained: How many of them this phase trains.
        tensors: How many weights this phase trains.
        batch_norm: "none" without batch normalisation, otherwise "inference" or "training".
        peak_rate: The highest learning rate of any of its weights; 0 if it is frozen.
    """

    name: str
    parameters: int
    trained: int
    tensors: int
    batch_norm: str
    peak_rate: float


@dataclasses.dataclass(frozen=True)
class PlannedPhase:
    """One phase, resolved; lengths are the longest if a metric may end it sooner.

    Attributes:
        steps: How many steps it lasts.
        first_rate, peak_rate, last_rate: Of the head, in its first, highest and last step.
        rates: Of the head, over the phase: at evenly spaced steps, the last of which is the last.
        parameters: How many numbers it trains.
        activation_bytes: Estimate of what the backward pass of one batch reads.
        checkpointed_bytes: The same with gradient checkpointing, whether the plan has that or not.
        passing_bytes: Estimate of what one batch takes beside that for a moment.
        phase: The phase itself.
        trained: The weights that train.
        shares: The share of the phase's rate of each of them, by id of its variable.
    """

    name: str
    train: tuple[str, ...]
    length: str
    batch_norm: str
    steps: int
    first_rate: float
    peak_rate: float
    last_rate: float
    rates: tuple[float, ...]
    parameters: int
    activation_bytes: int
    checkpointed_bytes: int
    passing_bytes: int
    blocks: tuple[PlannedBlock, ...]
    phase: Phase
    trained: tuple[Weight, ...]
    shares: Mapping[int, float]

    @property
    def step_bytes(self) -> int:
        """What a step takes beside the weights and the optimizer: activations and gradients."""
        return self.activation_bytes + self.passing_bytes + self.gradient_bytes

    @property
    def gradient_bytes(self) -> int:
        """What the gradients of all weights that train take."""
        return sum(bytes_of(weight.variable) for weight in self.trained)


_BOUND = ("phase", "trained", "shares", "weights")  # fields that hold objects of the process


@dataclasses.dataclass(frozen=True)
class Plan:
    """All phases, bound to a model: what `ftkeras plan` prints and `StagedUnfreezing` executes.

    Attributes:
        steps_per_epoch: None if it is not known before `fit`; then so are lengths in steps.
        optimizer_bytes: What the optimizer keeps for all phases together (its slots); 0 until it
            is built.
        accumulation: How many batches an update of the weights takes.
        warnings: Sentences about traps that the plan runs into.
        weights: The model's weights.
        checkpointing: Whether blocks are computed once more in the backward pass.
        batch_size: Examples per batch.
    """

    parameters: int
    steps_per_epoch: int | None
    optimizer_bytes: int
    accumulation: int
    phases: tuple[PlannedPhase, ...]
    warnings: tuple[str, ...]
    weights: Weights
    checkpointing: bool = False
    batch_size: int = 1

    @property
    def largest(self) -> PlannedPhase:
        """The phase whose steps take the most memory."""
        return max(self.phases, key=lambda phase: phase.step_bytes)

    def as_json(self) -> dict[str, Any]:
        """Returns the plan as plain dicts and lists."""
        return {**_plain(self), "phases": [_plain(phase) for phase in self.phases]}

    def groups(self) -> list[Group]:
        """Returns the weights that any phase trains, those together that always train alike."""
        paths = canonical_paths([weight.path for weight in self.weights.all])
        members: dict[tuple[float | None, ...], list[tuple[str, keras.Variable]]] = {}
        for path, weight in zip(paths, self.weights.all, strict=True):
            shares = tuple(phase.shares.get(id(weight.variable)) for phase in self.phases)
            if any(share is not None for share in shares):
                members.setdefault(shares, []).append((path, weight.variable))
        return [
            Group(tuple(path for path, _ in pairs), tuple(weight for _, weight in pairs), shares)
            for shares, pairs in members.items()
        ]


def _plain(of: Plan | PlannedPhase) -> dict[str, Any]:
    fields = (field.name for field in dataclasses.fields(of))
    values = {name: getattr(of, name) for name in fields if name not in _BOUND}
    blocks = [dataclasses.asdict(block) for block in values.pop("blocks", ())]
    return {**values, **({"blocks": blocks} if blocks else {})}


def make_plan(
    model: keras.Model,
    weights: Weights,
    phases: Sequence[Phase],
    *,
    steps_per_epoch: int | None = None,
    batch_size: int = 1,
    length: int | None = None,
    checkpointing: bool = False,
    fragile: bool = True,
) -> Plan:
    """Resolves phases: which weights train when, for how many steps, at what rates.

    Args:
        model: The model, compiled if it will train.
        weights: What `weights_of` returned for it.
        phases: The phases.
        steps_per_epoch: Batches per epoch; None counts lengths in epochs.
        batch_size: Examples per batch, for the memory of activations.
        length: Of sequences, for the same, if the model takes any length.
        checkpointing: Whether blocks are computed once more in the backward pass.
        fragile: Whether the head is random and the backbone pretrained.

    Raises:
        UserError: A selector isn't understood or selects nothing.
    """
    resolved = resolve_phases(phases)
    optimizer = getattr(model, "optimizer", None)
    every = (template_of(optimizer).gradient_accumulation_steps or 1) if optimizer else 1
    clock = PhaseClock(resolved, steps_per_epoch, every)
    planned = []
    for index in range(len(resolved)):
        phase = _plan_phase(weights, clock, index)
        trained = {id(weight.variable) for weight in phase.trained}
        each = activations(model, weights, trained, length=length)
        planned.append(_with_memory(phase, each, batch_size, checkpointing))
    slots = sum(map(bytes_of, optimizer.variables)) if optimizer and optimizer.built else 0
    warnings = (
        *_warnings(resolved, planned, batch_size, fragile),
        *_idle_adapters(weights, planned),
        *_moved_ends(clock, every),
    )
    total = sum(weight.size for weight in weights.all)
    return Plan(
        total,
        steps_per_epoch,
        slots,
        every,
        tuple(planned),
        warnings,
        weights,
        checkpointing,
        batch_size,
    )


def format_plan(plan: Plan) -> str:
    """Returns the plan as a table of phases, a table of blocks, and warnings."""
    rows = [
        (
            phase.name,
            ", ".join(phase.train),
            phase.length,
            phase.steps,
            f"{phase.parameters:,}",
            f"{phase.first_rate:.2g} .. {phase.peak_rate:.2g} .. {phase.last_rate:.2g}",
            _megabytes(phase.activation_bytes),
        )
        for phase in plan.phases
    ]
    header = ("phase", "trains", "length", "steps", "parameters", "learning rate", "activations")
    blocks = [
        (block.name, f"{block.parameters:,}", *(_state(phase.blocks[i]) for phase in plan.phases))
        for i, block in enumerate(plan.phases[0].blocks)
    ]
    names = ("block", "parameters", *(phase.name for phase in plan.phases))
    notes = [f"warning: {warning}" for warning in plan.warnings]
    if plan.optimizer_bytes:
        notes.insert(0, f"optimizer state: {_megabytes(plan.optimizer_bytes)}")
    return "\n\n".join([table(rows, header), table(blocks, names), *notes]) + "\n"


def _fragile_rates(phase: PlannedPhase) -> Iterator[float]:
    """Yields the rates of pretrained weights, except those of small recurrent networks."""
    for weight in phase.trained:
        new = weight.block is None or weight.is_adapter
        if not new and not isinstance(weight.layer, _ROBUST):
            yield phase.peak_rate * phase.shares[id(weight.variable)]


def _idle_adapters(weights: Weights, planned: Sequence[PlannedPhase]) -> Iterator[str]:
    adapters = {id(weight.variable) for weight in weights.all if weight.is_adapter}
    if adapters and all(adapters.isdisjoint(phase.shares) for phase in planned):
        yield "no phase trains the adapters. Add lora to what a phase trains."


def _moved_ends(clock: PhaseClock, every: int) -> Iterator[str]:
    for index, phase in enumerate(clock.phases[:-1]):
        planned = round(phase.length(clock.steps_per_epoch) * (clock.steps_per_epoch or 1))
        more = clock.length(index) - planned
        if more:
            yield (
                f"phase {phase.name!r} lasts {counted(more, 'step')} more than its length says, "
                f"because an update takes {every} batches and phases end with a whole update."
            )


def _with_memory(
    phase: PlannedPhase, each: Activations, batch_size: int, checkpointing: bool
) -> PlannedPhase:
    return dataclasses.replace(
        phase,
        activation_bytes=(each.checkpointed if checkpointing else each.kept) * batch_size,
        checkpointed_bytes=each.checkpointed * batch_size,
        passing_bytes=each.passing * batch_size,
    )


def _plan_phase(weights: Weights, clock: PhaseClock, index: int) -> PlannedPhase:
    phase, steps = clock.phases[index], clock.length(index)
    trained = trained_weights(weights, phase.train, phase.batch_norm)
    shares = rate_shares(weights, phase, trained)
    rates = [clock.rate(index, step) for step in turning_points(phase, steps)]
    return PlannedPhase(
        name=phase.name,
        train=tuple(phase.train),
        length=describe_length(phase),
        batch_norm=phase.batch_norm,
        steps=steps,
        first_rate=rates[0],
        peak_rate=max(rates),
        last_rate=rates[-1],
        rates=tuple(clock.rate(index, step) for step in evenly_spaced(steps, _SAMPLES)),
        parameters=sum(weight.size for weight in trained),
        activation_bytes=0,  # `make_plan` knows the model
        checkpointed_bytes=0,
        passing_bytes=0,
        blocks=tuple(_plan_blocks(weights, phase, shares, max(rates))),
        phase=phase,
        trained=trained,
        shares=shares,
    )


def rate_shares(weights: Weights, phase: Phase, trained: Sequence[Weight]) -> dict[int, float]:
    """Returns, for each trained weight (by id of its variable), its share of the phase's rate.

    With `layer_decay` d the head has share 1, the last block d, the one before it d^2, and so on. A
    rate in `rates` replaces that; if several selectors name a weight, the last one counts.

    Raises:
        UserError: A selector in `rates` names nothing that the phase trains.
    """
    depth = {name: len(weights.blocks) - i for i, name in enumerate(weights.blocks)}
    shares = {
        id(weight.variable): phase.layer_decay ** depth.get(weight.block or "", 0)
        for weight in trained
    }
    for selector, rate in phase.rates.items():
        named = [w for w in select(weights, [selector]) if id(w.variable) in shares]
        if not named:
            raise UserError(
                f"phase {phase.name!r}: rates: {selector!r} names nothing that this phase trains."
            )
        shares.update({id(weight.variable): rate / phase.learning_rate for weight in named})
    return shares


def evenly_spaced(steps: int, most: int) -> list[int]:
    """Returns up to `most` steps of `steps`, the first and the last among them.

    Example:
        >>> evenly_spaced(100, 4)
        [0, 33, 66, 99]
    """
    count = min(steps, most)
    return [round(i * (steps - 1) / max(count - 1, 1)) for i in range(count)]


def describe_length(phase: Phase) -> str:
    """Returns a phase's length in words."""
    if phase.steps is not None:
        return counted(phase.steps, "step")
    if phase.until is not None:
        until = phase.until
        return (
            f"until {until.metric} stops improving (at most {counted(until.max_epochs, 'epoch')})"
        )
    return counted(phase.epochs or 0, "epoch")


def describe_start(phase: Phase, trained: Sequence[Weight]) -> str:
    """Returns a line that says what a phase that begins does."""
    count = sum(weight.size for weight in trained)
    return (
        f"phase {phase.name}: trains {', '.join(phase.train)} ({count:,} parameters), "
        f"learning rate {phase.learning_rate:g}, {describe_length(phase)}"
    )


def _plan_blocks(
    weights: Weights, phase: Phase, shares: dict[int, float], peak: float
) -> Iterator[PlannedBlock]:
    for name in (*weights.blocks, None):
        inside = [weight for weight in weights.all if weight.block == name]
        training = [weight for weight in inside if id(weight.variable) in shares]
        yield PlannedBlock(
            name=name or "head",
            parameters=sum(weight.size for weight in inside),
            trained=sum(weight.size for weight in training),
            tensors=len(training),
            batch_norm=_batch_norm(inside, training, phase),
            peak_rate=peak * max((shares[id(w.variable)] for w in training), default=0.0),
        )


def _batch_norm(inside: list[Weight], training: list[Weight], phase: Phase) -> str:
    layers = {
        id(weight.layer)
        for weight in inside
        if isinstance(weight.layer, keras.layers.BatchNormalization)
    }
    if not layers:
        return "none"
    live = phase.batch_norm == "train" and any(id(weight.layer) in layers for weight in training)
    return "training" if live else "inference"


def _warnings(
    phases: Sequence[Phase], planned: Sequence[PlannedPhase], batch_size: int, fragile: bool
) -> Iterator[str]:
    first = planned[0]
    if not first.blocks[-1].trained:
        yield (
            f"phase {first.name!r} does not train the head, which is new and random: what it "
            "trains learns to serve random weights. Add head to its train."
        )
    elif fragile and any(block.trained for block in first.blocks[:-1]):
        yield (
            f"phase {first.name!r} trains pretrained blocks under a new head. A random head can "
            "distort their features (Kumar et al. 2022). Train the head alone in a first phase, or "
            "start it from the floor (head.start)."
        )
    for before, phase in zip((None, *planned), planned, strict=False):
        same = before is not None and before.blocks == phase.blocks
        if same and before is not None and before.train == phase.train:
            yield f"phase {phase.name!r} trains just what {before.name!r} did, at the same rates."
        rate = max(_fragile_rates(phase), default=0.0)
        if rate > _HIGH_RATE:
            yield (
                f"phase {phase.name!r} trains pretrained weights at {rate:g}; above {_HIGH_RATE:g} "
                "they are usually forgotten."
            )
        live = any(block.batch_norm == "training" for block in phase.blocks)
        if live and batch_size < _SMALL_BATCH:
            yield (
                f"phase {phase.name!r} trains batch norm on batches of {batch_size}: statistics of "
                f"fewer than {_SMALL_BATCH} examples are noise. Use batch_norm: frozen."
            )
    without = all(block.batch_norm == "none" for block in first.blocks)
    for asked in phases:
        if asked.batch_norm != "frozen" and without:
            yield f"phase {asked.name!r}: batch_norm {asked.batch_norm}, and there is none."


def bytes_of(variable: keras.Variable) -> int:
    """Returns how many bytes a variable takes."""
    return math.prod(variable.shape) * tf.as_dtype(variable.dtype).size


def _state(block: PlannedBlock) -> str:
    if not block.trained:
        return "frozen"
    # "0.001 98%": the peak rate, and how much of the block trains if it isn't all of it.
    share = (
        ""
        if block.trained == block.parameters
        else f" {100 * block.trained / block.parameters:.0f}%"
    )
    norm = ", batch norm too" if block.batch_norm == "training" else ""
    return f"{block.peak_rate:.2g}{share}{norm}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
