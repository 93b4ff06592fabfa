from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, chi2_contingency, norm

from ftkeras.data.dataset import BadFile, Data, Split
from ftkeras.doctor import splits
from ftkeras.inputs.image.input import ImageInput
from ftkeras.inputs.image.looks import Looks
from ftkeras.measures.metrics import auc_shares
from ftkeras.outputs.one_of import OneOf


def check_classes(parts) -> list:
    return list(splits.check_classes(parts, ImageInput()))


def read_errors(parts, most: float) -> list:
    return list(splits.read_errors(parts, most))


def data(**labels: list[int]) -> Data:
    parts = {
        name: Split(
            name, [f"{name}{i}" for i in range(len(y))], np.array(y), 3, lambda index: index
        )
        for name, y in labels.items()
    }
    return Data("folder", {"label": OneOf(("cat", "dog", "emu"))}, parts)


def checks(findings) -> list[tuple[str, str]]:
    return [(finding.severity, finding.check) for finding in findings]


def test_full_splits_are_fine():
    full = [0, 1, 2] * 20
    assert check_classes(data(train=full, val=full, test=full)) == []


def test_missing_and_tiny_classes_are_named():
    found = check_classes(data(train=[0] * 30 + [1] * 9, val=[0] * 50, test=[0] * 25 + [2] * 25))
    assert checks(found) == [
        ("warning", "class missing from val"),
        ("warning", "class missing from test"),
        ("error", "class missing from train"),
        ("warning", "tiny classes"),
    ]
    assert [str(f.evidence[0]) for f in found] == [
        "val: dog  (9 in train)",
        "test: dog  (9 in train)",
        "emu  (0 in train, 0 in val, 25 in test)",
        "dog  (9 in train, 0 in val, 0 in test)",
    ]


def test_a_split_too_small_to_measure_with_is_a_note():
    found = check_classes(data(train=[0, 1, 2] * 10, val=[0, 1, 2, 0] * 2))
    assert checks(found) == [("note", "small val")]
    assert found[0].message == "val has 8 images: each counts 12.5% of what is measured."


def test_another_domain_is_not_expected_to_be_like_train():
    found = check_classes(data(train=[0, 1, 2] * 20, target_train=[-1] * 60))
    assert found == []
    assert splits.others(data(train=[0], val=[0], target_val=[-1])) == ["val"]


def test_unreadable_files_are_an_error_where_they_are_many():
    bad = (BadFile("a.jpg", "empty file"),)
    some = Data("folder", {"label": OneOf(("a", "b"))}, data(train=[0] * 19).splits, bad)
    assert checks(read_errors(some, 0.05)) == [("warning", "unreadable files")]
    assert checks(read_errors(some, 0.04)) == [("error", "unreadable files")]
    assert read_errors(data(train=[0]), 0.0) == []


@pytest.mark.parametrize("other", [[30, 30, 40], [31, 29, 41], [60, 20, 20], [300, 320, 380]])
def test_label_distance_agrees_with_scipy(other):
    one = np.array([100, 100, 130])
    moved, sure = splits.label_distance(one, np.array(other))
    statistic, p_value, freedom, _ = chi2_contingency([one, other], correction=False)
    assert sure == pytest.approx(norm.isf(p_value), abs=0.4)
    assert chi2.sf(statistic, freedom) == p_value
    expected = np.abs(one / one.sum() - np.array(other) / np.sum(other)).sum() / 2
    assert moved == pytest.approx(expected)


def test_a_classifier_tells_clouds_apart_only_where_they_differ():
    random = np.random.default_rng(0)
    belongs = np.arange(400) % 2 == 0
    same = random.normal(size=(400, 80)).astype(np.float32)
    moved = same + 0.8 * belongs[:, None] * (np.arange(80) < 8)
    assert abs(auc_shares(belongs, splits.tell_apart(same, belongs)).mean() - 0.5) < 0.08
    assert auc_shares(belongs, splits.tell_apart(moved, belongs)).mean() > 0.7


def shift(test_labels: list[int], features: np.ndarray) -> list[str]:
    parts = data(train=[0, 1, 2] * 60, test=test_labels)
    count = 180 + len(test_labels)
    looks = Looks(
        ids=[key for split in parts.splits.values() for key in split.ids],
        splits=np.array(["train"] * 180 + ["test"] * len(test_labels)),
        indices=np.arange(count),
        labels=np.array([0, 1, 2] * 60 + test_labels),
        sizes=np.full((count, 2), 50),
        contents=np.arange(count),
        deviation=np.full(count, 30.0),
        coloured=np.ones(count, bool),
        thumbnails=np.zeros((count, 32, 32), np.uint8),
    )
    found = splits.check_shift(parts, ImageInput(), looks, lambda rows: features[rows])
    return [f.check for f in (*splits.check_labels(parts), *found)]


def test_shift_of_labels_and_of_images_are_told_apart():
    random = np.random.default_rng(0)
    labels = np.array([0, 1, 2] * 120)
    features = (random.normal(size=(360, 40)) + 3 * np.eye(40)[labels]).astype(np.float32)
    assert shift([0, 1, 2] * 60, features) == []
    # More of a class is no other kind of images.
    skewed = [0] * 120 + [1] * 30 + [2] * 30
    by_label = np.concatenate([features[:180], features[180:][np.argsort(labels[180:] == 0)]])
    by_label[180:] = (random.normal(size=(180, 40)) + 3 * np.eye(40)[skewed]).astype(np.float32)
    assert shift(skewed, by_label) == ["label shift"]
    features[180:, 5] += 2
    assert shift([0, 1, 2] * 60, features) == ["image shift"]
