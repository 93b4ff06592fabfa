"""Changes to a pretrained backbone before training: its weights, activations and drop rates.

A change of the graph makes a new graph: the same layers by name, the same weights to the bit, and
the same blocks. A change of weights alone works in place.
"""

from __future__ import annotations

import dataclasses
import inspect
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from ftkeras.backbones import Backbone, Block
from ftkeras.errors import UserError, did_you_mean
from ftkeras.keras_internals import followers, maker, variables_inside

Change = Callable[[Any], Any]  # from an operation of a graph to its replacement, or None

# ------------------------------------------------------------------------------- weights


def reinitialize(blocks: Sequence[Block], seed: int) -> None:
    """Gives every layer of the blocks fresh weights from its own initialisers, in place.

    The last blocks of a pretrained network are the most specific to its old task. Fresh weights for
    them can help on small data sets (Zhang et al. 2021, "Revisiting few-sample BERT fine-tuning").
    Batch normalisation gets fresh statistics, too. `Normalization` layers are not changed: their
    statistics describe the input and are not learned.

    Args:
        blocks: For instance `backbone.blocks[-2:]`.
        seed: A weight's values depend on it and on the names of block and layer alone, not on the
            initialisers' seeds, nor on the other blocks.

    Raises:
        UserError: A layer has no config for building it again.

    Example:
        ```python
        reinitialize(backbone.blocks[-2:], seed=0)
        ```
    """
    for layer, fresh in _fresh_weights(blocks, seed):
        layer.set_weights(fresh)


def shrink_and_perturb(
    blocks: Sequence[Block], *, shrink: float, perturb: float, seed: int
) -> None:
    """Moves weights towards a fresh start: `shrink * w + perturb * w_fresh`, in place.

    Ash and Adams 2020, "On warm-starting neural network training". The noise is the weights of a
    freshly initialised layer, so kernels, offsets and scales get noise of their own size. As in the
    paper, every weight that can train gets it. The statistics of batch normalisation stay and no
    longer fit the new features: estimate them again, or let them train.

    Args:
        blocks: For instance `backbone.blocks`.
        shrink: From 0 (forget) to 1 (keep).
        perturb: Share of the fresh weights, at least 0.
        seed: See `reinitialize`.

    Raises:
        UserError: A number is out of range, or a layer has no config for building it again.
    """
    if not 0 <= shrink <= 1:
        raise UserError(f"shrink_and_perturb: shrink is from 0 to 1, got {shrink}.")
    if perturb < 0:
        raise UserError(f"shrink_and_perturb: perturb must be at least 0, got {perturb}.")
    for layer, fresh in _fresh_weights(blocks, seed):
        # Not `trainable_weights`: a frozen layer is shrunk too.
        fixed = {id(variable) for _, variable, _, trains in variables_inside(layer) if not trains}
        for variable, noise in zip(layer.weights, fresh, strict=True):
            if id(variable) not in fixed:
                variable.assign(shrink * variable.numpy() + perturb * noise)


def _fresh_weights(
    blocks: Sequence[Block], seed: int
) -> Iterator[tuple[keras.layers.Layer, list[np.ndarray]]]:
    for block in blocks:
        for index, layer in enumerate(block.layers):
            if not isinstance(layer, keras.layers.Normalization):
                yield layer, _twin_weights(layer, f"{seed}/{block.name}/{index}/{layer.name}")


def _twin_weights(layer: keras.layers.Layer, key: str) -> list[np.ndarray]:
    """Returns the weights of a new layer with the same config, drawn under `key`."""
    # An initialiser without a seed takes one from Python's generator when it is made. Seeding the
    # generator therefore covers all of them, also those that a layer makes inside.
    state = random.getstate()
    random.seed(key)
    try:
        twin = _twin(layer)
        twin.build_from_config(layer.get_build_config() or {})
    finally:
        random.setstate(state)
    fresh = twin.get_weights()
    if [value.shape for value in fresh] != [tuple(w.shape) for w in layer.weights]:
        raise UserError(
            f"layer {layer.name!r} ({type(layer).__name__}) cannot get fresh weights: it has no "
            "get_build_config. Leave its block out."
        )
    return fresh


def _twin(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Returns a new layer with the same config, whose initialisers have no seeds."""
    kind, config = type(layer), _without_seeds(layer.get_config())
    try:
        return kind.from_config(config)
    except TypeError:  # some configs of keras-hub have fields that their classes do not take
        taken = {"name", "trainable", "dtype", *inspect.signature(kind).parameters}
        return kind.from_config({key: config[key] for key in config.keys() & taken})


def _without_seeds(config: Any) -> Any:
    if isinstance(config, dict):
        return {k: None if k == "seed" else _without_seeds(v) for k, v in config.items()}
    return [_without_seeds(part) for part in config] if isinstance(config, list) else config


# --------------------------------------------------------------------------- activations


def swap_activation(
    model: keras.Model, old: str, new: str
) -> tuple[keras.Model, dict[int, Any], int]:
    """Returns a copy of a model with one activation replaced by another.

    Also returns each operation's counterpart in the copy, by id of the operation, and how many
    activations were replaced.

    It replaces `Activation` and `ReLU` layers (`ReLU(max_value=6)` is "relu6"), the `activation=`
    of any layer, and activation operations, in nested models, too. Names and weights stay.

    Args:
        model: A Functional or Sequential model.
        old: A Keras activation name that occurs in the model.
        new: A Keras activation name.

    Raises:
        UserError: `new` is unknown, `old` does not occur, or the model's graph isn't known.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="relu")])
        >>> swapped, _, count = swap_activation(model, "relu", "swish")
        >>> count, swapped.layers[0].activation.__name__
        (1, 'silu')
    """
    if _canonical(new) is None:
        known = [name for name in dir(keras.activations) if _canonical(name)]
        guess = did_you_mean(new, known)
        raise UserError(
            f"activation: no Keras activation {new!r}.{guess} Known: {', '.join(known)}."
        )
    there = Counter(name for op in _operations(model) for name in _activations(op))
    wanted = _canonical(old) or old
    if not there[wanted]:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(there.items()))
        raise UserError(
            f"activation: {model.name} has no {old!r}.{did_you_mean(old, there)} "
            f"It has: {listed or 'none'}."
        )

    def change(operation: Any) -> Any:
        if wanted not in _activations(operation):
            return None
        if _own_activation(operation) is not None:
            policy = getattr(operation, "dtype_policy", None)
            return keras.layers.Activation(new, name=operation.name, dtype=policy)
        config = _replaced(operation.get_config(), wanted, new)
        return type(operation).from_config(config)

    copy, copies = _remake(model, change)
    return copy, copies, there[wanted]


def swap_activation_in(backbone: Backbone, old: str, new: str) -> tuple[Backbone, int]:
    """Does `swap_activation` on a backbone; its blocks hold the new model's layers."""
    model, copies, count = swap_activation(backbone.model, old, new)
    return _with_model(backbone, model, copies), count


def _activations(operation: Any) -> list[str]:
    """Returns the names of the activations that one operation of a graph applies."""
    own = _own_activation(operation)
    if own is not None:
        return [own]
    if not isinstance(operation, keras.layers.Layer):
        return []
    names = [_canonical(value) for value in _configured(operation.get_config())]
    return [name for name in names if name not in (None, "linear")]


def _own_activation(operation: Any) -> str | None:
    """Returns the name of an operation that is only an activation."""
    layers = keras.layers
    if isinstance(operation, layers.ReLU):
        shape = (operation.max_value, operation.negative_slope, operation.threshold)
        return {(None, 0, 0): "relu", (6, 0, 0): "relu6"}.get(shape, f"ReLU{shape}")
    for kind, name in ((layers.LeakyReLU, "leaky_relu"), (layers.ELU, "elu")):
        if isinstance(operation, kind):
            return name
    if isinstance(operation, layers.Layer):
        return None
    # `keras.ops.relu(x)` in a graph is an operation of class Relu.
    return _canonical(re.sub(r"(?<!^)(?=[A-Z])", "_", type(operation).__name__).lower())


def _configured(config: Any) -> Iterator[Any]:
    """Yields every value of a key `activation`, also of the layers inside a wrapper's config."""
    if isinstance(config, dict):
        if config.get("activation") is not None:
            yield config["activation"]
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            yield from _configured(part)


def _replaced(config: Any, old: str, new: str) -> Any:
    if isinstance(config, dict):
        return {
            key: new
            if key == "activation" and value is not None and _canonical(value) == old
            else _replaced(value, old, new)
            for key, value in config.items()
        }
    return [_replaced(part, old, new) for part in config] if isinstance(config, list) else config


def _canonical(activation: Any) -> str | None:
    """Returns the one name of an activation that may have several (swish is silu), or None."""
    if activation in ("get", "serialize", "deserialize"):
        return None
    try:
        name = getattr(keras.activations.get(activation), "__name__", None)
    except (ValueError, TypeError):
        return None
    return str(name) if name else None


# ---------------------------------------------------------------------- stochastic depth


def set_stochastic_depth(backbone: Backbone, rate: float, seed: int = 0) -> Backbone:
    """Returns a copy of a backbone whose residual branches are dropped at rates up to `rate`.

    Huang et al. 2016, "Deep networks with stochastic depth": branch l of L is dropped with the
    probability `rate * l / L`, separately per example, so that branches near the input drop least.
    The architecture must have layers for it: EfficientNets and ConvNeXts do. Each of them becomes a
    `keras.layers.Dropout` that drops whole examples.

    Args:
        backbone: What `load_backbone` returned.
        rate: The last branch's drop rate, from 0 (off) to below 1.
        seed: Each layer derives its own seed from it.

    Raises:
        UserError: The rate is out of range, or the backbone has no such layers.
    """
    if not 0 <= rate < 1:
        raise UserError(f"stochastic_depth: the rate is from 0 to below 1, got {rate}.")
    layers = [op for op in _operations(backbone.model) if _drops_branch(op)]
    if not layers:
        raise UserError(
            f"stochastic_depth: {backbone.name} has none; EfficientNets and ConvNeXts do."
        )
    depth = {id(layer): number for number, layer in enumerate(layers, start=1)}

    def change(operation: Any) -> Any:
        if id(operation) not in depth:
            return None
        number = depth[id(operation)]
        return keras.layers.Dropout(
            rate * number / len(layers),
            noise_shape=(None,) + (1,) * (len(operation.output.shape) - 1),
            seed=seed + number,
            name=operation.name,
            dtype=operation.dtype_policy,
        )

    return _with_model(backbone, *_remake(backbone.model, change))


def _drops_branch(operation: Any) -> bool:
    """Whether an operation drops residual branches of whole examples, or can be replaced by one."""
    if isinstance(operation, keras.layers.Dropout):
        shape = operation.noise_shape
        return shape is not None and len(shape) > 1 and all(size == 1 for size in shape[1:])
    if isinstance(operation, keras.layers.Activation):
        # ConvNeXt at rate 0 has a linear activation there, which does nothing.
        after = followers(operation)
        adds = bool(after) and all(type(follower).__name__ == "Add" for follower in after)
        return adds and _canonical(operation.activation) == "linear"
    return type(operation).__name__ in ("StochasticDepth", "DropPath")


# ----------------------------------------------------------------------- copying a graph


def _operations(model: keras.Model) -> list[Any]:
    """Returns the operations of a model, from input to output, with nested models opened."""
    try:
        operations = model.layers if isinstance(model, keras.Sequential) else model.operations
    except AttributeError:
        raise UserError(
            f"{model.name} is a subclassed model: only the graph of a Functional or Sequential "
            "model can be changed."
        ) from None
    by_id: dict[int, Any] = {}
    for operation in operations:
        inner = _operations(operation) if isinstance(operation, keras.Model) else [operation]
        by_id.update((id(one), one) for one in inner)
    return list(by_id.values())


def _remake(model: keras.Model, change: Change) -> tuple[keras.Model, dict[int, Any]]:
    """Returns a copy of a model, and each operation's counterpart in it, by id of the operation.

    The new graph shares nothing with the old one: a layer used in two graphs has no `output`.
    """
    copies: dict[int, Any] = {}
    pairs: list[tuple[Any, Any]] = []

    def clone(operation: Any) -> Any:
        new = change(operation) or type(operation).from_config(operation.get_config())
        copies[id(operation)] = new
        pairs.append((operation, new))
        return new

    inputs = None  # a Sequential model's input keeps its name by itself
    if not isinstance(model, keras.Sequential):
        inputs = keras.tree.map_structure(_input_like, model.input)
    copy = keras.models.clone_model(model, inputs, clone_function=clone, recursive=True)
    for old, new in pairs:
        for source, target in zip(*(getattr(op, "weights", ()) for op in (old, new)), strict=True):
            target.assign(source)
    return copy, copies


def _input_like(tensor: keras.KerasTensor) -> keras.KerasTensor:
    layer = maker(tensor)
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=layer.name)


def _with_model(backbone: Backbone, model: keras.Model, copies: dict[int, Any]) -> Backbone:
    blocks = tuple(
        Block(block.name, tuple(copies[id(layer)] for layer in block.layers))
        for block in backbone.blocks
    )
    return dataclasses.replace(backbone, model=model, blocks=blocks)
