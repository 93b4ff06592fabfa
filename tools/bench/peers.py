"""What people use to fine-tune, in one table: whole processes on the quickstart's images.

    python tools/bench/peers.py --torch PYTHON [--seeds 3] [--epochs 5] [--ways ...] [--out FILE]

PYTHON is the interpreter of an environment of its own (`pip install torch torchvision fastai
lightning finetuning-scheduler`). All begin from the shipped weights of MobileNetV2 and from files
of the shipped garments: 1,700 to train, 300 to validate after each epoch, 1,000 to test at the end;
96 px, batches of 32, two cores, as many epochs of the head as of more.

`ours` is `ftkeras train` of `configs/two_phases.yaml` on these files, with an empty cache and
without export and report. The others are in `rival_keras.py` and `rival_torch.py`: Keras's guide,
which then trains everything; KerasHub's `ImageClassifier`, a plain loop of PyTorch in channels_last
and finetuning-scheduler on Lightning, which train the last four blocks as ours; fastai's
`fine_tune`, which trains everything.

Each seed measures every way once, from the start of its process to the end. Memory is the peak of
the largest process among a way's process and those that it started. A result that `--out` already
holds is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from end_to_end import ROOT, prepare

from ftkeras.console import table

HERE = Path(__file__).resolve().parent
WAYS = {
    "ours": "ftkeras",
    "guide": "Keras's guide",
    "hub": "KerasHub ImageClassifier",
    "pytorch": "PyTorch, channels_last",
    "scheduler": "finetuning-scheduler",
    "fastai": "fastai fine_tune",
}
HEADER = ("", "seconds", "times ours", "CPU seconds", "peak MB", "test accuracy")
Row = dict[str, Any]


def main() -> None:
    """Measures what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", default="python", help="the interpreter that has PyTorch")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5, help="of each of the two phases")
    parser.add_argument("--out", type=Path, default=HERE / "peers.jsonl")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    rows = [row for row in map(json.loads, lines) if row["epochs"] == options.epochs]
    known = {(row["way"], row["seed"]) for row in rows}
    ways = options.ways.split(",")
    split, parts = {"val": 0.15, "test": "test"}, ("train", "val", "test")
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch), split, dict(zip(parts, parts, strict=True)))
        timed([sys.executable, str(HERE / "rival_keras.py"), "weights", scratch])
        for seed in range(options.seeds):
            for way in ways:
                if (way, seed) not in known:
                    rows.append(measure(way, Path(scratch), seed, options))
                    print(json.dumps(rows[-1]), flush=True)
                    with options.out.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    print(report(rows, ways))


def measure(way: str, scratch: Path, seed: int, options: argparse.Namespace) -> Row:
    """Returns the row of one process."""
    if way == "ours":
        return ours(scratch, seed, options.epochs)
    keras = way in ("guide", "hub")
    command = [sys.executable] if keras else [options.torch]
    command += [str(HERE / ("rival_keras.py" if keras else "rival_torch.py")), way, str(scratch)]
    used, said = timed([*command, f"--epochs={options.epochs}", f"--seed={seed}"])
    result = json.loads(said.splitlines()[-1])
    return {"way": way, "seed": seed, "epochs": options.epochs, **used, **result}


def ours(scratch: Path, seed: int, epochs: int) -> Row:
    """Returns the row of `ftkeras train`."""
    tree = yaml.safe_load((ROOT / "configs/two_phases.yaml").read_text())
    photos = {"source": "folder", "path": str(scratch / "photos")}
    tree["data"] |= {**photos, "split": {"val": "val", "test": "test"}}
    tree |= {"seed": seed, "export": {"saved_model": False}, "report": False}
    tree["phases"] = [phase | {"epochs": epochs} for phase in tree["phases"]]
    with tempfile.TemporaryDirectory() as folder:
        config, run = Path(folder, "config.yaml"), Path(folder, "run")
        config.write_text(json.dumps(tree))
        command = [sys.executable, "-m", "ftkeras", "train", f"--config={config}", f"--out={run}"]
        used, _ = timed(command, PYTHONPATH=str(ROOT), FTKERAS_CACHE=f"{folder}/cache")
        accuracy = json.loads((run / "evaluation.json").read_text())["accuracy"]
    names = ("ftkeras", "keras", "tensorflow", "openvino")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    row = {"way": "ours", "seed": seed, "epochs": epochs, **used}
    return {**row, "accuracy": accuracy, "versions": versions}


def timed(command: Sequence[str], **environment: str) -> tuple[Row, str]:
    """Runs a process; returns its times and memory, and what it printed."""
    with tempfile.TemporaryFile("w+") as file:
        start = time.monotonic()
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=file, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)  # of it and of what it waited for
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        file.seek(0)
        said = file.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{said}")
    return {
        "seconds": round(seconds, 1),
        "cpu": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": round(used.ru_maxrss / 1024),
    }, said


def report(rows: Sequence[Row], ways: Sequence[str]) -> str:
    """Returns the table and the versions."""
    base = [row["seconds"] for row in rows if row["way"] == "ours"]
    lines, versions = [], []
    for way in ways:
        mine = [row for row in rows if row["way"] == way]
        seconds, cpu, peak, right = (
            [row[name] for row in mine] for name in ("seconds", "cpu", "peak_mb", "accuracy")
        )
        middle, error = statistics.median(seconds), ""
        if len(mine) > 1:
            error = f" +- {statistics.stdev(right) / len(right) ** 0.5:.3f}"
        lines.append((
            WAYS[way],
            f"{middle:.0f} ({min(seconds):.0f} to {max(seconds):.0f})",
            f"{middle / statistics.median(base):.1f}" if base else "",
            f"{statistics.median(cpu):.0f}",
            f"{max(peak)}",
            f"{statistics.mean(right):.3f}{error}",
        ))  # fmt: skip
        versions += [f"{WAYS[way]}: {each}" for each in dict.fromkeys(r["versions"] for r in mine)]
    return "\n".join((table(lines, HEADER), *versions))


if __name__ == "__main__":
    main()
