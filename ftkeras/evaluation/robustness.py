"""How much of a model's accuracy is left when images get worse."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.console import Progress, table
from ftkeras.data.dataset import Split
from ftkeras.data.pipeline import plain
from ftkeras.errors import UserError
from ftkeras.evaluation.bootstrap import bootstrap, interval
from ftkeras.evaluation.metrics import correct_answers
from ftkeras.inputs.base import Input
from ftkeras.inputs.image.corruptions import CORRUPTIONS, SEVERITIES, SHIFTS, SMALLEST, corrupt
from ftkeras.model.inference import logits_function

_Condition = tuple[str, int]  # a name, and a severity where it has one
_CLEAN: _Condition = ("clean", 0)

PRESETS = {"small": 100, "full": None}  # how many images; None is all of them


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
    over the images. Hendrycks and Dietterich's mCE divides each by AlexNet's error on ImageNet,
    which says nothing on other classes; `relative` is what is left of the clean accuracy.

    Args:
        model: Takes raw 0..255 RGB float32 (n, size, size, 3), returns logits or scores
            (n, units).
        split: The examples.
        kind: What they are.
        batch_size: Images a step.
        seed: Decides noise, angles and flakes, together with an image's place.

    Raises:
        UserError: The model's images are too small, or the extra "robustness" is missing.
    """
    size = int(model.input_shape[1])
    if size < SMALLEST:
        raise UserError(
            f"robustness: corruptions need images of at least {SMALLEST} px, and the model's have "
            f"{size}. Train it with data.image_size={SMALLEST} or more."
        )
    conditions = _conditions(seed)
    answer, done = logits_function(model, exclusive=split.labels.ndim == 1), 0
    right: dict[_Condition, list[np.ndarray]] = {condition: [] for condition in conditions}
    progress = Progress("robustness", len(split) * len(conditions))
    try:
        for images, *_ in plain(split, kind, batch_size):
            images = tf.cast(images, tf.uint8).numpy()  # (b, s, s, 3)
            labels = split.labels[done : done + len(images)]
            for condition, change in conditions.items():
                changed = [change(image, done + i) for i, image in enumerate(images)]
                logits = answer(np.stack(changed).astype(np.float32)).numpy()
                right[condition].append(correct_answers(labels, logits))
                progress.advance(len(images))
            done += len(images)
    finally:
        progress.close()
    return _summary({key: np.concatenate(parts) for key, parts in right.items()}, seed)


def _conditions(seed: int) -> dict[_Condition, Callable[[np.ndarray, int], np.ndarray]]:
    """Returns what is done to an image, given it and its place in the split."""

    def corruption(name: str, severity: int) -> Callable[[np.ndarray, int], np.ndarray]:
        def change(image: np.ndarray, position: int) -> np.ndarray:
            own_seed = zlib.crc32(f"{seed} {name} {severity} {position}".encode())
            return corrupt(image, name, severity, own_seed)

        return change

    def shift(name: str) -> Callable[[np.ndarray, int], np.ndarray]:
        return lambda image, _: SHIFTS[name](image)

    return {
        _CLEAN: lambda image, _: image,
        **{(name, level): corruption(name, level) for name in CORRUPTIONS for level in SEVERITIES},
        **{(name, 0): shift(name) for name in SHIFTS},
    }


def _summary(right: Mapping[_Condition, np.ndarray], seed: int) -> dict[str, Any]:
    """Returns accuracies from whether each image (n,) was right under each condition."""
    accuracy = {condition: float(part.mean()) for condition, part in right.items()}
    clean, examples = right[_CLEAN], len(right[_CLEAN])
    levels = [(name, level) for name in CORRUPTIONS for level in SEVERITIES]
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
            name: [accuracy[name, level] for level in SEVERITIES] for name in CORRUPTIONS
        },
        "shifts": {name: accuracy[name, 0] for name in SHIFTS},
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
    severities = (f"severity {level}" for level in SEVERITIES)
    return "\n".join(
        [
            f"{results['examples']} images",
            line("clean", "clean accuracy"),
            line("mean_corruption_accuracy", "mean corruption accuracy") + kept,
            "",
            table(rows, ("corruption", *severities, "mean")),
            "",
            table(shifts, ("shift", "accuracy")),
        ]
    )
