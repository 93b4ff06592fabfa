"""Which example is for training, which for validation, which for the test.

The same examples and seed give the same splits in every process. The order in which examples are
dealt out follows from a hash of the seed and their ids, not from a generator's state.
"""

from __future__ import annotations

import csv
import heapq
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from ftkeras.cache import digest
from ftkeras.data.dataset import BadFile, Data, Listing
from ftkeras.errors import UserError

PARTS = ("train", "val", "test")


def assign(
    ids: Sequence[str],
    labels: Sequence[Sequence[int]],
    fractions: Mapping[str, float],
    seed: int,
) -> np.ndarray:
    """Deals examples out to parts so that every part has its share of every class.

    Iterative stratification (Sechidis et al. 2011): labels are dealt from the rarest on, each
    example to the part that lacks the label most. With one label an example this is plain
    stratification. The first example of each label goes to training, so no class is missing there.

    Args:
        ids: A key for each example. (n,)
        labels: The labels of each example, as class indices. (n,)
        fractions: The share of each part, "train" among them; what they leave of 1 is left out.
        seed: Chooses among the assignments.

    Returns:
        The part of each example, "train", "val", "test" or "" (left out). (n,) of str
    """
    parts = [*fractions, ""]
    shares = np.array([*fractions.values(), 1.0 - sum(fractions.values())])
    shares[shares < 1e-9] = -np.inf  # never dealt to
    order = sorted(range(len(ids)), key=lambda i: digest(seed, ids[i]))
    members = _members(order, labels)
    assigned = np.full(len(ids), -1)
    lack = {label: shares * len(examples) for label, examples in members.items()}
    lack_any = shares * len(ids)
    left = {label: len(examples) for label, examples in members.items()}
    in_train: set[int] = set()

    def give(i: int, part: int) -> None:
        assigned[i] = part
        lack_any[part] -= 1
        for label in labels[i]:
            lack[label][part] -= 1
            left[label] -= 1
        if parts[part] == "train":
            in_train.update(labels[i])

    rarest_first = [(count, label) for label, count in left.items()]
    heapq.heapify(rarest_first)
    while rarest_first:
        count, label = heapq.heappop(rarest_first)
        if count > left[label] > 0:  # some went with rarer labels: look again later
            heapq.heappush(rarest_first, (left[label], label))
            continue
        for i in members[label]:
            if assigned[i] < 0:
                wants = lack[label]
                part = max(range(len(parts)), key=lambda p: (wants[p], lack_any[p]))
                give(i, part if label in in_train else parts.index("train"))
    for i in order:  # examples without any label
        if assigned[i] < 0:
            give(i, int(np.argmax(lack_any)))
    return np.array(parts)[assigned]


def _members(order: Sequence[int], labels: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    """Returns, by label, the examples that have it, in order."""
    members: dict[int, list[int]] = {}
    for i in order:
        for label in labels[i]:
            members.setdefault(label, []).append(i)
    return members


def divide(
    items: Listing,
    wanted: Mapping[str, float | str | None] | None,
    labels: Sequence[Sequence[int]],
    seed: int,
) -> dict[str, np.ndarray]:
    """Divides what a source found: its own parts stay, fractions fill in what it leaves open.

    Fractions are of the examples that are in no part of their own, or in the source's train.

    Args:
        items: The source's examples.
        wanted: For "train", "val" and "test" a fraction, None for no such part (for train: the
            rest), or a name that the source has already turned into a part. None as a whole: the
            source's own parts, or 15% for val and test.
        labels: The class indices of each example. (n,)
        seed: Chooses among the assignments.

    Returns:
        The indices of each part's examples, ascending; parts without any are missing.

    Raises:
        UserError: The fractions leave nothing for training.
    """
    part = np.array(items.parts, dtype="<U5")  # (n,)
    own = set(part.tolist()) - {""}
    if wanted is None:
        wanted = {"val": 0.15, "test": "test" if own else 0.15}
    for name in ("val", "test"):
        if wanted.get(name) is None:
            part[part == name] = "none"
    share = {
        name: float(value)
        for name in ("val", "test")
        if name not in own and isinstance(value := wanted.get(name), (int, float)) and value > 0
    }
    train = wanted.get("train")
    rest = 1.0 - sum(share.values())
    share = {"train": float(train) if isinstance(train, (int, float)) else rest, **share}
    if not 0 < share["train"] <= rest + 1e-9:
        raise UserError(
            f"data.split: train, val and test ask for {sum(share.values()):.0%} of the examples "
            f"({share}). Make them add up to 1 at the most, with some left for train."
        )
    pool = np.flatnonzero((part == "") | (part == "train")).tolist()
    part[pool] = assign([items.ids[i] for i in pool], [labels[i] for i in pool], share, seed)
    indices = {name: np.flatnonzero(part == name) for name in PARTS}
    return {name: index for name, index in indices.items() if len(index)}


def write_splits(data: Data, path: str) -> None:
    """Writes which example went where: a CSV with the columns id, split, label."""
    with tf.io.gfile.GFile(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "split", "label"])
        for split in data.splits.values():
            for key, label in zip(split.ids, split.labels, strict=True):
                indices = [label] if split.labels.ndim == 1 else np.flatnonzero(label)
                names = ";".join(data.class_names[i] for i in indices if i >= 0)
                writer.writerow([key, split.name, names])


def write_bad_files(bad_files: Sequence[BadFile], path: str) -> None:
    """Writes what was left out: a CSV with the columns path, reason."""
    with tf.io.gfile.GFile(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "reason"])
        writer.writerows([bad.path, bad.why] for bad in bad_files)
