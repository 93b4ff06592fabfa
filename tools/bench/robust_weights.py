"""WiSE-FT and soups on clean and on corrupted images.

The shipped backbone and the starter images; a head phase, then the last four blocks. For each seed
one run of `task: robust_weights` (WiSE-FT) measures three models: the linear probe, the fine-tuned
model, and the one that it chose between them on validation images. Then a uniform and a greedy soup
of the chosen models of all seeds are measured. The split is the same for all. Test images decide
nothing.

Usage: python tools/bench/robust_weights.py [--seeds=3] [--image_size=64] [--quick]

Prints accuracy on the 1,000 test images, and on some of them under five corruptions at severity 3,
with the standard deviation over the seeds. It needs the extra "robustness".
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

from absl import app, flags

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.console import table
from ftkeras.tasks.robust_weights.task import soup_config

flags.DEFINE_integer("seeds", 3, "how many seeds, two or more")
flags.DEFINE_integer("first_seed", 0, "the first seed")
flags.DEFINE_integer("image_size", 64, "side of the images, in pixels")
flags.DEFINE_integer("examples", 200, "how many images of a split are corrupted")
flags.DEFINE_boolean("quick", False, "small images, an epoch a phase, two seeds")
FLAGS = flags.FLAGS


def config(seed: int) -> dict[str, Any]:
    """Returns the config of one seed."""
    epochs = 1 if FLAGS.quick else 5
    return {
        "task": "robust_weights",
        "seed": seed,
        "data": {
            "source": "starter",
            "input": {"size": 32 if FLAGS.quick else FLAGS.image_size, "augmentation": "none"},
            "split_seed": 0,
        },
        "backbone": {"name": "MobileNetV2", "weights": "starter"},
        "robust_weights": {"examples": 10 if FLAGS.quick else FLAGS.examples},
        "phases": [
            {"name": "head", "train": "head", "epochs": epochs, "learning_rate": 3e-3},
            {
                "name": "top",
                "train": ["head", "blocks[-4:]"],
                "epochs": epochs,
                "learning_rate": 3e-4,
                "warmup": 0.1,
            },
        ],
        "export": {"saved_model": False},
        "report": False,
    }


def main(_: Sequence[str]) -> None:
    """Trains, averages, and prints the tables."""
    scores: dict[str, list[dict[str, float]]] = {}
    sweeps = []
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for seed in range(FLAGS.first_seed, FLAGS.first_seed + (2 if FLAGS.quick else FLAGS.seeds)):
            run = ftkeras.train(parse_config(config(seed)), f"{folder}/seed-{seed}")
            runs.append(run.folder)
            results = run.read_json("task.json")
            sweeps.append({row["alpha"]: row for row in results["sweep"]})
            for name, measured in results["side_by_side"].items():
                title = "WiSE-FT, chosen on validation" if name == "chosen" else name
                scores.setdefault(title, []).append(measured)
            print(f"seed {seed}: alpha {results['alpha']:g}", flush=True)
        first = parse_config(config(FLAGS.first_seed))
        for method in ("uniform_soup", "greedy_soup"):
            run = ftkeras.train(soup_config(first, runs, method, "mean"), f"{folder}/{method}")
            title = f"{method.replace('_', ' ')} of {len(runs)} chosen"
            scores[title] = [run.read_json("task.json")["side_by_side"]["chosen"]]
    print("\nOn validation images, mean over the seeds\n")
    rows = [
        (f"{alpha:g}", *(_cell([sweep[alpha][k] for sweep in sweeps]) for k in _KINDS))
        for alpha in sweeps[0]
    ]
    print(table(rows, ("alpha", *_KINDS)))
    print(f"\nOn test images, {len(runs)} seeds\n")
    lines = [(name, *(_cell([row[k] for row in got]) for k in _KINDS)) for name, got in
             scores.items()]  # fmt: skip
    print(table(lines, ("weights", *_KINDS)))


_KINDS = ("clean", "corrupted")


def _cell(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} +- {statistics.stdev(values):.3f}" if len(values) > 1 else mean


if __name__ == "__main__":
    app.run(main)
