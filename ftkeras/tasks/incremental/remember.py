"""The images that a run keeps of its data, for a later run that extends it."""

from __future__ import annotations

import keras
import numpy as np

from ftkeras.cache import digest
from ftkeras.data.dataset import Data, Split, joined
from ftkeras.data.pipeline import plain
from ftkeras.evaluation.predict import predict_outputs
from ftkeras.inputs.base import Input
from ftkeras.tasks.incremental.replay import KEPT, Exemplars, as_kept, herd


def remember(
    model: keras.Model,
    data: Data,
    before: Exemplars | None,
    *,
    per_class: int,
    held_out: int,
    kind: Input,
    step: int = 0,
) -> Exemplars:
    """Chooses the images that stand for a run's data.

    For training, herding on the inputs of the logits chooses them; a class without new images
    keeps its first ones. For validation and test, kept images stay, and new ones are added in an
    order that follows from their ids.

    Args:
        model: From images to logits.
        data: The run's data, which may include images of `before`.
        before: The images that were kept before.
        per_class: How many training images of each class.
        held_out: How many validation images, and how many test images, of each class.
        kind: The kind of input.
        step: In which step the data came.
    """
    known = set() if before is None else set(before.ids.tolist())
    rows: list[tuple[np.ndarray, ...]] = []
    for part, most in (("train", per_class), ("val", held_out), ("test", held_out)):
        new, old = _fresh(data.splits.get(part), known), None
        if before is not None:
            old = before.split(part, len(data.class_names))
        if new is None and old is None:
            continue
        every, count = joined(new, old), 0 if new is None else len(new)
        features = None
        if part == "train" and count and per_class:
            features = features_of(model, every, kind, "choose what to remember")
        each = (np.flatnonzero(every.labels == label) for label in range(len(data.class_names)))
        chosen = [_choose(every, members, count, features, most) for members in each]
        kept = np.concatenate(chosen).astype(np.int64)
        keys = [every.ids[i] for i in kept]
        ids = [key if key in known else f"{KEPT}{step}/{key}" for key in keys]
        shown = as_kept(every.take(kept), kind)
        rows.append((shown, every.labels[kept], np.full(len(kept), part), np.array(ids, np.str_)))
    inputs, labels, parts, names = map(np.concatenate, zip(*rows, strict=True))
    return Exemplars(
        inputs,
        labels.astype(np.int32),
        parts.astype(np.str_),
        names.astype(np.str_),
        data.class_names,
        np.array([per_class, held_out]),
    )


def _fresh(split: Split | None, known: set[str]) -> Split | None:
    """Returns the examples that are not kept already, if there are any."""
    if split is None:
        return None
    rows = np.flatnonzero([key not in known for key in split.ids])
    return split.take(rows) if len(rows) else None


def _choose(
    split: Split, rows: np.ndarray, new: int, features: np.ndarray | None, most: int
) -> np.ndarray:
    """Returns the indices of a class's examples to keep; those from `new` on were kept before."""
    old, fresh = rows[rows >= new], rows[rows < new]
    if not len(fresh):
        return old[:most]
    if features is not None:
        return rows[herd(features[rows], most)]
    order = sorted(fresh.tolist(), key=lambda i: digest(split.ids[i]))
    return np.array([*old.tolist(), *order][:most], np.int64)


def features_of(model: keras.Model, split: Split, kind: Input, label: str) -> np.ndarray:
    """Returns the inputs of a model's logits for a split's images, float32 (n, d)."""
    below = keras.Model(model.inputs, model.get_layer("logits").input)
    return predict_outputs(below, plain(split, kind, 32), label)[0]
