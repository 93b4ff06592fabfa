"""State files: what was written comes back, and what is damaged is noticed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.config.load import parse_config
from ftkeras.run import Run
from ftkeras.state_file import DamagedState, read_state, write_state
from ftkeras.training.resume.checkpoint import States

TREE = {
    "epoch": 3,
    "rate": 0.1,
    "best": None,
    "worst": math.inf,
    "names": ["a", "b"],
    "weights": [np.arange(6, dtype="float32").reshape(2, 3).T, np.zeros((0, 2)), np.int64(7)],
    "inside": {"half": np.array([1.5, -2.0], "float16"), "flags": np.array([True, False])},
}


def assert_like_tree(found):
    for name in ("epoch", "rate", "best", "worst", "names"):
        assert found[name] == TREE[name]
    for expected, array in zip(TREE["weights"], found["weights"], strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == expected.dtype
    np.testing.assert_array_equal(found["inside"]["half"], [1.5, -2.0])
    np.testing.assert_array_equal(found["inside"]["flags"], [True, False])


@pytest.mark.parametrize("remote", [False, True])
def test_what_was_written_comes_back(tmp_path, remote):
    path = f"ram://{tmp_path.name}/a.ckpt" if remote else str(tmp_path / "a.ckpt")
    if remote:
        tf.io.gfile.makedirs(f"ram://{tmp_path.name}")
    write_state(path, {"old": 1})
    write_state(path, TREE)
    assert_like_tree(read_state(path))


def test_bfloat16_comes_back(tmp_path):
    values = tf.constant([1.0, 0.5], tf.bfloat16).numpy()
    write_state(str(tmp_path / "b.ckpt"), {"x": values})
    found = read_state(str(tmp_path / "b.ckpt"))["x"]
    assert found.dtype == values.dtype and found.tolist() == [1.0, 0.5]


def test_a_file_that_lost_or_changed_a_single_byte_anywhere_is_damaged(tmp_path):
    path = tmp_path / "c.ckpt"
    write_state(str(path), {"x": np.arange(3, dtype="uint8"), "n": 1})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DamagedState):
            read_state(str(path))
        path.write_bytes(whole[:place])
        with pytest.raises(DamagedState):
            read_state(str(path))


@pytest.fixture
def run(tmp_path) -> Run:
    phase = {"name": "a", "epochs": 1, "learning_rate": 0.1}
    tree = {"data": {"source": "starter"}, "backbone": {"name": "MobileNetV2"}, "phases": [phase]}
    return Run.create(str(tmp_path / "run"), parse_config(tree))


def test_the_last_two_states_are_kept_and_a_damaged_one_falls_back(run):
    said: list[str] = []
    states = States(run, said.append)
    for epoch, batches in ((0, 0), (0, 7), (1, 0)):
        states.save(epoch, batches, {"at": [epoch, batches]})
    first, second = states.names()
    assert states.newest() == {"at": [1, 0]} and not said
    with open(run.path("checkpoints", second), "r+b") as file:
        file.truncate(40)
    assert states.newest() == {"at": [0, 7]}
    assert len(said) == 1 and second in said[0] and "cut short" in said[0]
    assert states.names() == [first]
    with open(run.path("checkpoints", first), "wb"):
        pass
    assert states.newest() is None
    assert said[-1] == "no checkpoint is usable: training starts at the beginning"


def test_a_newest_state_that_cannot_even_be_removed_falls_back(run):
    said: list[str] = []
    states = States(run, said.append)
    states.save(0, 7, {"at": [0, 7]})
    tf.io.gfile.makedirs(run.path("checkpoints", "state-00001-00000000.ckpt", "a folder"))
    assert states.newest() == {"at": [0, 7]}
    assert len(said) == 1 and "state-00001-00000000.ckpt cannot be read" in said[0]
