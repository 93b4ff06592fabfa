"""What a run remembers: which images are chosen, how they are kept, how they come back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.data.dataset import Split, joined
from ftkeras.data.reading import from_array
from ftkeras.errors import UserError
from ftkeras.inputs.image.input import ImageInput
from ftkeras.tasks.incremental.replay import Exemplars, as_kept, herd


def split_of(images: np.ndarray, labels: list[int], **more: object) -> Split:
    fetch = from_array(images)(np.arange(len(images)))
    ids = [f"{len(labels)}/{i}" for i in range(len(labels))]
    return Split("train", ids, np.array(labels, np.int32), 3, fetch, **more)


@pytest.fixture
def memory() -> Exemplars:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 4, 4, 3), np.uint8)
    return Exemplars(
        images,
        np.array([1, 0, 1, 0, 0], np.int32),
        np.array(["train", "train", "train", "test", "train"]),
        np.array(list("abcde")),
        ("x", "y"),
        np.array([2, 1]),
    )


def test_herding_follows_the_mean_greedily():
    random = np.random.default_rng(0)
    features = random.normal(1, 1, (7, 3))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    chosen: list[int] = []
    for _ in range(4):  # the definition, written out
        left = [i for i in range(7) if i not in chosen]
        gaps = [np.linalg.norm(unit.mean(0) - unit[[*chosen, i]].mean(0)) for i in left]
        chosen.append(left[int(np.argmin(gaps))])
    assert herd(features, 4).tolist() == chosen
    assert herd(features, 3).tolist() == chosen[:3]  # a shorter memory is the beginning
    assert sorted(herd(features, 99)) == list(range(7))


def test_the_chosen_stand_for_the_mean_better_than_chance():
    features = np.random.default_rng(1).normal(0.3, 1, (12, 5))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)

    def gap(rows: object) -> float:
        return float(np.linalg.norm(unit[list(rows)].mean(0) - unit.mean(0)))  # type: ignore[call-overload]

    others = [gap(rows) for rows in itertools.combinations(range(12), 3)]
    assert gap(herd(features, 3)) < np.quantile(others, 0.2)


def test_a_memory_is_read_as_it_was_written_and_nothing_else_is(memory, tmp_path):
    path = str(tmp_path / "memory.npz")
    memory.save(path)
    again = Exemplars.load(path)
    for name, value in vars(memory).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    assert again.holds(2, 1) and not again.holds(3, 1) and not again.holds(2, 2)
    (tmp_path / "memory.npz").write_bytes(b"PK not an archive")
    with pytest.raises(UserError, match="is damaged"):
        Exemplars.load(path)
    np.savez(path, images=np.array([{}], object))
    with pytest.raises(UserError, match="is damaged"):
        Exemplars.load(path)


def test_the_first_of_each_class_come_back(memory):
    split = memory.split("train", classes=3, most=1)
    assert (split.ids, split.labels.tolist(), split.classes) == (["b", "a"], [0, 1], 3)
    assert split.make_target()(tf.range(2)).numpy().tolist() == [[1, 0, 0], [0, 1, 0]]
    assert [int(split.fetch(tf.constant(i))[0, 0, 0]) for i in range(2)] == [1, 0]
    assert memory.split("val", 3) is None and memory.split("train", 3, 0) is None


def test_two_splits_become_one():
    large = np.full((2, 6, 5, 3), 7, np.uint8)
    first = split_of(large, [0, 2], weights=np.array([2.0, 3.0], np.float32))
    second = split_of(np.full((1, 4, 4, 3), 9, np.uint8), [1], columns={"step": np.array(["0"])})
    both = joined(first, second)
    assert both.ids == ["2/0", "2/1", "1/0"] and both.labels.tolist() == [0, 2, 1]
    assert both.weights.tolist() == [2, 3, 1]
    assert both.columns["step"].tolist() == ["", "", "0"]
    shapes = [both.fetch(tf.constant(i, tf.int64)).shape.as_list() for i in range(3)]
    assert shapes == [[6, 5, 3], [6, 5, 3], [4, 4, 3]]
    assert joined(None, second) is second and joined(first, None) is first
    seen = as_kept(both, ImageInput(4, "squash"))
    assert seen.shape == (3, 4, 4, 3) and seen[:, 0, 0, 0].tolist() == [7, 7, 9]
