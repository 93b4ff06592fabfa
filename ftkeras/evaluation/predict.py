"""A model's answers: about a whole split, or about files that someone names."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from ftkeras.cache import digest
from ftkeras.console import Progress, counted
from ftkeras.data.dataset import Fetch, Split
from ftkeras.data.feed import Feed
from ftkeras.data.pipeline import plain
from ftkeras.data.reading import from_array, from_files
from ftkeras.data.scan import scan_files
from ftkeras.data.sources.manifest_rows import is_table, read_cells
from ftkeras.data.walk import files_under
from ftkeras.errors import UserError
from ftkeras.inputs.base import Input, Verdict
from ftkeras.model.inference import outputs_function
from ftkeras.outputs.any_of import Decided
from ftkeras.outputs.base import Output
from ftkeras.outputs.ending import ending_of
from ftkeras.paths import is_utf8, shown

_MANY_UNKNOWN = 0.5  # of an example
_NAMED = 9  # words


def predict_logits(
    model: keras.Model, dataset: tf.data.Dataset, label: str
) -> tuple[np.ndarray, Any]:
    """Returns a classifier's logits for a data set, and the labels, both in its order.

    Args:
        model: Returns logits or scores (b, units), of which exactly one class is right.
        dataset: As `predict_outputs` takes it.
        label: What to say while it runs, for example "evaluate test".

    Returns:
        Logits float32 (n, classes), and labels as the data set gives them, (n, ...).

    Raises:
        UserError: The model's outputs are neither logits nor scores.
    """
    ending = ending_of(model)
    outputs, labels = predict_outputs(model, dataset, label)
    return ending.logits(outputs).numpy(), labels


def predict_split(model: keras.Model, feed: Feed, split: str, label: str) -> Any:
    """Returns what a model puts out for a split of the run's data, in its order.

    If a frozen trunk has run over the split before, only the rest of the model runs.

    Args:
        model: Returns (b, units), or a dict of them.
        feed: The data.
        split: The split's name.
        label: What to say while it runs, for example "evaluate test".

    Returns:
        Outputs float32 (n, units), or a dict of them.
    """
    known = None if feed.answers is None else feed.answers(model, split, label)
    return predict_outputs(model, feed.plain(split), label)[0] if known is None else known


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
    progress = Progress(label, batches if batches >= 0 else None, "batch", "batches")
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


@dataclass(frozen=True)
class RawExample:
    """An example that is at hand, without a file of its own.

    Args:
        name: What it is called.
        raw: What a file of it would hold.
    """

    name: str
    raw: bytes


Asked: TypeAlias = "str | RawExample"
"""What a model is asked about: the path of a file, or an example."""


@dataclass(frozen=True)
class FilePrediction:
    """What the model says of one file, or why it could not be asked.

    Args:
        file: The path as it was given or found.
        outputs: What the model answers, by name.
        answers: By output, what it says: (class name, score) pairs, the best first, or a number;
            empty if there is an error.
        error: Why the file could not be read, or an empty string.
    """

    file: str
    outputs: Mapping[str, Output]
    answers: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def best(self) -> Any:
        """What the only output says.

        Raises:
            UserError: The file could not be read; the message is `error`.
            ValueError: There are several outputs.
        """
        if self.error:
            raise UserError(f"{self.file}: {self.error}")
        [name] = self.outputs
        return self.answers[name]

    def cells(self) -> dict[str, str]:
        """Returns file, class, score, class_2, score_2, ..., error; or a number by its name.

        Several outputs give NAME and NAME_score for classes, NAME for labels and numbers.
        """
        alone, cells = len(self.outputs) == 1, dict[str, str]()
        for name, output in self.outputs.items():
            cells |= output.cells(name, self.answers.get(name), alone=alone)
        return {"file": self.file, **cells, "error": self.error}

    def record(self) -> dict[str, Any]:
        """Returns {"file": ..., "predictions": [{"class": ..., "score": ...}, ...]} for JSON.

        A number stands under its own name; the answers of several outputs under `heads`.
        """
        if self.error:
            return {"file": self.file, "error": self.error}
        heads = {n: output.record(self.answers[n]) for n, output in self.outputs.items()}
        if len(heads) > 1:
            return {"file": self.file, "heads": heads}
        [(name, output)] = self.outputs.items()
        record = {"file": self.file, (name if output.is_named else "predictions"): heads[name]}
        if isinstance(decided := self.answers[name], Decided):
            record["predicted"] = list(decided.predicted)
        return record


def expand_inputs(
    patterns: Sequence[str],
    kind: Input,
    report: Callable[[str], None] = lambda line: None,
    verb: str = "predict",
) -> list[Asked]:
    """Returns the files that files, folders and globs stand for, each once, in order.

    A file that is named stays, whatever it is. A folder gives the examples anywhere under it. If
    examples stand in the cells of tables, a table gives one for each line.

    Args:
        patterns: Paths and globs.
        kind: What the files are.
        report: Gets a line for each folder of which files are left out.
        verb: What needs the files, for the error.

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
            found = sorted(files_under(pattern))
            paths = list(filter(kind.accepts, found))
            if paths and (others := _others(found, paths)):
                report(f"{shown(pattern)}: {_left_out(others, len(paths), kind)}")
        elif tf.io.gfile.exists(pattern):
            paths = [pattern]
        else:
            matches = sorted(tf.io.gfile.glob(pattern))
            paths = [path for path in matches if not tf.io.gfile.isdir(path)]
        if not paths:
            is_there = not is_utf8(pattern) or tf.io.gfile.exists(pattern)
            nothing = f"no {kind.nouns} at" if is_there else "there is no file or folder"
            raise UserError(
                f"{verb}: {nothing} {shown(pattern)!r}. "
                f"Give {kind.noun} files, folders or globs{_more(kind)}."
            )
        files.update(dict.fromkeys(paths))
    asked: list[Asked] = []
    for path in files:
        if kind.cells and is_table(path):
            rows = read_cells(path, kind.cells)
            asked += [RawExample(where, kind.in_cells(cells)) for where, cells in rows]
        else:
            asked.append(path)
    return asked


def _others(found: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Returns the files that are no examples, but hidden ones."""
    known = set(paths)
    others = (path for path in found if path not in known)
    return [path for path in others if not path.rpartition("/")[2].startswith(".")]


def _left_out(others: Sequence[str], read: int, kind: Input) -> str:
    name = shown(others[0].rpartition("/")[2])
    verb = "is" if len(others) == 1 else "are"
    which = f"{len(others)} of {len(others) + read} files {verb} left out, such as {name}"
    table = " Name a table itself." if kind.cells and any(map(is_table, others)) else ""
    return f"{which}: in a folder only {kind.files} are read.{table}"


def _more(kind: Input) -> str:
    """Returns where else examples may come from."""
    lines = f'; or tables, or a {kind.noun} per line: `echo "..." | ftkeras predict RUN -`'
    return lines if kind.cells else ""


def predict_files(
    model: keras.Model,
    paths: Sequence[Asked],
    outputs: Mapping[str, Output],
    *,
    kind: Input,
    temperatures: Mapping[str, float] | None = None,
    top_k: int = 5,
    batch_size: int = 32,
) -> Iterator[FilePrediction]:
    """Yields what is said of each file, in order; of an unreadable one, why it is so.

    Files are checked, decoded and prepared as those that training reads.

    Args:
        model: Returns (n, units), or a dict of them by output.
        paths: The files, or the examples themselves.
        outputs: What the model answers, by name.
        kind: What the files are.
        temperatures: By output, what the logits are divided by; 1 if left out.
        top_k: How many classes to give, at most; beside other outputs, all labels are given.
        batch_size: Examples per step.

    Raises:
        UserError: The model gives neither logits nor scores.
    """
    alone, temperatures = len(outputs) == 1, temperatures or {}
    readings = {name: output.reading(model, name) for name, output in outputs.items()}
    for path, error, said in each_output(model, paths, kind, batch_size):
        answers = {}
        for name, output in () if error else outputs.items():
            own = said[name] if isinstance(said, dict) else said
            scores = readings[name].scores(own[None], temperatures.get(name, 1.0))
            answers[name] = output.answer(np.asarray(scores)[0], top_k, alone=alone)
        yield FilePrediction(path, outputs, answers, error)


def each_output(
    model: keras.Model, paths: Sequence[Asked], kind: Input, batch_size: int
) -> Iterator[tuple[str, str, Any]]:
    """Yields each file's path, what is wrong with it, and the model's output (units,) for it.

    Args: as those of `predict_files`; a model that gives a dict yields one.
    """
    names, verdicts = _judged(paths, kind)
    sound = [i for i, verdict in enumerate(verdicts) if not verdict.reason]
    readable, count = [verdicts[i].path for i in sound], len(sound)
    at_hand = {i: one.raw for i, one in enumerate(paths) if isinstance(one, RawExample)}
    if kind.raw.dtype != tf.string and count:
        fetch = from_array(np.stack([_array_in(path) for path in readable]))(np.arange(count))
    elif at_hand:
        fetch = _either(readable, [at_hand.get(i, b"") for i in sound])
    else:
        fetch = from_files(readable)(np.arange(count))
    split = Split("predict", readable, np.full(count, -1, np.int32), 0, fetch)
    outputs, seen, strange = _outputs(model, split, kind, batch_size), 0, list[tuple[int, str]]()
    for name, verdict in zip(names, verdicts, strict=True):
        if verdict.reason:
            yield name, verdict.reason, None
            continue
        output, unknown = next(outputs)
        if unknown >= _MANY_UNKNOWN:
            strange.append((seen, name))
        seen += 1
        yield name, "", output
    if strange:
        (place, name), *others = strange
        words, _ = kind.strangers(split.fetch(tf.constant(place, tf.int64)).numpy())
        more = counted(len(others), f"more {kind.noun}", f"more {kind.nouns}")
        also = f", nor half of the words of {more}" if others else ""
        if words:  # otherwise only signs are unknown
            note_unknown(words, f" of {shown(name)}{also}")


def note_unknown(words: Iterable[str], source: str = "") -> None:
    """Prints on standard error which words a model does not know, the first of them.

    Args:
        words: The words.
        source: What they are from, such as " of line 2".
    """
    each = list(map(repr, dict.fromkeys(words)))
    named = ", ".join([*each[:_NAMED], *(["..."] if each[_NAMED:] else [])])
    line = f"note      the model does not know {named}{source}: such words say nothing"
    print(line, file=sys.stderr)


def _judged(asked: Sequence[Asked], kind: Input) -> tuple[list[str], list[Verdict]]:
    """Returns what is asked about by name, and whether it can be read.

    The path of an example without a file is empty, unless it is to be read from a copy.
    """
    paths = [one for one in asked if isinstance(one, str)]
    scanned = iter(scan_files(paths, "predict", kind) if paths else ())
    names, verdicts = [], []
    for one in asked:
        names.append(one if isinstance(one, str) else one.name)
        if isinstance(one, RawExample):
            verdicts.append(kind.check(one.raw, "", digest(one.raw)))
        else:
            verdicts.append(next(scanned))
    return names, verdicts


def _either(paths: Sequence[str], raw: Sequence[bytes]) -> Fetch:
    """Returns what fetches an example from its file, or that at hand if its path is empty."""
    names, contents = tf.constant(list(paths), tf.string), tf.constant(list(raw), tf.string)

    def fetch(index: tf.Tensor) -> tf.Tensor:
        path = names[index]
        return tf.cond(path == "", lambda: contents[index], lambda: tf.io.read_file(path))

    return fetch


def _array_in(path: str) -> np.ndarray:
    with tf.io.gfile.GFile(path, "rb") as file:
        array: np.ndarray = np.load(io.BytesIO(file.read()), allow_pickle=False)
    return array


def _outputs(model: keras.Model, split: Split, kind: Input, batch_size: int) -> Iterator[Any]:
    """Yields what the model puts out for each example, and the share of it that is unknown."""
    answer = outputs_function(model)
    progress = Progress("predict", len(split), kind.noun, kind.nouns)
    try:
        for batch, labels in plain(split, kind, batch_size):
            outputs = tf.nest.map_structure(_numpy, answer(batch))
            progress.advance(len(labels))  # who takes the last answer does not come back
            for i, unknown in enumerate(kind.strangeness(batch)):
                yield tf.nest.map_structure(lambda output, i=i: output[i], outputs), unknown
    finally:
        progress.close()
