from __future__ import annotations

import numpy as np

from ftkeras.inputs.image.show import grid, overlay


def test_a_grid_goes_row_by_row():
    images = np.arange(5, dtype=np.float32)[:, None, None, None] * np.ones((5, 4, 4, 3))
    shown = grid(images)
    assert shown.shape == (12, 18, 3)
    cells = shown.reshape(2, 6, 3, 6, 3)[:, 2, :, 2, 0]
    assert cells.ravel().tolist() == [0, 1, 2, 3, 4, 255]
    assert (shown[6:, 12:] == 255).all()  # the sixth place
    assert (shown[0] == 255).all()  # the frame


def test_an_overlay_is_brighter_where_the_map_is_higher():
    made = overlay(np.full((8, 8, 3), 100.0), np.array([[0.0, 1.0]]))
    assert made.dtype == np.uint8
    assert made.shape == (8, 8, 3)
    brightness = made.mean(axis=(0, 2))
    assert (np.diff(brightness) >= 0).all()
    assert brightness[-1] > brightness[0] + 60
