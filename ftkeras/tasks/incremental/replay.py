"""Images that a run keeps of its data, so that a later run does not need the data."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftkeras.data.dataset import Split
from ftkeras.data.pipeline import plain
from ftkeras.data.reading import from_array
from ftkeras.errors import UserError
from ftkeras.files import read_arrays, write_whole
from ftkeras.inputs.base import Input

KEPT = "kept/"  # how the ids of kept images begin


@dataclass(frozen=True)
class Exemplars:
    """Images with their labels, the best examples first; stored in a run's `memory.npz`.

    Args:
        images: uint8 (n, size, size, 3), as the run's model takes them.
        labels: int32 (n,) class indices.
        parts: "train", "val" or "test", str (n,).
        ids: A key for each image, str (n,).
        class_names: The classes.
        asked: How many images per class were requested, for training and held out, int (2,).
    """

    images: np.ndarray
    labels: np.ndarray
    parts: np.ndarray
    ids: np.ndarray
    class_names: tuple[str, ...]
    asked: np.ndarray

    def holds(self, per_class: int, held_out: int) -> bool:
        """Whether a request for so many images per class would return the same ones."""
        return bool(self.asked[0] >= per_class and self.asked[1] >= held_out)

    def rows(self, part: str, label: int, most: int | None = None) -> np.ndarray:
        """Returns the indices of a class's images in a part, the first `most` of them."""
        return np.flatnonzero((self.parts == part) & (self.labels == label))[:most]

    def split(self, part: str, classes: int, most: int | None = None) -> Split | None:
        """Returns a part as a split for that many classes, or None if it has no image.

        Args:
            part: "train", "val" or "test".
            classes: How many classes there are now; the memory's come first.
            most: How many images of each class; None takes all.
        """
        each = [self.rows(part, label, most) for label in range(len(self.class_names))]
        rows = np.concatenate(each) if each else np.zeros(0, np.int64)
        if not len(rows):
            return None
        fetch = from_array(self.images)(rows)
        return Split(part, self.ids[rows].tolist(), self.labels[rows], classes, fetch)

    def save(self, path: str) -> None:
        """Writes the memory in one step: readers get the old file or the new one."""
        arrays = {name: value for name, value in vars(self).items() if name != "class_names"}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, class_names=np.array(self.class_names, np.str_), **arrays)
        write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str) -> Exemplars:
        """Reads what `save` wrote; nothing is unpickled.

        Raises:
            UserError: It is damaged.
        """
        try:
            arrays = read_arrays(path)
            values: dict[str, Any] = {f.name: arrays[f.name] for f in dataclasses.fields(cls)}
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
            raise UserError(f"{path}: the memory of this run is damaged.") from None
        values["class_names"] = tuple(map(str, values["class_names"]))
        return cls(**values)


def herd(features: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices of the images that represent a class best, the best first.

    Each one brings the mean of those chosen closest to the mean of all (Rebuffi et al. 2017,
    "iCaRL"), so the first few are always a good choice, too.

    Args:
        features: Float (n, d); only their directions count.
        count: How many to choose, at most n.

    Example:
        >>> herd(np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), 2)
        array([1, 0])
    """
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.asarray(features, np.float64) / np.maximum(length, 1e-12)
    wanted, total = unit.mean(axis=0), np.zeros(unit.shape[1])
    chosen: list[int] = []
    left = np.ones(len(unit), bool)
    for number in range(1, min(count, len(unit)) + 1):
        distance = np.linalg.norm(wanted - (total + unit) / number, axis=1)
        best = int(np.argmin(np.where(left, distance, np.inf)))
        chosen.append(best)
        left[best] = False
        total += unit[best]
    return np.array(chosen, np.int64)


def as_kept(split: Split, kind: Input) -> np.ndarray:
    """Returns a split's examples as a model takes them, as uint8 (n, size, size, 3).

    Raises:
        UserError: The kind's examples are not levels from 0 to 255.
    """
    levels = kind.able("levels", "task incremental")
    if not len(split):
        [spec] = kind.takes.values()
        return np.zeros((0, *spec.shape), np.uint8)
    return np.concatenate([levels.to_bytes(inputs) for inputs, *_ in plain(split, kind, 32)])
