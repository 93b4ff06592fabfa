"""Test accuracy with and without a stored trunk.

    python tools/bench/same_answer.py [--seeds 5] [--config configs/two_phases.yaml] [--out FILE]

Each seed trains twice, with `trunk.mode: on` and `off`. Printed are the test accuracies, the mean
of their differences, and the standard error of that mean. A result that `--out` already holds is
not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import sys
import tempfile
from pathlib import Path

import keras

import ftkeras
from ftkeras.config.load import load_config
from ftkeras.console import table

ROOT = Path(__file__).resolve().parents[2]
MODES = ("on", "off")


def main() -> None:
    """Trains what is not known yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--config", default=str(ROOT / "configs" / "two_phases.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    known = options.out is not None and options.out.exists()
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if known else []
    for seed in range(len(rows), options.seeds):
        rows.append({mode: train(options.config, options.set, seed, mode) for mode in MODES})
        print(f"seed {seed}: {rows[-1]}", file=sys.stderr, flush=True)
        if options.out:
            with options.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print(report(rows))


def train(config: str, overrides: list[str], seed: int, mode: str) -> float:
    """Trains once; returns the test accuracy."""
    keras.utils.clear_session()
    fixed = [f"seed={seed}", f"trunk.mode={mode}", "export.saved_model=false", "report=false"]
    parsed = load_config(config, [*overrides, *fixed])
    with tempfile.TemporaryDirectory() as scratch, open(os.devnull, "w") as nowhere:
        os.environ["FTKERAS_CACHE"] = f"{scratch}/cache"
        with contextlib.redirect_stdout(nowhere):
            run = ftkeras.train(parsed, f"{scratch}/run")
        return float(run.read_json("evaluation.json")["accuracy"])


def report(rows: list[dict[str, float]]) -> str:
    """Returns the table, and the mean difference with its standard error."""
    lines = [
        (seed, *(f"{row[mode]:.4f}" for mode in MODES), f"{row['on'] - row['off']:+.4f}")
        for seed, row in enumerate(rows)
    ]
    means = [statistics.mean(row[mode] for row in rows) for mode in MODES]
    lines.append(("mean", *(f"{mean:.4f}" for mean in means), f"{means[0] - means[1]:+.4f}"))
    shown = table(lines, ("seed", "with a store", "without", "difference"))
    if len(rows) < 2:
        return shown
    paired = statistics.stdev(row["on"] - row["off"] for row in rows) / math.sqrt(len(rows))
    spreads = [statistics.variance(row[mode] for row in rows) / len(rows) for mode in MODES]
    return (
        f"{shown}\n\nstandard error of the difference of the means: {math.sqrt(sum(spreads)):.4f} "
        f"(of the mean of the differences, seed by seed: {paired:.4f})"
    )


if __name__ == "__main__":
    main()
