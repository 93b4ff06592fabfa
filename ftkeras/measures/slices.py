"""How good a model is on parts of a test set: by camera, by hospital, by the size of the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ftkeras.measures.bootstrap import share_interval

_MOST_VALUES = 20  # more of them than this are no slices; numbers are put into quarters


def accuracy_by_slice(
    columns: Mapping[str, np.ndarray], correct: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Returns, by column and value, how many examples there are and how many are right.

    A column of numbers with many values is divided into quarters. Another column with many values
    (a file name, a comment) is left out, and so is one that is the same for all.

    Args:
        columns: What is known of each example, str (n,), by name.
        correct: Bool (n,).

    Returns:
        {column: {value: {"n": ..., "accuracy": ..., "interval": [low, high]}}}
    """
    slices = {}
    for name, column in columns.items():
        values, where = np.unique(_in_quarters(column), return_inverse=True)
        if 1 < len(values) <= _MOST_VALUES:
            parts = [correct[where == i] for i in range(len(values))]
            slices[name] = {
                str(value): {
                    "n": len(part),
                    "accuracy": float(part.mean()),
                    "interval": share_interval(float(part.mean()), len(part)),
                }
                for value, part in zip(values, parts, strict=True)
            }
    return slices


def _in_quarters(column: np.ndarray) -> np.ndarray:
    """Names each number's quarter, if there are many; anything else stays as it is."""
    if len(np.unique(column)) <= _MOST_VALUES:
        return column
    try:
        numbers = column.astype(np.float64)
    except ValueError:
        return column
    if not np.isfinite(numbers).all():
        return column
    edges = np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1])
    quarter = np.clip(np.searchsorted(edges, numbers, side="left") - 1, 0, 3)
    names = [f"Q{i + 1}: {edges[i]:.6g} to {edges[i + 1]:.6g}" for i in range(4)]
    return np.array(names)[quarter]
