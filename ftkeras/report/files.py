"""Writes pages where people find them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras

from ftkeras.data.dataset import Split
from ftkeras.files import write_out
from ftkeras.inputs.base import Input
from ftkeras.report.comparison import comparison_page
from ftkeras.report.pictures import make_pictures
from ftkeras.report.read import read_run
from ftkeras.run import Run


def add_pictures(run: Run, model: keras.Model, splits: Mapping[str, Split], kind: Input) -> None:
    """Writes `pictures.json`: the images that the run's page shows.

    Args:
        run: A run with predictions.
        model: Its model, from images (n, size, size, 3) to logits or scores
            (n, units).
        splits: Its data.
        kind: What its examples are.
    """
    pictures = make_pictures(read_run(run.folder), model, splits, kind)
    run.write_json("pictures.json", pictures)


def write_comparison(runs: Sequence[Run], out: str | None = None) -> str:
    """Writes the page of several runs, `report.html` if left out; returns where it is."""
    out = out or "report.html"
    write_out(out, comparison_page([read_run(run.folder) for run in runs]))
    return out
