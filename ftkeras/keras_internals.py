"""Every private name of Keras and TensorFlow that ftkeras needs, each behind a public function.

No other module names one (`tests/test_house.py`). Each function says why no public name would do,
and has a canary in `tests/test_keras_internals.py`, which says what broke when a name changes.
Private modules are imported within functions, so that a name that moves breaks only its own use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

# ------------------------------------------------------------------------- what a layer holds


class OwnVariable(NamedTuple):
    """A variable, and the layer that made it.

    Attributes:
        path: The names of the layers from the outermost to `layer`, and the variable's own name.
        variable: The Keras variable.
        layer: The layer that made it.
        trains: Whether it was made as one that trains, whatever is frozen now.
    """

    path: str
    variable: keras.Variable
    layer: keras.layers.Layer
    trains: bool


def variables_inside(
    layer: keras.layers.Layer, *, graph_order: bool = False, prefix: str = ""
) -> Iterator[OwnVariable]:
    """Yields every variable of a layer and of all layers inside it.

    `layer.trainable_variables` leaves out what is frozen now, and no public name says which layer
    made a variable. A layer that is used twice is visited twice.

    Args:
        layer: A layer or model.
        graph_order: Visit the layers of a model from input to output, as `model.layers` has them,
            instead of in the order in which they became attributes.
        prefix: What each path starts with.
    """
    trained, fixed = own_variables(layer)
    for variable in trained:
        yield OwnVariable(f"{prefix}{variable.name}", variable, layer, True)
    for variable in fixed:
        yield OwnVariable(f"{prefix}{variable.name}", variable, layer, False)
    in_graph = graph_order and isinstance(layer, keras.Model)
    for child in layer.layers if in_graph else children(layer):
        yield from variables_inside(child, graph_order=graph_order, prefix=f"{prefix}{child.name}/")


def own_variables(
    layer: keras.layers.Layer,
) -> tuple[Sequence[keras.Variable], Sequence[keras.Variable]]:
    """Returns the variables that a layer itself made: those that train, and the others.

    The public lists depend on the flags of the moment, and hold what is inside the layer, too.
    """
    return layer._trainable_variables, layer._non_trainable_variables


def layers_inside(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yields the layers inside a layer, each before those inside it, and as often as it is used.

    Only models have `layers` in public, and those of the top level alone.
    """
    for child in children(layer):
        yield child
        yield from layers_inside(child)


def children(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns the layers that a layer itself made, in the order in which it made them.

    Only models have `layers` in public.
    """
    return list(layer._flatten_layers(include_self=False, recursive=False))


def flat_layers(layer: keras.layers.Layer, include_self: bool = True) -> list[keras.layers.Layer]:
    """Returns a layer and all layers inside it, each once; public `layers` stops at the top."""
    return list(layer._flatten_layers(include_self=include_self))


def seed_generators(layer: keras.layers.Layer) -> Sequence[keras.random.SeedGenerator]:
    """Returns a layer's own seed generators; in `variables` nothing marks their states."""
    return layer._seed_generators


def clear_losses(layer: keras.layers.Layer) -> None:
    """Forgets the losses that a layer added when it was last called; `losses` only reads them."""
    layer._clear_losses()


def is_built_in(layer: keras.layers.Layer) -> bool:
    """Whether a layer's class is one of Keras's own, of which not all have a public name."""
    return type(layer).__module__.startswith("keras.src.layers.")


def takes_training(operation: keras.Operation) -> bool:
    """Whether Keras passes `training` on to an operation that is called.

    A layer passes it on to the layers inside even if its own `call` has no such argument.
    """
    return "training" in getattr(operation, "_call_context_args", ())


def for_graphs(kind: Any, config: dict[str, Any]) -> Any:
    """Returns a tokenizer of keras-hub that is made of TensorFlow's operations from the start.

    Otherwise it runs as Python until it is used in a graph, and makes its tables in that graph.
    """
    return kind.from_config({**config, "_allow_python_workflow": False})


def attach(thing: Any, name: str, value: Any) -> None:
    """Sets an attribute of one object past Keras's tracking, which would save it or refuse it."""
    vars(thing)[name] = value


def attached(thing: Any, name: str) -> Any:
    """Returns an attribute of this object alone, not of its class; None if there is none."""
    return vars(thing).get(name)


def detach(thing: Any, name: str) -> None:
    """Takes away what `attach` set."""
    vars(thing).pop(name, None)


# ------------------------------------------------------------------------------- the graph


def nodes_in_order(model: keras.Model) -> Iterator[Any]:
    """Yields the calls that a Functional model consists of, in an order in which they can run.

    `operations` has each layer once, however often it is called, and not with which arguments.
    """
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from model._nodes_by_depth[depth]


def inbound_nodes(operation: keras.Operation) -> Sequence[Any]:
    """Returns all symbolic calls of an operation; its `input` raises if there are several."""
    return operation._inbound_nodes


def followers(operation: keras.Operation) -> list[keras.Operation]:
    """Returns the operations that take an operation's output; no public name does."""
    return [node.operation for node in operation._outbound_nodes]


def maker(tensor: keras.KerasTensor) -> keras.Operation:
    """Returns the operation that a symbolic tensor comes from; no public name does."""
    return tensor._keras_history.operation


def functional_of(model: keras.Sequential) -> Any:
    """Returns the Functional model that a built Sequential one runs, or None.

    Another one over the same layers would call them once more, and so add to their records.
    """
    return model._functional


def run_through_graph(
    model: keras.Model, inputs: Any, renew: Callable[..., Any], call: Callable[..., Any]
) -> Any:
    """Runs each call of a Functional model on other layers, in any way.

    It is what `keras.models.clone_model` does, but without a model around the result.

    Args:
        model: A Functional model.
        inputs: What to run it on.
        renew: An operation to what stands in for it.
        call: Takes that and the arguments of the call.
    """
    return model._run_through_graph(inputs, operation_fn=renew, call_fn=call)


# --------------------------------------------------------------------------------- training


def unrounded(variable: keras.Variable) -> Any:
    """Returns a variable's value in its own dtype, also within a layer of half precision.

    There, `value` is rounded, and no public name leaves that scope.
    """
    from keras.src.backend.common.variables import AutocastScope

    with AutocastScope(None):
        return tf.convert_to_tensor(variable.value)  # Keras would pass the variable on


def symbolic_build(model: keras.Model, data_batch: Any) -> None:
    """Makes the variables of metrics and optimizer, which `fit` otherwise makes in its first
    step."""
    model._symbolic_build(data_batch=data_batch)


class BuiltFromOneReplica:
    """Mixed into a model's class, it lets `fit` build the model from one replica's batch.

    Keras builds it from the mean of the replicas' batches. With several workers that mean fails,
    and of booleans there is none.
    """

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        model: Any = self
        for _, _, batches in iterator or ():
            data_batch = tf.nest.map_structure(
                lambda part: model.distribute_strategy.experimental_local_results(part)[0],
                next(batches),
            )
            break
        with model.distribute_strategy.scope():
            symbolic_build(model, data_batch)


# ------------------------------------------------------------------------------ optimizers


def variable_index(optimizer: keras.optimizers.Optimizer, variable: Any) -> int:
    """Returns a weight's place among those that an optimizer was built on.

    Under a strategy, updates see the TensorFlow variable of one device, not the Keras variable.
    """
    index: int = optimizer._get_variable_index(variable)
    return index


def uses_weight_decay(optimizer: keras.optimizers.Optimizer, variable: Any) -> bool:
    """Whether a weight is none of those that `exclude_from_weight_decay` names."""
    uses: bool = optimizer._use_weight_decay(variable)
    return uses


class DecaysItself(keras.optimizers.Optimizer):
    """An optimizer whose `update_step` decays the weight, too.

    Keras decays all weights before, in two more passes over each; no public name turns that off
    without giving up `weight_decay`.
    """

    def _apply_weight_decay(self, variables: Any) -> None:
        pass


# ----------------------------------------------------------------------- the whole process


def global_seeds() -> keras.random.SeedGenerator:
    """Returns what Keras draws from if a call has no seed; makes it if nothing has drawn yet.

    No public name reads or sets where its sequence stands.
    """
    from keras.src.random.seed_generator import global_seed_generator

    return global_seed_generator()


def drawn_global_seeds() -> keras.random.SeedGenerator | None:
    """Returns what `global_seeds` does, but None if nothing has drawn yet: it makes nothing."""
    from keras.src.backend.common import global_state
    from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

    return global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)


def check_workers_every(seconds: int) -> None:
    """Sets how often TensorFlow asks whether the other workers live, and how long it waits.

    By default every 30 s, three times 10 s, which no public option changes.
    """
    from tensorflow.python.distribute import collective_all_reduce_strategy

    extended = collective_all_reduce_strategy.CollectiveAllReduceExtended
    extended._check_health_interval, extended._check_health_timeout = seconds, seconds


def with_constants(function: Any) -> Any:
    """Returns a concrete function with its variables' values as constants, in one graph.

    TensorFlow's converters, ONNX's among them, use this; it has no public name.
    """
    from tensorflow.python.framework import convert_to_constants

    return convert_to_constants.convert_variables_to_constants_v2(function)


def is_stateful(operation: str) -> bool:
    """Whether a kind of TensorFlow operation may do more than compute.

    Operations of a graph say it by `op_def`; those inside a function in it are only names.
    """
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(operation)
    return definition is None or bool(definition.is_stateful)
