from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from ftkeras.data import splits
from ftkeras.data.dataset import BadFile, Data, Listing, Split
from ftkeras.errors import UserError
from ftkeras.outputs.any_of import AnyOf
from ftkeras.outputs.one_of import OneOf

DEFAULT = {"train": 0.7, "val": 0.15, "test": 0.15}


def single(*counts: int) -> tuple[list[str], list[list[int]]]:
    labels = [[label] for label, count in enumerate(counts) for _ in range(count)]
    return [f"{label}/{i}.png" for i, (label,) in enumerate(labels)], labels


def found(parts: list[str], labels: list[list[int]]) -> Listing:
    return Listing(
        ids=[str(i) for i in range(len(parts))],
        labels=[tuple(map(str, row)) for row in labels],
        parts=parts,
        make_fetch=lambda indices: lambda index: index,
    )


def sizes(parts: dict[str, np.ndarray]) -> dict[str, int]:
    return {name: len(indices) for name, indices in parts.items()}


def test_each_class_is_split_by_the_fractions():
    ids, labels = single(100, 40, 20)
    assigned = splits.assign(ids, labels, DEFAULT, seed=0)
    counts = Counter(zip(assigned.tolist(), (row[0] for row in labels), strict=True))
    assert [counts["train", c] for c in range(3)] == [70, 28, 14]
    assert [counts["val", c] for c in range(3)] == [15, 6, 3]
    assert [counts["test", c] for c in range(3)] == [15, 6, 3]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.floats(0.0, 0.4),
    st.floats(0.0, 0.4),
    st.integers(0, 2**31 - 1),
)
def test_single_label_properties(counts, val, test, seed):
    ids, labels = single(*counts)
    fractions = {"train": 1 - val - test, "val": val, "test": test}
    assigned = splits.assign(ids, labels, fractions, seed)
    assert set(assigned) <= set(fractions)
    numbers = np.array([row[0] for row in labels])
    for label, count in enumerate(counts):
        of_class = Counter(assigned[numbers == label].tolist())
        assert of_class["train"] >= 1
        for part, fraction in fractions.items():
            assert abs(of_class[part] - fraction * count) < 2


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sets(st.integers(0, 4)), min_size=30, max_size=80), st.integers(0, 99))
def test_multi_label_properties(labels, seed):
    labels = [sorted(row) for row in labels]
    ids = [str(i) for i in range(len(labels))]
    assigned = splits.assign(ids, labels, {"train": 0.6, "val": 0.4}, seed)
    assert set(assigned) <= {"train", "val"}
    for label in {label for row in labels for label in row}:
        has = np.array([label in row for row in labels])
        assert (assigned[has] == "train").any()
        assert abs((assigned[has] == "val").sum() - 0.4 * has.sum()) < 0.15 * len(ids)
    assert abs((assigned == "val").mean() - 0.4) < 0.15


def test_the_seed_decides_and_nothing_else():
    ids, labels = single(30, 30)
    one = splits.assign(ids, labels, DEFAULT, seed=1)
    assert (one == splits.assign(ids, labels, DEFAULT, seed=1)).all()
    assert (one != splits.assign(ids, labels, DEFAULT, seed=2)).any()
    backwards = splits.assign(ids[::-1], labels[::-1], DEFAULT, seed=1)[::-1]
    assert (one == backwards).all()


def test_this_assignment_never_changes():
    ids, labels = single(4, 4)
    assigned = splits.assign(ids, labels, {"train": 0.5, "val": 0.25, "test": 0.25}, seed=7)
    assert assigned.tolist() == [
        *("train", "val", "test", "train"),
        *("train", "val", "train", "test"),
    ]


def test_what_the_fractions_leave_is_left_out():
    ids, labels = single(20, 20)
    parts = splits.divide(found([""] * 40, labels), {"train": 0.5, "val": 0.1}, labels, 0)
    assert sizes(parts) == {"train": 20, "val": 4}


def test_by_default_fifteen_percent_each():
    _, labels = single(100, 100)
    assert sizes(splits.divide(found([""] * 200, labels), None, labels, 0)) == {
        "train": 140,
        "val": 30,
        "test": 30,
    }


def test_own_parts_stay_and_validation_comes_from_train():
    _, labels = single(40, 40)
    parts = (["train"] * 20 + ["test"] * 20) * 2
    divided = splits.divide(found(parts, labels), None, labels, 0)
    assert sizes(divided) == {"train": 34, "val": 6, "test": 40}
    assert all(parts[i] == "test" for i in divided["test"])
    assert all(parts[i] == "train" for i in [*divided["train"], *divided["val"]])


def test_own_parts_win_over_fractions():
    _, labels = single(40, 40)
    parts = (["train"] * 20 + ["val"] * 20) * 2
    divided = splits.divide(found(parts, labels), {"val": 0.5, "test": 0.25}, labels, 0)
    assert sizes(divided) == {"train": 30, "val": 40, "test": 10}


def test_a_part_that_is_not_wanted_is_left_out():
    _, labels = single(40, 40)
    parts = (["train"] * 20 + ["test"] * 20) * 2
    divided = splits.divide(found(parts, labels), {"val": None, "test": None}, labels, 0)
    assert sizes(divided) == {"train": 40}


@pytest.mark.parametrize("wanted", [{"val": 0.5, "test": 0.5}, {"train": 0.8, "val": 0.3}])
def test_fractions_that_do_not_add_up(wanted):
    _, labels = single(10, 10)
    with pytest.raises(UserError, match="add up to 1"):
        splits.divide(found([""] * 20, labels), wanted, labels, 0)


def test_the_record_of_splits_and_bad_files():
    def part(name: str, ids: list[str], labels: np.ndarray) -> Split:
        return Split(name, ids, labels, classes=2, fetch=lambda index: index)

    hot = np.array([[1, 1], [0, 0]], np.float32)
    data = Data(
        "folder", {"label": AnyOf(("cat", "dog"))}, {"train": part("train", ["a,1", "b"], hot)}
    )
    splits.write_splits(data, "ram://record/splits.csv")
    with tf.io.gfile.GFile("ram://record/splits.csv") as file:
        assert list(csv.reader(file.read().splitlines())) == [
            ["id", "split", "label"],
            ["a,1", "train", "cat;dog"],
            ["b", "train", ""],
        ]
    alone = np.array([1, 0], np.int32)
    data = Data("folder", {"label": OneOf(("cat", "dog"))}, {"val": part("val", ["a", "b"], alone)})
    splits.write_splits(data, "ram://record/single.csv")
    with tf.io.gfile.GFile("ram://record/single.csv") as file:
        assert file.read().splitlines()[1:] == ["a,val,dog", "b,val,cat"]
    splits.write_bad_files([BadFile("x.jpg", "empty file")], "ram://record/bad_files.csv")
    with tf.io.gfile.GFile("ram://record/bad_files.csv") as file:
        assert file.read() == "path,reason\nx.jpg,empty file\n"
