"""Accuracy under attack after adversarial training, and what that costs on clean images.

Fine-tunes the starter's first blocks by each method of the task `adversarial`, and by ordinary
training (`standard`). `whole` trains all its blocks, at a lower rate. All train on the same images
for the same number of epochs. PGD-20 attacks each model at 4/255 and 8/255 (L-infinity), on the
same test images. With `--judge`, the Adversarial Robustness Toolbox attacks its SavedModel, too.
Prints mean accuracy and standard deviation over seeds.

Usage: python tools/bench/adversarial.py [--seeds=3] [--first_seed=0] [--quick] [--judge]
       [--only='pgd 4',...] [--out=FILE.jsonl]

A result that `--out` already holds is not measured again, so an interrupted run resumes.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.console import table
from ftkeras.evaluation.robustness import sample
from ftkeras.inputs.image.input import ImageInput
from ftkeras.run import Run
from ftkeras.runs.assemble import assemble
from ftkeras.runs.build import batches
from ftkeras.tasks.adversarial.evaluation import measure_attacked, projected_gradient

METHODS = ("whole", "standard", "fast 4", "pgd 4", "pgd 8", "trades 4")
BUDGETS = (4.0, 8.0)
STEPS = 20

flags.DEFINE_integer("seeds", 3, "how many seeds")
flags.DEFINE_integer("first_seed", 0, "the first seed")
flags.DEFINE_integer("image_size", 32, "side of the images, in pixels")
flags.DEFINE_string("cut", "block_5_add", "the last layer of MobileNetV2; empty: all of it")
flags.DEFINE_integer("epochs", 10, "epochs")
flags.DEFINE_integer("examples", 200, "how many test images are attacked")
flags.DEFINE_list("only", [], "names of methods; all by default")
flags.DEFINE_bool("quick", False, "one seed, two epochs: to see that it works")
flags.DEFINE_bool("judge", False, "attack the exports with the Adversarial Robustness Toolbox")
flags.DEFINE_string("out", "adversarial.jsonl", "file of the results")
FLAGS = flags.FLAGS


def config(name: str, epochs: int, seed: int) -> Any:
    """Returns the config of one row of the table."""
    method, _, budget = name.partition(" ")
    cut = {} if method == "whole" else {"cut": FLAGS.cut or None}
    tree: dict[str, Any] = {
        "seed": seed,
        "data": {"source": "starter", "input": {"size": FLAGS.image_size, "augmentation": "none"}},
        "backbone": {"name": "MobileNetV2", "weights": "starter", **cut},
        "phases": [
            {
                "name": "all",
                "train": ["all"],
                "epochs": epochs,
                "learning_rate": 3e-4 if method == "whole" else 1e-3,
                "warmup": 0.1,
                "batch_norm": "train" if budget else "recalibrate",
            },
        ],
        "trunk": {"mode": "off"},
        "export": {"saved_model": FLAGS.judge},
        "report": False,
    }
    if budget:
        judge = {"examples": 1, "steps": 10}  # this file attacks all models alike
        tree["task"] = "adversarial"
        tree["adversarial"] = {
            "method": method,
            "budget": float(budget),
            "steps": 3,
            "rise": 2,
            "judge": judge,
        }
    return parse_config(tree)


def train(name: str, epochs: int, seed: int) -> dict[str, Any]:
    """Trains and attacks one model; returns its accuracies."""
    keras.utils.clear_session()
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            run = ftkeras.train(config(name, epochs, seed), f"{folder}/run")
        seconds = time.process_time() - start
        split = sample(assemble(run.config).data.splits["test"], FLAGS.examples, seed)
        attacks = [projected_gradient("linf", budget, STEPS) for budget in BUDGETS]
        results = measure_attacked(
            ftkeras.load_model(run),
            split,
            ImageInput(FLAGS.image_size),
            attacks,
            batch_size=50,
            seed=seed,
        )
        judged = [judge(run, split, budget) for budget in BUDGETS] if FLAGS.judge else []
    return {
        "method": name,
        "seed": seed,
        "clean": results["clean"]["accuracy"],
        "robust": [attack["accuracy"] for attack in results["attacks"]],
        "judge": judged,
        "seconds": seconds,
    }


def judge(run: Run, split: Any, budget: float) -> float:
    """Returns the accuracy of the exported model under the toolbox's PGD."""
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import TensorFlowV2Classifier

    exported = tf.saved_model.load(run.path("export", "1"))
    served = exported.signatures["images"]

    @tf.function(reduce_retracing=True)
    def scores(images: tf.Tensor, training: bool = False) -> tf.Tensor:
        answer = served(images=images)
        order = tf.argsort(answer["class_indices"], axis=1)
        return tf.math.log(tf.gather(answer["scores"], order, batch_dims=1) + 1e-30)

    plain = batches(split, image_size=FLAGS.image_size, batch_size=50)
    images, labels = (np.concatenate(parts) for parts in zip(*plain, strict=True))
    judged = TensorFlowV2Classifier(
        scores,
        nb_classes=labels.shape[1],
        input_shape=images.shape[1:],
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=(0.0, 255.0),
    )
    attack = ProjectedGradientDescent(
        judged,
        np.inf,
        eps=budget,
        eps_step=2.5 * budget / STEPS,
        max_iter=STEPS,
        num_random_init=1,
        batch_size=50,
        verbose=False,
    )
    answers = judged.predict(attack.generate(images, labels), batch_size=50)
    return float(np.mean(answers.argmax(axis=1) == labels.argmax(axis=1)))


def spread(values: list[float]) -> str:
    """Returns a mean and its standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} +- {deviation:.3f}"


def main(_: list[str]) -> None:
    """Fills in what is missing, and prints the table."""
    seeds, epochs = (1, 2) if FLAGS.quick else (FLAGS.seeds, FLAGS.epochs)
    out = Path(FLAGS.out)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    names = FLAGS.only or METHODS
    for seed in range(FLAGS.first_seed, FLAGS.first_seed + seeds):
        for name in names:
            if not any((row["method"], row["seed"]) == (name, seed) for row in rows):
                rows.append(train(name, epochs, seed))
                print(rows[-1], file=sys.stderr)
                with out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    shown = []
    for name in names:
        own = [row for row in rows if row["method"] == name]
        shown.append(
            (
                name,
                spread([row["clean"] for row in own]),
                *(spread([row["robust"][i] for row in own]) for i in range(len(BUDGETS))),
                *(
                    spread([row["judge"][i] for row in own if row["judge"]])
                    if any(row["judge"] for row in own)
                    else "-"
                    for i in range(len(BUDGETS))
                ),
                f"{statistics.mean(row['seconds'] for row in own):.0f} s",
                len(own),
            )
        )
    print(
        f"Test accuracy at {FLAGS.image_size} px on {FLAGS.examples} images; "
        f"{epochs} epochs on 1,700\n"
    )
    attacked = [f"PGD-{STEPS} {budget:g}/255" for budget in BUDGETS]
    print(
        table(
            shown,
            (
                "training",
                "clean",
                *attacked,
                *(f"ART {name}" for name in attacked),
                "CPU time",
                "seeds",
            ),
        )
    )


if __name__ == "__main__":
    app.run(main)
