"""Every example of a run's data, looked at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from ftkeras.console import Progress
from ftkeras.data.dataset import Data
from ftkeras.inputs.base import Input

_BATCH = 64


def look_at(data: Data, kind: Input) -> Any:
    """Returns what was seen of all examples, each read once: `Rows` of the kind's own.

    None if the kind has no `looks`.
    """
    looks = kind.ability("looks")
    if looks is None:
        return None
    seen: list[tuple[np.ndarray, ...]] = []
    splits = data.splits.values()
    for split in splits:
        batches = (
            tf.data.Dataset.range(len(split))
            .map(
                lambda index, fetch=split.fetch: looks.measure(fetch(index), kind),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            .batch(_BATCH)
        )
        progress = Progress(f"look at {split.name}", len(split), kind.noun, kind.nouns)
        for batch in batches.as_numpy_iterator():
            seen.append(batch)
            progress.advance(len(batch[0]))
        progress.close()
    columns = tuple(np.concatenate(parts) for parts in zip(*seen, strict=True))
    return looks.gather(
        columns,
        ids=[key for split in splits for key in split.ids],
        splits=np.concatenate([np.full(len(split), split.name) for split in splits]),
        indices=np.concatenate([np.arange(len(split)) for split in splits]),
        labels=np.concatenate([split.labels for split in splits]),
        unknown=_unknown(data),
    )


def _unknown(data: Data) -> np.ndarray | None:
    """Returns which labels, `head=value`, are of heads that have no answer for an example."""
    if len(data.outputs) == 1:
        return None
    heads = [name.partition("=")[0] for name in data.class_names]
    unknown = np.zeros((sum(map(len, data.splits.values())), len(heads)), bool)
    for column, head in enumerate(heads):
        start = 0
        for split in data.splits.values():
            unknown[start : start + len(split), column] = True
            unknown[start + split.answers_to(head).places, column] = False
            start += len(split)
    return unknown
