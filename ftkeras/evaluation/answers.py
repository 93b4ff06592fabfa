"""Every answer of a run's model on a split, as a table that a person reads from the top."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from ftkeras.evaluation.predictions import load_predictions
from ftkeras.files import write_whole
from ftkeras.outputs.base import Output
from ftkeras.run import Run


def write_answers(
    run: Run, outputs: Mapping[str, Output], evaluation: Mapping[str, Any], *, final: bool
) -> None:
    """Writes `answers.csv`, the worst answer first: id, label, predicted, and how sure or wrong.

    Of another split than that of `evaluation.json` it is `answers-SPLIT.csv`, of several outputs a
    table each, `answers-OUTPUT.csv`. Several labels are joined by `;`, as in `splits.csv`.

    Args:
        run: Has the kept predictions of the split.
        outputs: What the model answers, by name.
        evaluation: What was measured on the split.
        final: Whether the split is the one that `evaluation.json` is about.
    """
    split = evaluation["split"]
    for name, output in outputs.items():
        own = [] if len(outputs) == 1 else [name]
        answers = load_predictions(run, "-".join([split, *own]))
        part = evaluation["heads"][name] if own else evaluation
        cells, badness = output.listed(
            answers.labels, answers.logits, float(part.get("temperature") or 1.0)
        )
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", *cells])
        rows = list(zip(answers.ids.tolist(), *cells.values(), strict=True))
        writer.writerows(rows[i] for i in np.argsort(-badness, kind="stable"))
        file = "-".join(["answers", *([] if final else [split]), *own])
        write_whole(run.path(f"{file}.csv"), text.getvalue().encode())
