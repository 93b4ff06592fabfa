"""What a model of several heads says, and how good each head is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from ftkeras.console import table
from ftkeras.data.dataset import Head, Split
from ftkeras.data.feed import Feed
from ftkeras.errors import TrainingError
from ftkeras.evaluation.bootstrap import RESAMPLES, bootstrap, interval
from ftkeras.evaluation.calibration import fit_temperature
from ftkeras.evaluation.predict import each_output, predict_outputs
from ftkeras.evaluation.predictions import Predictions, save_predictions
from ftkeras.evaluation.results import evaluate_predictions, format_results
from ftkeras.inputs.base import Input
from ftkeras.model.output import Output, output_of
from ftkeras.run import Run

_PREDICTED = 0.5  # the score from which on a label counts as predicted
_TITLES = {"mae": "mean absolute error", "rmse": "root mean squared error", "r2": "R squared"}


def heads_of(facts: Mapping[str, Any]) -> list[Head]:
    """Returns the heads that a run's `data.json` tells of."""
    return [Head(**{**row, "class_names": tuple(row["class_names"])}) for row in facts["heads"]]


def outputs_of(model: keras.Model, heads: Sequence[Head]) -> dict[str, Output]:
    """Returns what the output of each head is, by name, except those for numbers.

    Raises:
        UserError: An output is neither logits nor scores.
    """
    return {
        head.name: output_of(model, head.kind == "labels", head.name)
        for head in heads
        if head.kind != "number"
    }


def measure_heads(model: keras.Model, feed: Feed, run: Run, split: str) -> dict[str, Any]:
    """Returns what `evaluation.json` holds, for each head on the examples whose answer is known.

    The answers are kept in `predictions/SPLIT-HEAD.npz`. Temperatures are fitted on the validation
    split, where there is one.

    Args:
        model: Takes raw 0..255 RGB float32 (n, size, size, 3), returns a dict of (n, units).
        feed: The run's data.
        run: Where the answers are kept.
        split: What to measure the model on.
    """
    data, said = feed.data, {}
    what = outputs_of(model, data.heads)
    for name in dict.fromkeys(name for name in ("val", split) if name in data.splits):
        outputs, _ = predict_outputs(model, feed.plain(name), f"evaluate {name}")
        for head in data.heads:
            answer = outputs[head.name]
            answer = what[head.name].logits(answer).numpy() if head.name in what else answer
            said[name, head.name] = _of_known(data.splits[name], head, answer)
            save_predictions(run, f"{name}-{head.name}", said[name, head.name])
    measured: dict[str, Any] = {}
    for head in data.heads:
        predictions, val = said[split, head.name], said.get(("val", head.name))
        temperature = 1.0
        if head.kind != "number" and val is not None and len(val.labels):
            temperature = fit_temperature(val.labels, val.logits, head.kind == "labels")
        part = data.splits[split]
        known = part.targets[head.name].known
        columns = {name: values[known] for name, values in part.columns.items()}
        measured[head.name] = evaluate_head(
            head, predictions.labels, predictions.logits, temperature, columns
        )
    return {"split": split, "examples": len(data.splits[split]), "heads": measured}


def evaluate_head(
    head: Head,
    labels: np.ndarray,
    outputs: np.ndarray,
    temperature: float = 1.0,
    columns: Mapping[str, np.ndarray] | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Returns what is measured of one head, ready for JSON.

    Args:
        head: The head.
        labels: The known answers: int (n,), multi-hot (n, classes), or numbers (n, 1) in the
            output's units.
        outputs: Float (n, units).
        temperature: What logits are divided by where the model is used.
        columns: More that is known of the examples, str (n,) each.
        resamples: How many times the bootstrap draws the examples anew.
    """
    if not len(labels):
        return {"kind": head.kind, "examples": 0, "intervals": {}}
    if head.kind == "number":
        measured = evaluate_numbers(
            in_units(head, labels)[:, 0], in_units(head, outputs)[:, 0], resamples
        )
    else:
        several = head.kind == "labels"
        measured = evaluate_predictions(
            labels,
            outputs,
            head.class_names,
            several,
            temperature=temperature,
            columns=columns,
            resamples=resamples,
        )
    return {"kind": head.kind, **measured}


def evaluate_numbers(
    truth: np.ndarray, answers: np.ndarray, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Returns errors of numbers with their 95% bootstrap intervals, ready for JSON.

    `r2` is the share of the variance that the answers explain; None where the truth has none.

    Args:
        truth: Float (n,).
        answers: Float (n,).
        resamples: How many times the bootstrap draws the examples anew.

    Raises:
        TrainingError: The answers are not finite: training diverged.
    """
    if not np.isfinite(answers).all():
        raise TrainingError(
            "evaluate: the model's outputs are not finite, so training diverged. "
            "Lower the learning rate, or set optimizer.clip_norm."
        )
    truth, error = truth.astype(np.float64), answers.astype(np.float64) - truth
    centred = truth - truth.mean()  # so that the variance is no difference of large numbers
    sums = np.column_stack([np.abs(error), error**2, centred, centred**2])

    def statistics(drawn: np.ndarray) -> list[float]:
        mae, squared, mean, square = drawn @ sums / drawn.sum()
        variance = square - mean**2
        return [mae, np.sqrt(squared), 1 - squared / variance if variance > 0 else np.nan]

    names = ("mae", "rmse", "r2")
    values = dict(zip(names, statistics(np.ones(len(truth))), strict=True))
    columns = bootstrap(statistics, len(truth), resamples=resamples).T
    return {
        "examples": len(truth),
        **{name: None if np.isnan(value) else float(value) for name, value in values.items()},
        "intervals": {name: interval(c) for name, c in zip(names, columns, strict=True)},
    }


def in_units(head: Head, outputs: np.ndarray) -> np.ndarray:
    """Returns what outputs of a head for numbers mean, in the units of the data."""
    return np.asarray(outputs, np.float64) * head.scale + head.mean


def format_heads(results: Mapping[str, Any]) -> str:
    """Returns what `measure_heads` measured as tables, one head after the other."""
    return "\n\n".join(
        f"{name} ({result['kind']})\n{_format_head(result)}"
        for name, result in results["heads"].items()
    )


def _format_head(result: Mapping[str, Any]) -> str:
    if result["kind"] != "number" and result["examples"]:
        return format_results(dict(result))
    rows = []
    for metric, bounds in result["intervals"].items():
        value = "-" if result[metric] is None else f"{result[metric]:.4f}"
        span = " to ".join(f"{bound:.4f}" for bound in bounds or ())
        rows.append((_TITLES[metric], value, span))
    return f"{result['examples']} images\n\n{table(rows, ('metric', 'value', '95% interval'))}"


def main_metric(result: Mapping[str, Any]) -> tuple[str, float] | None:
    """Returns the name and value of the metric that says most about a head."""
    for name in ("label_accuracy", "accuracy", "mae"):
        if result.get(name) is not None:
            return name, result[name]
    return None


def _of_known(split: Split, head: Head, outputs: np.ndarray) -> Predictions:
    target = split.targets[head.name]
    ids = np.array(split.ids)[target.known]
    return Predictions(outputs[target.known], target.values[target.known], ids)


# --------------------------------------------------------------------------------- files


@dataclass(frozen=True)
class HeadsPrediction:
    """What each head says of one file, or why it could not be asked.

    Args:
        file: The path as it was given or found.
        heads: The heads.
        answers: By head, (class name, score) pairs, the best first; or a number.
        error: Why the file could not be read, or an empty string.
    """

    file: str
    heads: Sequence[Head]
    answers: Mapping[str, tuple[tuple[str, float], ...] | float] = field(default_factory=dict)
    error: str = ""

    def cells(self) -> dict[str, str]:
        """Returns file, HEAD and HEAD_score for classes, HEAD for labels and numbers, error."""
        cells = {}
        for head in self.heads:
            said = self.answers.get(head.name, ())
            if isinstance(said, float):
                cells[head.name] = f"{said:.6g}"
            elif head.kind == "labels":
                cells[head.name] = ";".join(n for n, score in said if score >= _PREDICTED)
            else:
                cells[head.name] = said[0][0] if said else ""
                if head.kind == "classes":
                    cells[f"{head.name}_score"] = f"{said[0][1]:.6f}" if said else ""
        return {"file": self.file, **cells, "error": self.error}

    def record(self) -> dict[str, Any]:
        """Returns {"file": ..., "heads": {NAME: number or [{"class": ..., "score": ...}, ...]}}."""
        if self.error:
            return {"file": self.file, "error": self.error}
        heads = {
            name: said
            if isinstance(said, float)
            else [{"class": n, "score": round(score, 6)} for n, score in said]
            for name, said in self.answers.items()
        }
        return {"file": self.file, "heads": heads}


def predict_heads(
    model: keras.Model,
    paths: Sequence[str],
    heads: Sequence[Head],
    *,
    kind: Input,
    temperatures: Mapping[str, float],
    top_k: int = 5,
    batch_size: int = 32,
) -> Iterator[HeadsPrediction]:
    """Yields what each head says of each file, in order; of an unreadable one, why it is so.

    Args:
        model: Returns a dict.
        paths: The files.
        heads: What the outputs mean.
        kind: What the files are.
        temperatures: By head, what the logits are divided by; 1 where left out.
        top_k: How many classes to give, at most; of labels all are given.
        batch_size: Images a step.
    """
    what = outputs_of(model, heads)
    for path, error, said in each_output(model, paths, kind, batch_size):
        answers = {}
        for head in () if error else heads:
            output, temperature = said[head.name], temperatures.get(head.name, 1.0)
            answers[head.name] = _answer(head, what.get(head.name), output, temperature, top_k)
        yield HeadsPrediction(path, heads, answers, error)


def _answer(
    head: Head, what: Output | None, output: np.ndarray, temperature: float, top_k: int
) -> tuple[tuple[str, float], ...] | float:
    if what is None:
        return float(in_units(head, output)[0])
    [scores] = what.scores(output[None], temperature).numpy()  # (classes,)
    best = np.argsort(-scores, kind="stable")[: None if what.multi_label else top_k]
    return tuple((head.class_names[c], float(scores[c])) for c in best)
