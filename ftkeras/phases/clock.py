"""PhaseClock: which phase, step and rate belongs to a position in training. Plain arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from ftkeras.phases.phase import Phase
from ftkeras.phases.schedule import learning_rate


class PhaseClock:
    """Divides training into phases, and knows each step's learning rate.

    Time is counted in steps from the start of training. If the number of steps per epoch is
    unknown, time is counted in epochs, and the rate changes once per epoch.

    A phase ends after its length; a phase that has `until` may end sooner. Both are moved to the
    next whole update if gradients are accumulated: the rest of an update would otherwise belong to
    weights of two phases.

    Args:
        phases: The phases, resolved.
        steps_per_epoch: How many batches an epoch has, or None if that is not known.
        every: How many batches an update of accumulated gradients has.

    Example:
        >>> from ftkeras.phases.phase import Phase, resolve_phases
        >>> clock = PhaseClock(resolve_phases([Phase("a", 1, 0.5), Phase("b", steps=6)]), 10)
        >>> [clock.locate(clock.time(epoch, batch)) for epoch, batch in [(0, 9), (1, 0), (3, 2)]]
        [(0, 9), (1, 0), (1, 22)]
        >>> clock.rate(0, 5)
        0.25
        >>> clock.epochs
        2
    """

    def __init__(self, phases: Sequence[Phase], steps_per_epoch: int | None, every: int = 1):
        self.phases = phases
        self.steps_per_epoch = steps_per_epoch
        self.ends: list[float] = [-1.0] * len(phases)
        """When each phase has ended; -1 if it has not, or has ended when its length says."""
        self._every = every if steps_per_epoch else 1

    @property
    def epochs(self) -> int:
        """How many epochs all phases take, at most."""
        return -(-self.end(len(self.phases) - 1) // (self.steps_per_epoch or 1))

    def time(self, epoch: int, batch: int = 0) -> int:
        """Returns the time before a batch of an epoch, both from 0."""
        return epoch * self.steps_per_epoch + batch if self.steps_per_epoch else epoch

    def start(self, index: int) -> int:
        """Returns the time at which a phase begins."""
        return self.end(index - 1) if index else 0

    def end(self, index: int) -> int:
        """Returns the time at which a phase ends, the last one that is possible."""
        if self.ends[index] >= 0:
            return int(self.ends[index])
        length = self.phases[index].length(self.steps_per_epoch) * (self.steps_per_epoch or 1)
        planned = self.start(index) + round(length)
        # The last phase ends with `fit`, whatever is left of an update.
        return planned if index == len(self.phases) - 1 else self._whole(planned)

    def length(self, index: int) -> int:
        """Returns how long a phase lasts, at most."""
        return self.end(index) - self.start(index)

    def locate(self, time: int) -> tuple[int, int]:
        """Returns (index of the phase, time since it began); after the end, the last phase."""
        last = len(self.phases) - 1
        index = next((i for i in range(last) if time < self.end(i)), last)
        return index, time - self.start(index)

    def rate(self, index: int, since: int) -> float:
        """Returns the learning rate of a phase at a time since it began."""
        total = max(self.length(index), 1)
        return learning_rate(self.phases[index], min(max(since, 0), total - 1), total)

    def over(self, time: int) -> bool:
        """Whether all phases have ended."""
        return time >= self.end(len(self.phases) - 1)

    def stop(self, index: int, time: int) -> None:
        """Ends a phase at a time, or at the next whole update if another phase follows."""
        self.ends[index] = time if index == len(self.phases) - 1 else self._whole(time)

    def _whole(self, time: int) -> int:
        return -(-time // self._every) * self._every
