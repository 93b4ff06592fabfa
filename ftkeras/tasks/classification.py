"""Image classification: one label an image, or any number of them.

The main path reads from top to bottom in `train`; the other verbs work on what it left behind.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.backbones import Backbone, load_backbone
from ftkeras.config.schema import Config, DataSection, LossConfig
from ftkeras.console import duration, table
from ftkeras.data.augment import Augment
from ftkeras.data.augment_layers import layers_augment
from ftkeras.data.dataset import ImageData, Split
from ftkeras.data.load import load_data
from ftkeras.data.pipeline import batches
from ftkeras.data.splits import write_bad_files, write_splits
from ftkeras.errors import UserError, did_you_mean
from ftkeras.evaluation.metrics import evaluate_predictions
from ftkeras.evaluation.predict import FilePrediction, predict_files, predict_logits
from ftkeras.export.certificate import golden_images
from ftkeras.export.saved_model import export_saved_model
from ftkeras.model.assemble import build_model
from ftkeras.model.head import Hidden, frequency_bias
from ftkeras.phases import Phase, Plan, StagedUnfreezing, make_plan, weights_of
from ftkeras.phases.selectors import Weights
from ftkeras.training.checkpoint import load_weights
from ftkeras.training.fit import early_stopping, fit
from ftkeras.training.optimizer import make_optimizer
from ftkeras.training.run import Run
from ftkeras.training.strategy import choose_strategy, prepare


@dataclasses.dataclass(frozen=True)
class Assembled:
    """Everything that a config names, built and bound together; nothing is written yet."""

    config: Config
    data: ImageData
    image_size: int
    augment: Augment | None
    backbone: Backbone
    model: keras.Model
    weights: Weights
    phases: tuple[Phase, ...]
    plan: Plan
    strategy: tf.distribute.Strategy
    device: str


def train(config: Config, out: str, *, overwrite: bool = False) -> Run:
    """Fine-tunes, evaluates and exports; returns the run.

    Args:
        config: What to do; `ftkeras.load_config` reads one.
        out: The run's folder, which must not hold a run yet.
        overwrite: Replace a run that is there.

    Raises:
        UserError: The config, the data or the weights cannot work; nothing has been written.
        TrainingError: A frozen weight moved, or the export disagrees with the model.
        KeyboardInterrupt: (after saving what was earned) Someone pressed Ctrl-C.

    Example:
        ```python
        run = ftkeras.train(ftkeras.load_config("configs/quickstart.yaml"), "runs/quickstart")
        print(run.read_json("evaluation.json")["accuracy"])
        ```
    """
    Run(out).check(overwrite)
    assembled = assemble(config)
    run = Run.create(out, config, overwrite)
    try:
        _train(assembled, run)
    except KeyboardInterrupt:
        run.set_state("interrupted")
        raise
    except BaseException as error:
        run.set_state("failed", error=f"{type(error).__name__}: {error}")
        raise
    run.set_state("finished")
    return run


def assemble(config: Config) -> Assembled:
    """Loads the data, builds the model, and resolves the phases against both.

    Raises:
        UserError: Something the config names cannot work.
    """
    training = config.training
    prepare(config.seed, training.precision, training.deterministic)
    strategy, device = choose_strategy()
    source = config.data.model_dump(exclude=set(DataSection.model_fields))
    data = load_data(**source, seed=config.seed, max_bad_files=config.data.max_bad_files)
    with strategy.scope():
        backbone = load_backbone(
            config.backbone.name,
            weights=config.backbone.weights,
            image_size=config.data.image_size,
            cut=config.backbone.cut,
        )
        model = _build_model(config, data, backbone)
    weights = weights_of(model, backbone.blocks)
    phases = tuple(Phase(**phase.model_dump()) for phase in config.phases)
    steps = -(-len(data.splits["train"].ids) // config.data.batch_size)
    plan = make_plan(weights, phases, steps)
    size = int(model.input_shape[1])
    augment = _augment_layers(config, size)
    assembled = Assembled(
        config, data, size, augment, backbone, model, weights, phases, plan, strategy, device
    )
    _check_metrics(assembled)
    return assembled


def evaluate(run: Run, split: str = "test") -> dict[str, Any]:
    """Measures a run's model on one of its splits and returns the metrics.

    Raises:
        UserError: The run has no such split, or its data are gone.
    """
    config, facts = run.config, run.read_json("data.json")
    prepare(config.seed, config.training.precision, config.training.deterministic)
    source = config.data.model_dump(exclude=set(DataSection.model_fields))
    data = load_data(**source, seed=config.seed, max_bad_files=config.data.max_bad_files)
    if split not in data.splits:
        raise UserError(f"--split {split}: the data have only {', '.join(data.splits)}.")
    return _measure(load_model(run), data, split, config, facts["image_size"])


def predict(run: Run, files: Sequence[str], top_k: int = 5) -> Iterator[FilePrediction]:
    """Yields each image file's most likely classes, or what is wrong with it."""
    config, facts = run.config, run.read_json("data.json")
    yield from predict_files(
        load_model(run),
        files,
        image_size=facts["image_size"],
        resize=config.data.resize,
        class_names=facts["class_names"],
        top_k=min(top_k, len(facts["class_names"])),
        multi_label=facts["multi_label"],
        batch_size=config.data.batch_size,
    )


def export(run: Run, directory: str | None = None) -> str:
    """Writes a run's model as a SavedModel, proves it equal, and returns its path."""
    facts = run.read_json("data.json")
    return export_saved_model(
        load_model(run),
        directory or run.path("export"),
        class_names=facts["class_names"],
        image_size=facts["image_size"],
        resize=run.config.data.resize,
        multi_label=facts["multi_label"],
        golden=golden_images(),
    )


def load_model(run: Run) -> keras.Model:
    """Returns a run's best model: raw float32 RGB images (n, size, size, 3) to logits."""
    path = run.path("model.keras")
    if not tf.io.gfile.exists(path):
        raise UserError(f"{run.folder}: the run has no model.keras; did it finish?")
    return keras.models.load_model(path, compile=False, safe_mode=True)


# ---------------------------------------------------------------------------- the stages


def _train(assembled: Assembled, run: Run) -> None:
    data, config = assembled.data, assembled.config
    _write_facts(assembled, run)
    print(describe(assembled))
    start = time.monotonic()
    unfreeze = _compile(assembled)
    epoch = tf.Variable(0, dtype=tf.int64)
    callbacks = []
    if config.training.early_stopping is not None:
        callbacks.append(early_stopping(**config.training.early_stopping.model_dump()))
    checkpoints = fit(
        assembled.model,
        _batches(data.splits["train"], assembled, training=True, epoch=epoch),
        _batches(data.splits["val"], assembled) if "val" in data.splits else None,
        unfreeze=unfreeze,
        run=run,
        monitor=_monitor(assembled),
        epoch=epoch,
        callbacks=callbacks,
    )
    verdicts = {name: dataclasses.asdict(v) for name, v in unfreeze.verdicts.items()}
    run.write_json("plan.json", {**assembled.plan.as_json(), "audit": verdicts})
    load_weights(assembled.model, run, "best")
    _save_model(assembled.model, run)
    split = "test" if "test" in data.splits else "val" if "val" in data.splits else "train"
    results = _measure(assembled.model, data, split, config, assembled.image_size)
    run.write_json("evaluation.json", {"split": split, **results})
    exported = export(run) if config.export.saved_model else None
    _conclude(run, results, split, exported, checkpoints.best_epoch, time.monotonic() - start)


def _build_model(config: Config, data: ImageData, backbone: Backbone) -> keras.Model:
    head = config.head.model_dump(exclude={"hidden", "bias_from_frequencies"})
    labels = data.splits["train"].labels
    classes = len(data.class_names)
    if config.head.bias_from_frequencies:
        head["bias"] = frequency_bias(labels, classes, data.multi_label)
    hidden = [Hidden(**layer.model_dump()) for layer in config.head.hidden]
    return build_model(backbone, classes, hidden=hidden, seed=config.seed, **head)


def _compile(assembled: Assembled) -> StagedUnfreezing:
    config, data = assembled.config, assembled.data
    with assembled.strategy.scope():
        optimizer = make_optimizer(
            assembled.config.optimizer.name,
            assembled.weights,
            learning_rate=assembled.phases[0].learning_rate,
            **config.optimizer.model_dump(exclude={"name"}),
        )
        assembled.model.compile(
            optimizer,
            loss=_loss(config.loss, data.multi_label),
            weighted_metrics=_metrics(data.multi_label),
        )
    return StagedUnfreezing(
        assembled.model, assembled.phases, blocks=assembled.backbone.blocks, report=print
    )


def _loss(loss: LossConfig, multi_label: bool) -> keras.losses.Loss:
    shared = {"from_logits": True, "label_smoothing": loss.label_smoothing}
    if loss.name == "focal" and multi_label:
        return keras.losses.BinaryFocalCrossentropy(gamma=loss.gamma, **shared)
    if loss.name == "focal":
        # alpha=1: the class weights of the original are the business of data.balance here.
        return keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=loss.gamma, **shared)
    if loss.name == "binary_cross_entropy" or (loss.name == "auto" and multi_label):
        return keras.losses.BinaryCrossentropy(**shared)
    return keras.losses.CategoricalCrossentropy(**shared)


def _metrics(multi_label: bool) -> list[keras.metrics.Metric]:
    if multi_label:
        return [
            keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy"),
            keras.metrics.AUC(multi_label=True, from_logits=True, name="auc"),
        ]
    return [keras.metrics.CategoricalAccuracy(name="accuracy")]


def _monitor(assembled: Assembled) -> str:
    default = "loss" if assembled.data.multi_label else "accuracy"
    prefix = "val_" if "val" in assembled.data.splits else ""
    return assembled.config.training.monitor or prefix + default


def _check_metrics(assembled: Assembled) -> None:
    """Refuses, before training, a loss for the other kind of labels or a metric nobody logs."""
    multi_label = assembled.data.multi_label
    if assembled.config.loss.name == "cross_entropy" and multi_label:
        raise UserError(
            "loss.name: cross_entropy is for one label an image, but these data have several. "
            "Use binary_cross_entropy, focal or auto."
        )
    names = ["loss", *(metric.name for metric in _metrics(multi_label))]
    if "val" in assembled.data.splits:
        names += [f"val_{name}" for name in names]
    stopping = assembled.config.training.early_stopping
    asked = {"training.monitor": assembled.config.training.monitor}
    if stopping is not None:
        asked["training.early_stopping.metric"] = stopping.metric
    for field, name in asked.items():
        if name is not None and name not in names:
            raise UserError(
                f"{field}: no metric {name!r} is logged.{did_you_mean(name, names)} "
                f"Logged: {', '.join(names)}."
            )


def _batches(
    split: Split, assembled: Assembled, training: bool = False, epoch: tf.Variable | None = None
) -> tf.data.Dataset:
    data = assembled.config.data
    options: dict[str, Any] = {}
    if training:
        if isinstance(data.augmentation, str):
            options["strength"] = data.augmentation
        options |= {
            "training": True,
            "seed": assembled.config.seed,
            "epoch": epoch,
            "layers": assembled.augment,
            "mixup": data.mix.mixup,
            "cutmix": data.mix.cutmix,
            "balance": data.balance,
        }
    return batches(
        split,
        image_size=assembled.image_size,
        batch_size=data.batch_size,
        resize=data.resize,
        cache=data.cache,
        **options,
    )


def _augment_layers(config: Config, image_size: int) -> Augment | None:
    if isinstance(config.data.augmentation, str):
        return None
    listed = [(layer.name, layer.args) for layer in config.data.augmentation]
    return layers_augment(listed, image_size)


def _measure(
    model: keras.Model, data: ImageData, split: str, config: Config, image_size: int
) -> dict[str, Any]:
    images = batches(
        data.splits[split],
        image_size=image_size,
        batch_size=config.data.batch_size,
        resize=config.data.resize,
    )
    logits, labels = predict_logits(model, images, f"evaluate {split}")
    if not data.multi_label:
        labels = np.argmax(labels, axis=-1)
    return evaluate_predictions(labels, logits, data.class_names, data.multi_label)


def _save_model(model: keras.Model, run: Run) -> None:
    # A model that was never compiled: the optimizer's state belongs to the checkpoints.
    bare = keras.Model(model.inputs, model.outputs, name=model.name)
    temporary = run.path("model-new.keras")
    bare.save(temporary)
    tf.io.gfile.rename(temporary, run.path("model.keras"), overwrite=True)


# ------------------------------------------------------------------------------- reports


def describe(assembled: Assembled) -> str:
    """Returns what a person wants to read before training starts."""
    data, config = assembled.data, assembled.config
    parts = ", ".join(f"{len(split.ids)} {name}" for name, split in data.splits.items())
    lines = [
        f"data      {data.source}: {parts}; {len(data.class_names)} classes",
        f"backbone  {config.backbone.name} ({config.backbone.weights}) at {assembled.image_size} px, "
        f"{len(assembled.backbone.blocks)} blocks",
        f"device    {assembled.device}",
        *(f"note      {note}" for note in data.notes),
    ]
    return "\n".join(lines)


def _write_facts(assembled: Assembled, run: Run) -> None:
    data = assembled.data
    run.write_json("plan.json", assembled.plan.as_json())
    facts = {
        "class_names": list(data.class_names),
        "multi_label": data.multi_label,
        "image_size": assembled.image_size,
        "examples": {name: len(split.ids) for name, split in data.splits.items()},
        "notes": list(data.notes),
    }
    run.write_json("data.json", facts)
    write_splits(data, run.path("splits.csv"))
    write_bad_files(data.bad_files, run.path("bad_files.csv"))


def _conclude(
    run: Run,
    results: dict[str, Any],
    split: str,
    exported: str | None,
    best_epoch: int | None,
    seconds: float,
) -> None:
    phases: dict[str, list[dict[str, Any]]] = {}
    for record in run.metrics():
        phases.setdefault(record["phase"], []).append(record)
    key = "val_accuracy" if any("val_accuracy" in r for r in phases[next(iter(phases))]) else "accuracy"
    rows = [
        (name, len(records), f"{records[-1][key]:.4f}", duration(sum(r["seconds"] for r in records)))
        for name, records in phases.items()
    ]
    print()
    print(table(rows, ("phase", "epochs", key.replace("_", " "), "time")))
    print(f"\n{split} accuracy {results['accuracy']:.4f}, macro-F1 {results['macro_f1']:.4f} ", end="")
    print(f"(weights of epoch {(best_epoch or 0) + 1}); {duration(seconds)} in all\n")
    print(f"model       {run.path('model.keras')}")
    if exported:
        print(f"SavedModel  {exported}")
    print(f"record      {run.folder} (config.yaml, plan.json, metrics.jsonl, evaluation.json, logs/)")
    print(f"\nNext: ftkeras predict {run.folder} IMAGE...    ftkeras evaluate {run.folder}")
