"""Whether batches may be padded for several replicas, or have to be full."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf

from ftkeras.data.feed import Feed
from ftkeras.errors import UserError
from ftkeras.keras_internals import clear_losses, flat_layers, is_built_in
from ftkeras.phases.freezing import trained_weights
from ftkeras.phases.phase import Phase, resolve_phases
from ftkeras.phases.selectors import Weights


def why_full(model: keras.Model, weights: Weights, phases: Sequence[Phase]) -> str | None:
    """Returns why a model has to train on full batches, if it has to.

    Padding has no weight in a loss. But the statistics of a batch and the losses that layers add
    include all rows. So an incomplete batch would depend on the number of replicas.

    Args:
        model: The model, not compiled yet.
        weights: Its weights.
        phases: What trains.
    """
    for phase in resolve_phases(phases):
        trained = trained_weights(weights, phase.train, phase.batch_norm)
        norms = (isinstance(weight.layer, keras.layers.BatchNormalization) for weight in trained)
        if phase.batch_norm == "train" and any(norms):
            return f"batch norm trains in phase {phase.name}"
    for layer in flat_layers(model):
        if layer.activity_regularizer is not None:
            return f"layer {layer.name} has an activity regulariser"
    return "a layer adds a loss of its own" if _adds_losses(model) else None


def _adds_losses(model: keras.Model) -> bool:
    """Whether layers add losses in training, besides the regularisers of weights."""
    layers = flat_layers(model)
    if all(is_built_in(layer) or isinstance(layer, keras.Model) for layer in layers):
        return False
    specs = tf.nest.map_structure(
        lambda x: tf.TensorSpec((1, *x.shape[1:]), x.dtype),
        model.input,  # fmt: skip
    )
    tf.function(lambda x: model(x, training=True)).get_concrete_function(specs)
    try:
        penalties = sum(v.regularizer is not None for v in model.trainable_weights)
        return len(model.losses) > penalties
    finally:
        clear_losses(model)


def full_batches(feed: Feed, why: str, replicas: int) -> tuple[Feed, str]:
    """Returns a feed whose training batches are full, and a sentence about it.

    Args:
        feed: The feed.
        why: The reason.
        replicas: How many replicas share a batch.

    Raises:
        UserError: They cannot share it evenly, or there are too few examples for one.
    """
    if feed.batch_size % replicas:
        raise UserError(
            f"data.batch_size: {feed.batch_size} {feed.input.nouns} cannot be shared evenly among "
            f"{replicas} replicas, and batches have to be full because {why}. Take a multiple of "
            f"{replicas}."
        )
    full = dataclasses.replace(feed, complete=why)
    left = len(feed.data.splits["train"]) % feed.batch_size
    out = f"; each epoch leaves out {left} {feed.input.nouns}, others each time" if left else ""
    return full, f"training batches are full, because {why}{out}"
