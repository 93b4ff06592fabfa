"""Mistakes and label errors, on scores that a person can check."""

from __future__ import annotations

import numpy as np

from ftkeras.evaluation.suspects import Suspect, confident_mistakes, likely_label_errors


def test_the_surest_mistakes_come_first_and_right_answers_never():
    labels = np.array([0, 1, 0, 1])
    scores = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6]])
    first, second = confident_mistakes(labels, scores, most=5)
    assert first == Suspect(2, 0, 1, 0.2, 0.8)
    assert (second.index, second.suggested) == (1, 0)
    assert confident_mistakes(labels, scores, most=1) == [first]


def test_of_several_labels_each_image_counts_once_by_its_worst():
    labels = np.array([[1.0, 0.0], [1.0, 0.0]])
    scores = np.array([[0.4, 0.9], [0.9, 0.1]])
    [mistake] = confident_mistakes(labels, scores, most=5)
    assert (mistake.index, mistake.label, mistake.suggested) == (0, -1, 1)
    np.testing.assert_allclose([mistake.label_score, mistake.suggested_score], [0.1, 0.9])


def test_a_swapped_label_is_suspect_and_a_merely_unsure_answer_is_not():
    # Class 0's images score 0.9 but the last, which looks like class 1's.
    labels = np.array([0, 0, 0, 1, 1, 1, 0])
    p = np.array([0.9, 0.9, 0.9, 0.1, 0.1, 0.45, 0.05])
    found = likely_label_errors(labels, np.stack([p, 1 - p], axis=1))
    assert [(s.index, s.label, s.suggested) for s in found] == [(6, 0, 1)]


def test_the_thresholds_are_the_classes_own():
    # All of class 1 is answered faintly: 0.6 is above its mean of 0.55, and below class 0's 0.9.
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    p1 = np.array([0.0, 0.05, 0.05, 0.6, 0.5, 0.55, 0.6])
    found = likely_label_errors(labels, np.stack([1 - p1, p1], axis=1))
    assert [s.index for s in found] == [3]
    # Were class 1 answered with certainty, 0.6 would not be enough to suspect.
    p1[4:] = 0.99
    assert likely_label_errors(labels, np.stack([1 - p1, p1], axis=1)) == []


def test_most_planted_label_errors_are_found_among_the_likeliest():
    random = np.random.default_rng(0)
    truth = random.integers(0, 5, 1000)
    logits = 6.0 * np.eye(5)[truth] + random.normal(size=(1000, 5))
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = truth.copy()
    planted = random.choice(1000, 30, replace=False)
    labels[planted] = (labels[planted] + 1) % 5
    found = [s.index for s in likely_label_errors(labels, scores)]
    assert len(set(found[:30]) & set(planted)) >= 24
    assert len(found) < 90


def test_of_several_labels_a_missing_and_a_wrong_label_are_found():
    labels = np.array([[1.0], [1.0], [0.0], [0.0], [0.0], [1.0]])
    scores = np.array([[0.9], [0.9], [0.1], [0.1], [0.95], [0.04]])
    found = likely_label_errors(labels, scores)
    assert [(s.index, s.label, s.suggested) for s in found] == [(5, 0, -1), (4, -1, 0)]


def test_a_class_without_examples_is_never_suggested():
    scores = np.array([[0.1, 0.1, 0.8], [0.2, 0.7, 0.1]])
    assert likely_label_errors(np.array([0, 1]), scores) == []
