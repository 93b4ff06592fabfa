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

from ftkeras.cache import digest
from ftkeras.config.schema import Config
from ftkeras.data.copies import FILE, Copies, find_copies
from ftkeras.data.dataset import Data
from ftkeras.data.splits import write_bad_files, write_splits
from ftkeras.devices.workers import agree_on_weights, peers_watched, taking_part, wait_for_all
from ftkeras.errors import Preempted, TrainingError, UserError
from ftkeras.evaluation.answers import write_answers
from ftkeras.evaluation.bars import Bar, require, whole
from ftkeras.evaluation.copies import copies_lines, with_copies
from ftkeras.evaluation.floor import floor_lines, with_floor
from ftkeras.evaluation.predictions import load_predictions
from ftkeras.export.formats import check_formats
from ftkeras.export.questions import questions_of
from ftkeras.files import written_whole
from ftkeras.inputs.base import Input
from ftkeras.model.lora import merge_lora
from ftkeras.outputs.classes import Classes
from ftkeras.outputs.kinds import facts_of, only_output
from ftkeras.phases.blend import weights_of_model
from ftkeras.report.board import drawn_matrix, training_batch, worst_mistakes
from ftkeras.report.files import add_gallery
from ftkeras.report.summary import end_lines
from ftkeras.run import Run
from ftkeras.runs import build
from ftkeras.runs.adapt import adapt_backbone
from ftkeras.runs.assemble import Assembled, assemble
from ftkeras.runs.counts import Counts, find_counts, refit_counts, with_counts
from ftkeras.runs.failure import describe_failure
from ftkeras.runs.finished import export, final_split, if_moved, write_page
from ftkeras.runs.floor import choose_end, find_floor, start_from
from ftkeras.runs.refit import check_refit, refit, remove_states
from ftkeras.signals import Signals
from ftkeras.timeline import stage
from ftkeras.training.callbacks.early_stopping import EarlyStopping
from ftkeras.training.callbacks.loggers import Loggers
from ftkeras.training.resume.checkpoint import States
from ftkeras.training.resume.saving import Guards


def train(
    config: Config | None, out: str, *, overwrite: bool = False, bars: Sequence[Bar] = ()
) -> Run:
    """Fine-tunes, evaluates and exports; returns the run.

    A run in `out` that was interrupted, failed or killed resumes; one that is finished is refused.

    Args:
        config: What to do; `ftkeras.load_config` reads one. None: the config of the run in `out`.
        out: The run's folder.
        overwrite: Replace a run that is there.
        bars: What the finished model must reach; a run that fails is kept all the same.

    Raises:
        UserError: The config, the data or the weights are wrong; nothing has been written.
        TrainingError: A frozen weight moved, the loss isn't a number, the export disagrees with the
            model, or the model is below a bar.
        Interrupted: Ctrl-C was pressed; the state is saved.
        Preempted: SIGTERM came; the state is saved.

    Example:
        ```python
        run = ftkeras.train(ftkeras.load_config("configs/quickstart.yaml"), "runs/quickstart")
        print(run.read_json("evaluation.json")["accuracy"])
        ```
    """
    start = time.monotonic()
    run = Run(out)
    resumes = run.resumes(config, overwrite)
    config = config or run.config
    assembled = _assembled(config, run, resumes)
    devices = assembled.devices
    assembled.task.check_bars(bars, _facts(assembled))
    check_refit(assembled)
    check_formats(config.export.formats)
    if export_formats(config):
        questions_of(assembled.feed.input)
    page = None
    with (
        taking_part(devices, run, resumes) as run,
        run.locked(),
        Signals() as signals,
        _stop_reported(run, devices.is_chief),
    ):
        if assembled.trunk is not None:
            with peers_watched(devices):
                assembled.trunk.agree(devices.strategy)
        _begin(assembled, run, overwrite)
        (model, kind), evaluation, exported = _train_and_measure(assembled, run, signals)
        States(run).remove()
        remove_states(run)
        if devices.is_chief and config.report:
            page = _report_or_say_why(assembled, model, kind, run)
    if devices.is_chief:
        alone = run.path("adapters.npz") if tf.io.gfile.exists(run.path("adapters.npz")) else None
        results = {"adapters": alone, "SavedModel": exported.get("saved_model"), "report": page}
        _print_end(assembled, run, evaluation, results, time.monotonic() - start)
        require(bars, evaluation)
    return run


def _assembled(config: Config, run: Run, resumes: bool) -> Assembled:
    try:
        return assemble(config)
    except UserError as error:
        raise (if_moved(error, run, config) if resumes else error) from None


def _train_and_measure(
    assembled: Assembled, run: Run, signals: Signals
) -> tuple[tuple[keras.Model, Input], dict[str, Any], dict[str, str]]:
    """Trains; the chief evaluates and exports, too.

    Returns:
        The model with what its examples are, what `evaluation.json` holds, and the exported
        formats' paths by name.
    """
    task, config, devices = assembled.task, assembled.config, assembled.devices
    kind, counts = assembled.feed.input, None
    evaluation: dict[str, Any] = {}
    exported: dict[str, str] = {}
    with (
        _outcome_recorded(assembled, run) as loggers,
        signals.stop_over_errors(),
        peers_watched(devices),
    ):
        if task.trains(config):
            counts = _from_the_floor_up(assembled, run, signals, loggers)
        else:
            run.write_text("metrics.jsonl", "")
        model = task.finish(assembled, run)
        agree_on_weights(model)
        if devices.is_chief:
            (model, kind), evaluation = _evaluate_best(assembled, model, counts, run)
            _log_result(assembled, run, loggers, evaluation)
            exported = _export_again(run, export_formats(config))
        wait_for_all(devices.strategy)
    return (model, kind), evaluation, exported


@contextlib.contextmanager
def _stop_reported(run: Run, is_chief: bool) -> Iterator[None]:
    """If a signal stops the run, prints its state and the next command."""
    try:
        yield
    except KeyboardInterrupt as stop:
        folder = shlex.quote(run.folder)
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
    """Makes the run's folder, or checks that a run that resumes has the data that it began with."""
    # Checked again: another process may have finished the run since.
    if run.resumes(assembled.config, overwrite):
        _check_same_data(assembled.data, run)
        run.begin(assembled.config)
    else:
        Run.create(run.folder, assembled.config, overwrite=True)  # `resumes` has decided
    print(assembled.describe())
    copies = find_copies(assembled.data, assembled.feed.input)
    for note in copies.notes:
        print(f"note      {note}")
    _write_facts(assembled, run, copies)


@contextlib.contextmanager
def _outcome_recorded(assembled: Assembled, run: Run) -> Iterator[Loggers]:
    """Opens the loggers, and records in the run's status how the block ended."""
    loggers = build.loggers(assembled.config, run, assembled.devices.is_chief)
    try:
        yield loggers
    except KeyboardInterrupt as stop:
        _set_stopped(run, stop)
        raise
    except (UserError, TrainingError) as error:
        run.fail(str(error))
        raise
    except Exception as error:
        plan = assembled.plan
        reason = describe_failure(error, run, assembled.feed, assembled.model, plan)
        run.fail(reason)
        raise TrainingError(reason) from error
    else:
        run.set_state("finished")
    finally:
        loggers.close(run.read_json("status.json")["state"])


def _from_the_floor_up(
    assembled: Assembled, run: Run, signals: Signals, loggers: Loggers
) -> Counts | None:
    """Fits the floor, starts from it, trains, and keeps what is best; perhaps trains once more.

    Returns:
        The classifier of counts, if the model is to answer by it, too.
    """
    config, model = assembled.config, assembled.model
    adapt_backbone(assembled, run)
    begin = weights_of_model(model) if config.training.refit else []
    floor, start = find_floor(assembled, run, final_split(assembled.data)), None
    wanted = None if config.head.start == "random" else floor
    begins = wanted is not None and start_from(wanted, model)
    begins = assembled.task.start(assembled, run) or begins
    if begins and config.training.end == "chosen" and "val" in assembled.data.splits:
        start = weights_of_model(model)
    training = config.training
    guards = Guards(training.checkpoint, training.trouble, signals, from_floor=begins)
    _fit(assembled, run, guards, loggers)
    share = 1.0 if start is None else choose_end(assembled, run, start)
    counts, split = None, final_split(assembled.data)
    if assembled.devices.is_chief:
        counts = find_counts(assembled, run, split)
    if training.refit:
        refit(assembled, run, begin, share, guards)
        if counts is not None:
            counts = refit_counts(counts, assembled, run, split)
    return counts


def _fit(assembled: Assembled, run: Run, guards: Guards, loggers: Loggers) -> None:
    """Trains through all phases; the model has the weights of the best epoch then."""
    training = assembled.config.training
    callbacks: list[keras.callbacks.Callback] = [loggers]
    if training.early_stopping is not None:
        callbacks.append(EarlyStopping(**training.early_stopping.model_dump()))
    loggers.figure("train/first_batch", lambda: training_batch(assembled.feed))
    checkpoints = assembled.fit(run, guards, callbacks)
    verdicts = {name: dataclasses.asdict(v) for name, v in assembled.unfreeze.verdicts.items()}
    trunk = assembled.trunk.as_json(list(run.metrics())) if assembled.trunk else []
    outcome = {"trunk": trunk, "audit": verdicts, "best_epoch": checkpoints.best_epoch or 0}
    run.write_json("plan.json", {**assembled.plan.as_json(), **outcome})
    checkpoints.load_best(assembled.model)


@stage("evaluate")
def _evaluate_best(
    assembled: Assembled, trained: keras.Model, counts: Counts | None, run: Run
) -> tuple[tuple[keras.Model, Input], dict[str, Any]]:
    model, adapters = assembled.task.final(trained), assembled.adapters
    if adapters is not None and adapters.are_in(model) and not adapters.base_moved():
        adapters.save(run.path("adapters.npz"), model)
    model, feed = with_counts(counts, assembled, merge_lora(model))
    with written_whole(run.path("model.keras")) as temporary:
        model.save(temporary)
    evaluation = assembled.task.measure(model, feed, run, final_split(assembled.data))
    evaluation = with_floor(evaluation, run, assembled.data.outputs)
    evaluation = with_copies(evaluation, run, assembled.data.outputs)
    run.write_json("evaluation.json", evaluation)
    write_answers(run, assembled.data.outputs, evaluation, final=True)
    return (model, feed.input), evaluation


@stage("write loggers and figures")
def _log_result(
    assembled: Assembled, run: Run, loggers: Loggers, evaluation: dict[str, Any]
) -> None:
    split, data = evaluation["split"], assembled.data
    loggers.result({f"{split}/{name}": v for name, v in whole(evaluation).items()})
    if matrix := evaluation.get("confusion_matrix"):
        loggers.figure(f"{split}/confusion_matrix", lambda: drawn_matrix(matrix, data.class_names))
    if isinstance(only_output(data.outputs), Classes):
        loggers.figure(
            f"{split}/mistakes",
            lambda: worst_mistakes(assembled.feed, split, load_predictions(run, split)),
        )


def _facts(assembled: Assembled) -> dict[str, Any]:
    """Returns what `data.json` holds."""
    data, kind = assembled.data, assembled.feed.input
    outputs = facts_of(data.outputs)
    return {
        "class_names": outputs.pop("class_names"),
        "multi_label": outputs.pop("multi_label"),
        "noun": kind.noun,
        "nouns": kind.nouns,
        "drawn": kind.ability("cards") is not None,
        "weights": build.weights_name(assembled.config),
        **kind.facts,
        "examples": {name: len(split) for name, split in data.splits.items()},
        "notes": list(data.notes),
        "digest": _digest(data),
        **outputs,
    }


def _write_facts(assembled: Assembled, run: Run, copies: Copies) -> None:
    data, facts = assembled.data, _facts(assembled)
    notes = [*facts["notes"], *copies.notes]
    run.write_json("data.json", {**facts, "notes": notes, "copies": copies.counts})
    copies.write(run.path(FILE))
    plan = assembled.plan.as_json()
    if not assembled.task.trains(assembled.config):
        plan["phases"] = []
    trunk = assembled.trunk.as_json() if assembled.trunk else []
    run.write_json("plan.json", {**plan, "trunk": trunk})
    write_splits(data, run.path("splits.csv"))
    write_bad_files(data.bad_files, run.path("bad_files.csv"))


def _check_same_data(data: Data, run: Run) -> None:
    """Refuses to resume with other examples: their order would differ, too."""
    if not tf.io.gfile.exists(run.path("data.json")):
        return  # killed before anything was trained
    before, now = run.read_json("data.json"), {n: len(split) for n, split in data.splits.items()}
    if before["digest"] != _digest(data):
        raise UserError(
            f"--out {run.folder}: the run began with other examples ({before['examples']}, now "
            f"{now}). Put them back, or start again with --overwrite."
        )


def _digest(data: Data) -> str:
    """Returns a hash of the examples' ids, labels and answers."""
    parts = [(name, list(split.ids), split.labels.tobytes()) for name, split in data.splits.items()]
    parts += [(name, [split.content], b"") for name, split in data.splits.items() if split.content]
    for split in data.splits.values():
        for name, answers in split.answers.items():
            classes = list(data.outputs[name].class_names)
            parts.append((name, classes, answers.values.tobytes()))
    return digest(data.class_names, *(part for row in parts for part in row))


@stage("export")
def _export_again(run: Run, formats: Sequence[str]) -> dict[str, str]:
    """Exports, also if a run that resumed had exported before it was killed."""
    if tf.io.gfile.exists(run.path("export")):
        tf.io.gfile.rmtree(run.path("export"))
    return export(run, formats=formats) if formats else {}


def _print_end(
    assembled: Assembled,
    run: Run,
    evaluation: dict[str, Any],
    results: dict[str, str | None],
    seconds: float,
) -> None:
    """Prints the result, the audit of each phase, and where everything is."""
    plan = run.read_json("plan.json")
    lines = [assembled.task.headline(evaluation), *floor_lines(evaluation)]
    headline = "\n".join([*lines, *copies_lines(evaluation)])
    verdicts, records = assembled.unfreeze.verdicts, list(run.metrics())
    best, trunk = plan.get("best_epoch"), plan["trunk"]
    kind = "last" if assembled.config.training.monitor == "last_epoch" else "best"
    epoch = "" if best is None else f"{kind} epoch {best + 1}"
    print(end_lines(run.folder, records, headline, verdicts, epoch, results, seconds, trunk))
    print(f"            ftkeras {assembled.task.first_use.format(shlex.quote(run.folder))}")


@stage("report")
def _report_or_say_why(
    assembled: Assembled, model: keras.Model, kind: Input, run: Run
) -> str | None:
    """Writes a run's page; if that fails, the run is finished all the same."""
    try:
        add_gallery(run, model, assembled.data.splits, kind)
        return write_page(run, assembled.task)
    except Exception as error:
        again = f"`ftkeras report {shlex.quote(run.folder)}` tries again"
        print(f"warning: there is no report: {type(error).__name__}: {error}; {again}")
        return None
