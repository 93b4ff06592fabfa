"""Measures whether several replicas, or several workers, train as one device does.

Each way of computing is a process of its own, since a process sets up its devices once:
`compare_replicas` starts them and compares what they write.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ftkeras.console import table, track
from ftkeras.errors import TrainingError

_EXAMPLES = 25  # with batches of 8, each epoch ends on a batch of one example
_STEPS = 20  # at least
TOLERANCE = 1e-5  # what float32 rounds differently in another order of summing, relative
_SECONDS = 900.0  # after which a process hangs


@dataclass(frozen=True)
class Case:
    """A way to train that could differ between one device and several.

    Args:
        name: The optimizer's.
        batch: Examples per batch, over all devices.
        weights: "none", "classes" or "examples": by what the loss is weighed.
        l2: The strength of the penalty on weights.
        clip_norm: The norm to which gradients are clipped.
        accumulate: Batches per update.
        batch_norm: What the first phase does with batch norm: "frozen" or "train".
        heads: How many outputs the model has.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    batch: int = 8
    weights: str = "none"
    l2: float = 0.0
    clip_norm: float | None = None
    accumulate: int = 1
    batch_norm: Literal["frozen", "train"] = "frozen"
    heads: int = 1


CASES = {
    "ragged batches": Case(),
    "batches of 7": Case(batch=7),
    "class weights": Case(weights="classes"),
    "example weights, L2": Case(weights="examples", l2=0.01),
    "clipping to a global norm": Case(clip_norm=0.05),
    "accumulation over 2 steps": Case(accumulate=2),
    "batch norm that trains": Case(batch_norm="train"),
    "two heads, missing labels": Case(heads=2, batch=7),
    "all of these, AdamW": Case(
        "adamw", batch=7, weights="examples", l2=0.01, clip_norm=0.05, accumulate=2, heads=2
    ),
    "batch norm, AdamW": Case(
        "adamw", weights="examples", clip_norm=0.05, accumulate=2, batch_norm="train"
    ),
}


@dataclass(frozen=True)
class Comparison:
    """The largest differences from one device in 20 steps, relative to the largest number.

    Args:
        case: What was trained.
        where: On how many replicas or workers.
        loss: Of the loss after each step.
        gradient: Of each layer's gradient norm in each epoch.
        metrics: Of each epoch's metrics, in training and validation.
        weights: Of the weights and statistics at the end.
    """

    case: str
    where: str
    loss: float
    gradient: float
    metrics: float
    weights: float

    @property
    def worst(self) -> float:
        """The largest of them; NaN if any number isn't one."""
        return float(np.max([self.loss, self.gradient, self.metrics, self.weights]))


def compare_replicas(
    counts: Sequence[int] = (1, 2, 4),
    workers: Sequence[int] = (2,),
    cases: Sequence[str] = tuple(CASES),
) -> tuple[Comparison, ...]:
    """Trains the same global batches on one device, on replicas and on workers.

    Args:
        counts: Numbers of replicas on this machine's CPU.
        workers: Numbers of processes that train together.
        cases: Which of `CASES`.

    Raises:
        TrainingError: A process failed; with the end of what it wrote.

    Example:
        ```python
        assert max(row.worst for row in compare_replicas()) < 1e-5
        ```
    """
    ways = [("replicas", count) for count in sorted({1, *counts})]
    ways += [("workers", count) for count in workers]
    runs = {way: _measure(*way, cases) for way in track(ways, "compare replicas", "training")}
    one = runs.pop(("replicas", 1))
    return tuple(
        _compare(case, f"{count} {kind}", one[case], traces[case])
        for case in cases
        for (kind, count), traces in runs.items()
    )


def format_rows(rows: Sequence[Comparison]) -> str:
    """Returns the differences as a table, and a line that says whether rounding explains them."""
    header = ("case", "on", "loss", "gradient", "metrics", "weights")
    lines = [
        (
            row.case,
            row.where,
            *(f"{v:.0e}" for v in (row.loss, row.gradient, row.metrics, row.weights)),
        )
        for row in rows
    ]
    off = [f"{row.case} on {row.where}" for row in rows if not row.worst <= TOLERANCE]
    verdict = (
        f"These differ from one device by more than {TOLERANCE:.0e}: {'; '.join(off)}."
        if off
        else f"All train as one device does, to {TOLERANCE:.0e} of the largest number."
    )
    return f"{table(lines, header)}\n\n{verdict}"


def _compare(case: str, where: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Comparison:
    def distance(name: str) -> float:
        expected, actual = np.asarray(one[name]), np.asarray(other[name])
        return float(np.max(np.abs(actual - expected)) / np.max(np.abs(expected)))

    return Comparison(
        case, where, *(distance(n) for n in ("loss", "gradient", "metrics", "weights"))
    )


def _measure(kind: str, count: int, cases: Sequence[str]) -> dict[str, Any]:
    """Returns each case's numbers from new processes."""
    from ftkeras.devices.cluster import local_clusters

    environ = {name: v for name, v in os.environ.items() if name != "TF_CONFIG"}
    environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    environs = [environ]
    if kind == "workers":
        clusters = local_clusters(count)
        environs = [{**environ, "TF_CONFIG": cluster.as_tf_config()} for cluster in clusters]
    command = [sys.executable, "-m", "ftkeras.doctor.parity", kind, str(count), *cases]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=env, **pipes) for env in environs]
    try:
        outputs = [process.communicate(timeout=_SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(process.returncode for process in processes):
        last = next(err for p, (_, err) in zip(processes, outputs, strict=True) if p.returncode)
        raise TrainingError(f"comparing {count} {kind}: a process failed: {last[-800:]}")
    traces = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    if any(trace != traces[0] for trace in traces):
        raise TrainingError(f"comparing {count} {kind}: they ended with different weights")
    return dict(traces[0])


# -------------------------------------------------------------------- inside such a process


def _main(kind: str, count: int, cases: Sequence[str]) -> None:
    import tensorflow as tf

    from ftkeras.devices.strategy import choose_devices

    if kind == "replicas" and count > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        devices = [tf.config.LogicalDeviceConfiguration()] * count
        tf.config.set_logical_device_configuration(cpu, devices)
    request = "multi_worker" if kind == "workers" else "mirrored" if count > 1 else "cpu"
    strategy = choose_devices(request).strategy
    print(json.dumps({name: _trace(strategy, CASES[name]) for name in cases}))


def _trace(strategy: Any, case: Case) -> dict[str, Any]:
    """Trains a small convolutional network in two phases; returns its numbers."""
    import keras

    from ftkeras.devices.workers import share_of, spread
    from ftkeras.phases import Phase
    from ftkeras.training.resume.phases import ResumableUnfreezing

    keras.utils.set_random_seed(0)
    with strategy.scope():
        model, penalty = _compiled(case)
    trains = case.batch_norm == "train"
    data = _batches(case, drop_remainder=trains)  # which needs full batches
    epochs, rate = -(-_STEPS // len(data)), 0.1 if case.name == "sgd" else 0.01
    phases = [
        Phase("head", 2, rate, batch_norm=case.batch_norm, decay="constant"),
        Phase("all", epochs - 2, train=["all"]),
    ]
    unfreeze = ResumableUnfreezing(model, phases)
    losses: list[float] = []
    norms: list[dict[str, float]] = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: losses.append(float(logs["loss"])),
        on_epoch_end=lambda *_: norms.append(unfreeze.optimizer.gradient_norms()),
    )
    history = model.fit(
        spread(share_of(data, strategy), strategy),
        validation_data=spread(share_of(_batches(case), strategy), strategy),
        epochs=unfreeze.epochs,
        callbacks=[unfreeze, penalty, watch],
        shuffle=False,
        verbose=0,
    ).history
    logged = [key for key in history if key.endswith("accuracy") or key in ("loss", "val_loss")]
    return {
        "loss": losses,
        "gradient": [[row.get(group, 0.0) for group in sorted(norms[-1])] for row in norms],
        "metrics": [history[key] for key in sorted(logged)],
        "weights": [float(x) for weight in model.get_weights() for x in weight.ravel()],
    }


def _compiled(case: Case) -> tuple[Any, Any]:
    """Returns the network, compiled, and the penalty on its weights."""
    import keras

    from ftkeras.config.schema import OptimizerConfig
    from ftkeras.devices.replicas import replicated
    from ftkeras.phases import weights_of
    from ftkeras.runs.optimizer import make_optimizer
    from ftkeras.training.regularization import WeightPenalty
    from ftkeras.training.unweighted import Unweighted

    model = replicated(_network(case.heads))
    every = weights_of(model)
    section = OptimizerConfig(
        name=case.name, weight_decay=0.01, clip_norm=case.clip_norm, accumulate=case.accumulate
    )
    optimizer = make_optimizer(section, every, learning_rate=0.1)
    loss: Any = {head: keras.losses.CategoricalCrossentropy(from_logits=True) for head in "ab"}
    metrics: Any = {head: [Unweighted(keras.metrics.CategoricalAccuracy())] for head in "ab"}
    if case.heads == 1:
        loss, metrics = loss["a"], metrics["a"]
    model.compile(optimizer, loss, weighted_metrics=metrics, jit_compile=False)
    return model, WeightPenalty(every.all, l2=case.l2)


def _network(heads: int) -> Any:
    import keras

    layers = keras.layers
    x = inputs = keras.Input((8, 8, 3))
    # No bias: before batch norm its gradient is rounding alone, which Adam makes steps of.
    x = layers.Conv2D(4, 3, use_bias=False, name="first")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(6, 3, strides=2, name="second")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = {head: layers.Dense(3, name=f"logits_{head}")(x) for head in "ab"[:heads]}
    return keras.Model(inputs, logits if heads > 1 else logits["a"])


def _batches(case: Case, drop_remainder: bool = False) -> Any:
    import tensorflow as tf

    from ftkeras.data.share import untuned

    random = np.random.default_rng(0)
    inputs = random.normal(size=(_EXAMPLES, 8, 8, 3)).astype("float32")
    labels = random.integers(0, 3, (2, _EXAMPLES))
    hot = dict(zip("ab", np.eye(3, dtype="float32")[labels], strict=True))
    of_examples = random.uniform(0.2, 2.0, _EXAMPLES) * (np.arange(_EXAMPLES) % 5 > 0)
    own = {"classes": np.array([0.5, 1.0, 3.0])[labels[0]], "examples": of_examples}
    each = own.get(case.weights, np.ones(_EXAMPLES)).astype("float32")
    known = {head: each * (random.uniform(size=_EXAMPLES) < 0.7) for head in "ab"}
    arrays: Any = (inputs, hot["a"], each) if case.weights != "none" else (inputs, hot["a"])
    if case.heads > 1:
        arrays = (inputs, hot, known)
    data = tf.data.Dataset.from_tensor_slices(arrays)
    return untuned(data.batch(case.batch, drop_remainder=drop_remainder))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
