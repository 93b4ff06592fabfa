"""The best epoch so far, and how long ago it was: for what ends on a metric."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ftkeras.errors import TrainingError
from ftkeras.phases.phase import Phase, Until, improves


class BestEpoch:
    """Watches a metric that ends a phase, or the whole training.

    Args:
        phase: The index of the phase that it ends.
        value: The best value so far.
        waited: How many epochs since then were no better; -1 if there is no best value.
        epoch: After how many epochs of training it last looked.
    """

    SIZE = 4
    """How many numbers `numbers` returns."""

    def __init__(self, phase: float = -1, value: float = 0.0, waited: float = -1, epoch: float = 0):
        self.phase, self._value, self._waited, self._epoch = int(phase), value, int(waited), epoch

    @classmethod
    def of(cls, numbers: Sequence[float]) -> BestEpoch:
        """Returns what has these numbers."""
        return cls(*numbers)

    def numbers(self) -> list[float]:
        """Returns all that it knows."""
        return [float(self.phase), self._value, float(self._waited), float(self._epoch)]

    @property
    def known(self) -> bool:
        """Whether there is a best value."""
        return self._waited >= 0

    def judge(self, until: Until, epoch: int, logs: Mapping[str, Any], who: str) -> bool:
        """Looks at the metrics after so many epochs; returns whether this is the best one.

        Args:
            until: Which metric, and what counts as an improvement.
            epoch: How many epochs are done.
            logs: The metrics of the last one.
            who: What asks for the metric, for the error.

        Raises:
            TrainingError: The metric is not among them.
        """
        if until.metric not in logs:
            raise TrainingError(f"{who} {until.metric!r} is not logged. Logged: {', '.join(logs)}.")
        self._epoch, value = epoch, float(logs[until.metric])
        best = self._value if self.known else None
        if improves(until.metric, value, best, until.min_delta):
            self._value, self._waited = value, 0
            return True
        self._waited += 1
        return False

    def over(self, until: Until) -> bool:
        """Whether there was no improvement for long enough."""
        return self._waited >= until.patience

    def check(self, phases: Sequence[Phase], epoch: int) -> None:
        """Warns if a checkpoint was written before the last epoch's metric was looked at."""
        running = phases[self.phase] if self.phase >= 0 else None
        if running is not None and running.until is not None and self._epoch != epoch:
            warnings.warn(
                f"phase {running.name!r} resumes without the metric of epoch {epoch}, so it may "
                "end later. List the callback that writes checkpoints after StagedUnfreezing.",
                stacklevel=2,
            )
