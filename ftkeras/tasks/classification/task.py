"""Image classification: one label an image, or any number of them."""

from __future__ import annotations

from ftkeras.config.schema import Config
from ftkeras.runs.task import Task


class Classification(Task):
    """What every task is that says nothing else."""

    def has_floor(self, config: Config) -> bool:
        """A linear model answers the same questions."""
        return True


TASK = Classification()
