"""What examples are turned into to compare them: features in which like things lie close together.

They are the kind's own and not those of the config's backbone, which may be slow, random, or the
very thing that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ftkeras.console import Progress
from ftkeras.data.dataset import Data
from ftkeras.data.pipeline import plain
from ftkeras.inputs.base import Input


def make_embedding(data: Data, kind: Input, looks: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from rows of `looks` (m,) to features float32 (m, channels)."""

    def batches(
        rows: np.ndarray, reader: Input, size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        progress = Progress("compare", len(rows), kind.noun, kind.nouns)
        for name, split in data.splits.items():
            inside = np.flatnonzero(looks.splits[rows] == name)
            chosen, at = split.take(looks.indices[rows[inside]]), 0
            for batch, *_ in plain(chosen, reader, size):
                yield inside[at : at + len(batch)], batch
                at += len(batch)
                progress.advance(len(batch))
        progress.close()

    features: Callable[[np.ndarray], np.ndarray]
    features = kind.able("features", "doctor").make(looks, batches)
    return features
