"""One network for two questions against a network for each.

The questions are the starter's garments (10 classes) and their kind (shoe, top, ...: 5 classes that
follow from them). Two separate models answer them, or one with two heads, whose losses are weighed
in each of the three ways. All have the same phases and images. Prints the mean and deviation over
seeds of
- test accuracy;
- CPU time for training and measuring, and for 1,000 answers to both questions;
- the size of the model files.

A last row takes the kind from the answer to the first question. That costs nothing if one follows
from the other.

Usage: python tools/bench/multi_task.py [--seeds=3] [--first_seed=0] [--quick]
       [--only=gradnorm,...] [--out=FILE.jsonl]

A result that `--out` already holds is not measured again, so an interrupted run resumes.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags

import ftkeras
from ftkeras.config.load import load_config, parse_config
from ftkeras.config.schema import Config
from ftkeras.console import table
from ftkeras.evaluation.predict import predict_outputs
from ftkeras.evaluation.predictions import load_predictions
from ftkeras.run import Run
from ftkeras.runs.task import task_of

CONFIG = Path(__file__).parents[2] / "configs" / "multi_task.yaml"
WAYS = ("two models", "fixed", "uncertainty", "gradnorm")
DERIVED = "kind by garment"

flags.DEFINE_integer("seeds", 3, "how many seeds")
flags.DEFINE_integer("first_seed", 0, "the first seed")
flags.DEFINE_list("only", list(WAYS), "which rows to measure")
flags.DEFINE_integer("image_size", 64, "side of the images, in pixels")
flags.DEFINE_integer("epochs", 4, "epochs of each of the two phases")
flags.DEFINE_boolean("quick", False, "one seed, one epoch, 32 px: to see that it runs")
flags.DEFINE_string("out", "multi_task.jsonl", "file of the results")
FLAGS = flags.FLAGS


def config(heads: Sequence[str], weighting: str, seed: int) -> Config:
    """Returns the shipped config with some of its outputs."""
    size, epochs = (32, 1) if FLAGS.quick else (FLAGS.image_size, FLAGS.epochs)
    overrides = [
        f"seed={seed}",
        f"data.input.size={size}",
        *(f"phases[{i}].epochs={epochs}" for i in range(2)),
        "export.saved_model=false",
        "report=false",
    ]
    tree = load_config(CONFIG, overrides).model_dump(mode="json")
    tree["outputs"] = {name: tree["outputs"][name] for name in heads}
    tree["multi_task"]["weighting"] = weighting
    return parse_config(tree)


def trained(heads: Sequence[str], weighting: str, seed: int, folder: Path) -> tuple[Run, float]:
    """Trains and measures one model; returns its run and the processor's seconds."""
    keras.utils.clear_session()
    os.environ["FTKERAS_CACHE"] = str(folder / "cache")  # each has its own store
    start = time.process_time()  # of all cores; other work on the machine does not lengthen it
    run = ftkeras.train(config(heads, weighting, seed), str(folder / "run"))
    return run, time.process_time() - start


def measure(way: str, seed: int) -> dict[str, Any]:
    """Trains what a way needs for both questions and measures it."""
    groups = [["garment"], ["kind"]] if way == "two models" else [["garment", "kind"]]
    result: dict[str, Any] = {"way": way, "seed": seed, "seconds": 0.0, "answer": 0.0, "bytes": 0}
    for heads in groups:
        with tempfile.TemporaryDirectory(prefix="ftkeras-bench-") as scratch:
            weighting = "fixed" if way == "two models" else way
            run, seconds = trained(heads, weighting, seed, Path(scratch))
            evaluation = run.read_json("evaluation.json")
            parts = evaluation.get("heads") or {heads[0]: evaluation}
            result |= {name: parts[name]["accuracy"] for name in heads}
            result["seconds"] += seconds
            result["bytes"] += os.path.getsize(run.path("model.keras"))
            result["answer"] += answering(run)
            if way == "fixed":
                result["derived"] = kind_by_garment(run)
    return result


def answering(run: Run) -> float:
    """Returns the processor's seconds for the model's answers to the 1,000 test images."""
    data = task_of(run.config).data(run.config)
    model = ftkeras.load_model(run)
    batches = task_of(run.config).feed(run.config, data, model).plain("test").cache()
    predict_outputs(model, batches, "warm up")
    start = time.process_time()
    predict_outputs(model, batches, "answer")
    return time.process_time() - start


def kind_by_garment(run: Run) -> float:
    """Returns how often the kind of the garment that the model names is right."""
    heads = {head["name"]: head["class_names"] for head in run.read_json("data.json")["heads"]}
    mapping = run.config.asked["kind"].map
    garments, kinds = (load_predictions(run, f"test-{name}") for name in ("garment", "kind"))
    index_of = {name: i for i, name in enumerate(heads["kind"])}
    of = np.array([index_of[mapping[name]] for name in heads["garment"]])
    return float(np.mean(of[garments.logits.argmax(axis=1)] == kinds.labels))


def spread(values: Sequence[float], form: str) -> str:
    """Returns the mean of several seeds, and their standard deviation."""
    mean = format(statistics.mean(values), form)
    return f"{mean} ({format(statistics.stdev(values), form)})" if len(values) > 1 else mean


def report(results: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table."""
    rows = []
    for way in WAYS:
        own = [result for result in results if result["way"] == way]
        if own:
            columns = {name: [result[name] for result in own] for name in own[0] if name != "way"}
            rows.append(
                (
                    way,
                    len(own),
                    spread(columns["garment"], ".4f"),
                    spread(columns["kind"], ".4f"),
                    spread(columns["seconds"], ".0f"),
                    spread(columns["answer"], ".2f"),
                    f"{columns['bytes'][0] / 1e6:.1f} MB",
                )
            )
    derived = [result["derived"] for result in results if "derived" in result]
    if derived:
        rows.append((DERIVED, len(derived), "", spread(derived, ".4f"), "", "", ""))
    titles = ("models", "seeds", "garment", "kind", "training, s", "1,000 answers, s", "size")
    return table(rows, titles)


def main(_: Sequence[str]) -> None:
    path = Path(FLAGS.out)
    lines = path.read_text().splitlines() if path.exists() else []
    results = [json.loads(line) for line in lines]
    seeds = 1 if FLAGS.quick else FLAGS.seeds
    for seed in range(FLAGS.first_seed, FLAGS.first_seed + seeds):
        for way in FLAGS.only:
            if any((result["way"], result["seed"]) == (way, seed) for result in results):
                continue
            results.append(measure(way, seed))
            with path.open("a") as file:
                file.write(json.dumps(results[-1]) + "\n")
    print(report(results))


if __name__ == "__main__":
    app.run(main)
