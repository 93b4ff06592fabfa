"""What a run gives when only chance is changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from ftkeras.config.schema import Config
from ftkeras.console import table
from ftkeras.errors import UserError
from ftkeras.run import Run


def repeat(
    train: Callable[[Config, str], Run],
    config: Config,
    out: str,
    count: int,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Trains with one seed after the other; returns and keeps how far the results differ.

    Each run is a run of its own, `OUT/seed-N`, beside `OUT/seeds.json`, which is written after
    each. The seed decides all that is random: the weights of the head, the order of the images, and
    which images are tested on unless the config fixes them.

    Args:
        train: Does one run, given its config and folder.
        config: What to do; its seed is the first one.
        out: The folder of the runs.
        count: How many seeds.
        overwrite: Replace runs that are there.

    Raises:
        UserError: A run cannot be created; nothing has been trained.
    """
    if tf.io.gfile.exists(Run(out).path("config.yaml")):
        raise UserError(f"--out {out}: holds a single run. Choose another folder for --seeds.")
    folders = {
        seed: Run(out).path(f"seed-{seed}") for seed in range(config.seed, config.seed + count)
    }
    for folder in folders.values():
        Run(folder).check(overwrite)
    evaluations: dict[int, Mapping[str, Any]] = {}
    for seed, folder in folders.items():
        run = train(config.model_copy(update={"seed": seed}), folder)
        evaluations[seed] = run.read_json("evaluation.json")
        summary = summarize_seeds(evaluations)
        Run(out).write_json("seeds.json", summary)
    return summary


def summarize_seeds(evaluations: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns each metric by seed, its mean and its standard deviation between seeds.

    Args:
        evaluations: What `evaluation.json` holds, by seed.

    Returns:
        `seeds`, and `metrics`: {name: {"values": [...], "mean": ..., "deviation": ...}}. The
        deviation is the sample's (n - 1), None of a single seed; metrics that are undefined in some
        run are left out.
    """
    runs = [_metrics(evaluation) for evaluation in evaluations.values()]
    metrics = {}
    for name in runs[0]:
        values = [run[name] for run in runs if run.get(name) is not None]
        if len(values) == len(runs):
            metrics[name] = {
                "values": values,
                "mean": float(np.mean(values)),
                "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            }
    return {"seeds": list(evaluations), "metrics": metrics}


def _metrics(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the metrics that have an interval, of several heads as HEAD.METRIC."""
    heads = evaluation.get("heads", {})
    parts = {"": evaluation, **{f"{name}.": part for name, part in heads.items()}}
    return {
        f"{head}{name}": part[name]
        for head, part in parts.items()
        for name in part.get("intervals", {})
    }


def format_seeds(summary: Mapping[str, Any]) -> str:
    """Returns what `summarize_seeds` found as a table: a row for each metric."""
    rows = [
        (
            name.replace("_", " "),
            f"{row['mean']:.4f}",
            "-" if row["deviation"] is None else f"{row['deviation']:.4f}",
            f"{min(row['values']):.4f} to {max(row['values']):.4f}",
        )
        for name, row in summary["metrics"].items()
    ]
    seeds = ", ".join(map(str, summary["seeds"]))
    return f"seeds {seeds}\n\n" + table(rows, ("metric", "mean", "deviation", "range"))
