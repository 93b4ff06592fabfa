"""Gradient checkpointing: blocks are computed once more in the backward pass instead of kept.

It changes no number. Keras's `RematScope` would: a layer that is computed once more in it draws
other dropout masks, and batch normalisation updates its statistics twice. Here each block is a pure
function. Its arguments are its weights, statistics and the states of its random generators; their
new values are written back once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from ftkeras.errors import UserError
from ftkeras.graph import (
    AttachMask,
    GraphModel,
    ReadMask,
    Tensor,
    flatten,
    results_of,
    run_steps,
    values_of,
)
from ftkeras.keras_internals import attach, detach, flat_layers, seed_generators, unrounded
from ftkeras.phases.checkpointing import Stretch, is_float, stretches
from ftkeras.phases.plan import Plan
from ftkeras.phases.selectors import Weights


def check_checkpointing(model: keras.Model, weights: Weights) -> None:
    """Refuses models whose blocks cannot be computed once more.

    Raises:
        UserError: The model is not functional, or no block of it could be.
    """
    graph = flatten(model)
    why = "the model is not functional" if graph is None else ""
    if graph is not None and not any(part.block for part in stretches(graph, weights)):
        why = "the backbone has no block before its last one that takes more than whole numbers"
    if why:
        raise UserError(f"training.gradient_checkpointing: {why}. Leave it out.")


@contextmanager
def checkpointed(model: keras.Model, plan: Plan) -> Iterator[None]:
    """Within this block, training steps of the model are computed with gradient checkpointing.

    Nothing is left of it afterwards, in the model or in what is saved. Without
    `plan.checkpointing` nothing happens.

    Args:
        model: The whole model, or its tail on a stored trunk.
        plan: The plan of the whole model.
    """
    graph = model.graph if isinstance(model, GraphModel) else flatten(model)
    if not plan.checkpointing or graph is None:
        yield
        return
    parts, plain = stretches(graph, plan.weights), model.call

    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not training:
            return plain(inputs, training=training, mask=mask)
        values = values_of(graph, inputs, mask)
        for part in parts:
            if part.block is None or not _trains(part):
                run_steps(part.steps, values, training)
            else:
                _run_pure(part, values)
        return results_of(graph, values)

    attach(model, "call", call)
    try:
        yield
    finally:
        detach(model, "call")


def _trains(part: Stretch) -> bool:
    return any(x.trainable for layer in _layers(part) for x in layer.variables)


def _layers(part: Stretch) -> list[keras.layers.Layer]:
    called = [s.operation for s in part.steps if isinstance(s.operation, keras.layers.Layer)]
    return list(dict.fromkeys(layer for outer in called for layer in flat_layers(outer)))


def _run_pure(part: Stretch, values: dict[Tensor, Any]) -> None:
    """Runs a stretch as a function of tensors alone, which `keras.remat` may run twice."""
    layers = _layers(part)
    weights = {id(x): x for layer in layers for x in layer.variables}
    weights |= {id(x.state): x.state for layer in layers for x in seed_generators(layer)}
    learned = [x for x in weights.values() if x.trainable]
    fixed = [(x, unrounded(x)) for x in weights.values() if not x.trainable]
    flowing = [x for x in part.inputs if is_float(x)]
    results = [x for x in part.outputs if is_float(x)]
    entering = {x: mask for x in flowing if (mask := ReadMask()(values[x])) is not None}
    leaving: dict[Tensor, Any] = {}
    updates: list[tuple[keras.Variable, Any]] = []
    runs: list[bool] = []  # one more for each: the second one is the backward pass

    def run(*given: Any) -> list[Any]:
        state = [*zip(learned, given[len(flowing) :], strict=True), *fixed]
        inside = {**values, **dict(zip(flowing, given, strict=False))}
        with keras.StatelessScope(state_mapping=state) as scope:
            for x, mask in entering.items():
                inside[x] = AttachMask()([inside[x], mask])
            run_steps(part.steps, inside, True)
        runs.append(True)
        if len(runs) == 1:
            updates.extend((x, scope.get_current_value(x)) for x, _ in fixed)
            leaving.update(
                {x: mask for x in results if (mask := ReadMask()(inside[x])) is not None}
            )
            values.update({x: inside[x] for x in part.outputs if not is_float(x)})
        return [inside[x] for x in results]

    made = keras.remat(run)(*(values[x] for x in flowing), *map(unrounded, learned))
    for x, value in zip(results, keras.tree.flatten(made), strict=True):
        values[x] = AttachMask()([value, leaving[x]]) if x in leaving else value
    for (variable, after), (_, before) in zip(updates, fixed, strict=True):
        if after is not before:
            variable.assign(after)
