"""How long it takes until something happens, against an import of TensorFlow and Keras.

    python tools/bench/startup.py [--runs 5]

The import is timed beside each command, as a process of its own. `plan` builds a model; the last
column takes off what building the same backbone takes without ftkeras. "the first step" is the end
of the first training step of a run whose config has run before, so that all that is kept from run
to run is found. Times are of whole processes; they alternate. The ratio of processor time is
steadier on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from ftkeras.console import table

ROOT = Path(__file__).resolve().parents[2]
CONFIG = f"--config={ROOT / 'configs/two_phases.yaml'}"
IMPORT = ["-c", "import tensorflow, keras"]
BUILD = [
    "-c",
    "import tensorflow, keras; "
    "keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(96, 96, 3))",
]
SHORT = ["phases[0].epochs=1", "phases[1].epochs=1", "trunk.mode=on"]
SHORT += ["export.saved_model=false", "report=false"]
FIRST_STEP = "first step of a phase: trace and compile"


class Times(NamedTuple):
    """Seconds by the clock, and of all processors."""

    clock: float
    processor: float


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    found: dict[str, list[tuple[Times, Times, Times]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        until_first_step(Path(scratch))  # fills the cache
        for _ in range(options.runs):
            build = process(BUILD)
            for name, run in {
                "ftkeras --help": lambda: process(["-m", "ftkeras", "--help"]),
                "ftkeras doctor": lambda: process(["-m", "ftkeras", "doctor"]),
                "ftkeras plan": lambda: process(["-m", "ftkeras", "plan", CONFIG]),
                "the first step": lambda: until_first_step(Path(scratch)),
            }.items():
                found.setdefault(name, []).append((process(IMPORT), build, run()))
    print(table([row(name, runs) for name, runs in found.items()], HEADER))
    print(f"{options.runs} runs, each beside an import of tensorflow and keras")


HEADER = ("process", "clock", "of the import", "of its processor time", "without building")


def row(name: str, runs: list[tuple[Times, Times, Times]]) -> list[str]:
    """Returns a row of the table."""
    clock = [own.clock / imported.clock for imported, _, own in runs]
    processor = [own.processor / imported.processor for imported, _, own in runs]
    rest = [
        (own.processor - max(build.processor - imported.processor, 0.0)) / imported.processor
        for imported, build, own in runs
    ]
    seconds = f"{statistics.median(own.clock for _, _, own in runs):.2f} s"
    builds = name in ("ftkeras plan", "the first step")
    return [name, seconds, spread(clock), spread(processor), spread(rest) if builds else "-"]


def spread(ratios: list[float]) -> str:
    """Returns median, lowest and highest."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def process(command: list[str], **environment: str) -> Times:
    """Runs a Python process and returns how long it took."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, **environment}
    start, used = time.perf_counter(), processor_seconds()
    subprocess.run([sys.executable, *command], env=environment, capture_output=True, check=True)
    return Times(time.perf_counter() - start, processor_seconds() - used)


def processor_seconds() -> float:
    """Returns what all processes that have ended took of all processors."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def until_first_step(scratch: Path) -> Times:
    """Trains with `--profile`, and returns when the first step was done."""
    command = ["-m", "ftkeras", "train", CONFIG, f"--out={scratch / 'run'}", "--overwrite"]
    for change in SHORT:
        command += ["--set", change]
    process([*command, "--profile"], FTKERAS_CACHE=str(scratch / "cache"))
    events = json.loads((scratch / "run/trace.json").read_text())["traceEvents"]
    step = next(event for event in events if event["name"] == FIRST_STEP)
    end = step["ts"] + step["dur"]
    samples = [event for event in events if event["ph"] == "C" and event["ts"] < end]
    at = samples[0]["ts"]  # before, Python started on one core
    used = float(at)
    for sample in samples[1:]:
        used += sample["args"]["cores"] * (sample["ts"] - at)
        at = sample["ts"]
    return Times(end / 1e6, used / 1e6)


if __name__ == "__main__":
    main()
