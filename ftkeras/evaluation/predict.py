"""A model's answers: about a whole split, or about files that someone names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from ftkeras.console import Progress
from ftkeras.data.dataset import Split
from ftkeras.data.pipeline import plain
from ftkeras.data.reading import from_files
from ftkeras.data.scan import scan_files
from ftkeras.data.walk import files_under
from ftkeras.errors import UserError
from ftkeras.inputs.base import Input
from ftkeras.model.inference import outputs_function
from ftkeras.model.output import output_of
from ftkeras.paths import is_utf8, shown


def predict_logits(
    model: keras.Model, dataset: tf.data.Dataset, label: str, multi_label: bool = False
) -> tuple[np.ndarray, Any]:
    """Returns the logits and labels of a data set, both in its order.

    Args:
        model: Returns logits or scores (b, units).
        dataset: As `predict_outputs` takes it.
        label: What to say while it runs, for example "evaluate test".
        multi_label: Whether an example may have any number of labels.

    Returns:
        Logits float32 (n, classes), and labels as the data set gives them, (n, ...).

    Raises:
        UserError: The model's outputs are neither logits nor scores.
    """
    output = output_of(model, multi_label)
    outputs, labels = predict_outputs(model, dataset, label)
    return output.logits(outputs).numpy(), labels


def predict_outputs(model: keras.Model, dataset: tf.data.Dataset, label: str) -> tuple[Any, Any]:
    """Returns what a model puts out for a data set, and the labels, both in its order.

    Args:
        model: Returns (b, units), or a dict of them.
        dataset: Finite; yields (inputs, labels) or (inputs, labels, weights) in batches.
        label: What to say while it runs, for example "evaluate test".

    Returns:
        Outputs float32 (n, units), and labels as the data set gives them, (n, ...); dicts if the
        model and the data set give dicts.
    """
    batches = int(dataset.cardinality())
    answer = outputs_function(model)
    outputs, labels = [], []
    progress = Progress(label, batches if batches >= 0 else None)
    try:
        for inputs, targets, *_ in dataset:
            outputs.append(tf.nest.map_structure(_numpy, answer(inputs)))  # (b, units)
            labels.append(tf.nest.map_structure(_numpy, targets))
            progress.advance()
    finally:
        progress.close()
    if not outputs:
        return np.zeros((0, model.output_shape[-1]), np.float32), np.zeros(0, np.int64)
    return _joined(outputs), _joined(labels)


def _numpy(tensor: tf.Tensor) -> np.ndarray:
    return np.asarray(tensor)


def _joined(parts: Sequence[Any]) -> Any:
    return tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *parts)


class Row(Protocol):
    """What a model says of one file, or why it could not be asked."""

    @property
    def error(self) -> str:
        """Why the file could not be read, or an empty string."""

    def cells(self) -> dict[str, str]:
        """Returns a row of a table, by column; all that is answered have the same columns."""

    def record(self) -> dict[str, Any]:
        """Returns it ready for JSON."""


@dataclass(frozen=True)
class FilePrediction:
    """What the model says of one file, or why it could not be asked.

    Args:
        file: The path as it was given or found.
        best: (class name, score) pairs, the best first; empty where there is an error.
        error: Why the file could not be read, or an empty string.
    """

    file: str
    best: tuple[tuple[str, float], ...] = ()
    error: str = ""

    def cells(self) -> dict[str, str]:
        """Returns file, class, score, class_2, score_2, ..., error."""
        best: dict[str, str] = {}
        for number, (name, score) in enumerate(self.best, start=1):
            end = f"_{number}" if number > 1 else ""
            best |= {f"class{end}": name, f"score{end}": f"{score:.6f}"}
        return {"file": self.file, **(best or {"class": "", "score": ""}), "error": self.error}

    def record(self) -> dict[str, Any]:
        """Returns {"file": ..., "predictions": [{"class": ..., "score": ...}, ...]}."""
        if self.error:
            return {"file": self.file, "error": self.error}
        best = [{"class": name, "score": round(score, 6)} for name, score in self.best]
        return {"file": self.file, "predictions": best}


def expand_inputs(patterns: Sequence[str], kind: Input) -> list[str]:
    """Returns the files that files, folders and globs stand for, each once, in order.

    A file that is named stays, whatever it is. A folder gives the examples anywhere under it.

    Args:
        patterns: Paths and globs.
        kind: What the files are.

    Raises:
        UserError: A pattern finds nothing.

    Example:
        >>> expand_inputs(["cat.jpg", "photos/", "more/*.png"], kind)
        ['cat.jpg', 'photos/dog.jpg', 'more/owl.png']
    """
    files: dict[str, None] = {}  # an ordered set
    for pattern in patterns:
        if not is_utf8(pattern):
            paths = []
        elif tf.io.gfile.isdir(pattern):
            paths = sorted(filter(kind.accepts, files_under(pattern)))
        elif tf.io.gfile.exists(pattern):
            paths = [pattern]
        else:
            matches = sorted(tf.io.gfile.glob(pattern))
            paths = [path for path in matches if not tf.io.gfile.isdir(path)]
        if not paths:
            raise UserError(
                f"predict: no {kind.nouns} at {shown(pattern)!r}. "
                f"Give {kind.noun} files, folders or globs."
            )
        files.update(dict.fromkeys(paths))
    return list(files)


def predict_files(
    model: keras.Model,
    paths: Sequence[str],
    *,
    kind: Input,
    class_names: Sequence[str],
    multi_label: bool,
    temperature: float = 1.0,
    top_k: int = 5,
    batch_size: int = 32,
) -> Iterator[FilePrediction]:
    """Yields the best classes of each file, in order; of an unreadable one, why it is so.

    Files are checked, decoded and prepared as those that training reads.

    Args:
        model: Returns logits or scores (n, units).
        paths: The files.
        kind: What they are.
        class_names: One name a class.
        multi_label: The scores of logits are sigmoids instead of a softmax.
        temperature: What the logits are divided by.
        top_k: How many classes to give, at most.
        batch_size: Examples per step.

    Raises:
        UserError: The model's outputs are neither logits nor scores.
    """
    output = output_of(model, multi_label)
    for path, error, said in each_output(model, paths, kind, batch_size):
        if error:
            yield FilePrediction(path, error=error)
            continue
        [row] = output.scores(said[None], temperature).numpy()  # (classes,)
        best = np.argsort(-row, kind="stable")[:top_k]
        yield FilePrediction(path, tuple((class_names[c], float(row[c])) for c in best))


def each_output(
    model: keras.Model, paths: Sequence[str], kind: Input, batch_size: int
) -> Iterator[tuple[str, str, Any]]:
    """Yields each file's path, what is wrong with it, and the model's output (units,) for it.

    Args: as those of `predict_files`; a model that gives a dict yields one.
    """
    verdicts = scan_files(paths, "predict", kind)
    readable = [verdict.path for verdict in verdicts if not verdict.reason]
    count = len(readable)
    fetch = from_files(readable)(np.arange(count))
    split = Split("predict", readable, np.full(count, -1, np.int32), 0, fetch)
    outputs = _outputs(model, split, kind, batch_size)
    for path, verdict in zip(paths, verdicts, strict=True):
        yield path, verdict.reason, None if verdict.reason else next(outputs)


def _outputs(model: keras.Model, split: Split, kind: Input, batch_size: int) -> Iterator[Any]:
    """Yields what the model puts out for each example."""
    answer = outputs_function(model)
    progress = Progress("predict", len(split))
    try:
        for batch, labels in plain(split, kind, batch_size):
            outputs = tf.nest.map_structure(_numpy, answer(batch))
            for i in range(len(labels)):
                yield tf.nest.map_structure(lambda output, i=i: output[i], outputs)
            progress.advance(len(labels))
    finally:
        progress.close()
