"""Case 24: verdicts and suggestions that contradict what stands beside them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest


def answer(run: Path, right: np.ndarray) -> None:
    """Writes answers to 100 images of two classes as `train` keeps them; see docs/evaluation.md."""
    labels = np.arange(100, dtype=np.int32) % 2
    logits = np.eye(2, dtype=np.float32)[np.where(right, labels, 1 - labels)]
    ids = np.array([f"{i}.png" for i in range(100)])
    np.savez(run / "predictions" / "test.npz", logits=logits, labels=labels, ids=ids)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 5), (4, 0), (3, 11), (0, 6), (12, 2)])
def test_the_verdict_of_compare_agrees_with_its_interval(place, ftkeras, only_a, only_b):
    """Source: seen on version 0.1: McNemar's p is above 0.05, and the interval excludes 0."""
    shutil.copytree("first run", "second run")
    number = np.arange(100)
    answer(place / "first run", ~((number >= only_a) & (number < only_a + only_b)))
    answer(place / "second run", number >= only_a)
    done = ftkeras("compare", "first run", "second run", "--json")
    result = json.loads(done.out)
    low, high = result["interval"]
    if (result["only_a"], result["only_b"]) != (only_a, only_b):
        raise RuntimeError("the answers are not what the case is about")
    assert result["noise"] == (low <= 0 <= high), (result["p"], low, high)


def test_lr_find_suggests_alike_for_30_and_100_steps_or_says_that_it_cannot(place, ftkeras):
    """Source: seen on version 0.1: 3.8e-2 or 1.0e-1 on the same data.

    One data set is learnt within a few steps, of the other there is nothing to learn.
    """
    random = np.random.default_rng(0)
    labels = np.arange(80) % 2
    config = Path("c.yaml").read_text().replace("source: folder, path: photos", "{data}")
    config = config.replace("train: [head]", "train: [{train}]")
    told = []
    for shift, noise, train in ((100, 10, "all"), (0, 128, "head")):
        images = (
            100 + shift * labels[:, None, None, None] + random.normal(0, noise, (80, 16, 16, 3))
        )
        np.savez("data.npz", images=images.clip(0, 255).astype(np.uint8), labels=labels)
        data = "source: arrays, path: data.npz, split: {val: 0.1, test: null}"
        Path("lr.yaml").write_text(config.replace("{data}", data).replace("{train}", train))
        suggested = []
        for steps in (30, 100):
            done = ftkeras("lr-find", "--config=lr.yaml", f"--steps={steps}")
            if done.status != 0:
                raise RuntimeError(done.err)
            found = re.findall(r"learning_rate: (\S+)", done.out)
            assert found or "suggestion  none: " in done.out
            suggested += map(float, found)
        told.append(suggested)
    assert all(len(rates) < 2 or max(rates) <= 2 * min(rates) for rates in told), told
