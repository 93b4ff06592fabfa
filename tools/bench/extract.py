"""Images per second through a frozen trunk: `model.predict` against ftkeras's extraction.

    python tools/bench/extract.py [--pairs 5] [--sizes 96,160] [--images 512] [--batch-size 32]

The trunk is MobileNetV2 with the starter's weights, up to its pooled features. The images are the
starter's, decoded beforehand, so that both sides are timed on the same arrays. Both sides
alternate, so that other work of the machine affects both. Each ratio is of one such pair.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from ftkeras.backbones import load_backbone
from ftkeras.console import table
from ftkeras.data.load import load_data
from ftkeras.model.assemble import build_model
from ftkeras.phases.freezing import set_trainable, trained_weights
from ftkeras.phases.selectors import weights_of
from ftkeras.runs.build import batches
from ftkeras.trunk.engines import best_precision, make_engine
from ftkeras.trunk.split import split_model

HEADER = ("size", "engine", "predict img/s", "ftkeras img/s", "ratio", "lowest", "highest", "goal")
GOALS = {"tensorflow": 1.2, "openvino float32": 1.8, "openvino bfloat16": 4.0}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--sizes", default="96,160")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    rows = []
    for size in map(int, options.sizes.split(",")):
        rows += bench(size, options.images, options.batch_size, options.pairs)
    print(table(rows, HEADER))
    print(f"medians over {options.pairs} alternating pairs of {options.images} images each")
    for reason in left_out():
        print(reason)


def bench(size: int, count: int, batch_size: int, pairs: int) -> list[list[object]]:
    """Returns one row for each engine that this machine can run."""
    images = starter_images(size, count)
    backbone = load_backbone("MobileNetV2", weights="starter", image_size=size)
    model = build_model(backbone, 10)
    weights = weights_of(model, backbone.blocks)
    set_trainable(model, trained_weights(weights, ["head"], "frozen"), "frozen")
    split = split_model(model)
    assert split is not None
    # What Keras's guide does: the frozen base with its pooling, as a model, and `predict`.
    baseline = keras.Model(model.input, model.get_layer("head_pool").output)
    chunks = [tf.constant(images[i : i + batch_size]) for i in range(0, count, batch_size)]
    rows: list[list[object]] = []
    for name in engines():
        engine, _, precision = name.partition(" ")
        run, line = make_engine(
            split.trunk,
            chunks[0],
            batch_size=batch_size,
            engine=engine,
            precision=precision or "float32",
        )
        if not line.lower().startswith(engine):
            print(f"{name} at {size} px: {line}")
            continue
        theirs, engine_times = alternate(
            lambda: baseline.predict(images, batch_size=batch_size, verbose=0),
            lambda run=run: [None for _ in run(chunks)],  # type: ignore[misc]
            pairs,
        )
        ratios = [a / b for a, b in zip(theirs, engine_times, strict=True)]
        speeds = [round(count / statistics.median(seconds)) for seconds in (theirs, engine_times)]
        spread = [round(f(ratios), 2) for f in (statistics.median, min, max)]
        rows.append([size, name, *speeds, *spread, GOALS[name]])
    return rows


def alternate(
    theirs: Callable[[], object], candidate: Callable[[], object], pairs: int
) -> tuple[list[float], list[float]]:
    """Returns the seconds of each, run in turns; a first pair warms both up and doesn't count."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs + 1):
        for run, times in zip((theirs, candidate), seconds, strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return seconds[0][1:], seconds[1][1:]


def starter_images(size: int, count: int) -> np.ndarray:
    """Returns the starter's training images, float32 (count, size, size, 3)."""
    train = load_data("starter", seed=0).splits["train"]
    arrays: list[np.ndarray] = []
    for batch, *_ in batches(train, image_size=size, batch_size=count, cache="none").take(1):
        arrays.append(batch.numpy())
    return arrays[0]


def engines() -> Sequence[str]:
    """Returns the engines that this machine can run."""
    if importlib.util.find_spec("openvino") is None:
        return ["tensorflow"]
    if best_precision("bfloat16") == "float32":
        return ["tensorflow", "openvino float32"]
    return ["tensorflow", "openvino float32", "openvino bfloat16"]


def left_out() -> list[str]:
    """Returns a line for each engine that this machine cannot run, and why."""
    if importlib.util.find_spec("openvino") is None:
        return ["OpenVINO isn't installed: pip install openvino"]
    if best_precision("bfloat16") == "float32":
        return ["openvino bfloat16: left out, this CPU has no bfloat16 instructions"]
    return []


if __name__ == "__main__":
    main()
