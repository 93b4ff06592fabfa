"""Answers of a model that leans towards the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture(scope="session")
def predictions() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Makes random labels (n,), and logits (n, classes) with ties among them."""

    def make(seed: int, classes: int = 4, examples: int = 60) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, classes, examples)
        lean = 1.5 * np.eye(classes)[labels]
        return labels, np.round(rng.normal(size=(examples, classes)) + lean, 1)

    return make
