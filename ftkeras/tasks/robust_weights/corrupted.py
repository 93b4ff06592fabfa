"""A few corrupted examples, held in memory, to measure many models on."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ftkeras.console import track
from ftkeras.data.dataset import Split
from ftkeras.data.pipeline import plain
from ftkeras.errors import UserError, did_you_mean
from ftkeras.evaluation.robustness import sample
from ftkeras.inputs.base import Input
from ftkeras.model.inference import Answer

_BATCH = 50  # examples per step


@dataclass(frozen=True)
class CorruptedSample:
    """Examples of a split under each of some corruptions.

    Args:
        inputs: By corruption, uint8 (n, ...).
        labels: int (n,).
    """

    inputs: dict[str, np.ndarray]
    labels: np.ndarray

    def accuracies(self, answer: Answer) -> dict[str, float]:
        """Returns the accuracy under each corruption.

        Args:
            answer: From float32 inputs (b, ...) to logits, as `logits_function` returns.
        """
        return {
            name: float(np.mean(_answers(answer, inputs) == self.labels))
            for name, inputs in self.inputs.items()
        }


def chosen_corruptions(names: Sequence[str] | None, kind: Input) -> Sequence[str]:
    """Returns the corruptions that a config names; by default the usual ones, if there are any."""
    if names is not None:
        return names
    corruptions = kind.ability("corruptions")
    return () if corruptions is None else tuple(corruptions.USUAL)


def check_corruptions(names: Sequence[str], kind: Input, field: str) -> None:
    """Raises UserError for an unknown name, unfit examples, or a missing package."""
    if not names:
        return
    corruptions = kind.able("corruptions", field)
    for name in names:
        if name not in corruptions.CORRUPTIONS:
            guess = did_you_mean(name, corruptions.CORRUPTIONS)
            raise UserError(f"{field}: no corruption {name!r}.{guess}")
    corruptions.check(kind, field)
    corruptions.check_installed(field)


def corrupted_sample(
    split: Split,
    names: Sequence[str],
    severity: int,
    *,
    kind: Input,
    examples: int,
    seed: int,
) -> CorruptedSample:
    """Draws examples of a split under the seed and corrupts them.

    Args:
        split: The examples.
        names: Some of `CORRUPTIONS`.
        severity: 1 to 5.
        kind: The kind of input.
        examples: How many, at most.
        seed: Decides the examples, noise and flakes.
    """
    drawn = sample(split, examples, seed)
    if not names:
        return CorruptedSample({}, drawn.labels)
    batches = plain(drawn, kind, _BATCH)
    corruptions = kind.able("corruptions", "robust_weights")
    clean = np.concatenate([corruptions.to_change(inputs) for inputs, *_ in batches])
    changed = {
        name: np.stack(
            [
                corruptions.corrupt(
                    example, name, severity, zlib.crc32(f"{seed} {name} {index}".encode())
                )
                for index, example in enumerate(clean)
            ]
        )
        for name in track(list(names), f"corrupt {split.name}", "corruption")
    }
    return CorruptedSample(changed, drawn.labels)


def _answers(answer: Answer, inputs: np.ndarray) -> np.ndarray:
    parts = np.split(inputs, range(_BATCH, len(inputs), _BATCH))
    return np.concatenate(
        [answer(part.astype(np.float32)).numpy().argmax(axis=1) for part in parts]
    )
