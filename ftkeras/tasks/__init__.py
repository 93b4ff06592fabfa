"""The tasks by name, and the verbs for a config or a run of any of them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from ftkeras.config.extend import extend_config
from ftkeras.config.schema import Config
from ftkeras.errors import UserError
from ftkeras.evaluation.bars import Bar
from ftkeras.evaluation.predict import Row
from ftkeras.report.files import write_comparison
from ftkeras.runs import assemble as assembling
from ftkeras.runs import finished
from ftkeras.runs import train as training
from ftkeras.runs.assemble import Assembled
from ftkeras.runs.task import Task
from ftkeras.training.lr_find import RangeTest
from ftkeras.training.run import Run


def task_of(config: Config) -> Task:
    """Returns what the config is about: `TASK` of the module of that name."""
    task = importlib.import_module(f"ftkeras.tasks.{config.task}").TASK
    assert isinstance(task, Task)
    return task


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
        Interrupted: (after saving what was earned) Someone pressed Ctrl-C.
        Preempted: (after saving what was earned) SIGTERM came.

    Example:
        ```python
        run = ftkeras.train(ftkeras.load_config("configs/quickstart.yaml"), "runs/quickstart")
        print(run.read_json("evaluation.json")["accuracy"])
        ```
    """
    goes_on = Run(out).goes_on(config, overwrite)
    config = config or Run(out).config
    return training.train(
        config, task_of(config), out, goes_on=goes_on, overwrite=overwrite, bars=bars
    )


def extend(
    run: Run, data: Mapping[str, Any], out: str, overrides: Sequence[str] = (), **options: Any
) -> Run:
    """Adds classes or images to a finished run and returns the new one; the old one stays.

    Args:
        run: The finished run.
        data: A `data` section that says where the new images are, for instance
            `{"source": "folder", "path": "more/"}`; the rest is as in the run.
        out: The new run's folder.
        overrides: Strings such as "incremental.memory=500"; see `ftkeras.load_config`.
        **options: See `train`.

    Raises:
        UserError: See `train`; or the run cannot be extended.

    Example:
        ```python
        more = {"source": "folder", "path": "more/"}
        tasks.extend(Run.open("runs/a"), more, "runs/b", ["incremental.memory=500"])
        ```
    """
    if out.rstrip("/") == run.folder.rstrip("/"):
        raise UserError(f"--out {out}: is the run to extend, which stays. Choose another folder.")
    size = run.read_json("data.json")["image_size"]
    return train(extend_config(run.config, run.folder, size, data, overrides), out, **options)


def assemble(config: Config) -> Assembled:
    """Builds what a config names, writes nothing; see `ftkeras.runs.assemble.assemble`."""
    return assembling.assemble(config, task_of(config))


def lr_find(config: Config, out: str, *, low: float, high: float, steps: int) -> RangeTest:
    """Runs the learning-rate range test; see `ftkeras.runs.assemble.lr_find`."""
    return assembling.lr_find(config, task_of(config), out, low=low, high=high, steps=steps)


def evaluate(run: Run, split: str = "test") -> dict[str, Any]:
    """Measures a run's model on one of its splits; see `ftkeras.runs.finished.evaluate`."""
    return finished.evaluate(run, task_of(run.config), split)


def robustness(run: Run, examples: int | None, split: str = "test") -> dict[str, Any]:
    """Measures a run's model on corrupted images; see `ftkeras.runs.finished.robustness`."""
    return finished.robustness(run, task_of(run.config), examples, split)


def format_results(run: Run, results: dict[str, Any]) -> str:
    """Returns what `evaluate` measured as tables for people."""
    return task_of(run.config).format_results(results)


def check_bars(run: Run, bars: Sequence[Bar]) -> None:
    """Refuses a bar on a metric that `evaluate` will not give; UserError."""
    task_of(run.config).check_bars(bars, run.read_json("data.json"))


def predict(run: Run, files: Sequence[str], top_k: int = 5) -> Iterator[Row]:
    """Yields what a run's model says of each image file, or what is wrong with it."""
    return finished.predict(run, task_of(run.config), files, top_k)


def export(
    run: Run, directory: str | None = None, formats: Sequence[str] = ("saved_model",)
) -> dict[str, str]:
    """Writes a run's model in the formats named; see `ftkeras.runs.finished.export`."""
    return finished.export(run, task_of(run.config), directory, formats)


def write_report(runs: Sequence[Run], out: str | None = None) -> str:
    """Writes the page of a run, or of several side by side, and returns where it is.

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
    return finished.write_report(run, task_of(run.config), out)


def load_model(run: Run) -> keras.Model:
    """Returns a run's best model; see `ftkeras.runs.finished.load_model`."""
    return finished.load_model(run)
