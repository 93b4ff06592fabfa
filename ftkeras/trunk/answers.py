"""What a model answers about a whole split, from what its frozen trunk put out for it before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from ftkeras.console import Progress
from ftkeras.data.feed import Feed
from ftkeras.data.pipeline import At
from ftkeras.graph import Graph, GraphModel
from ftkeras.phases.audit import fingerprint
from ftkeras.trunk.extract import find_store, is_rounded, plain_part
from ftkeras.trunk.plan import TrunkPlan
from ftkeras.trunk.split import Spec, TrunkSplit
from ftkeras.trunk.store import FrontierStore

Answer = Callable[..., Any]

_BATCHES = 4  # at once: without a backward pass they fit


class StoredAnswers:
    """Answers about whole splits by the tail alone, if the trunk's output is stored on disk.

    The answers are the whole model's, within the rounding of float32 (`trunk.precision: exact`: of
    the tail alone). So stores that are rounded to 16 bits, or computed in bfloat16, measure
    nothing: results must hold for the model that is saved. Nor does a trunk that trained in any
    phase, or whose weights are not those that the store was made with.

    Args:
        model: The whole model.
        feed: Its data.
        trunk: Which phases train from a store.
    """

    def __init__(self, model: keras.Model, feed: Feed, trunk: TrunkPlan):
        self._model, self._feed, self._trunk = model, feed, trunk
        self._found: dict[str, tuple[bytes, FrontierStore | None]] = {}
        self._answers: dict[int, Answer] = {}

    def __call__(self, model: keras.Model, name: str, label: str) -> Any:
        """Returns what a model puts out for a split, (n, units) or a dict; None if it has to run.

        Args:
            model: The whole model, or one of its inputs and outputs.
            name: The split.
            label: What to print while the tail runs.
        """
        index, feed = self._trunk.never_trained(), self._feed
        if index is None or feed.share.count > 1 or not _same(model, self._model):
            return None
        split = self._trunk.splits[index]
        assert split is not None
        store = None if is_rounded(split, self._trunk.options) else self._store(split, name)
        if store is None:
            return None
        if index not in self._answers:  # once for a run: tracing takes a second
            self._answers[index] = tail_function(split.tail.graph, split.frontier)
        places = np.arange(len(feed.data.splits[name]))
        return run_tail(self._answers[index], store, feed, name, places, label)

    def _store(self, split: TrunkSplit, name: str) -> FrontierStore | None:
        """Returns the store that was made with the weights that the trunk has now."""
        layers = split.trunk.graph.layers
        prints = b"".join(fingerprint(v) for layer in layers for v in layer.weights)
        if self._found.get(name, (None,))[0] != prints:
            part = plain_part(self._feed, name)
            self._found[name] = prints, find_store(split, part, self._trunk.options)
        return self._found[name][1]


def tail_function(graph: Graph, frontier: tuple[Spec, ...]) -> Answer:
    """Returns a stretch of the tail in inference mode as one graph, for batches of any size."""
    tail = GraphModel(graph, "tail")
    lengths = [(None, *s.shape[1:]) if s.varies else s.shape for s in frontier]
    specs = [tf.TensorSpec((None, *n), s.dtype) for n, s in zip(lengths, frontier, strict=True)]

    @tf.function(autograph=False, input_signature=[specs])
    def answered(inputs: list[tf.Tensor]) -> Any:
        outputs = tail(inputs if len(inputs) > 1 else inputs[0], training=False)
        return tf.nest.map_structure(lambda output: tf.cast(output, tf.float32), outputs)

    return cast(Answer, answered.get_concrete_function())  # as in `model.inference`


def run_tail(
    answer: Answer, store: FrontierStore, feed: Feed, name: str, places: np.ndarray, label: str
) -> Any:
    """Returns what `tail_function` gives for some rows of a split's store, float32 (n, ...).

    Args:
        answer: What `tail_function` returned.
        store: What is stored of the split.
        feed: The data.
        name: The split.
        places: The indices of the examples.
        label: What to print meanwhile.
    """
    read = store.read(feed.data.splits[name], sizes=feed.input.sizes)
    zero, size, parts = tf.constant(0, tf.int64), _BATCHES * feed.batch_size, []
    with contextlib.closing(Progress(label, len(places), "example")) as progress:
        for start in range(0, len(places), size):
            rows = tf.constant(places[start : start + size], tf.int64)
            frontier = read(rows, At(feed.seed, zero, rows, zero))
            outputs = answer(list(frontier) if isinstance(frontier, tuple) else [frontier])
            parts.append(tf.nest.map_structure(np.asarray, outputs))
            progress.advance(len(rows))
    return tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *parts)


def _same(model: keras.Model, other: keras.Model) -> bool:
    """Whether two models are of the same calls: their ends are the same symbolic tensors."""
    ends = [tf.nest.flatten((x.input, x.output)) for x in (model, other)]
    return len(ends[0]) == len(ends[1]) and all(a is b for a, b in zip(*ends, strict=True))
