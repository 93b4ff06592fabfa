"""Writes pages where people find them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras

from ftkeras.data.dataset import Split
from ftkeras.files import write_out
from ftkeras.inputs.base import Input
from ftkeras.report.comparison import comparison_page
from ftkeras.report.gallery import make_gallery
from ftkeras.report.read import GALLERY, read_run
from ftkeras.run import Run


def add_gallery(run: Run, model: keras.Model, splits: Mapping[str, Split], kind: Input) -> None:
    """Writes `pictures.json`: the examples that the run's page shows.

    Args:
        run: A run with predictions.
        model: Its model, to logits or scores (n, units).
        splits: Its data.
        kind: What its examples are.
    """
    gallery = make_gallery(read_run(run.folder), model, splits, kind)
    run.write_json(GALLERY, gallery)


def write_comparison(runs: Sequence[Run], out: str | None = None) -> str:
    """Writes the page of several runs, `report.html` if left out; returns where it is."""
    out = out or "report.html"
    write_out(out, comparison_page([read_run(run.folder) for run in runs]))
    return out
