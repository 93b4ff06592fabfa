"""Image classification: one label an image, or any number of them."""

from __future__ import annotations

from ftkeras.runs.task import Task


class Classification(Task):
    """What every task is that says nothing else."""

    has_floor = True


TASK = Classification()
