"""Runs sequences of like length together, so that the trunk computes less padding.

Batches come in the order of the examples, and each is as long as its longest example. Some batches
at a time are sorted by length, run, and put back in order: what an example gives does not depend on
the padding after it, up to rounding.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ftkeras.trunk.engines import Engine, Frontier, Inputs


class ByLength:
    """An engine that sorts some batches of another one's by length.

    Args:
        spec: The specs of a batch of inputs: a tensor, or several by name.
        pad: What fills inputs after their end, by name; 0 for one that is not there.
        sizes: The lengths that batches may have, rising.
        batches: How many are sorted together.

    Example:
        ```python
        sort = ByLength(inputs.element_spec, pad={"token_ids": 1}, sizes=(8, 16, 32), batches=16)
        for frontier in sort(run, inputs, progress.advance):  # of several batches at once
            writer.append(frontier)
        ```
    """

    def __init__(self, spec: Any, *, pad: Mapping[str, Any], sizes: Sequence[int], batches: int):
        names = sorted(spec) if isinstance(spec, dict) else [""]
        self._spec, self._sizes, self._batches = spec, sizes, batches
        self._pad = [pad.get(name, 0) for name in names]
        self._varies = [
            i for i, x in enumerate(tf.nest.flatten(spec)) if x.shape.rank > 1 and not x.shape[1]
        ]

    @property
    def helps(self) -> bool:
        """Whether batches differ in length, and several can be sorted."""
        one_each = len(self._pad) == len(tf.nest.flatten(self._spec))
        return one_each and bool(self._varies) and len(self._sizes) > 1 and self._batches > 1

    def __call__(
        self, run: Engine, inputs: Iterable[Inputs], ran: Callable[[int], None]
    ) -> Iterator[Frontier]:
        """Yields frontiers of several batches, in order; `ran` gets the number of new examples."""
        rest = iter(inputs)
        while window := list(itertools.islice(rest, self._batches)):
            tensors = [[np.asarray(x) for x in tf.nest.flatten(batch)] for batch in window]
            yield self._sorted(run, tensors, ran)

    def _sorted(
        self, run: Engine, batches: list[list[np.ndarray]], ran: Callable[[int], None]
    ) -> Frontier:
        size = max(len(batch[0]) for batch in batches)
        inputs = [
            _joined([batch[i] for batch in batches], self._pad[i] if i in self._varies else None)
            for i in range(len(batches[0]))
        ]
        lengths = self._lengths(inputs)
        order = np.argsort(lengths, kind="stable")
        parts: list[Frontier] = []
        for part in run(self._cut(inputs, lengths, order, size)):
            ran(len(part[0]))
            parts.append(part)
        back = np.argsort(order, kind="stable")
        varies = [
            any(len(set(x.shape[1:2])) for x in pieces) for pieces in zip(*parts, strict=True)
        ]
        return [
            _joined(list(pieces), 0 if several else None)[back]
            for pieces, several in zip(zip(*parts, strict=True), varies, strict=True)
        ]

    def _lengths(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Returns how long each example is, int (n,): up to its last number that is no padding."""
        used = [
            (inputs[i] != self._pad[i]).reshape(*inputs[i].shape[:2], -1).any(axis=2)
            for i in self._varies
        ]
        longest = max(x.shape[1] for x in used)
        if any(x.shape[1] != longest for x in used):  # independent of each other
            return np.full(len(inputs[0]), longest)
        any_used = np.any(used, axis=0)
        return np.where(any_used.any(axis=1), longest - any_used[:, ::-1].argmax(axis=1), 1)

    def _cut(
        self, inputs: list[np.ndarray], lengths: np.ndarray, order: np.ndarray, size: int
    ) -> Iterator[Inputs]:
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            longest = int(lengths[rows].max())
            length = next((n for n in self._sizes if n >= longest), longest)
            chosen = [
                x[rows, :length] if i in self._varies else x[rows] for i, x in enumerate(inputs)
            ]
            yield tf.nest.pack_sequence_as(self._spec, chosen)


def _joined(arrays: list[np.ndarray], pad: Any) -> np.ndarray:
    """Returns arrays (b, length, ...) as one, filled to the longest; `pad` None: they are alike."""
    if pad is not None:
        longest = max(x.shape[1] for x in arrays)
        arrays = [
            np.pad(
                x,
                [(0, 0), (0, longest - x.shape[1]), *[(0, 0)] * (x.ndim - 2)],
                constant_values=pad,
            )
            for x in arrays
        ]
    return np.concatenate(arrays)
