"""The values of an image: 0 to 255, whole numbers unless it was augmented."""

from __future__ import annotations

from typing import Any

import numpy as np

LOWEST, HIGHEST = 0.0, 255.0


def to_bytes(images: Any) -> np.ndarray:
    """Returns images (n, s, s, 3), not augmented, as uint8, without loss."""
    return np.asarray(images).astype(np.uint8)
