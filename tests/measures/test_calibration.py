"""Calibration against hand-written values, brute force and known temperatures."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss

from ftkeras.measures import calibration
from ftkeras.measures.metrics import log_losses, sigmoid, softmax

ECE = calibration.expected_calibration_error


def test_calibration_error_by_hand():
    # Bin (0.5, 0.6]: confidence 0.55 and 0.6, one right of two. Bin (0.9, 1]: 0.95, right.
    correct = np.array([True, False, True])
    confidence = np.array([0.55, 0.6, 0.95])
    expected = 2 / 3 * abs(0.5 - 0.575) + 1 / 3 * abs(1 - 0.95)
    assert ECE(correct, confidence, bins=10) == pytest.approx(expected)


def test_calibration_error_of_a_sure_and_wrong_model_is_one():
    assert ECE(np.zeros(5), np.ones(5)) == 1.0


def test_the_bins_hold_every_answer_and_sum_to_the_error(predictions):
    labels, logits = predictions(3, examples=500)
    measured = calibration.calibration(labels, logits)
    full = [row for row in measured["bins"] if row["n"]]
    assert len(measured["bins"]) == 15
    assert sum(row["n"] for row in full) == 500
    gaps = [row["n"] * abs(row["accuracy"] - row["confidence"]) for row in full]
    assert measured["ece"] == pytest.approx(sum(gaps) / 500)
    assert measured["nll"] == pytest.approx(log_loss(labels, softmax(logits)))
    for i, row in enumerate(measured["bins"]):
        assert not row["n"] or i / 15 < row["confidence"] <= (i + 1) / 15


def test_of_several_labels_each_is_a_question():
    labels, logits = np.array([[1, 0], [1, 1]]), np.log([[4.0, 4.0], [4.0, 4.0]])  # sigmoid 0.8
    measured = calibration.calibration(labels, logits)
    assert measured["ece"] == pytest.approx(0.8 - 3 / 4)
    assert [row["n"] for row in measured["bins"] if row["n"]] == [4]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("true_temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_found(several, true_temperature):
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(20_000, 5))
    scores = (sigmoid if several else softmax)(logits)
    if several:
        labels = rng.random(logits.shape) < scores
    else:
        labels = (scores.cumsum(axis=1) > rng.random((len(logits), 1))).argmax(axis=1)
    found = calibration.fit_temperature(labels, logits * true_temperature)
    assert found == pytest.approx(true_temperature, rel=0.04)


def test_no_other_temperature_is_likelier(predictions):
    labels, logits = predictions(1, examples=2000)
    found = calibration.fit_temperature(labels, logits)
    grid = np.append(np.linspace(0.2, 3, 200), found)
    losses = [np.mean(log_losses(labels, logits / t)) for t in grid]
    assert np.argmin(losses) == len(grid) - 1


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("scale", [1.0, 5.0, 40.0])
def test_few_images_that_are_all_right_do_not_make_a_model_sure(scale, several):
    labels = np.arange(9) % 3
    logits = scale * (2 * np.eye(3)[labels] - 1)
    if several:
        labels = np.eye(3)[labels]
    temperature = calibration.fit_temperature(labels, logits)
    surest = (sigmoid if several else softmax)(logits / temperature).max()
    assert surest == pytest.approx((9 + 0.5) / 10, rel=1e-4)  # one image more, half right


@pytest.mark.parametrize("classes", [3, 10])
@pytest.mark.parametrize("images", [20, 60])
def test_few_images_give_an_accurate_model_a_temperature_near_the_true_one(classes, images):
    """Accuracies of 0.88 to 0.93; with smoothed targets the temperature was 2 to 4 times that."""
    rng, found = np.random.default_rng(0), []
    for _ in range(40):
        spread = 15 * rng.gamma(2, 0.5, (images, 1))  # clear images and unclear ones
        logits = spread * rng.normal(size=(images, classes))
        drawn = softmax(logits).cumsum(axis=1) > rng.random((images, 1))
        found.append(calibration.fit_temperature(drawn.argmax(axis=1), 4 * logits))
    assert 4 / 1.4 < np.exp(np.mean(np.log(found))) < 4 * 1.4


@pytest.mark.parametrize(("scale", "expected"), [(0.0, 1.0), (1e5, 100.0)])
def test_logits_that_say_nothing_or_too_much_give_a_number(scale, expected):
    labels = np.arange(9) % 3
    logits = scale * np.eye(3)[labels]
    found = calibration.fit_temperature(labels, logits)
    assert found == pytest.approx(expected, rel=1e-3)
