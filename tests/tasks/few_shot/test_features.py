"""Frozen features of one length, from the ends of resolutions."""

from __future__ import annotations

import numpy as np
import pytest

from ftkeras.backbones import load_backbone
from ftkeras.errors import UserError
from ftkeras.tasks.few_shot.features import stage_ends, unit_features


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("MobileNetV2", weights="none", image_size=64)


def test_stages_end_where_the_resolution_falls(backbone):
    shapes = [tuple(end.shape[1:]) for end in stage_ends(backbone)]
    assert shapes == [(32, 32, 16), (16, 16, 24), (8, 8, 32), (4, 4, 96), (2, 2, 1280)]


def test_each_part_has_length_one(backbone):
    images = np.random.default_rng(0).uniform(0, 255, (3, 64, 64, 3)).astype(np.float32)
    found = unit_features(backbone, 2)(images).numpy()
    assert found.shape == (3, 96 + 1280)
    assert np.linalg.norm(found[:, :96], axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert np.linalg.norm(found[:, 96:], axis=1) == pytest.approx(np.ones(3), abs=1e-5)


def test_more_stages_than_there_are_is_an_error(backbone):
    with pytest.raises(UserError, match="5 resolutions, fewer than 6"):
        unit_features(backbone, 6)
