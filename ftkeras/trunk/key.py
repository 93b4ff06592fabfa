"""The name of a store: a digest of everything that its content depends on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from ftkeras.cache import digest
from ftkeras.data import dataset
from ftkeras.graph import Graph, Tensor
from ftkeras.keras_internals import flat_layers
from ftkeras.phases.audit import fingerprint
from ftkeras.trunk.split import TrunkSplit

# Fields of a layer's config that do not change its output. Automatic names are numbered per
# process, so the same model has other names when it is built again.
_IRRELEVANT = ("name", "trainable", "build_config", "seed")
_IRRELEVANT_ENDS = ("_initializer", "_regularizer", "_constraint")


def store_key(
    split: TrunkSplit,
    *,
    examples: str,
    recipe: str,
    dtype: str = "float32",
    precision: str = "float32",
) -> str:
    """Returns the name under which the trunk's output for these examples is stored.

    The same key means the same content. So another run, a later phase, or a sweep over heads or
    seeds finds the store. Anything that could change a number changes the key.

    Args:
        split: The model, divided; the key depends on its trunk, not on its tail.
        examples: The digest from `stamp_examples`.
        recipe: How the examples were prepared; see `Input.recipe`.
        dtype: How numbers are stored.
        precision: How numbers are computed.
    """
    weights = [
        (tuple(variable.shape), variable.dtype, fingerprint(variable).hex())
        for layer in split.trunk.graph.layers
        for variable in layer.weights
    ]
    versions = (tf.__version__, keras.__version__)
    inputs = (examples, recipe)
    return digest(graph_signature(split.trunk.graph), weights, inputs, dtype, precision, versions)


def graph_signature(graph: Graph) -> str:
    """Returns a text that differs if graphs compute different outputs with the same weights."""
    number: dict[Tensor, int] = {x: i for i, x in enumerate(graph.inputs)}
    layers: dict[Any, int] = {}

    def plain(argument: Any) -> Any:
        return f"#{number[argument]}" if isinstance(argument, Tensor) else repr(argument)

    lines: list[Any] = [[x.shape, x.dtype] for x in graph.inputs]
    for step in graph.steps:
        same_as = layers.setdefault(step.operation, len(layers))
        arguments = keras.tree.map_structure(plain, (step.args, step.kwargs))
        lines.append([same_as, _signature(step.operation), repr(arguments)])
        number.update((x, len(number) + i) for i, x in enumerate(step.outputs))
    lines.append([number[x] for x in graph.outputs])
    return json.dumps(lines, default=repr)


def _signature(operation: keras.Operation) -> Any:
    kind = f"{type(operation).__module__}.{type(operation).__qualname__}"
    if not isinstance(operation, keras.layers.Layer):
        own = {k: v for k, v in vars(operation).items() if not k.startswith("_") and k != "name"}
        return [kind, own]
    dtypes = [layer.dtype_policy.name for layer in flat_layers(operation)]
    return [kind, dtypes, _relevant(operation.get_config())]


def _relevant(config: Any) -> Any:
    if isinstance(config, dict):
        return {
            key: _relevant(value)
            for key, value in sorted(config.items())
            if key not in _IRRELEVANT and not key.endswith(_IRRELEVANT_ENDS)
        }
    return [_relevant(value) for value in config] if isinstance(config, (list, tuple)) else config


def stamp_examples(split: dataset.Split) -> str:
    """Returns a digest of a split's examples, which changes if one of them changes.

    For examples in files, the digest uses each file's size and time instead of its content, which
    is fast. Otherwise it reads the bytes of all raw examples.
    """
    stamps: Sequence[Any] = _files(split.files) if split.files else _contents(split)
    return digest(bool(split.files), *zip(split.ids, stamps, strict=True))


def _files(files: Sequence[str]) -> list[tuple[int, int]]:
    known = {}
    for file in dict.fromkeys(files):  # one file may hold many records
        facts = tf.io.gfile.stat(file)
        known[file] = (facts.length, facts.mtime_nsec)
    return [known[file] for file in files]


def _contents(split: dataset.Split) -> list[str]:
    @tf.autograph.experimental.do_not_convert
    def stamp(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        raw = split.fetch(index)  # bytes, or an array of any shape
        print_ = tf.raw_ops.Fingerprint(data=tf.reshape(raw, [1, -1]), method="farmhash64")
        return tf.shape(raw), print_

    indices = tf.data.Dataset.range(len(split))
    stamps = indices.map(stamp, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return [f"{shape.tolist()} {p.tobytes().hex()}" for shape, p in stamps.as_numpy_iterator()]
