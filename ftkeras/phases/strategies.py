"""Named strategies: well-known ways to fine-tune, each written out as phases.

A strategy is nothing but a list of phases that a person could have written: `ftkeras plan` prints
them, to be copied and edited.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
import yaml

from ftkeras.config.schema import StrategyConfig
from ftkeras.errors import UserError
from ftkeras.phases.phase import Phase
from ftkeras.phases.selectors import Weights

RelativeGradients = Callable[[], Mapping[str, float]]

_SURGICAL_BLOCKS = 3


@dataclass(frozen=True)
class Setting:
    """What a strategy works with.

    Attributes:
        asked: Epochs of all phases together, peak rates, and how many blocks `last_n` unfreezes.
        weights: The model's weights and blocks.
        examples: How many training examples there are.
        relative_gradients: Gives each block's gradient norm over its weights' norm on the data.
        from_floor: Whether the head starts from a linear model on the frozen features.
    """

    asked: StrategyConfig
    weights: Weights
    examples: int
    relative_gradients: RelativeGradients
    from_floor: bool = False


@dataclass(frozen=True)
class Expansion:
    """A strategy's phases, and its reasons if it made a choice."""

    phases: tuple[Phase, ...]
    reasons: tuple[str, ...] = ()


def expand(name: str, setting: Setting) -> Expansion:
    """Returns the phases of a named strategy.

    Raises:
        UserError: The strategy needs more epochs than there are.

    Example:
        ```python
        expand("lp_ft", setting).phases  # (Phase("head", ...), Phase("full", ...))
        ```
    """
    return STRATEGIES[name](setting)


def phases_as_yaml(phases: Sequence[Phase]) -> str:
    """Returns phases as the `phases:` section of a config.

    Example:
        >>> print(phases_as_yaml([Phase("head", epochs=2, learning_rate=0.001)]), end="")
        phases:
        - {name: head, epochs: 2, learning_rate: 0.001}
    """
    rows = [
        {name: value for name, value in dataclasses.asdict(phase).items() if value is not None}
        for phase in phases
    ]
    listed = [{k: list(v) if k == "train" else v for k, v in row.items()} for row in rows]
    return "phases:\n" + "".join(
        f"- {yaml.safe_dump(row, default_flow_style=True, sort_keys=False, width=1000)}"
        for row in listed
    )


def linear_probe(setting: Setting) -> Expansion:
    """Trains the head alone."""
    return Expansion((_head(setting, setting.asked.epochs),))


def full(setting: Setting) -> Expansion:
    """Trains everything from the first step."""
    return Expansion((_fine("full", ["all"], setting.asked.fine_rate, setting.asked.epochs),))


def lp_ft(setting: Setting) -> Expansion:
    """Linear probe, then everything (Kumar et al. 2022)."""
    return _then(setting, "full", ["all"])


def last_n(setting: Setting) -> Expansion:
    """The head, then the last n blocks with it."""
    return _then(setting, "last", ["head", f"blocks[-{setting.asked.last_n}:]"])


def bitfit(setting: Setting) -> Expansion:
    """The head, then every bias with it (Zaken et al. 2022)."""
    return _then(setting, "bias", ["head", "bias"])


def norm_only(setting: Setting) -> Expansion:
    """The head, then scales and offsets of normalisation with it (Frankle et al. 2021)."""
    return _then(setting, "norm", ["head", "norm"])


def lora(setting: Setting) -> Expansion:
    """The head, then the adapters with it (LoRA: Hu et al. 2021)."""
    return _then(setting, "lora", ["head", "lora"], setting.asked.learning_rate)


def lora_then_full(setting: Setting) -> Expansion:
    """The head, then the adapters with it, then everything, the weights under them too."""
    _need(setting, "full", 3)
    third = setting.asked.epochs // 3
    last = setting.asked.epochs - 2 * third
    return Expansion(
        (
            _head(setting, third),
            _fine("lora", ["head", "lora"], setting.asked.learning_rate, third),
            _fine("full", ["all", "base"], setting.asked.fine_rate, last),
        )
    )


def gradual(setting: Setting) -> Expansion:
    """One more block per epoch, from the top (ULMFiT: Howard and Ruder 2018)."""
    _need(setting, "gradual", 2)
    moves = min(setting.asked.epochs - 1, len(setting.weights.blocks))
    phases = [_head(setting, 1)]
    for number in range(1, moves + 1):
        phases.append(
            Phase(
                f"top_{number}",
                epochs=setting.asked.epochs - moves if number == moves else 1,
                learning_rate=setting.asked.fine_rate,
                train=["head", f"blocks[-{number}:]"],
                decay="cosine" if number == moves else "constant",
            )
        )
    return Expansion(tuple(phases))


def surgical(setting: Setting) -> Expansion:
    """The head, then the blocks that the data pull at most (surgical: Lee et al. 2023).

    Blocks are ranked by the norm of their gradient over the norm of their weights.
    """
    pull = setting.relative_gradients()
    chosen = sorted(pull, key=lambda name: -pull[name])[:_SURGICAL_BLOCKS]
    ordered = [name for name in setting.weights.blocks if name in chosen]
    shown = ", ".join(f"{name} {pull[name]:.2g}" for name in ordered)
    expansion = _then(setting, "surgical", ["head", *(f"block:{name}" for name in ordered)])
    reason = f"surgical: the blocks with the largest gradient over weight norm are {shown}"
    return Expansion(expansion.phases, (reason,))


def auto(setting: Setting) -> Expansion:
    """Trains the last blocks if the head starts from the floor.

    Otherwise it is what `choose` returns for so many examples, in the spirit of BiT's HyperRule.
    """
    if setting.from_floor:
        names = ["head", f"blocks[-{setting.asked.last_n}:]"]
        why = "auto: the last blocks with the head at once, as the head starts from the floor"
        return Expansion(
            (_fine("top", names, setting.asked.fine_rate, setting.asked.epochs),), (why,)
        )
    chosen, why = choose(setting.examples)
    expansion = expand(chosen, setting)
    reason = f"auto: {chosen}, because there are {setting.examples} examples to train on ({why})"
    return Expansion(expansion.phases, (reason, *expansion.reasons))


def choose(examples: int) -> tuple[str, str]:
    """Returns the strategy that `auto` takes for so many examples, and why.

    It is the one that did best in `tools/bench/strategies.py`, on 100, 500 and 2,000 images. The
    boundary lies half-way between two of these sizes, by ratio. docs/measured.md has the table.
    """
    few = 220
    if examples < few:
        return "gradual", f"fewer than {few}: one block after the other did best"
    return "full", f"{few} or more: to train everything did best"


STRATEGIES: dict[str, Callable[[Setting], Expansion]] = {
    "linear_probe": linear_probe,
    "full": full,
    "lp_ft": lp_ft,
    "gradual": gradual,
    "last_n": last_n,
    "surgical": surgical,
    "bitfit": bitfit,
    "norm_only": norm_only,
    "lora": lora,
    "lora_then_full": lora_then_full,
    "auto": auto,
}


def relative_gradients(
    model: keras.Model,
    weights: Weights,
    batches: tf.data.Dataset,
    loss: Callable[[Any, Any], tf.Tensor],
) -> dict[str, float]:
    """Returns each block's gradient norm over its weights' norm, averaged over batches.

    Args:
        model: The model; its weights and flags stay as they are.
        weights: What `weights_of` returned for it.
        batches: A few batches of (inputs, targets, ...).
        loss: The loss to differentiate.
    """
    among = [weight for weight in weights.all if not weight.is_base]
    variables = [weight.variable for weight in among]
    sums = dict.fromkeys(weights.blocks, 0.0)
    count = 0
    for inputs, targets, *_ in batches:
        with tf.GradientTape() as tape:
            value = loss(targets, model(inputs, training=False))
        gradients = tape.gradient(value, [variable.value for variable in variables])
        count += 1
        for name in weights.blocks:
            inside = [
                (weight.variable, gradient)
                for weight, gradient in zip(among, gradients, strict=True)
                if weight.block == name and gradient is not None
            ]
            pull = tf.linalg.global_norm([gradient for _, gradient in inside])
            size = tf.linalg.global_norm([variable.value for variable, _ in inside])
            sums[name] += float(pull / (size + 1e-12))
    return {name: total / max(count, 1) for name, total in sums.items()}


def _head(setting: Setting, epochs: int) -> Phase:
    return Phase("head", epochs=epochs, learning_rate=setting.asked.learning_rate, train=["head"])


def _fine(name: str, train: list[str], rate: float, epochs: int) -> Phase:
    return Phase(name, epochs=epochs, learning_rate=rate, train=train, warmup=0.1, decay="cosine")


def _then(setting: Setting, name: str, train: list[str], rate: float | None = None) -> Expansion:
    """Half of the epochs for the head, the rest for `train`, by default at the fine rate."""
    _need(setting, name, 2)
    epochs = setting.asked.epochs
    first = epochs // 2
    fine = _fine(name, train, rate or setting.asked.fine_rate, epochs - first)
    return Expansion((_head(setting, first), fine))


def _need(setting: Setting, name: str, epochs: int) -> None:
    if setting.asked.epochs < epochs:
        raise UserError(
            f"phases.epochs: this strategy has a phase {name!r} after the head, so it needs at "
            f"least {epochs} epochs; got {setting.asked.epochs}."
        )
