"""The verbs on a finished run; they work on the files in its folder."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from ftkeras.backbones.weights_file import read_model
from ftkeras.config.schema import Config
from ftkeras.data.dataset import Data
from ftkeras.devices.strategy import prepare
from ftkeras.errors import UserError
from ftkeras.evaluation.answers import write_answers
from ftkeras.evaluation.copies import with_copies
from ftkeras.evaluation.floor import with_floor
from ftkeras.evaluation.predict import Asked, FilePrediction, RawExample
from ftkeras.evaluation.refit import was_refitted
from ftkeras.evaluation.robustness import measure_robustness, sample
from ftkeras.evaluation.thresholds import choose_thresholds, with_thresholds
from ftkeras.export.formats import Sample
from ftkeras.export.run import CALIBRATED_ON, MEASURED_ON, take
from ftkeras.files import write_out
from ftkeras.outputs.kinds import only_classes
from ftkeras.report.files import add_gallery, write_comparison
from ftkeras.report.gallery import lacks_gallery
from ftkeras.report.page import run_page
from ftkeras.report.read import read_run
from ftkeras.run import Run
from ftkeras.runs import build
from ftkeras.runs.task import Task, task_of


def evaluate(run: Run, split: str | None = None, aim: str | None = None) -> dict[str, Any]:
    """Measures a run's model on one of its splits and returns the metrics.

    The model's answers are kept in `predictions/` and, as a table, in `answers.csv`. The split that
    training ended with is measured again in `evaluation.json`, too.

    Args:
        run: The run.
        split: Which split; left out, the one that training ended with.
        aim: For outputs with labels, chooses thresholds on this split first; see
            `best_thresholds`. Each later evaluation, `predict` and exports use them.

    Raises:
        UserError: The run has no such split, its model was trained on it, its data are gone, or
            there are no labels to choose thresholds for.
    """
    config = run.config
    task = task_of(config)
    if split == "val" and was_refitted(run):
        raise UserError(
            "--split val: the run's model was trained on these examples, too (training.refit). Use "
            "the test split."
        )
    prepare(config.seed, config.training.precision, config.training.deterministic)
    model, data = load_model(run), data_of(run, config)
    split = _split_of(data, split)
    data = dataclasses.replace(data, outputs=with_thresholds(data.outputs, run))
    feed = task.feed(config, data, model)
    if aim is not None:
        choose_thresholds(run, model, feed, split, aim)
        feed = dataclasses.replace(
            feed, data=dataclasses.replace(data, outputs=with_thresholds(data.outputs, run))
        )
    evaluation = with_floor(task.measure(model, feed, run, split), run, data.outputs)
    evaluation = with_copies(evaluation, run, data.outputs)
    is_final = split == final_split(data)
    if is_final:
        run.write_json("evaluation.json", evaluation)
    write_answers(run, data.outputs, evaluation, final=is_final)
    return evaluation


def robustness(run: Run, examples: int | None, split: str | None = None) -> dict[str, Any]:
    """Measures a run's model on corrupted and shifted examples; writes `robustness.json`.

    Args:
        run: The run.
        examples: How many, drawn under the run's seed; None is all of the split.
        split: Which split; left out, test if there is one.

    Raises:
        UserError: The run has no such split, its examples cannot be corrupted, or the extra is
            missing.
    """
    config = run.config
    prepare(config.seed, config.training.precision, config.training.deterministic)
    model, data = load_model(run), data_of(run, config)
    split = _split_of(data, split)
    only_classes(data.outputs, "robustness")
    measured = measure_robustness(
        model,
        sample(data.splits[split], examples, config.seed),
        build.input_of(config, model),
        batch_size=config.data.batch_size,
        seed=config.seed,
    )
    run.write_json("robustness.json", {"split": split, **measured})
    return measured


def predict(
    run: Run, files: Sequence[Asked], top_k: int = 5, labels: Sequence[str] = ()
) -> Iterator[FilePrediction]:
    """Yields a run's prediction for each file or example, or what is wrong with it.

    Args:
        run: The run.
        files: The files or examples.
        top_k: How many classes to give, at most.
        labels: The classes, if the run's task takes any words as classes.
    """
    task = task_of(run.config)
    task.check_labels(labels)
    yield from task.predict(run, load_model(run), files, top_k, labels)


def export(
    run: Run,
    directory: str | None = None,
    formats: Sequence[str] = ("saved_model",),
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
    task = task_of(run.config)
    config, model = run.config, load_model(run)

    def samples() -> tuple[Sample, Sample]:
        data, kind = data_of(run, config), task.input(config, model)
        return (
            take(data.splits["train"], CALIBRATED_ON, kind, config.seed),
            take(data.splits[final_split(data)], MEASURED_ON, kind, config.seed),
        )

    return task.export(run, model, directory or run.path("export"), formats, samples)


def write_report(runs: Sequence[Run], out: str | None = None) -> str:
    """Writes the page of a run, or of several side by side, and returns where it is.

    The page of one run shows examples. They are made the first time, from the run's model and
    data.

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
    task = task_of(run.config)
    kind = task.input(run.config)
    if lacks_gallery(read_run(run.folder), kind):
        try:
            model = load_model(run)
            kind = task.input(run.config, model)
            add_gallery(run, model, data_of(run, run.config).splits, kind)
        except UserError as error:
            print(f"note      the report shows no {kind.nouns}: {error}")
    return write_page(run, task, out)


def write_page(run: Run, task: Task, out: str | None = None) -> str:
    """Writes the page of a run with what is there; returns where it is."""
    out, facts = out or run.path("report.html"), read_run(run.folder)
    write_out(out, run_page(facts, task.sections(facts)))
    return out


@dataclass(frozen=True)
class LoadedRun:
    """A finished run whose model is in memory, for use in your own code.

    Args:
        run: The run's folder.
        model: From an example (`Input.takes`) to logits or scores; preprocessing is inside.
    """

    run: Run
    model: keras.Model

    def predict(
        self, files: Sequence[str], top_k: int = 5, labels: Sequence[str] = ()
    ) -> list[FilePrediction]:
        """Returns the prediction for each file, or what is wrong with it, in order.

        Files are read and scores are calibrated as in `ftkeras predict`.

        Args:
            files: Paths.
            top_k: How many classes to give, at most.
            labels: The classes, of a run of the task alignment.
        """
        return self._answers(files, top_k, labels)

    def answer(self, examples: Sequence[str | bytes], top_k: int = 5) -> list[FilePrediction]:
        """Returns the predictions for examples that are in memory, in order.

        Args:
            examples: Texts, or the bytes of files.
            top_k: How many classes to give, at most.

        Example:
            ```python
            [row] = ftkeras.load_run("runs/reviews").answer(["a fine film"])
            ```
        """
        raw = [one.encode() if isinstance(one, str) else one for one in examples]
        return self._answers([RawExample(f"[{i}]", one) for i, one in enumerate(raw)], top_k)

    def _answers(
        self, asked: Sequence[Asked], top_k: int, labels: Sequence[str] = ()
    ) -> list[FilePrediction]:
        task = task_of(self.run.config)
        task.check_labels(labels)
        return list(task.predict(self.run, self.model, asked, top_k, labels))


def load_run(folder: str) -> LoadedRun:
    """Loads a finished run.

    Raises:
        UserError: There is no run, or it has no model.

    Example:
        ```python
        run = ftkeras.load_run("runs/quickstart")
        for row in run.predict(["cat.jpg", "dog.jpg"]):
            print(row.file, row.error or row.best[0])
        ```
    """
    run = Run.open(folder)
    return LoadedRun(run, load_model(run))


def load_model(run: Run) -> keras.Model:
    """Returns a run's best model: from an example (`Input.takes`) to logits or scores."""
    path = run.path("model.keras")
    if not tf.io.gfile.exists(path):
        raise run.lacks("model.keras")
    task_of(run.config).make_layers_known(run.config)
    return read_model(path, run.folder)


def data_of(run: Run, config: Config) -> Data:
    """Returns a run's data; if they have moved, the error names the remedy."""
    try:
        return task_of(config).data(config)
    except UserError as error:
        raise if_moved(error, run, config) from None


def if_moved(error: UserError, run: Run, config: Config) -> UserError:
    """Returns an error about a run's data, with the remedy in case that they have moved."""
    path = getattr(config.data, "path", None)
    if path is None or tf.io.gfile.exists(path):
        return error
    return UserError(
        f"{error} If the data of {shlex.quote(run.folder)} have moved: --set data.path=PATH."
    )


def final_split(data: Data) -> str:
    """The split on which a run's model is measured."""
    return next(split for split in ("test", "val", "train") if split in data.splits)


def _split_of(data: Data, split: str | None) -> str:
    """Returns a split's name, or the final one's; an error if the data do not have it."""
    split = split or final_split(data)
    if split not in data.splits:
        raise UserError(f"--split {split}: the data have only {', '.join(data.splits)}.")
    return split
