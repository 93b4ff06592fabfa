"""Comparisons against scipy, closed forms and hand-made runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from ftkeras.errors import UserError
from ftkeras.evaluation.comparison import (
    compare_predictions,
    compare_runs,
    format_comparison,
    mcnemar,
    on_shared_examples,
    paired_interval,
    verdict,
)
from ftkeras.evaluation.predictions import Predictions, save_predictions
from ftkeras.run import Run

NAMES = ["cat", "dog"]


def answers(right: np.ndarray, labels: np.ndarray | None = None) -> Predictions:
    """Returns answers to n images of two classes in turn, right if `right` is true."""
    labels = np.arange(len(right), dtype=np.int32) % 2 if labels is None else labels
    predicted = np.where(right, labels, 1 - labels)
    ids = np.array([f"{i}.png" for i in range(len(right))])
    return Predictions(np.eye(2, dtype=np.float32)[predicted], labels, ids)


def pair(both: int, only_a: int, only_b: int, neither: int) -> tuple[Predictions, Predictions]:
    kinds = np.repeat([0, 1, 2, 3], [both, only_a, only_b, neither])
    return answers(np.isin(kinds, [0, 1])), answers(np.isin(kinds, [0, 2]))


# ----------------------------------------------------------------------------- McNemar


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(0, 5) == 2 / 2**5
    assert mcnemar(5, 1) == 2 * (1 + 6) / 2**6
    assert mcnemar(3, 3) == 1.0


@given(first=st.integers(0, 400), second=st.integers(0, 400))
@settings(max_examples=50, deadline=None)
def test_mcnemar_agrees_with_scipy(first, second):
    if first + second:
        expected = binomtest(first, first + second).pvalue
        assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(first, second) == mcnemar(second, first)


def test_mcnemar_is_exact_for_many_images():
    assert mcnemar(9_900, 10_100) == pytest.approx(binomtest(9_900, 20_000).pvalue, rel=1e-6)


# ------------------------------------------------------------------ the paired difference


@given(first=st.integers(0, 60), second=st.integers(0, 60), both=st.integers(1, 2000))
@settings(max_examples=50, deadline=None)
def test_the_interval_excludes_0_if_and_only_if_p_is_below_a_twentieth(first, second, both):
    examples = first + second + both
    low, high = paired_interval(first, second, examples)
    assert -1 <= low <= (second - first) / examples <= high <= 1
    assert (low <= 0 <= high) == (mcnemar(first, second) >= 0.05)
    assert paired_interval(second, first, examples) == pytest.approx([-high, -low], abs=1e-9)


def test_the_interval_by_hand():
    # Tango 1998 of no image that differs is z^2 / (n + z^2), as Wilson's of none of n.
    z2 = 1.959964**2
    assert paired_interval(0, 0, 12) == pytest.approx([-z2 / (12 + z2), z2 / (12 + z2)])
    # Of images that all differ only the tosses matter: 0 of 5 is Clopper and Pearson's.
    low = 2 * 0.025 ** (1 / 5) - 1
    assert paired_interval(0, 5, 5) == pytest.approx([low, 1.0])


def test_the_paired_interval_is_that_of_the_discordant_images():
    results = compare_predictions(*pair(800, 20, 60, 120), NAMES)
    assert results["accuracy"] == [0.82, 0.86]
    assert results["difference"] == pytest.approx(0.04)
    half = 1.96 * np.sqrt((80 / 1000 - 0.04**2) / 1000)  # of the mean of 1000 of -1, 0 and 1
    assert results["interval"] == pytest.approx([0.04 - half, 0.04 + half], abs=0.002)
    assert (results["only_a"], results["only_b"]) == (20, 60)
    assert results["p"] == pytest.approx(binomtest(20, 80).pvalue)
    assert results["noise"] is False
    assert verdict(results).startswith("B is better than A by 4.0% of the examples (95%")
    swapped = compare_predictions(*pair(800, 60, 20, 120), NAMES)
    assert verdict(swapped).startswith("B is worse than A by 4.0% of the examples (95%")


@pytest.mark.parametrize("only", [(0, 0), (30, 34)])
def test_small_differences_are_called_noise(only):
    results = compare_predictions(*pair(500, *only, 10), NAMES)
    assert results["noise"] is True
    assert verdict(results).startswith("The difference is noise: B is right on ")


def test_classes_gained_and_lost_by_hand():
    labels = np.array([0] * 4 + [1] * 4, np.int32)
    first = answers(np.array([0, 0, 1, 1, 1, 1, 1, 1], bool), labels)
    second = answers(np.array([1, 1, 1, 1, 1, 1, 0, 1], bool), labels)
    cat, dog = compare_predictions(first, second, NAMES)["classes"]
    assert cat == {"name": "cat", "n": 4, "accuracy": [0.5, 1.0], "change": 0.5, "p": 0.5}
    assert dog == {"name": "dog", "n": 4, "accuracy": [1.0, 0.75], "change": -0.25, "p": 1.0}


def test_of_several_labels_each_class_is_a_column():
    labels = np.array([[1, 0], [1, 1], [0, 1]], np.float32)
    ids = np.array(["a", "b", "c"])
    first = Predictions(np.array([[1, -1], [1, -1], [-1, -1]], np.float32), labels, ids)
    second = Predictions(np.array([[1, -1], [1, 1], [1, 1]], np.float32), labels, ids)
    results = compare_predictions(first, second, NAMES)
    assert results["accuracy"] == pytest.approx([1 / 3, 2 / 3])
    assert [row["name"] for row in results["classes"]] == ["dog", "cat"]
    assert [row["accuracy"] for row in results["classes"]] == [
        pytest.approx([1 / 3, 1.0]),
        pytest.approx([1.0, 2 / 3]),
    ]


# ----------------------------------------------------------------------- the same images


def test_images_are_matched_by_name():
    whole, other = pair(10, 3, 4, 3)
    order = np.random.default_rng(0).permutation(20)[:15]
    part = Predictions(other.logits[order], other.labels[order], other.ids[order])
    first, second = on_shared_examples(whole, part)
    assert first.ids.tolist() == second.ids.tolist() == sorted(part.ids.tolist())
    places = [int(name.removesuffix(".png")) for name in first.ids]
    np.testing.assert_array_equal(second.logits, other.logits[places])
    np.testing.assert_array_equal(first.logits, whole.logits[places])


def test_other_images_and_other_labels_are_refused():
    whole, other = pair(10, 3, 4, 3)
    few = Predictions(other.logits[:9], other.labels[:9], other.ids[:9])
    with pytest.raises(UserError, match="different examples: 9 are in both, of 20 and 9"):
        on_shared_examples(whole, few)
    relabelled = Predictions(other.logits, 1 - other.labels, other.ids)
    with pytest.raises(UserError, match="20 clouds have another label in the second run"):
        on_shared_examples(whole, relabelled, "clouds")


# -------------------------------------------------------------------------------- runs


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    made = []
    for number, predictions in enumerate(pair(80, 2, 14, 4)):
        folder = tmp_path / "ab"[number]
        folder.mkdir()
        run = Run(str(folder))
        run.write_json("data.json", {"class_names": NAMES, "multi_label": False})
        run.write_json("plan.json", {"parameters": 1000 * (number + 1)})
        for seconds in (40.0, 35.0):
            run.log({"seconds": seconds * (number + 1)})
        (folder / "model.keras").write_bytes(b"x" * 2_500_000)
        save_predictions(run, "test", predictions)
        made.append(run)
    return made


def test_two_runs_compared(runs):
    results = compare_runs(*runs)
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    text = format_comparison(results)
    lines = [line.split() for line in text.splitlines()]
    assert ["100", "images", "of", "test", "that", "both", "were", "measured", "on"] in lines
    assert ["accuracy", "0.8200", "0.9400"] in lines
    assert ["training", "time", *["1", "min", "15", "s", "2", "min", "30", "s"]] in lines
    assert ["parameters", "1,000", "2,000"] in lines
    assert ["model.keras", "2.5", "MB", "2.5", "MB"] in lines
    assert text.splitlines()[-1].startswith("B is better than A by 12.0% of the images")
    for run in runs:
        run.write_json("data.json", {**run.read_json("data.json"), "nouns": "clouds"})
    clouds = format_comparison(compare_runs(*runs))
    assert clouds == text.replace("images", "clouds")


def test_runs_that_cannot_be_compared_say_why(runs):
    with pytest.raises(UserError, match=r"no predictions/val.npz.*evaluate .* --split=val"):
        compare_runs(*runs, "val")
    runs[1].write_json("data.json", {"class_names": ["cat", "cow"], "multi_label": False})
    with pytest.raises(UserError, match="answer different questions: their classes"):
        compare_runs(*runs)
