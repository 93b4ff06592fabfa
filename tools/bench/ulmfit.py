"""The gain of each step of ULMFiT (Howard and Ruder 2018) on the shipped character LSTM.

    python tools/bench/ulmfit.py [--sizes 100,500,2000] [--seeds 3] [--ways ...] [--out FILE]

The texts are definitions of WordNet in 24 categories: the shipped 792 to test on, and so many of
2,000 to train on. 1,608 of these are shipped; the others come from data.noun of Debian's package
wordnet-base (`apt-get download wordnet-base; dpkg-deb -x wordnet-base*.deb /tmp/wordnet`), which
`--wordnet` names. Without it 2,000 stands for the 1,608.

Each seed draws other texts and holds out 15% of them for validation. `full` adapts the language
model to all 2,000 texts without their labels, once per seed. Then it trains the classifier from the
floor's head, with one more block per epoch from the top. Rates rise over a tenth of each phase and
then fall, and are lower by 2.6 from block to block. Every other way lacks one step.
`random weights` trains the same network whole, from random weights. All take the same number of
epochs, and keep the weights of the best one. `floor` is the linear model on the features of the
adapted language model.

Prints test accuracies with standard errors over the seeds, as Markdown. A result that `--out`
already holds is not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import text as bench

import ftkeras
from ftkeras.config.load import parse_config

POOL = 2000
LENGTH = 96  # characters; two definitions in three are shorter
EPOCHS = 10
ADAPT_EPOCHS = 4
DROP = 2.6
WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "without adaptation": {"weights": "pretrained"},
    "without slanted rates": {"slanted": False},
    "without rates by layer": {"layer_decay": 1.0},
    "without gradual unfreezing": {"gradual": False},
    "random weights": {"weights": "random", "gradual": False, "layer_decay": 1.0},
}


def main() -> None:
    """Measures what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=f"100,500,{POOL}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", default=",".join([*WAYS, "tf-idf"]))
    parser.add_argument("--rate", type=float, default=1e-2, help="peak rate of the head")
    parser.add_argument("--wordnet", default="/usr/share/wordnet/data.noun")
    parser.add_argument("--models", default=Path(tempfile.gettempdir(), "ftkeras-bench-ulmfit"))
    parser.add_argument("--out", default="ulmfit.jsonl")
    options = parser.parse_args()
    out, models = Path(options.out), Path(options.models)
    models.mkdir(exist_ok=True)
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    sizes, ways = [int(size) for size in options.sizes.split(",")], options.ways.split(",")
    for seed in range(options.seeds):
        for size in sizes:
            for way in ways:
                if any((r["size"], r["seed"], r["way"]) == (size, seed, way) for r in done):
                    continue
                start = time.monotonic()
                pool, test = texts(options.wordnet)
                train, val = drawn(pool, size, seed)
                if way == "tf-idf":
                    measured = {"accuracy": bench.tf_idf(train, val, test)}
                else:
                    settings = {"weights": "adapted", **WAYS[way]}
                    name = backbone(settings.pop("weights"), pool[0], seed, models)
                    tree = config(name, seed=seed, rate=options.rate, **settings)
                    measured = measure(tree, {"train": train, "val": val, "test": test})
                seconds = round(time.monotonic() - start, 1)
                row = {"size": size, "seed": seed, "way": way, **measured, "seconds": seconds}
                print(json.dumps(row), flush=True)
                done.append(row)
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    print(table(done, sizes, ways))


# ------------------------------------------------------------------------------------ data


def texts(wordnet: str) -> tuple[bench.Texts, bench.Texts]:
    """Returns the texts to train on, up to `POOL`, and those to test on."""
    (train, labels), test = bench.glosses()
    if Path(wordnet).exists():
        label_of, known = dict(zip(train, labels, strict=True)), {*train, *test[0]}
        rows = definitions(Path(wordnet).read_text(encoding="utf-8"))
        names = {number: label_of[text] for number, text in rows if text in label_of}
        new = sorted({text: number for number, text in rows if text not in known}.items())
        new = [(text, number) for text, number in new if number in names and 20 < len(text) < 200]
        order = np.random.default_rng(0).permutation(len(new))[: POOL - len(train)]
        train = train + [new[i][0] for i in order]
        labels = labels + [names[new[i][1]] for i in order]
    return (train, labels), test


def definitions(nouns: str) -> list[tuple[str, str]]:
    """Returns (number of the category, definition) of the lines of WordNet's data.noun."""
    lines = [line.split(" | ", 1) for line in nouns.splitlines() if not line.startswith("  ")]
    return [(fields.split()[1], gloss.split('; "')[0].strip()) for fields, gloss in lines]


def drawn(pool: bench.Texts, size: int, seed: int) -> tuple[bench.Texts, bench.Texts]:
    """Returns so many texts of a pool, about as many per class, in training and validation."""
    order = np.random.default_rng(seed).permutation(len(pool[0]))
    labels = np.array(pool[1])[order]
    rank = np.zeros(len(order), int)  # within the class
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    chosen = np.argsort(rank, kind="stable")[:size]
    held = bench.held_out(labels[chosen])
    rest = np.setdiff1d(np.arange(len(chosen)), held)
    train, val = (bench.picked(pool, order[chosen[part]]) for part in (rest, held))
    return train, val


# ------------------------------------------------------------------------------------ models


def backbone(weights: str, unlabelled: list[str], seed: int, folder: Path) -> str:
    """Returns a name or path of the backbone; it is adapted once per seed."""
    import keras

    from ftkeras.backbones.text import char_lstm
    from ftkeras.backbones.text.adapt import adapt
    from ftkeras.inputs.text.tokens import TokenIds, Tokens

    adapted = weights == "adapted"
    path = folder / f"{weights}{f'-{seed}' if adapted else ''}.keras"
    if not path.exists():
        keras.utils.set_random_seed(seed)
        tokens = Tokens("characters", tuple(char_lstm.characters()), LENGTH)
        layer = TokenIds(tokens.as_config(), name="tokens")
        model = char_lstm.load(layer, pretrained=weights != "random").model
        if adapted:
            print(adapt(model, unlabelled, epochs=ADAPT_EPOCHS, seed=seed), flush=True)
        model.save(path)
    return str(path)


def config(
    name: str,
    *,
    seed: int,
    rate: float,
    slanted: bool = True,
    layer_decay: float = 1 / DROP,
    gradual: bool = True,
) -> dict[str, Any]:
    """Returns a config without its data."""
    shape = {"warmup": 0.1, "decay": "linear"} if slanted else {"decay": "constant"}
    first = {"learning_rate": rate, "layer_decay": layer_decay, **shape}
    trained = [["head"], ["head", "blocks[-1:]"], ["head", "blocks[-2:]"], ["all"]]
    if not gradual:
        trained = [["all"]]
    phases = [{"name": f"top_{i}", "train": t, "epochs": 1} for i, t in enumerate(trained)]
    phases[-1]["epochs"] = EPOCHS - len(phases) + 1
    phases[0] |= first
    return {
        "seed": seed,
        "data": {"source": "manifest", "batch_size": 32, "input": {"kind": "text"}},
        "backbone": {"name": name},
        "head": {"counts": "off"},  # what the network alone answers
        "phases": phases,
        "optimizer": {"clip_norm": 1.0},
        "training": {"end": "trained"},
        "trunk": {"mode": "off"},
        "export": {"saved_model": False},
        "report": False,
    }


def measure(tree: dict[str, Any], parts: dict[str, bench.Texts]) -> dict[str, float]:
    """Returns the test accuracy of a run, and that of its floor."""
    import keras

    keras.utils.clear_session()
    with tempfile.TemporaryDirectory() as folder:
        tree["data"]["path"] = bench.written(Path(folder, "texts.csv"), parts)
        with contextlib.redirect_stdout(io.StringIO()):
            run = ftkeras.train(parse_config(tree), f"{folder}/run")
        evaluation = run.read_json("evaluation.json")
        floor = evaluation.get("floor", {}).get("accuracy")
        return {"accuracy": float(evaluation["accuracy"]), "floor": floor}


# ------------------------------------------------------------------------------------ report


def table(rows: list[dict[str, Any]], sizes: list[int], ways: list[str]) -> str:
    """Returns a row for each way and a column for each size, as Markdown."""

    def cell(way: str, size: int) -> str:
        name, key = ("full", "floor") if way == "floor" else (way, "accuracy")
        found = [r[key] for r in rows if (r["way"], r["size"]) == (name, size)]
        if not found:
            return ""
        error = statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else float("nan")
        return f"{statistics.mean(found):.3f} +- {error:.3f}"

    lines = ["| way | " + " | ".join(f"{size:,} texts" for size in sizes) + " |"]
    lines.append("|---" * (len(sizes) + 1) + "|")
    for way in [*ways, *(["floor"] if "full" in ways else [])]:
        lines.append(f"| {way} | " + " | ".join(cell(way, s) for s in sizes) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
