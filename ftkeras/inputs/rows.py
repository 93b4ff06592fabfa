"""All examples of all splits, one row each, for the doctor; for any kind of input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ftkeras.findings import Evidence

_TELLING = 0.5  # difference between shares that gives a class or a split away
_LEAST = 10  # examples on either side


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Facts about all examples of all splits. A kind adds its measurements.

    Args:
        ids: The example's key in its split. (n,)
        splits: The name of its split. (n,) of str
        indices: Its index in its split. (n,)
        labels: Class indices, -1 if unknown, or multi-hot (n, classes).
        unknown: Which labels of which examples are unknown, (n, classes); None: none.
    """

    ids: list[str]
    splits: np.ndarray
    indices: np.ndarray
    labels: np.ndarray
    unknown: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def blank(self) -> np.ndarray:
        """Which examples show nothing. (n,)"""
        return np.zeros(len(self), bool)

    def same_labels(self, one: np.ndarray | int, other: np.ndarray | int) -> np.ndarray:
        """Whether examples have the same label, or the same labels, as far as they are known."""
        same = self.labels[one] == self.labels[other]
        if self.labels.ndim == 1:
            return same | (self.labels[one] < 0) | (self.labels[other] < 0)
        if self.unknown is not None:
            same = same | self.unknown[one] | self.unknown[other]
        return same.all(axis=-1)

    def evidence(self, row: int, detail: str = "") -> Evidence:
        """Names an example."""
        return Evidence(self.ids[row], str(self.splits[row]), detail)

    def label(self, row: int, class_names: Sequence[str]) -> str:
        """Returns an example's label, or its labels, as text."""
        if self.labels.ndim == 1:
            return repr(class_names[self.labels[row]])
        return repr(";".join(class_names[i] for i in np.flatnonzero(self.labels[row]).tolist()))

    def classes(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields each class that has examples, and a mask of its rows, bool (n,)."""
        if self.labels.ndim == 1:
            for label in np.unique(self.labels[self.labels >= 0]).tolist():
                yield label, self.labels == label
        else:
            for label in np.flatnonzero(self.labels.any(axis=0)).tolist():
                yield label, self.labels[:, label] > 0

    def telling(
        self, odd: np.ndarray, shown: np.ndarray, class_names: Sequence[str], what: str
    ) -> str:
        """Returns a split or class with a very different share of something, in words; or "".

        Args:
            odd: The rows that have it. (n,)
            shown: The rows that count. (n,)
            class_names: Names of the classes.
            what: Its name, such as "grey".
        """
        groups = [(f"split {name}", self.splits == name) for name in np.unique(self.splits)]
        if self.labels.ndim == 1:
            groups += [(f"class {class_names[c]}", inside) for c, inside in self.classes()]
        for name, inside in groups:
            here, there = odd[shown & inside], odd[shown & ~inside]
            enough = min(len(here), len(there)) >= _LEAST
            if enough and abs(here.mean() - there.mean()) > _TELLING:
                return f"{here.mean():.0%} of {name} are {what}, {there.mean():.0%} elsewhere"
        return ""
