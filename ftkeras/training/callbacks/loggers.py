"""Further records of a run: TensorBoard always, Weights & Biases and MLflow on request.

The run's folder is the main record. A logger that fails is named once and left out afterwards; it
never ends a run.
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from ftkeras.config.load import leaves
from ftkeras.errors import UserError, first_line
from ftkeras.imports import to_install
from ftkeras.run import Run

Value: TypeAlias = "bool | int | float | str"

_IDS = "loggers.json"  # in the run's folder: the run's ids in other services
_PROJECT = "ftkeras"


class Logger(Protocol):
    """A service that records a run."""

    def epoch(self, values: Mapping[str, float], step: int) -> None:
        """Logs an epoch's metrics."""

    def figure(self, name: str, drawn: np.ndarray) -> None:
        """Logs a figure, uint8 (h, w, 3)."""

    def result(self, values: Mapping[str, float]) -> None:
        """Logs the metrics of the finished model."""

    def close(self, state: str) -> None:
        """Ends the log: finished, interrupted or failed."""


class TensorBoard:
    """Hyper-parameters, figures and the result; Keras's own callback writes the epochs."""

    def __init__(self, run: Run, settings: Mapping[str, Value]):
        from tensorboard.plugins.hparams import api

        self._writer = tf.summary.create_file_writer(run.path("logs", "run"))
        rows = "\n".join(f"|`{name}`|`{value}`|" for name, value in settings.items())
        with self._writer.as_default():
            api.hparams(dict(settings), trial_id=run.folder)
            tf.summary.text("config", f"|field|value|\n|---|---|\n{rows}", step=0)

    def epoch(self, values: Mapping[str, float], step: int) -> None:
        pass

    def figure(self, name: str, drawn: np.ndarray) -> None:
        with self._writer.as_default():
            tf.summary.image(name, drawn[None], step=0)

    def result(self, values: Mapping[str, float]) -> None:
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step=0)

    def close(self, state: str) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases; its own environment variables name the target (WANDB_MODE,
    ...)."""

    def __init__(self, run: Run, settings: Mapping[str, Value]):
        import wandb

        known = _ids(run).get("wandb")
        local = "://" not in run.folder
        self._images = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=_name(run),
            id=known,
            resume="allow" if known else None,
            dir=run.folder if local else None,
            config=dict(settings),
            settings=wandb.Settings(console="off", silent=True),  # ftkeras prints
        )
        _keep_id(run, "wandb", self._run.id)

    def epoch(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def figure(self, name: str, drawn: np.ndarray) -> None:
        # Its own step counts commits, so each epoch passes its number.
        self._run.log({name: self._images(drawn)}, commit=False)

    def result(self, values: Mapping[str, float]) -> None:
        self._run.summary.update(dict(values))

    def close(self, state: str) -> None:
        self._run.finish(exit_code=0 if state == "finished" else 1)


class MLflow:
    """A run of MLflow, on the server or in the files that MLFLOW_TRACKING_URI names."""

    _PARAMS_AT_ONCE, _LONGEST = 100, 6000  # what a server takes

    def __init__(self, run: Run, settings: Mapping[str, Value]):
        import mlflow

        self._client = mlflow.MlflowClient()
        self._entities = mlflow.entities
        known = _ids(run).get("mlflow")
        self._id = known or self._create(_name(run))
        _keep_id(run, "mlflow", self._id)
        if known:
            self._client.update_run(known, status="RUNNING")
            return  # it has its parameters; MLflow refuses to change them
        rows = [
            mlflow.entities.Param(name, str(value)[: self._LONGEST])
            for name, value in settings.items()
        ]
        for start in range(0, len(rows), self._PARAMS_AT_ONCE):
            self._client.log_batch(self._id, params=rows[start : start + self._PARAMS_AT_ONCE])

    def _create(self, name: str) -> str:
        called = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        existing = self._client.get_experiment_by_name(called)
        experiment = existing.experiment_id if existing else self._client.create_experiment(called)
        return str(self._client.create_run(experiment, run_name=name).info.run_id)

    def epoch(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metric = self._entities.Metric
        rows = [metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=rows)

    def figure(self, name: str, drawn: np.ndarray) -> None:
        self._client.log_image(self._id, drawn, artifact_file=f"{name}.png")

    def result(self, values: Mapping[str, float]) -> None:
        self.epoch(values, 0)

    def close(self, state: str) -> None:
        status = {"finished": "FINISHED", "interrupted": "KILLED"}.get(state, "FAILED")
        self._client.set_terminated(self._id, status=status)


LOGGERS: dict[str, Callable[[Run, Mapping[str, Value]], Logger]] = {
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


class Loggers(keras.callbacks.Callback):
    """Passes everything to all loggers of a run; a failure is reported once, and the run continues.

    Args:
        run: The run.
        names: Names in `LOGGERS`; TensorBoard is always added.
        settings: The run's config, flat; see `flatten`.
        report: Takes a line if a logger fails.
    """

    def __init__(
        self,
        run: Run,
        names: Sequence[str] = (),
        settings: Mapping[str, Value] | None = None,
        report: Callable[[str], None] = print,
    ):
        super().__init__()
        self._report = report
        self._loggers: dict[str, Logger] = {}
        for name, make in {"TensorBoard": TensorBoard, **{n: LOGGERS[n] for n in names}}.items():
            try:
                self._loggers[name] = make(run, settings or {})
            except Exception as error:  # a service may raise any error
                self._warn(name, error)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        values = {name: float(value) for name, value in (logs or {}).items()}
        self._tell(lambda logger: logger.epoch(values, epoch))

    def figure(self, name: str, make: Callable[[], np.ndarray | None]) -> None:
        """Logs a figure, uint8 (h, w, 3), if there is one; a failure does not end the run."""
        try:
            drawn = make()
        except Exception as error:
            self._report(f"warning: no figure {name}: {first_line(error)}")
            return
        if drawn is not None:
            self._tell(lambda logger: logger.figure(name, drawn))

    def result(self, values: Mapping[str, float]) -> None:
        """Logs the metrics of the finished model."""
        self._tell(lambda logger: logger.result(values))

    def close(self, state: str) -> None:
        """Ends all logs: finished, interrupted or failed."""
        self._tell(lambda logger: logger.close(state))
        self._loggers.clear()

    def _tell(self, act: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                act(logger)
            except Exception as error:
                del self._loggers[name]
                self._warn(name, error)

    def _warn(self, name: str, error: Exception) -> None:
        self._report(f"warning: {name} failed, the run continues without it: {first_line(error)}")


def check_installed(names: Sequence[str]) -> None:
    """Raises UserError, before anything trains, if a logger's package is missing."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"training.loggers: {name} is not installed. Install it with: {to_install(name)}"
            )


def flatten(tree: Any) -> dict[str, Value]:
    """Returns the leaves of nested dicts and lists by dotted names, without None.

    Example:
        >>> flatten({"seed": 1, "phases": [{"name": "head", "train": ["norm", "bias"]}]})
        {'seed': 1, 'phases.0.name': 'head', 'phases.0.train': 'norm, bias'}
    """
    rows = {re.sub(r"\[(\d+)\]", r".\1", name): value for name, value in leaves(tree)}
    return {
        name: ", ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in rows.items()
        if value is not None and value != {}
    }


def _name(run: Run) -> str:
    return os.path.basename(run.folder.rstrip("/"))


def _ids(run: Run) -> dict[str, str]:
    """Returns the ids of a run that resumes, by service."""
    return run.read_json(_IDS) if tf.io.gfile.exists(run.path(_IDS)) else {}


def _keep_id(run: Run, logger: str, value: str) -> None:
    run.write_json(_IDS, {**_ids(run), logger: value})
