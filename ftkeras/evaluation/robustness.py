"""How much of a model's accuracy is left when its inputs get worse."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from ftkeras.console import Progress, table
from ftkeras.data.dataset import Split
from ftkeras.data.pipeline import plain
from ftkeras.inputs.base import Input
from ftkeras.measures.bootstrap import bootstrap, interval
from ftkeras.measures.metrics import correct_answers
from ftkeras.model.inference import logits_function

_Condition = tuple[str, int]  # a name, and a severity if it has one
_CLEAN: _Condition = ("clean", 0)

PRESETS = {"small": 100, "full": None}  # how many examples; None is all of them


def sample(split: Split, examples: int | None, seed: int) -> Split:
    """Returns some of a split's examples, drawn without replacement, in their order."""
    if examples is None or examples >= len(split):
        return split
    drawn = np.random.default_rng(seed).permutation(len(split))[:examples]
    return split.take(np.sort(drawn))


def measure_robustness(
    model: keras.Model, split: Split, kind: Input, *, batch_size: int, seed: int = 0
) -> dict[str, Any]:
    """Returns the accuracy on a split as it is, under 15 corruptions, and under simple shifts.

    Mean corruption accuracy is the mean over 15 corruptions and 5 severities, and its interval is
    over the examples. Hendrycks and Dietterich's mCE divides each by AlexNet's error on ImageNet,
    which means nothing for other classes. `relative` is the share of the clean accuracy that is
    left.

    Args:
        model: Takes raw 0..255 RGB float32 (n, size, size, 3), returns logits or scores
            (n, units).
        split: The examples.
        kind: What they are.
        batch_size: Examples per step.
        seed: Decides all that is random, together with an example's place.

    Raises:
        UserError: Such examples cannot be corrupted, or the extra "robustness" is missing.
    """
    corruptions = kind.able("corruptions", "robustness")
    corruptions.check(kind, "robustness")
    conditions = _conditions(corruptions, seed)
    answer, done = logits_function(model, exclusive=split.labels.ndim == 1), 0
    right: dict[_Condition, list[np.ndarray]] = {condition: [] for condition in conditions}
    progress = Progress("robustness", len(split) * len(conditions), kind.noun, kind.nouns)
    try:
        for inputs, *_ in plain(split, kind, batch_size):
            clean = corruptions.to_change(inputs)
            labels = split.labels[done : done + len(clean)]
            for condition, change in conditions.items():
                changed = [change(example, done + i) for i, example in enumerate(clean)]
                logits = answer(np.stack(changed).astype(np.float32)).numpy()
                right[condition].append(correct_answers(labels, logits))
                progress.advance(len(clean))
            done += len(clean)
    finally:
        progress.close()
    joined = {key: np.concatenate(parts) for key, parts in right.items()}
    return {"nouns": kind.nouns, **_summary(joined, seed)}


def _conditions(
    corruptions: Any, seed: int
) -> dict[_Condition, Callable[[np.ndarray, int], np.ndarray]]:
    """Returns what is done to an example, given it and its place in the split."""

    def corruption(name: str, severity: int) -> Callable[[np.ndarray, int], np.ndarray]:
        def change(example: np.ndarray, position: int) -> np.ndarray:
            own_seed = zlib.crc32(f"{seed} {name} {severity} {position}".encode())
            return np.asarray(corruptions.corrupt(example, name, severity, own_seed))

        return change

    def shift(name: str) -> Callable[[np.ndarray, int], np.ndarray]:
        return lambda example, _: np.asarray(corruptions.SHIFTS[name](example))

    return {
        _CLEAN: lambda example, _: example,
        **{
            (name, level): corruption(name, level)
            for name in corruptions.CORRUPTIONS
            for level in corruptions.SEVERITIES
        },
        **{(name, 0): shift(name) for name in corruptions.SHIFTS},
    }


def _summary(right: Mapping[_Condition, np.ndarray], seed: int) -> dict[str, Any]:
    """Returns accuracies from whether each example (n,) was right under each condition."""
    accuracy = {condition: float(part.mean()) for condition, part in right.items()}
    clean, examples = right[_CLEAN], len(right[_CLEAN])
    levels = [condition for condition in right if condition[1]]
    names = dict.fromkeys(name for name, _ in levels)
    corrupted = np.mean([right[condition] for condition in levels], axis=0)  # (n,)
    means = bootstrap(
        lambda drawn: [drawn @ clean / examples, drawn @ corrupted / examples], examples, seed=seed
    )
    mean = float(corrupted.mean())
    return {
        "examples": examples,
        "clean": accuracy[_CLEAN],
        "mean_corruption_accuracy": mean,
        "relative": mean / accuracy[_CLEAN] if accuracy[_CLEAN] else None,
        "intervals": {
            "clean": interval(means[:, 0]),
            "mean_corruption_accuracy": interval(means[:, 1]),
        },
        "corruptions": {
            name: [accuracy[level] for level in levels if level[0] == name] for name in names
        },
        "shifts": {
            name: accuracy[name, 0] for name, level in right if not level and name != _CLEAN[0]
        },
    }


def format_robustness(results: dict[str, Any]) -> str:
    """Returns what `measure_robustness` found as tables: the corruptions, then the shifts."""

    def spoken(name: str) -> str:
        return name.replace("_", " ")

    def line(name: str, title: str) -> str:
        low, high = results["intervals"][name]
        return f"{title} {results[name]:.3f} (95% interval {low:.3f} to {high:.3f})"

    rows = [
        (spoken(name), *(f"{value:.3f}" for value in levels), f"{np.mean(levels):.3f}")
        for name, levels in results["corruptions"].items()
    ]
    shifts = [(spoken(name), f"{value:.3f}") for name, value in results["shifts"].items()]
    left = results["relative"]
    kept = "" if left is None else f", {left:.0%} of the clean accuracy"
    levels = len(next(iter(results["corruptions"].values())))
    severities = (f"severity {level}" for level in range(1, levels + 1))
    return "\n".join(
        [
            f"{results['examples']} {results.get('nouns', 'examples')}",
            line("clean", "clean accuracy"),
            line("mean_corruption_accuracy", "mean corruption accuracy") + kept,
            "",
            table(rows, ("corruption", *severities, "mean")),
            "",
            table(shifts, ("shift", "accuracy")),
        ]
    )
