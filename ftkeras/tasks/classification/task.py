"""Classification: one label per example, or any number of them."""

from __future__ import annotations

from ftkeras.config.schema import Config
from ftkeras.runs.task import Task


class Classification(Task):
    """The defaults of every task."""

    def has_floor(self, config: Config) -> bool:
        """A linear model can do this task."""
        return True


TASK = Classification()
