"""The time of `--help`, and of `plan` against what it cannot avoid.

    python tools/bench/startup.py [--runs 5]

`plan` is compared with a process that imports TensorFlow and Keras and builds the same backbone.
All are whole processes; they alternate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from ftkeras.console import table

ROOT = Path(__file__).resolve().parents[2]
BUILD = (
    "import tensorflow, keras; "
    "keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(96, 96, 3))"
)
COMMANDS = {
    "ftkeras --help": ["-m", "ftkeras", "--help"],
    "import tensorflow": ["-c", "import tensorflow"],
    "import and build": ["-c", BUILD],
    "ftkeras plan": ["-m", "ftkeras", "plan", f"--config={ROOT / 'configs/quickstart.yaml'}"],
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.runs):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    rows = [
        (name, *(f"{f(values):.2f} s" for f in (statistics.median, min, max)))
        for name, values in times.items()
    ]
    print(table(rows, ("process", "median", "lowest", "highest")))
    goal = [
        2 * imported + (built - imported)
        for imported, built in zip(
            times["import tensorflow"], times["import and build"], strict=True
        )
    ]
    ratios = [plan / allowed for plan, allowed in zip(times["ftkeras plan"], goal, strict=True)]
    print(
        f"plan takes {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) of "
        "twice TensorFlow's import and the backbone's build"
    )


def seconds(command: list[str]) -> float:
    """Runs a Python process and returns how long it took."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": paths}
    subprocess.run([sys.executable, *command], env=environment, capture_output=True, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
