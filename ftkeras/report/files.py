"""Writes pages where people find them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from ftkeras.data.dataset import Split
from ftkeras.errors import UserError
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
    write_file(out, comparison_page([read_run(run.folder) for run in runs]))
    return out


def write_file(path: str, text: str) -> None:
    """Writes a text file.

    Raises:
        UserError: It cannot be written.
    """
    try:
        with tf.io.gfile.GFile(path, "w") as file:
            file.write(text)
    except tf.errors.OpError as error:
        raise UserError(f"--out {path}: cannot be written ({error.message}).") from None
