"""Image classification: one label an image, or any number of them.

The main path reads from top to bottom in `train`; the other verbs work on what it left behind.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from ftkeras.backbones import Backbone
from ftkeras.backbones.weights_file import read_model
from ftkeras.config.schema import Config, LossConfig
from ftkeras.data.cache import digest
from ftkeras.data.dataset import ImageData
from ftkeras.data.feed import Feed
from ftkeras.data.splits import write_bad_files, write_splits
from ftkeras.errors import Preempted, TrainingError, UserError, did_you_mean
from ftkeras.evaluation.bars import Bar, check_metrics, measured, require
from ftkeras.evaluation.measure import measure
from ftkeras.evaluation.predict import FilePrediction, predict_files
from ftkeras.evaluation.predictions import load_predictions
from ftkeras.evaluation.robustness import measure_robustness, sample
from ftkeras.export.classifier import Classifier
from ftkeras.export.formats import Sample, check_formats
from ftkeras.export.run import CALIBRATED_ON, MEASURED_ON, export_run, take
from ftkeras.phases import Phase, Plan, StagedUnfreezing, make_plan, weights_of
from ftkeras.phases.strategies import relative_gradients
from ftkeras.report.board import confusion_picture, training_batch, worst_mistakes
from ftkeras.report.chart import Curve, line_chart
from ftkeras.report.files import add_pictures, write_comparison, write_file, write_page
from ftkeras.report.pictures import lacks_pictures
from ftkeras.report.read import read_run
from ftkeras.report.summary import end_lines, start_lines
from ftkeras.training import build, fitting
from ftkeras.training.checkpoint import States
from ftkeras.training.failure import describe_failure
from ftkeras.training.fit import fit
from ftkeras.training.forecast import TrunkPlan, plan_trunk
from ftkeras.training.loggers import Loggers, check_installed
from ftkeras.training.lr_find import RangeTest, find_learning_rate
from ftkeras.training.regularization import WeightPenalty
from ftkeras.training.replicas import make_exact
from ftkeras.training.run import Run
from ftkeras.training.signals import Signals
from ftkeras.training.strategy import Devices, choose_devices, choose_jit, prepare
from ftkeras.training.workers import (
    agree_on_weights,
    peers_watched,
    taking_part,
    wait_for_all,
    worker_share,
)


@dataclasses.dataclass(frozen=True)
class Assembled:
    """Everything that a config names, built and bound together; nothing is written yet."""

    config: Config
    data: ImageData
    feed: Feed
    backbone: Backbone
    model: keras.Model
    penalty: WeightPenalty | None
    unfreeze: StagedUnfreezing
    phases: Sequence[Phase]
    plan: Plan
    trunk: TrunkPlan | None
    devices: Devices
    device: str
    notes: Sequence[str]

    def describe(self) -> str:
        """Returns what a person wants to read before training starts."""
        given = self.config.backbone
        backbone = (
            f"{given.name} ({given.weights}) at {self.feed.image_size} px, "
            f"{len(self.backbone.blocks)} blocks"
        )
        return start_lines(self.data, backbone, self.device, self.notes)


def train(
    config: Config | None, out: str, *, overwrite: bool = False, bars: Sequence[Bar] = ()
) -> Run:
    """Fine-tunes, evaluates and exports; returns the run.

    A run that is there and was interrupted, failed or killed goes on where it was; one that is
    finished is refused.

    Args:
        config: What to do; `ftkeras.load_config` reads one. None: the config of the run in `out`.
        out: The run's folder.
        overwrite: Replace a run that is there.
        bars: What the finished model must reach; a run that does not is kept all the same.

    Raises:
        UserError: The config, the data or the weights cannot work; nothing has been written.
        TrainingError: A frozen weight moved, the loss isn't a number, the export disagrees with the
            model, or the model is below a bar.
        KeyboardInterrupt: (after saving what was earned) Someone pressed Ctrl-C.
        Preempted: (after saving what was earned) SIGTERM came.

    Example:
        ```python
        run = ftkeras.train(ftkeras.load_config("configs/quickstart.yaml"), "runs/quickstart")
        print(run.read_json("evaluation.json")["accuracy"])
        ```
    """
    start = time.monotonic()
    run = Run(out)
    goes_on = run.goes_on(config, overwrite)
    config = config or run.config
    assembled = assemble(config)
    check_metrics(bars, assembled.data.class_names, assembled.data.multi_label)
    formats = export_formats(config)
    check_formats([name for name in formats if name != "saved_model"])
    devices = assembled.devices
    with taking_part(devices, run, goes_on) as run, run.locked(), Signals() as signals:
        if assembled.trunk is not None:
            assembled.trunk.agree(devices.strategy)
        _begin(assembled, run, overwrite)
        loggers = build.loggers(config, run, devices.is_chief)
        try:
            best_epoch, evaluation, exported = _work(assembled, run, signals, loggers, formats)
        except KeyboardInterrupt as stop:
            run.set_state("preempted" if isinstance(stop, Preempted) else "interrupted")
            raise
        except (UserError, TrainingError) as error:
            run.fail(str(error))
            raise
        except Exception as error:
            needed = max(phase.activation_bytes for phase in assembled.plan.phases)
            reason = describe_failure(error, run, assembled.feed, assembled.model, needed)
            run.fail(reason)
            raise TrainingError(reason) from error
        else:
            run.set_state("finished")
        finally:
            loggers.close(run.read_json("status.json")["state"])
        States(run).remove()
    if not devices.is_chief:
        return run
    reported = _report_or_say_why(assembled, run) if config.report else None
    seconds = time.monotonic() - start
    verdicts, records = assembled.unfreeze.verdicts, list(run.metrics())
    places = {"SavedModel": exported.get("saved_model"), "report": reported}
    trunk = run.read_json("plan.json")["trunk"]
    print(end_lines(out, records, evaluation, verdicts, best_epoch, places, seconds, trunk))
    require(bars, evaluation)
    return run


def assemble(config: Config) -> Assembled:
    """Loads the data, builds and compiles the model, and resolves the phases against both.

    Raises:
        UserError: Something the config names cannot work.
    """
    training = config.training
    check_installed(training.loggers)
    devices = choose_devices(training.strategy)
    precision = prepare(config.seed, training.precision, training.deterministic, devices.kind)
    jit = choose_jit(training.jit, devices, training.deterministic)
    device = devices.describe(config.data.batch_size, precision, jit)
    data = build.images(config)
    _check_names(config, data)
    with devices.strategy.scope():
        backbone = build.backbone(config)
        model = build.model(config, data, backbone)
        share = worker_share(devices.strategy)
        full = devices.kind == "tpu"
        feed = build.feed(config, data, int(model.input_shape[1]), share, full)
        weights = weights_of(model, backbone.blocks)
        loss = _loss(config.loss, data.multi_label)
        expansion = build.phases(
            config,
            weights,
            len(data.splits["train"]),
            lambda: relative_gradients(model, weights, feed.plain("train").take(8), loss),
        )
        phases, scaling = build.scaled(config, expansion.phases)
        penalty = build.penalty(config, weights, backbone, phases)
        optimizer = build.optimizer(config, weights, penalty)
        metrics = _metrics(data.multi_label)
        model.compile(optimizer, loss=loss, weighted_metrics=metrics, jit_compile=jit)
        make_exact(model)
    recalibrates = any(phase.batch_norm == "recalibrate" for phase in phases)
    unfreeze = StagedUnfreezing(
        model,
        phases,
        blocks=backbone.blocks,
        steps_per_epoch=feed.steps_per_epoch,
        recalibrate_on=feed.plain("train") if recalibrates else None,
        report=print,
    )
    plan = make_plan(
        model,
        weights,
        phases,
        steps_per_epoch=feed.steps_per_epoch,
        batch_size=config.data.batch_size,
    )
    needed = max(phase.activation_bytes for phase in plan.phases)
    tight = fitting.warn(model, config.data.batch_size, needed)
    notes = (*data.notes, *expansion.reasons, *scaling, *filter(None, [tight]))
    options = build.trunk(config)
    trunk = None
    if options is not None:
        trunk = plan_trunk(model, feed, unfreeze, options)
    return Assembled(
        config,
        data,
        feed,
        backbone,
        model,
        penalty,
        unfreeze,
        expansion.phases,
        plan,
        trunk,
        devices,
        device,
        notes,
    )


def lr_find(config: Config, out: str, *, low: float, high: float, steps: int) -> RangeTest:
    """Runs the learning-rate range test on the first phase and writes a plot of it.

    Args:
        config: The config whose first phase is tried.
        out: The SVG file to write.
        low: The first rate.
        high: The last rate.
        steps: How many steps at most.

    Raises:
        UserError: The config cannot work, or `out` cannot be written.
    """
    assembled = assemble(config)
    assembled.unfreeze.set_model(assembled.model)
    assembled.unfreeze.enter(0)
    found = find_learning_rate(
        assembled.model, assembled.feed.train(), low=low, high=high, steps=steps
    )
    title = f"Learning-rate range test, phase {assembled.phases[0].name}"
    chart = line_chart(
        [Curve("loss", found.rates, found.losses)],
        title=title,
        x_label="learning rate",
        y_label="training loss, smoothed",
        log_x=True,
        mark=found.suggestion,
        standalone=True,
    )
    write_file(out, chart)
    return found


def evaluate(run: Run, split: str = "test") -> dict[str, Any]:
    """Measures a run's model on one of its splits and returns the metrics.

    The model's answers are kept in `predictions/`. The split that training ended with is measured
    anew in `evaluation.json`, too.

    Raises:
        UserError: The run has no such split, or its data are gone.
    """
    config = run.config
    prepare(config.seed, config.training.precision, config.training.deterministic)
    model, data = load_model(run), _with_split(build.images(config), split)
    evaluation = measure(model, build.feed(config, data, int(model.input_shape[1])), run, split)
    if split == _final_split(data):
        run.write_json("evaluation.json", evaluation)
    return evaluation


def robustness(run: Run, examples: int | None, split: str = "test") -> dict[str, Any]:
    """Measures a run's model on corrupted and shifted images; writes `robustness.json`.

    Args:
        run: The run.
        examples: How many images, drawn under the run's seed; None is all of the split.
        split: Whose images.

    Raises:
        UserError: The run has no such split, its images are too small, or the extra is missing.
    """
    config = run.config
    prepare(config.seed, config.training.precision, config.training.deterministic)
    model, data = load_model(run), _with_split(build.images(config), split)
    measured = measure_robustness(
        model,
        sample(data.splits[split], examples, config.seed),
        resize=config.data.resize,
        batch_size=config.data.batch_size,
        seed=config.seed,
    )
    run.write_json("robustness.json", {"split": split, **measured})
    return measured


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
        temperature=temperature_of(run),
        batch_size=config.data.batch_size,
    )


def export(
    run: Run, directory: str | None = None, formats: Sequence[str] = ("saved_model",)
) -> dict[str, str]:
    """Writes a run's model, proves each format equal to it, and returns where each is.

    Args:
        run: The run.
        directory: Where the SavedModel's versions go, and a folder for each other format; left
            out, `export/` in the run.
        formats: saved_model, litert, onnx, openvino.

    Raises:
        UserError: A format's packages are missing, or the directory cannot be written.
        TrainingError: A format answers differently; it is not written.
    """
    facts, evaluation = run.read_json("data.json"), run.read_json("evaluation.json")
    resize, seed = run.config.data.resize, run.config.seed
    classifier = Classifier(
        load_model(run),
        facts["class_names"],
        resize=resize,
        multi_label=facts["multi_label"],
        temperature=temperature_of(run),
        thresholds=evaluation.get("thresholds"),
    )

    def samples() -> tuple[Sample, Sample]:
        data = build.images(run.config)
        shape = {"image_size": facts["image_size"], "resize": resize}
        return (
            take(data.splits["train"], CALIBRATED_ON, seed=seed, **shape),
            take(data.splits[_final_split(data)], MEASURED_ON, seed=seed, **shape),
        )

    return export_run(run, classifier, directory or run.path("export"), formats, samples)


def export_formats(config: Config) -> list[str]:
    """Returns what a run of this config writes when it ends."""
    return [*(["saved_model"] if config.export.saved_model else []), *config.export.formats]


def write_report(runs: Sequence[Run], out: str | None = None) -> str:
    """Writes the page of a run, or of several side by side, and returns where it is.

    The page of one run shows images; they are made when they are first needed, which takes the
    run's model and data.

    Args:
        runs: One run or more.
        out: The HTML file to write; left out, `report.html` in the run's folder, or for several
            runs in the current one.

    Raises:
        UserError: The file cannot be written.
    """
    if len(runs) > 1:
        return write_comparison(runs, out)
    [run] = runs
    if lacks_pictures(read_run(run.folder)):
        try:
            add_pictures(run, load_model(run), build.images(run.config).splits)
        except UserError as error:
            print(f"note      the report has no pictures: {error}")
    return write_page(run, out)


def load_model(run: Run) -> keras.Model:
    """Returns a run's best model: raw float32 RGB images (n, size, size, 3) to logits."""
    path = run.path("model.keras")
    if not tf.io.gfile.exists(path):
        raise UserError(f"{run.folder}: the run has no model.keras; did it finish?")
    return read_model(path, run.folder)


def temperature_of(run: Run) -> float:
    """Returns what a run's logits are divided by where its model is used."""
    return float(run.read_json("evaluation.json").get("temperature", 1.0))


# ---------------------------------------------------------------------------- the stages


def _begin(assembled: Assembled, run: Run, overwrite: bool) -> None:
    """Makes the run's folder, or sees that a run that goes on has the data that it began with."""
    # Asked again: another process may have finished the run since.
    if run.goes_on(assembled.config, overwrite):
        _check_same_data(assembled.data, run)
        run.set_state("running")
    else:
        Run.create(run.folder, assembled.config, overwrite)
    print(assembled.describe())
    _write_facts(assembled, run)


def _work(
    assembled: Assembled, run: Run, signals: Signals, loggers: Loggers, formats: Sequence[str]
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Does all of a run; returns the best epoch, the evaluation, and where the exports are."""
    with peers_watched(assembled.devices):
        best_epoch = _fit(assembled, run, signals, loggers)
        agree_on_weights(assembled.model)
        evaluation: dict[str, Any] = {}
        exported: dict[str, str] = {}
        if assembled.devices.is_chief:
            evaluation = _evaluate_best(assembled, run)
            _log_result(assembled, run, loggers, evaluation)
            exported = _export_anew(run, formats)
        wait_for_all(assembled.devices.strategy)
    return best_epoch, evaluation, exported


def _fit(assembled: Assembled, run: Run, signals: Signals, loggers: Loggers) -> int:
    """Trains through all phases; returns the best epoch, whose weights the model has then."""
    config = assembled.config
    callbacks = [loggers, build.early_stopping(config), assembled.penalty]
    loggers.image("train/first_batch", lambda: training_batch(assembled.feed))
    checkpoints = fit(
        assembled.model,
        assembled.feed,
        unfreeze=assembled.unfreeze,
        run=run,
        monitor=config.training.monitor or _default_monitor(assembled.data),
        average=build.average(config, assembled.model),
        trunk=assembled.trunk,
        saving=build.saving(config),
        trouble=build.trouble(config),
        signals=signals,
        callbacks=[callback for callback in callbacks if callback is not None],
    )
    best = checkpoints.best_epoch or 0
    verdicts = {name: dataclasses.asdict(v) for name, v in assembled.unfreeze.verdicts.items()}
    trunk = assembled.trunk.as_json(list(run.metrics())) if assembled.trunk else []
    outcome = {"trunk": trunk, "audit": verdicts, "best_epoch": best}
    run.write_json("plan.json", {**assembled.plan.as_json(), **outcome})
    checkpoints.load_best(assembled.model)
    return best


def _evaluate_best(assembled: Assembled, run: Run) -> dict[str, Any]:
    # A model that was never compiled: the optimizer's state belongs to the checkpoints.
    model = assembled.model
    bare = keras.Model(model.inputs, model.outputs, name=model.name)
    bare.save(run.path("model-new.keras"))
    tf.io.gfile.rename(run.path("model-new.keras"), run.path("model.keras"), overwrite=True)
    evaluation = measure(model, assembled.feed, run, _final_split(assembled.data))
    run.write_json("evaluation.json", evaluation)
    return evaluation


def _log_result(
    assembled: Assembled, run: Run, loggers: Loggers, evaluation: dict[str, Any]
) -> None:
    split, data = evaluation["split"], assembled.data
    values = {name: v for name, v in measured(evaluation).items() if v is not None}
    loggers.result({f"{split}/{name}": v for name, v in values.items() if "." not in name})
    if matrix := evaluation.get("confusion_matrix"):
        loggers.image(
            f"{split}/confusion_matrix", lambda: confusion_picture(matrix, data.class_names)
        )
    loggers.image(
        f"{split}/mistakes",
        lambda: worst_mistakes(assembled.feed, split, load_predictions(run, split)),
    )


def _with_split(data: ImageData, split: str) -> ImageData:
    """Returns the data if they have the split; else says which ones there are."""
    if split not in data.splits:
        raise UserError(f"--split {split}: the data have only {', '.join(data.splits)}.")
    return data


def _final_split(data: ImageData) -> str:
    """The split that says how good a run's model is."""
    return next(split for split in ("test", "val", "train") if split in data.splits)


def _write_facts(assembled: Assembled, run: Run) -> None:
    data = assembled.data
    facts = {
        "class_names": list(data.class_names),
        "multi_label": data.multi_label,
        "image_size": assembled.feed.image_size,
        "examples": {name: len(split) for name, split in data.splits.items()},
        "notes": list(data.notes),
        "digest": _digest(data),
    }
    run.write_json("data.json", facts)
    trunk = assembled.trunk.as_json() if assembled.trunk else []
    run.write_json("plan.json", {**assembled.plan.as_json(), "trunk": trunk})
    write_splits(data, run.path("splits.csv"))
    write_bad_files(data.bad_files, run.path("bad_files.csv"))


def _check_same_data(data: ImageData, run: Run) -> None:
    """Refuses to go on with other examples: their order would be another one, too."""
    if not tf.io.gfile.exists(run.path("data.json")):
        return  # killed before anything was trained
    before, now = run.read_json("data.json"), {n: len(split) for n, split in data.splits.items()}
    if before["digest"] != _digest(data):
        raise UserError(
            f"--out {run.folder}: the run began with other examples ({before['examples']}, now "
            f"{now}). Put them back, or start anew with --overwrite."
        )


def _digest(data: ImageData) -> str:
    """Follows from the examples' ids and labels."""
    parts = [(name, list(split.ids), split.labels.tobytes()) for name, split in data.splits.items()]
    return digest(data.class_names, *(part for row in parts for part in row))


def _export_anew(run: Run, formats: Sequence[str]) -> dict[str, str]:
    """Exports as if for the first time: a run that goes on may have been killed after it did."""
    if tf.io.gfile.exists(run.path("export")):
        tf.io.gfile.rmtree(run.path("export"))
    return export(run, formats=formats) if formats else {}


def _report_or_say_why(assembled: Assembled, run: Run) -> str | None:
    """Writes a run's page; a run that is whole is not lost where that fails."""
    try:
        add_pictures(run, assembled.model, assembled.data.splits)
        return write_page(run)
    except Exception as error:
        again = f"`ftkeras report {run.folder}` tries again"
        print(f"warning: there is no report: {type(error).__name__}: {error}; {again}")
        return None


# -------------------------------------------------------------------- losses and metrics


def _loss(loss: LossConfig, multi_label: bool) -> keras.losses.Loss:
    shared = {"from_logits": True, "label_smoothing": loss.label_smoothing}
    if loss.name == "focal" and multi_label:
        return keras.losses.BinaryFocalCrossentropy(gamma=loss.gamma, **shared)
    if loss.name == "focal":
        # alpha=1: weighing the classes is the business of data.balance.
        return keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=loss.gamma, **shared)
    if loss.name == "binary_cross_entropy" or (loss.name == "auto" and multi_label):
        return keras.losses.BinaryCrossentropy(**shared)
    return keras.losses.CategoricalCrossentropy(**shared)


def _metrics(multi_label: bool) -> list[keras.metrics.Metric]:
    if multi_label:
        return [
            # Of single labels; `evaluation.json` has it by the same name.
            keras.metrics.BinaryAccuracy(threshold=0.0, name="label_accuracy"),
            keras.metrics.AUC(multi_label=True, from_logits=True, name="auc"),
        ]
    return [keras.metrics.CategoricalAccuracy(name="accuracy")]


def _default_monitor(data: ImageData) -> str:
    return ("val_" if "val" in data.splits else "") + ("loss" if data.multi_label else "accuracy")


def _check_names(config: Config, data: ImageData) -> None:
    """Refuses, before training, a loss for the other kind of labels or a metric nobody logs."""
    if config.loss.name == "cross_entropy" and data.multi_label:
        raise UserError(
            "loss.name: cross_entropy is for one label an image, but these data have several. "
            "Use binary_cross_entropy, focal or auto."
        )
    names = ["loss", *(metric.name for metric in _metrics(data.multi_label))]
    if "val" in data.splits:
        names += [f"val_{name}" for name in names]
    asked = {"training.monitor": config.training.monitor}
    if config.training.early_stopping is not None:
        asked["training.early_stopping.metric"] = config.training.early_stopping.metric
    for number, phase in enumerate(config.phases if isinstance(config.phases, list) else []):
        if phase.until is not None:
            asked[f"phases[{number}].until.metric"] = phase.until.metric
    for field, name in asked.items():
        if name is not None and name not in names:
            raise UserError(
                f"{field}: no metric {name!r} is logged.{did_you_mean(name, names)} "
                f"Logged: {', '.join(names)}."
            )
