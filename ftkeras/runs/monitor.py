"""The metrics that a config watches: those that training logs, and those measured in addition.

Any metric in `evaluation.json` can decide the best epoch, stop a training or end a phase:
`val_macro_f1`, `val_per_class.cat.recall`. The names are those of `--assert`, with `val_` before
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ftkeras.config.schema import LAST_EPOCH, Config
from ftkeras.data.dataset import Data
from ftkeras.errors import UserError, did_you_mean
from ftkeras.evaluation.bars import known_metrics, measured
from ftkeras.evaluation.measure import answers_of
from ftkeras.evaluation.predictions import Predictions
from ftkeras.outputs.base import Output
from ftkeras.outputs.kinds import only_output
from ftkeras.training.callbacks.averaging import AveragedWeights
from ftkeras.training.callbacks.measured import MeasuredMetrics

if TYPE_CHECKING:
    from ftkeras.runs.assemble import Assembled

_VAL = "val_"
# Ends of intervals, because they take a bootstrap, and what is the same in every epoch.
_NOT_WATCHED = {"low", "high", "examples", "support", "temperature", "baseline_mae"}
_NOT_WATCHED |= {"baseline_rmse"}


def watched(config: Config) -> dict[str, str]:
    """Returns the metrics that a config names, by the field that names each."""
    named = config.training.monitor
    fields = {"training.monitor": None if named == LAST_EPOCH else named}
    if config.training.early_stopping is not None:
        fields["training.early_stopping.metric"] = config.training.early_stopping.metric
    for number, phase in enumerate(config.phases if isinstance(config.phases, list) else []):
        if phase.until is not None:
            fields[f"phases[{number}].until.metric"] = phase.until.metric
    return {field: name for field, name in fields.items() if name is not None}


def measurable(data: Data) -> list[str]:
    """Returns the names of what can be measured when an epoch ends; none without a split for it."""
    if "val" not in data.splits:
        return []
    names = known_metrics(data.outputs)
    return [f"{_VAL}{name}" for name in names if name.rpartition(".")[2] not in _NOT_WATCHED]


def check_monitors(config: Config, data: Data, metrics: Sequence[str]) -> None:
    """Refuses a metric that is neither logged nor measured, or that no answers can give.

    Args:
        config: The config.
        data: Its data.
        metrics: What training logs of each split, besides `loss`.

    Raises:
        UserError: It names the field, what is logged and what can be measured.
    """
    logged = ["loss", *metrics]
    if "val" in data.splits:
        logged += [f"{_VAL}{name}" for name in logged]
    for field, name in watched(config).items():
        if name not in logged and name not in (known := measurable(data)):
            raise UserError(_no_metric(field, name, logged, known, "val" in data.splits))
    names = to_measure(config, data, metrics)
    defined = _metrics_of(data, _best_answers(data)) if names else {}
    for field, name in watched(config).items():
        if name in names and name not in defined:
            raise UserError(
                f"{field}: {name!r} is undefined on these validation examples: no answers would "
                "give it a value. Choose another metric, or a larger data.split.val."
            )


def _no_metric(
    field: str, name: str, logged: Sequence[str], known: Sequence[str], validates: bool
) -> str:
    plain = [each for each in known if "per_class." not in each and each not in logged]
    if heads := {each.partition("per_class.")[0] for each in known if "per_class." in each}:
        plain += [f"{_VAL}{'' if heads == {_VAL} else 'OUTPUT.'}per_class.CLASS.METRIC"]
    text = f"{field}: no metric {name!r} is logged.{did_you_mean(name, [*logged, *known])} "
    text += f"Logged: {', '.join(logged)}."
    if plain:
        text += f" Measured if you name it: {', '.join(plain)}."
    return text if validates or not name.startswith(_VAL) else f"{text} There is no val split."


def to_measure(config: Config, data: Data, metrics: Sequence[str]) -> list[str]:
    """Returns the watched metrics that Keras does not log, or only estimates.

    Args:
        config: The config.
        data: Its data.
        metrics: What training logs of each split, besides `loss`.
    """
    logged = {f"{_VAL}{name}" for name in ("loss", *metrics)} - _estimated(data)
    wanted = [name for name in dict.fromkeys(watched(config).values()) if name not in logged]
    known = set(measurable(data)) if wanted else set()
    return [name for name in wanted if name in known]


def _estimated(data: Data) -> set[str]:
    """Returns what Keras logs from sums over 200 thresholds: far off for rare labels."""
    only = only_output(data.outputs)
    metrics = only.metrics() if only else ()
    return {f"{_VAL}{m.name}" for m in metrics if isinstance(m, keras.metrics.AUC)}


def measured_metrics(
    assembled: Assembled, average: AveragedWeights | None
) -> MeasuredMetrics | None:
    """Returns the callback that measures what the config watches; None if there is nothing to do.

    Args:
        assembled: The run's parts.
        average: The moving average, if there is one.
    """
    task, config, data = assembled.task, assembled.config, assembled.data
    names = to_measure(config, data, task.logged(config, data))
    if not names:
        return None
    final, outputs = task.final(assembled.model), data.outputs
    readings = {name: output.reading(final, name) for name, output in outputs.items()}

    def measure(said: Any) -> dict[str, float]:
        values = _metrics_of(data, answers_of(said, readings, data.splits["val"]))
        return {name: values.get(name, math.nan) for name in names}

    return MeasuredMetrics(
        assembled.model,
        final,
        lambda: assembled.feed.plain("val"),
        names=names,
        measure=measure,
        average=average,
    )


def _metrics_of(data: Data, answers: Mapping[str, Predictions]) -> dict[str, float]:
    """Returns the metrics of the validation split that are defined, as `evaluate` has them."""
    parts = {name: _measured(o, answers[name]) for name, o in data.outputs.items()}
    flat = measured(next(iter(parts.values())) if len(parts) == 1 else {"heads": parts})
    return {f"{_VAL}{name}": value for name, value in flat.items() if value is not None}


def _measured(output: Output, answers: Predictions) -> dict[str, Any]:
    if not len(answers.labels) or not np.isfinite(answers.logits).all():
        return {}
    return output.measure(answers.labels, answers.logits, resamples=1)  # intervals are not read


def _best_answers(data: Data) -> dict[str, Predictions]:
    """Returns the logits of a model that is right about each validation example."""
    split, answers = data.splits["val"], {}
    for name, output in data.outputs.items():
        right = split.answers_to(name).of(split.answers_to(name).places).values
        kept = np.eye(output.units)[right] if right.ndim == 1 else right - 0.5
        answers[name] = Predictions(kept, right, np.empty(len(right), np.str_))
    return answers
