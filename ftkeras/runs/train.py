"""The main path of a run; it reads from top to bottom in `train`."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from ftkeras.config.schema import Config
from ftkeras.data.cache import digest
from ftkeras.data.dataset import ImageData
from ftkeras.data.splits import write_bad_files, write_splits
from ftkeras.errors import Preempted, TrainingError, UserError
from ftkeras.evaluation.bars import Bar, require, whole
from ftkeras.evaluation.predictions import load_predictions
from ftkeras.export.formats import check_formats
from ftkeras.report.board import confusion_picture, training_batch, worst_mistakes
from ftkeras.report.files import add_pictures
from ftkeras.report.summary import end_lines
from ftkeras.runs.assemble import Assembled, assemble
from ftkeras.runs.finished import export, final_split, write_page
from ftkeras.runs.task import Task
from ftkeras.training import build
from ftkeras.training.checkpoint import States
from ftkeras.training.failure import describe_failure
from ftkeras.training.fit import fit
from ftkeras.training.loggers import Loggers
from ftkeras.training.run import Run
from ftkeras.training.signals import Signals
from ftkeras.training.workers import agree_on_weights, peers_watched, taking_part, wait_for_all


def train(
    config: Config,
    task: Task,
    out: str,
    *,
    goes_on: bool = False,
    overwrite: bool = False,
    bars: Sequence[Bar] = (),
) -> Run:
    """Fine-tunes, evaluates and exports; returns the run. See `ftkeras.tasks.train`.

    Args:
        config: What to do.
        task: What it is about.
        out: The run's folder.
        goes_on: Whether a run is there that goes on; see `Run.goes_on`.
        overwrite: Replace a run that is there.
        bars: What the finished model must reach.
    """
    start = time.monotonic()
    run = Run(out)
    assembled = assemble(config, task)
    task.check_bars(bars, _facts(assembled))
    formats = export_formats(config)
    check_formats([name for name in formats if name != "saved_model"])
    devices = assembled.devices
    with (
        taking_part(devices, run, goes_on) as run,
        run.locked(),
        Signals() as signals,
        _stop_reported(run, out, devices.is_chief),
    ):
        if assembled.trunk is not None:
            with peers_watched(devices):
                assembled.trunk.agree(devices.strategy)
        _begin(assembled, run, overwrite)
        loggers = build.loggers(config, run, devices.is_chief)
        try:
            with signals.stop_over_errors():
                model, evaluation, exported = _work(assembled, run, signals, loggers, formats)
        except KeyboardInterrupt as stop:
            _set_stopped(run, stop)
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
        reported = _report_or_say_why(assembled, model, run) if config.report else None
    seconds = time.monotonic() - start
    verdicts, records = assembled.unfreeze.verdicts, list(run.metrics())
    places = {"SavedModel": exported.get("saved_model"), "report": reported}
    done, result = run.read_json("plan.json"), task.headline(evaluation)
    trunk, best_epoch = done["trunk"], done.get("best_epoch")
    print(end_lines(out, records, result, verdicts, best_epoch, places, seconds, trunk))
    require(bars, evaluation)
    return run


@contextlib.contextmanager
def _stop_reported(run: Run, out: str, is_chief: bool) -> Iterator[None]:
    """If a signal stops the run, says how it stands and which command is the next."""
    try:
        yield
    except KeyboardInterrupt as stop:
        folder = shlex.quote(out)
        if run.state() == "finished":
            line = f"the run is finished; ftkeras report {folder} writes its page"
        elif tf.io.gfile.exists(run.path("config.yaml")):
            _set_stopped(run, stop)
            line = f"ftkeras train --out={folder} resumes from here"
        else:
            line = "before the run began"
        if is_chief:
            print(f"\nstopped   {line}")
        raise


def _set_stopped(run: Run, stop: KeyboardInterrupt) -> None:
    run.set_state("preempted" if isinstance(stop, Preempted) else "interrupted")


def export_formats(config: Config) -> list[str]:
    """Returns what a run of this config writes when it ends."""
    return [*(["saved_model"] if config.export.saved_model else []), *config.export.formats]


def _begin(assembled: Assembled, run: Run, overwrite: bool) -> None:
    """Makes the run's folder, or sees that a run that goes on has the data that it began with."""
    # Asked again: another process may have finished the run since.
    if run.goes_on(assembled.config, overwrite):
        _check_same_data(assembled.data, run)
        run.begin()
    else:
        Run.create(run.folder, assembled.config, overwrite)
    print(assembled.describe())
    _write_facts(assembled, run)


def _work(
    assembled: Assembled, run: Run, signals: Signals, loggers: Loggers, formats: Sequence[str]
) -> tuple[keras.Model, dict[str, Any], dict[str, str]]:
    """Does all of a run; returns its model, the evaluation, and where the exports are."""
    with peers_watched(assembled.devices):
        if assembled.task.trains(assembled.config):
            _fit(assembled, run, signals, loggers)
        else:
            run.write_text("metrics.jsonl", "")
        model = assembled.task.finish(assembled, run)
        agree_on_weights(model)
        evaluation: dict[str, Any] = {}
        exported: dict[str, str] = {}
        if assembled.devices.is_chief:
            evaluation = _evaluate_best(assembled, model, run)
            _log_result(assembled, run, loggers, evaluation)
            exported = _export_anew(run, assembled.task, formats)
        wait_for_all(assembled.devices.strategy)
    return model, evaluation, exported


def _fit(assembled: Assembled, run: Run, signals: Signals, loggers: Loggers) -> None:
    """Trains through all phases; the model has the weights of the best epoch then."""
    config = assembled.config
    task = assembled.task
    callbacks = [loggers, build.early_stopping(config), assembled.penalty, *assembled.callbacks]
    loggers.image("train/first_batch", lambda: training_batch(assembled.feed))
    checkpoints = fit(
        assembled.model,
        assembled.feed,
        unfreeze=assembled.unfreeze,
        run=run,
        monitor=config.training.monitor or task.monitor(config, assembled.data),
        average=build.average(config, assembled.model),
        trunk=assembled.trunk,
        saving=build.saving(config),
        trouble=build.trouble(config),
        signals=signals,
        callbacks=[callback for callback in callbacks if callback is not None],
    )
    verdicts = {name: dataclasses.asdict(v) for name, v in assembled.unfreeze.verdicts.items()}
    trunk = assembled.trunk.as_json(list(run.metrics())) if assembled.trunk else []
    outcome = {"trunk": trunk, "audit": verdicts, "best_epoch": checkpoints.best_epoch or 0}
    run.write_json("plan.json", {**assembled.plan.as_json(), **outcome})
    checkpoints.load_best(assembled.model)


def _evaluate_best(assembled: Assembled, trained: keras.Model, run: Run) -> dict[str, Any]:
    model = assembled.task.final(trained)
    model.save(run.path("model-new.keras"))
    tf.io.gfile.rename(run.path("model-new.keras"), run.path("model.keras"), overwrite=True)
    evaluation = assembled.task.measure(model, assembled.feed, run, final_split(assembled.data))
    run.write_json("evaluation.json", evaluation)
    return evaluation


def _log_result(
    assembled: Assembled, run: Run, loggers: Loggers, evaluation: dict[str, Any]
) -> None:
    split, data = evaluation["split"], assembled.data
    loggers.result({f"{split}/{name}": v for name, v in whole(evaluation).items()})
    if matrix := evaluation.get("confusion_matrix"):
        loggers.image(
            f"{split}/confusion_matrix", lambda: confusion_picture(matrix, data.class_names)
        )
    if not data.heads:
        loggers.image(
            f"{split}/mistakes",
            lambda: worst_mistakes(assembled.feed, split, load_predictions(run, split)),
        )


def _facts(assembled: Assembled) -> dict[str, Any]:
    """Returns what `data.json` holds."""
    data = assembled.data
    return {
        "class_names": list(data.class_names),
        "multi_label": data.multi_label,
        "image_size": assembled.feed.image_size,
        "examples": {name: len(split) for name, split in data.splits.items()},
        "notes": list(data.notes),
        "digest": _digest(data),
        **({"heads": [dataclasses.asdict(head) for head in data.heads]} if data.heads else {}),
    }


def _write_facts(assembled: Assembled, run: Run) -> None:
    data = assembled.data
    run.write_json("data.json", _facts(assembled))
    plan = assembled.plan.as_json()
    if not assembled.task.trains(assembled.config):
        plan["phases"] = []
    trunk = assembled.trunk.as_json() if assembled.trunk else []
    run.write_json("plan.json", {**plan, "trunk": trunk})
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
    """Follows from the examples' ids, labels and targets."""
    parts = [(name, list(split.ids), split.labels.tobytes()) for name, split in data.splits.items()]
    for split in data.splits.values():
        for name, target in split.targets.items():
            parts.append((name, list(target.class_names), target.values.tobytes()))
    return digest(data.class_names, *(part for row in parts for part in row))


def _export_anew(run: Run, task: Task, formats: Sequence[str]) -> dict[str, str]:
    """Exports as if for the first time: a run that goes on may have been killed after it did."""
    if tf.io.gfile.exists(run.path("export")):
        tf.io.gfile.rmtree(run.path("export"))
    return export(run, task, formats=formats) if formats else {}


def _report_or_say_why(assembled: Assembled, trained: keras.Model, run: Run) -> str | None:
    """Writes a run's page; a run that is whole is not lost where that fails."""
    try:
        add_pictures(run, assembled.task.final(trained), assembled.data.splits)
        return write_page(run, assembled.task)
    except Exception as error:
        again = f"`ftkeras report {run.folder}` tries again"
        print(f"warning: there is no report: {type(error).__name__}: {error}; {again}")
        return None
