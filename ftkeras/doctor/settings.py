"""What in a config works against itself: rates, batches, batch norm, phases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ftkeras.console import counted
from ftkeras.findings import Evidence, Finding
from ftkeras.inputs.base import Input
from ftkeras.memory import available_memory
from ftkeras.phases import Plan
from ftkeras.phases.phase import Phase
from ftkeras.phases.schedule import learning_rate

# Rates above which an optimizer usually diverges on a new head. SGD's grows with the batch (Goyal
# et al. 2017), Lion wants a third to a tenth of AdamW's (Chen et al. 2023).
_HIGHEST = {"lion": 3e-3}
_HIGHEST_ADAPTIVE = 3e-2
_HIGHEST_SGD = 1.0  # for a batch of 256
_LEAST_TRAVEL = 1e-2  # how far a weight of the head can go in a phase, under Adam and its kin
_FEW_STEPS, _HANDFUL = 50, 5

_SLOW_HALF = Finding(
    "warning",
    "precision",
    "training.precision is mixed_float16, which is slower than float32 on a CPU.",
    "Set it to float32.",
)


@dataclass(frozen=True)
class Settings:
    """What a config asks for, as far as it is checked.

    Args:
        optimizer: The optimizer's name.
        weights: The backbone's weights.
        precision: The dtype policy.
        on_gpu: Whether a GPU will train.
        batch_size: Examples per step.
        accumulate: Steps per update.
        examples: How many there are to train on.
        validated: Whether there is a validation split.
        kind: What the examples are.
        from_floor: Whether the head starts from the floor, so that it need not move far.
        compares: Whether the loss compares the examples of a batch, so that fewer tell less.
    """

    optimizer: str
    weights: str
    precision: str
    on_gpu: bool
    batch_size: int
    accumulate: int
    examples: int
    validated: bool
    kind: Input
    from_floor: bool = False
    compares: bool = False


def check_config(settings: Settings, plan: Plan, phases: Sequence[Phase]) -> list[Finding]:
    """Finds settings that contradict each other or the data.

    Args:
        settings: The settings.
        plan: The phases, resolved against model and data.
        phases: The same phases, resolved among themselves.
    """
    slow_half = settings.precision == "mixed_float16" and not settings.on_gpu
    return [
        *_plan_warnings(plan),
        *_rates(plan, settings),
        *_travel(plan, phases, settings),
        *_steps(plan, settings),
        *_batch_norm(plan, settings.accumulate),
        *_random_backbone(plan, settings.weights),
        *_memory(plan, settings.kind.smaller),
        *([] if settings.validated else [_unvalidated(settings.kind)]),
        *([_SLOW_HALF] if slow_half else []),
    ]


def _unvalidated(kind: Input) -> Finding:
    return Finding(
        "warning",
        "no validation",
        f"There are no validation {kind.nouns}: the best epoch is chosen by how well it fits "
        "training.",
        "Set data.split.val.",
    )


def _plan_warnings(plan: Plan) -> Iterator[Finding]:
    for warning in plan.warnings:
        remedy = "Change the phase, or continue if it is meant; `ftkeras plan` shows all of them."
        yield Finding("warning", "plan", warning[0].upper() + warning[1:], remedy)


def _rates(plan: Plan, settings: Settings) -> Iterator[Finding]:
    optimizer, batch = settings.optimizer, settings.batch_size * settings.accumulate
    highest = _HIGHEST.get(optimizer, _HIGHEST_ADAPTIVE)
    if optimizer == "sgd":
        highest = _HIGHEST_SGD * max(batch, 32) / 256
    over = [phase for phase in plan.phases if phase.peak_rate > highest]
    if over:
        sgd = f" on {batch} {settings.kind.nouns} per update" if optimizer == "sgd" else ""
        yield Finding(
            "warning",
            "learning rate",
            f"Training rates above {highest:.2g} usually make {optimizer} diverge{sgd}.",
            "Lower it; `ftkeras lr-find` tries rates out.",
            tuple(
                Evidence(phase.name, detail=f"learning_rate {phase.peak_rate:g}") for phase in over
            ),
        )


def _travel(plan: Plan, phases: Sequence[Phase], settings: Settings) -> Iterator[Finding]:
    """An adaptive optimizer moves a weight by about the rate in a step, whatever the gradient."""
    optimizer = settings.optimizer
    if optimizer in ("sgd", "adafactor", "lamb"):  # these scale steps by gradients or weights
        return
    first, phase = plan.phases[0], phases[0]
    rates = (learning_rate(phase, step, first.steps) for step in range(first.steps))
    travel = sum(rates) / settings.accumulate
    if first.blocks[-1].trained and travel < _LEAST_TRAVEL and not settings.from_floor:
        yield Finding(
            "warning",
            "learning rate",
            f"In {counted(first.steps, 'step')} of phase {first.name!r} {optimizer} can move a "
            f"weight by about {travel:.1g}: the new head stays nearly as random as it begins.",
            "Raise the phase's learning_rate or its epochs.",
        )


def _steps(plan: Plan, settings: Settings) -> Iterator[Finding]:
    batch_size, examples, nouns = settings.batch_size, settings.examples, settings.kind.nouns
    total, compares = sum(phase.steps for phase in plan.phases), settings.compares
    if batch_size > examples:
        yield Finding(
            "warning",
            "batch size",
            f"A batch of {batch_size} is more than the "
            f"{counted(examples, f'training {settings.kind.noun}', f'training {nouns}')}.",
            f"Lower data.batch_size; an eighth of the training {nouns} or less gives several "
            "steps.",
        )
    elif plan.steps_per_epoch is not None and plan.steps_per_epoch < _HANDFUL and not compares:
        yield Finding(
            "note",
            "batch size",
            f"An epoch has {counted(plan.steps_per_epoch, 'step')}.",
            f"A smaller data.batch_size gives more steps from the same {nouns}.",
        )
    if total < _FEW_STEPS:
        yield Finding(
            "warning",
            "steps",
            f"All phases together have {counted(total, 'step')}, hardly enough to learn anything.",
            "Give them more epochs."
            if compares
            else "Give them more epochs, or lower data.batch_size.",
        )


def _batch_norm(plan: Plan, accumulate: int) -> Iterator[Finding]:
    live = [
        phase.name
        for phase in plan.phases
        if any(block.batch_norm == "training" for block in phase.blocks)
    ]
    if live and accumulate > 1:
        yield Finding(
            "warning",
            "batch norm",
            "Gradients are accumulated, but batch norm takes its statistics from each small batch.",
            "Set batch_norm: frozen in these phases.",
            tuple(Evidence(name) for name in live),
        )


def _random_backbone(plan: Plan, weights: str) -> Iterator[Finding]:
    if weights != "none":
        return
    frozen = [
        phase.name
        for phase in plan.phases
        if any(b.parameters and not b.trained for b in phase.blocks[:-1])
    ]
    if frozen:
        yield Finding(
            "warning",
            "random backbone",
            "backbone.weights is none, and these phases keep random layers frozen.",
            "Take pretrained weights, or train everything: train: [all].",
            tuple(Evidence(name) for name in frozen),
        )


def _memory(plan: Plan, smaller: str) -> Iterator[Finding]:
    # The weights and the optimizer's state are in memory already.
    needed = plan.largest.step_bytes
    free = available_memory()
    if needed > free:
        lower = " or ".join(["data.batch_size", *([smaller] if smaller else [])])
        yield Finding(
            "warning",
            "memory",
            f"A step needs about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free.",
            f"Lower {lower}, or raise optimizer.accumulate with it.",
        )
