"""Whole runs, process start included: the stock Keras script against `ftkeras train`.

    python tools/bench/end_to_end.py [--pairs 5] [--size 96] [--head 10] [--top 10] [--out FILE]

Both fine-tune MobileNetV2 with the starter's weights on the starter's 2,000 training images. Its
1,000 test images are the validation after each epoch. Both have a head phase, then the last four
blocks, with batch size 32 and the same rates. With `--top 0` it is a linear probe.

`stock_keras.py` is the baseline. `ftkeras train` starts with an empty cache each time. It stores
the trunk, keeps its record and its checkpoints, and evaluates with intervals. Export and report,
which the baseline lacks, are off.

Both sides alternate, so that other work of the machine affects both. Each pair has its own seed.
"to its accuracy" is when ftkeras first reached the validation accuracy that the stock script ended
with. "by a short plan" is the same for a third process: ftkeras with a plan that aims at an
accuracy instead of a number of epochs (`SHORT`). CPU time, of all cores, is steadier on a busy
machine. A result that `--out` already holds is not measured again.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ftkeras.console import table

ROOT = Path(__file__).resolve().parents[2]
FIRST_LAYER = "block_13_expand"  # of the last four blocks
HEAD = {"name": "head", "train": ["head"]}
TOP = {"name": "top", "train": ["head", "blocks[-4:]"]}
# For the shortest time to an accuracy: rates that fall to nothing within few epochs.
SHORT = (
    {**HEAD, "epochs": 3, "learning_rate": 3e-3, "decay": "cosine"},
    {**TOP, "epochs": 3, "learning_rate": 6e-4, "decay": "one_cycle"},
)
SHORT_PROBE = ({**HEAD, "epochs": 6, "learning_rate": 3e-3, "decay": "cosine"},)
HEADER = ("", "stock Keras", "ftkeras", "ratio", "lowest", "highest")

Epoch = tuple[float, float]  # validation accuracy, seconds since the process began
Result = dict[str, Any]


def main() -> None:
    """Measures what is not known yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--head", type=int, default=10, help="epochs of the head phase")
    parser.add_argument("--top", type=int, default=10, help="epochs of the last four blocks")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    same = [{**HEAD, "epochs": options.head, "learning_rate": 3e-3}]
    if options.top:
        same.append({**TOP, "epochs": options.top, "learning_rate": 3e-4})
    short = SHORT if options.top else SHORT_PROBE
    pairs = known(options)
    with tempfile.TemporaryDirectory() as scratch:
        folder, weights = prepare(Path(scratch))
        for seed in range(len(pairs), options.pairs):
            pair = {
                "size": options.size,
                "epochs": [options.head, options.top],
                "stock": stock(options, folder, weights, seed),
                "ours": ours(options, folder, Path(scratch, f"same {seed}"), seed, same),
                "short": ours(options, folder, Path(scratch, f"short {seed}"), seed, short),
            }
            pairs.append(pair)
            print(f"pair {seed + 1}: {report([pair])}", flush=True)
            if options.out:
                with options.out.open("a") as file:
                    file.write(json.dumps(pair) + "\n")
    print(report(pairs))
    print(
        f"{options.head}+{options.top} epochs at {options.size} px; "
        f"medians over {len(pairs)} alternating pairs, whole processes"
    )


def known(options: argparse.Namespace) -> list[Result]:
    """Returns the pairs of these settings that were measured before."""
    if options.out is None or not options.out.exists():
        return []
    pairs = [json.loads(line) for line in options.out.read_text().splitlines()]
    setting = (options.size, [options.head, options.top])
    return [pair for pair in pairs if (pair["size"], pair["epochs"]) == setting]


def prepare(
    scratch: Path,
    split: Mapping[str, Any] = MappingProxyType({"val": None, "test": "test"}),
    parts: Mapping[str, str] = MappingProxyType({"train": "train", "test": "val"}),
) -> tuple[Path, Path]:
    """Lays the starter's images out as train/ and val/, and writes its weights for Keras."""
    script = (
        "import sys\n"
        "from ftkeras.data.load import load_data\n"
        "from ftkeras.backbones import load_backbone\n"
        "import tensorflow as tf\n"
        f"data = load_data('starter', split={dict(split)})\n"
        f"for name, part in {dict(parts)}.items():\n"
        "    split = data.splits[name]\n"
        "    for i, (file, label) in enumerate(zip(split.files, split.labels)):\n"
        "        to = f'{sys.argv[1]}/photos/{part}/{data.class_names[label]}'\n"
        "        tf.io.gfile.makedirs(to)\n"
        "        tf.io.gfile.copy(file, f'{to}/{i}.' + file.rpartition('.')[2])\n"
        "backbone = load_backbone('MobileNetV2', weights='starter', image_size=96)\n"
        "backbone.model.save_weights(f'{sys.argv[1]}/base.weights.h5')\n"
    )
    run([sys.executable, "-c", script, str(scratch)])
    return scratch / "photos", scratch / "base.weights.h5"


def stock(options: argparse.Namespace, folder: Path, weights: Path, seed: int) -> Result:
    """Runs the baseline."""
    command = [sys.executable, str(ROOT / "tools/bench/stock_keras.py"), str(folder), str(weights)]
    command += [f"--size={options.size}", f"--head-epochs={options.head}", f"--seed={seed}"]
    command += [f"--top-epochs={options.top}", f"--first-layer={FIRST_LAYER}"]
    times, lines = run(command)
    last = next(line for line in reversed(lines) if line.startswith("{"))
    return {**times, "accuracy": json.loads(last)["accuracy"]}


def ours(
    options: argparse.Namespace, folder: Path, scratch: Path, seed: int, phases: Sequence[Any]
) -> Result:
    """Runs ftkeras on the same images, with an empty cache."""
    scratch.mkdir()
    file, out = scratch / "config.yaml", scratch / "run"
    file.write_text(json.dumps(config(folder, options.size, seed, phases)))
    command = [sys.executable, "-m", "ftkeras", "train", f"--config={file}", f"--out={out}"]
    times, _ = run(command, FTKERAS_CACHE=str(scratch / "cache"))
    accuracy = json.loads((out / "evaluation.json").read_text())["accuracy"]
    return {**times, "accuracy": accuracy}


def config(folder: Path, size: int, seed: int, phases: Sequence[Any]) -> dict[str, Any]:
    """Returns the config of a run on the images of `prepare`."""
    return {
        "seed": seed,
        "data": {
            "source": "folder",
            "path": str(folder),
            "input": {"size": size, "augmentation": "none"},
            "split": {"val": "val", "test": None},
        },
        "backbone": {"name": "MobileNetV2", "weights": "starter"},
        "phases": phases,
        "export": {"saved_model": False},
        "report": False,
    }


def run(command: Sequence[str], **environment: str) -> tuple[Result, list[str]]:
    """Runs a process; returns its times, of each epoch's end too, and the lines that it printed."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", **environment}
    start, used = time.monotonic(), processor_seconds()
    epochs: list[Epoch] = []
    lines = []
    options: Any = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, **options) as process:
        for line in process.stdout or ():
            lines.append(line)
            match = re.search(r"val_accuracy (\d\.\d+)", line)
            if match:
                epochs.append((float(match[1]), time.monotonic() - start))
    seconds = time.monotonic() - start
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{''.join(lines)}")
    return {
        "seconds": seconds,
        "processor_seconds": processor_seconds() - used,
        "epochs": epochs,
    }, lines


def processor_seconds() -> float:
    """Returns what all processes that have ended took of all processors."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def time_to(accuracy: float, result: Result) -> float | None:
    """Returns the seconds until a run first reached an accuracy, None if it never did."""
    return next((at for reached, at in result["epochs"] if reached >= accuracy), None)


def report(pairs: Sequence[Result]) -> str:
    """Returns the table over pairs."""

    def row(name: str, of: Callable[[Result], tuple[float | None, float | None]]) -> list[object]:
        both = [(a, b) for a, b in map(of, pairs) if a is not None and b is not None]
        if not both:
            return [name, *["-"] * 5]
        ratios = [first / second for first, second in both]
        medians = [f"{statistics.median(column):.1f} s" for column in zip(*both, strict=True)]
        shown = [f"{f(ratios):.1f}" for f in (statistics.median, min, max)]
        reached = "" if len(both) == len(pairs) else f" ({len(both)} of {len(pairs)} reached it)"
        return [name + reached, *medians, *shown]

    def to_its_accuracy(side: str, pair: Result) -> tuple[float | None, float | None]:
        last = pair["stock"]["epochs"][-1]
        return last[1], time_to(last[0], pair[side])

    accuracies = {
        side: f"{statistics.mean(pair[side]['accuracy'] for pair in pairs):.4f}"
        for side in ("stock", "ours", "short")
    }
    rows: list[list[object]] = [
        row("whole run", lambda pair: (pair["stock"]["seconds"], pair["ours"]["seconds"])),
        row("its CPU time", lambda p: tuple(p[s]["processor_seconds"] for s in ("stock", "ours"))),
        row("to its accuracy", functools.partial(to_its_accuracy, "ours")),
        row("... by a short plan", functools.partial(to_its_accuracy, "short")),
        ["accuracy", accuracies["stock"], accuracies["ours"], "", "", ""],
        ["... by a short plan", "", accuracies["short"], "", "", ""],
    ]
    return "\n" + table(rows, HEADER)


if __name__ == "__main__":
    main()
