"""Few examples per class: heads of ftkeras on frozen features, beside scikit-learn.

The shipped backbone and the 2,000 + 1,000 starter images. 1, 2, 5, 10 and 20 training images are
drawn per class, the same for all methods. The 1,000 test images are used once the methods are
fitted. scikit-learn's logistic regression has its default settings. One row has the pooled features
of the last map, another the same features as ftkeras's heads.

Usage: python tools/bench/few_shot.py [--seeds=20] [--shots=1,2,5,10,20] [--quick]

Prints mean test accuracy with its 95% interval over the draws, and the paired difference between
what cross-validation on the drawn examples chose and scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from absl import app, flags
from sklearn.linear_model import LogisticRegression

from ftkeras.backbones import load_backbone
from ftkeras.console import table, track
from ftkeras.data.feed import Feed
from ftkeras.data.load import load_data
from ftkeras.evaluation.predict import predict_outputs
from ftkeras.inputs.image.input import ImageInput
from ftkeras.measures.bootstrap import mean_interval
from ftkeras.measures.metrics import log_losses
from ftkeras.tasks.few_shot.features import unit_features
from ftkeras.tasks.few_shot.probes import METHODS, draw, fit_head, stratified_folds

flags.DEFINE_list("shots", ["1", "2", "5", "10", "20"], "examples per class")
flags.DEFINE_integer("seeds", 20, "how many draws")
flags.DEFINE_integer("first_seed", 0, "the first draw's seed")
flags.DEFINE_integer("stages", 2, "resolutions that features are taken from")
flags.DEFINE_boolean("quick", False, "small images, two draws")
FLAGS = flags.FLAGS

Features = dict[str, np.ndarray]


def extract(image_size: int) -> tuple[Features, Features, np.ndarray, np.ndarray]:
    """Returns pooled features and ftkeras's own, each by split, and the labels of both splits."""
    data = load_data("starter", split={"val": None, "test": "test"})
    backbone = load_backbone("MobileNetV2", weights="starter", image_size=image_size)
    extractor = unit_features(backbone, FLAGS.stages)
    last = f"head_pool_{FLAGS.stages}"
    both = keras.Model(
        extractor.input,
        keras.layers.Concatenate()([extractor.output, extractor.get_layer(last).output]),
    )
    channels = int(extractor.output.shape[1])
    feed = Feed(data, ImageInput(image_size), batch_size=50)
    features = {
        name: predict_outputs(both, feed.plain(name), name)[0] for name in ("train", "test")
    }
    return (
        {name: values[:, channels:] for name, values in features.items()},
        {name: values[:, :channels] for name, values in features.items()},
        data.splits["train"].labels,
        data.splits["test"].labels,
    )


def main(_: Sequence[str]) -> None:
    """Measures and prints the table."""
    seeds = 2 if FLAGS.quick else FLAGS.seeds
    pooled, normalized, labels, truth = extract(32 if FLAGS.quick else 96)
    shots = [int(value) for value in FLAGS.shots]
    names = (
        "scikit-learn, last map",
        "scikit-learn, same features",
        *METHODS,
        "chosen by cross-validation",
    )
    right: dict[tuple[str, int], list[float]] = {(n, s): [] for n in names for s in shots}
    pairs = [(s, seed) for s in shots for seed in range(FLAGS.first_seed, FLAGS.first_seed + seeds)]
    for count, seed in track(pairs, "few-shot", "draw"):
        chosen = draw(labels, count, seed)
        y = labels[chosen]
        for name, features in zip(names, (pooled, normalized), strict=False):
            theirs = LogisticRegression(max_iter=5000).fit(features["train"][chosen], y)
            right[name, count].append(theirs.score(features["test"], truth))
        folds = list(stratified_folds(y, min(5, count), seed)) if count > 1 else []
        losses, accuracies = {}, {}
        for method in METHODS:
            head, held_out = fit_head(method, normalized["train"][chosen], y, 10, folds)
            answers = head(normalized["test"]).argmax(axis=1)
            accuracies[method] = float((answers == truth).mean())
            losses[method] = 0.0 if held_out is None else float(log_losses(y, held_out).mean())
            right[method, count].append(accuracies[method])
        right[names[-1], count].append(accuracies[min(losses, key=lambda name: losses[name])])
    print(f"\nTest accuracy, mean and 95% interval over {seeds} draws\n")
    rows = [(name, *(_cell(right[name, s]) for s in shots)) for name in names]
    for name in names[:2]:
        pairs_of = [np.subtract(right[names[-1], s], right[name, s]) for s in shots]
        rows.append((f"chosen - {name}", *(_cell(list(values), "+.3f") for values in pairs_of)))
    print(table(rows, ("examples per class", *map(str, shots))))


def _cell(values: Sequence[float], form: str = ".3f") -> str:
    low, high = mean_interval(values) or (0.0, 0.0)
    return f"{format(float(np.mean(values)), form)} +- {(high - low) / 2:.3f}"


if __name__ == "__main__":
    app.run(main)
