"""The measures of a forgetting matrix, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ftkeras.tasks.incremental.forgetting import accuracy_by_step, summarize


def test_accuracy_is_among_all_classes():
    labels, answers = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 2, 1, 2, 2, 0])
    assert accuracy_by_step(labels, answers, [0, 0, 1], 2) == pytest.approx([2 / 3, 2 / 3])
    assert accuracy_by_step(labels, answers, [0, 0, 2], 3)[1] is None


def test_the_usual_measures():
    found = summarize([[0.9], [0.6, 0.8], [0.7, 0.5, 1.0]])
    assert found["average_accuracy"] == pytest.approx((0.7 + 0.5 + 1.0) / 3)
    assert found["backward_transfer"] == pytest.approx((-0.2 - 0.3) / 2)
    assert found["forgetting"] == pytest.approx((0.2 + 0.3) / 2)
    assert found["incremental_accuracy"] == pytest.approx((0.9 + 0.7 + 2.2 / 3) / 3)


def test_forgetting_is_from_the_best_and_backward_transfer_from_the_first():
    found = summarize([[0.5], [0.9, 1.0], [0.7, 1.0, 1.0]])
    assert found["backward_transfer"] == pytest.approx((0.2 + 0.0) / 2)
    assert found["forgetting"] == pytest.approx((0.2 + 0.0) / 2)


def test_steps_without_images_are_left_out():
    found = summarize([[0.8], [0.6, None]])
    assert found["average_accuracy"] == 0.6 and found["backward_transfer"] == pytest.approx(-0.2)
    assert summarize([[None]])["average_accuracy"] is None
