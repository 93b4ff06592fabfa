"""One run by two versions of ftkeras: another checkout against this one.

    python tools/bench/versions.py OTHER [--pairs 3] [--size 96] [--head 10] [--top 10]

OTHER is a checkout, for instance of a release: `git worktree add ../released v0.1.0`. Both train
the config of `end_to_end.py` from an empty cache, as whole processes, in turn; each pair has a
seed of its own. A ratio is this checkout divided by the other: below 1 is less. Both run in the
environment that runs this script.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from end_to_end import HEAD, ROOT, TOP, config, prepare

from ftkeras.console import table

# Runs the command in a child, so that its cost is counted apart from the rest.
_MEASURED = """
import json, os, resource, subprocess, sys, time
start = time.monotonic()
with open("log.txt", "w") as log:
    status = subprocess.run(sys.argv[1:], stdout=log, stderr=log).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"status": status, "seconds": time.monotonic() - start,
    "cpu": used.ru_utime + used.ru_stime, "megabytes": used.ru_maxrss / 1e3}))
"""
ROWS = (("whole run", "seconds", "s"), ("CPU time", "cpu", "s"), ("peak memory", "megabytes", "MB"))


def main() -> None:
    """Measures the pairs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="the folder of another checkout")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--head", type=int, default=10, help="epochs of the head phase")
    parser.add_argument("--top", type=int, default=10, help="epochs of the last four blocks")
    options = parser.parse_args()
    phases = [{**HEAD, "epochs": options.head, "learning_rate": 3e-3}]
    if options.top:
        phases.append({**TOP, "epochs": options.top, "learning_rate": 3e-4})
    pairs = []
    with tempfile.TemporaryDirectory() as scratch:
        photos, _ = prepare(Path(scratch))
        for seed in range(options.pairs):
            written = json.dumps(config(photos, options.size, seed, phases))
            pair = [
                measure(checkout, Path(scratch, f"{seed}-{number}"), written)
                for number, checkout in enumerate((options.other, ROOT))
            ]
            pairs.append(pair)
            print(f"pair {seed + 1}: {report([pair])}", flush=True)
    print(report(pairs))
    print(f"{options.head}+{options.top} epochs at {options.size} px; {len(pairs)} pairs")


def measure(checkout: Path, scratch: Path, written: str) -> dict[str, float]:
    """Trains with a checkout; returns seconds, CPU seconds, megabytes at the peak, accuracy."""
    scratch.mkdir()
    (scratch / "config.yaml").write_text(written)
    command = [sys.executable, "-m", "ftkeras", "train", "--config=config.yaml", "--out=run"]
    environment = {"PYTHONPATH": str(checkout.resolve()), "FTKERAS_CACHE": str(scratch / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *command],
        cwd=scratch,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        check=True,
    )
    result = json.loads(done.stdout)
    if result["status"]:
        raise SystemExit(f"{checkout}: {(scratch / 'log.txt').read_text()[-1000:]}")
    evaluation = json.loads((scratch / "run" / "evaluation.json").read_text())
    return {**result, "accuracy": evaluation["accuracy"]}


def report(pairs: Sequence[Sequence[dict[str, float]]]) -> str:
    """Returns the table over pairs: medians, and the ratios' median, lowest and highest."""
    rows: list[list[Any]] = []
    for name, key, unit in ROWS:
        medians = [f"{statistics.median(p[i][key] for p in pairs):.1f} {unit}" for i in (0, 1)]
        ratios = [pair[1][key] / pair[0][key] for pair in pairs]
        rows.append([name, *medians, *(f"{f(ratios):.3f}" for f in (statistics.median, min, max))])
    means = [f"{statistics.mean(pair[i]['accuracy'] for pair in pairs):.4f}" for i in (0, 1)]
    rows.append(["accuracy", *means, "", "", ""])
    return "\n" + table(rows, ("", "other", "this", "ratio", "lowest", "highest"))


if __name__ == "__main__":
    main()
