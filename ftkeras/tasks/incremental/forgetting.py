"""How much a run forgets of earlier steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Row = Sequence[float | None]


def accuracy_by_step(
    labels: np.ndarray, answers: np.ndarray, step_of: Sequence[int], steps: int
) -> list[float | None]:
    """Returns the accuracy on the classes of each step, among all classes; None without images.

    Args:
        labels: int (n,) class indices.
        answers: int (n,), the model's classes.
        step_of: The step that brought each class, (classes,).
        steps: How many steps there are.

    Example:
        >>> accuracy_by_step(np.array([0, 0, 1]), np.array([0, 1, 1]), [0, 1], 2)
        [0.5, 1.0]
    """
    at = np.asarray(step_of)[labels]
    right = labels == answers
    return [float(right[at == s].mean()) if (at == s).any() else None for s in range(steps)]


def summarize(matrix: Sequence[Row]) -> dict[str, float | None]:
    """Returns the usual measures of a forgetting matrix.

    Args:
        matrix: Row j has the accuracy after step j, on the classes of steps 0 to j. It is None if a
            step brought no class or no image to measure on.

    Returns:
        average_accuracy: Mean of the last row.
        backward_transfer: The mean change of the accuracy on earlier steps' classes since they were
            learned; negative is forgetting (Lopez-Paz and Ranzato 2017).
        forgetting: How far that accuracy is below its best, on average (Chaudhry et al. 2018).
        incremental_accuracy: Mean over the steps of the mean of their rows (Rebuffi et al. 2017).

    Example:
        >>> found = summarize([[0.9], [0.7, 0.8]])
        >>> round(found["average_accuracy"], 3), round(found["backward_transfer"], 3)
        (0.75, -0.2)
    """
    last = len(matrix) - 1
    moved, lost = [], []
    for step in range(last):
        column = [row[step] for row in matrix[step:]]
        known = [value for value in column if value is not None]
        if column[0] is not None and column[-1] is not None:
            moved.append(column[-1] - column[0])
            lost.append(max(known[:-1]) - column[-1])
    return {
        "average_accuracy": _mean(matrix[last]),
        "backward_transfer": _mean(moved),
        "forgetting": _mean(lost),
        "incremental_accuracy": _mean([_mean(row) for row in matrix]),
    }


def _mean(values: Row) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
