"""What the values of an image are: from 0 to 255 and, if nothing but resizing changed it, whole."""

from __future__ import annotations

from typing import Any

import numpy as np

LOWEST, HIGHEST = 0.0, 255.0


def to_bytes(images: Any) -> np.ndarray:
    """Returns images (n, s, s, 3), not augmented, as uint8, which loses nothing."""
    return np.asarray(images).astype(np.uint8)
