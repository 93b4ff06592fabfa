"""One canary for each function of `keras_internals`: it says what a new Keras or TensorFlow broke.

Where one fails, look for a public name first; otherwise repair the function. What stands in
`canary` is what goes wrong in ftkeras until then, mostly without a word.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras import keras_internals as internals

Test = Callable[..., None]


def canary(what_breaks: str) -> Callable[[Test], Test]:
    """Has a test that fails say what in ftkeras depends on it."""

    def wrap(test: Test) -> Test:
        @functools.wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                test(*args, **kwargs)
            except Exception as error:
                pytest.fail(
                    f"keras {keras.__version__} or tensorflow {tf.__version__} changed what "
                    f"ftkeras.keras_internals relies on ({error!r}). Until it is repaired: "
                    f"{what_breaks}"
                )

        return run

    return wrap


@pytest.fixture
def model() -> keras.Model:
    """Dense, batch norm, a nested Sequential, and one dense layer called twice."""
    inputs = keras.Input((4,), name="rows")
    x = keras.layers.Dense(3, name="first")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, name="hidden"), keras.layers.Dropout(0.5)],
        name="inner",
    )(x)
    twice = keras.layers.Dense(2, name="twice")
    return keras.Model(inputs, twice(twice(x)))


@pytest.fixture
def shared() -> keras.layers.Layer:
    """A layer that holds one dense layer by two ways."""
    dense = keras.layers.Dense(1, name="dense")
    layer = keras.layers.Layer(name="outer")
    layer.one, layer.other = (keras.Sequential([dense], name=name) for name in ("one", "other"))
    return layer


@pytest.fixture
def weights() -> list[keras.Variable]:
    return [keras.Variable([1.0, 2.0], name=name) for name in ("a", "b")]


GRADIENTS = [np.float32([3.0, 4.0]), np.float32([0.0, 1.0])]


def applied(optimizer: keras.optimizers.Optimizer, weights: list[keras.Variable]) -> np.ndarray:
    """Applies the gradients once and returns what the first weight is then."""
    optimizer.apply(list(map(tf.constant, GRADIENTS)), weights)
    return weights[0].numpy()


# ------------------------------------------------------------------------- what a layer holds


@canary("audits, averages, freezing and selectors miss variables, or call them otherwise.")
def test_variables_inside(model):
    model.trainable = False
    found = list(internals.variables_inside(model))
    assert [(v.path, v.trains) for v in found] == [
        *(("first/kernel", True), ("first/bias", True)),
        *(("norm/gamma", True), ("norm/beta", True)),
        *(("norm/moving_mean", False), ("norm/moving_variance", False)),
        *(("inner/hidden/kernel", True), ("inner/hidden/bias", True)),
        *(("twice/kernel", True), ("twice/bias", True)),
    ]
    assert found[0].variable is model.get_layer("first").kernel
    assert found[0].layer is model.get_layer("first")
    assert list(internals.variables_inside(model, graph_order=True)) == found
    model.later = keras.layers.Dense(1)
    model.later.build((None, 1))
    assert len(list(internals.variables_inside(model))) == len(found) + 2
    assert len(list(internals.variables_inside(model, graph_order=True))) == len(found)


@canary("the trunk takes layers whose state changes; the audit and LoRA mistake what trains.")
def test_own_variables():
    norm = keras.layers.BatchNormalization()
    norm.build((None, 2))
    norm.trainable = False
    trains, others = internals.own_variables(norm)
    assert [v.name for v in trains] == ["gamma", "beta"]
    assert [v.name for v in others] == ["moving_mean", "moving_variance"]
    assert [*map(list, internals.own_variables(keras.layers.Dropout(0.5)))] == [[], []]


@canary("layers inside of others keep the `trainable` flag of the phase before.")
def test_layers_inside(shared):
    names = [layer.name for layer in internals.layers_inside(shared)]
    assert names == ["one", "dense", "other", "dense"]


@canary("batch norm, convolutions and half precision inside of nested models are not found.")
def test_flat_layers(shared, model):
    assert sorted(x.name for x in internals.flat_layers(shared)) == [
        *("dense", "one", "other", "outer")
    ]
    inside = internals.flat_layers(model, include_self=False)
    assert model.get_layer("inner").layers[0] in inside and model not in inside


@canary("the trunk stores what random layers gave once, instead of cutting before them.")
def test_seed_generators():
    assert len(internals.seed_generators(keras.layers.Dropout(0.5))) == 1
    assert len(internals.seed_generators(keras.layers.GaussianNoise(0.5))) == 1
    assert len(internals.seed_generators(keras.layers.Dense(1))) == 0


@canary("looking for the trunk leaves a symbolic loss in a layer, and `fit` fails on it.")
def test_clear_losses():
    layer = keras.layers.Dense(1, activity_regularizer="l2")
    outer = keras.Sequential([layer])
    outer(tf.ones((1, 1)))
    assert len(outer.losses) == 1
    internals.clear_losses(outer)
    assert outer.losses == []


@canary("the trunk traces each of Keras's own layers, or trusts a layer that is not Keras's.")
def test_is_built_in():
    class Own(keras.layers.Dense):
        pass

    for name in ("Dense", "Conv2D", "BatchNormalization", "Rescaling", "RandomFlip", "ReLU"):
        assert internals.is_built_in(getattr(keras.layers, name)(**_ARGUMENTS.get(name, {}))), name
    assert not internals.is_built_in(Own(1))


_ARGUMENTS = {
    "Dense": {"units": 1},
    "Conv2D": {"filters": 1, "kernel_size": 1},
    "Rescaling": {"scale": 1.0},
}


@canary("dropout in a stored tail is off in training, or an operation is refused `training`.")
def test_takes_training(model):
    assert internals.takes_training(keras.layers.Dropout(0.5))
    assert internals.takes_training(keras.Sequential([keras.layers.Dropout(0.5)]))
    assert not internals.takes_training(internals.maker(keras.Input((2,)) + 1))


@canary("kept graphs are saved with a model; fast gradients of convolutions do not take effect.")
def test_attach(tmp_path):
    conv, double = keras.layers.Conv2D(1, 1), lambda inputs, kernel: 2 * inputs
    internals.attach(conv, "convolution_op", double)
    internals.attach(conv, "twin", keras.layers.Dense(1))
    conv.build((None, 1, 1, 1))
    np.testing.assert_array_equal(conv(tf.ones((1, 1, 1, 1))), [[[[2.0]]]])
    internals.attach(conv, "call", lambda inputs: 3 * inputs)
    np.testing.assert_array_equal(conv(tf.ones((1, 1, 1, 1))), [[[[3.0]]]])
    assert conv.twin and list(internals.layers_inside(conv)) == []


@canary("an attached method counts as Keras's own, so that it is attached twice.")
def test_attached():
    layer = keras.layers.Dense(1)
    assert internals.attached(layer, "call") is None
    internals.attach(layer, "call", abs)
    assert internals.attached(layer, "call") is abs


@canary("a layer keeps what was attached to it for a while.")
def test_detach():
    layer = keras.layers.Dense(1)
    internals.attach(layer, "call", abs)
    internals.detach(layer, "call")
    internals.detach(layer, "call")  # not there is as good
    assert layer.call.__func__ is keras.layers.Dense.call


# ------------------------------------------------------------------------------- the graph


@canary("a model cannot be divided into trunk and tail, or its parts compute something else.")
def test_nodes_in_order(model):
    nodes = list(internals.nodes_in_order(model))
    names = [node.operation.name for node in nodes]
    assert names == ["rows", "first", "norm", "inner", "twice", "twice"]
    assert [node.is_input for node in nodes] == [True, *[False] * 5]
    rows = tf.random.stateless_normal((5, 4), (1, 2))
    values = {id(model.inputs[0]): rows}
    for node in nodes[1:]:
        assert all(id(x) in values for x in node.input_tensors)
        args, kwargs = node.arguments.fill_in(values)
        values.update(zip(map(id, node.outputs), [node.operation(*args, **kwargs)], strict=True))
    np.testing.assert_array_equal(values[id(model.outputs[0])], model(rows))


@canary("the doctor looks at the wrong tensor before the backbone; `plan` counts memory wrongly.")
def test_inbound_nodes(model):
    nodes = internals.inbound_nodes(model.get_layer("twice"))
    assert len(nodes) == 2
    assert nodes[1].input_tensors[0] is nodes[0].outputs[0]
    assert nodes[1].outputs[0] is model.outputs[0]


@canary("stochastic depth does not find the branches of a ConvNeXt that was built without.")
def test_followers(model):
    assert internals.followers(model.get_layer("first")) == [model.get_layer("norm")]
    x = keras.Input((2,))
    sums = [keras.ops.add(x, 1.0), keras.ops.add(x, 2.0)]
    assert internals.followers(internals.maker(x)) == [internals.maker(y) for y in sums]


@canary("pooled features are not found for export; swapping an activation loses inputs' names.")
def test_maker(model):
    assert internals.maker(model.outputs[0]) is model.get_layer("twice")
    assert internals.maker(model.inputs[0]).name == "rows"


@canary("nested Sequential models are not opened, so the trunk ends before them.")
def test_functional_of(model):
    inner = internals.functional_of(model.get_layer("inner"))
    assert [node.operation.name for node in internals.nodes_in_order(inner)][1] == "hidden"
    assert internals.functional_of(keras.Sequential([keras.layers.Dense(1)])) is None


@canary("a person's own .keras file cannot become a backbone.")
def test_run_through_graph(model):
    called = []

    def call(name: str, *args: Any, **kwargs: Any) -> Any:
        called.append(name)
        return args[0] + 1

    assert internals.run_through_graph(model, 0, lambda operation: operation.name, call) == 5
    assert called == ["first", "norm", "inner", "twice", "twice"]


# --------------------------------------------------------------------------------- training


@canary("a run that stops in its first epoch cannot resume: its metrics have no variables.")
def test_symbolic_build(model):
    model.compile("adam", loss="mse", metrics=["mae"])
    before = len(model.metrics_variables)
    batch = (tf.TensorSpec((None, 4), tf.float32), tf.TensorSpec((None, 2), tf.float32))
    internals.symbolic_build(model, batch)
    assert len(model.metrics_variables) == before + 2 and model.optimizer.built


@canary("with several workers, or a batch that holds booleans, `fit` fails before it starts.")
def test_built_from_one_replica(two_replicas):
    class Model(internals.BuiltFromOneReplica, keras.Model):
        pass

    with two_replicas.scope():
        numbers, mask = keras.Input((4,)), keras.Input((4,), dtype="bool")
        x = keras.ops.where(mask, numbers, 0.0)
        made = Model([numbers, mask], keras.layers.Dense(2)(x))
        made.compile("sgd", loss="mse", metrics=["mae"], jit_compile=False)
    batch = (np.ones((2, 4)), np.ones((2, 4), bool)), np.ones((2, 2))
    made.fit(tf.data.Dataset.from_tensors(batch), shuffle=False, verbose=0)
    assert made.optimizer.built and len(made.metrics_variables) == 4


@canary(
    "with several workers a step's logs cannot be averaged. If Keras averages scalars now, "
    "take the reshape out of `ReplicaSteps.compute_metrics`."
)
def test_keras_averages_logs_over_axis_0():
    from keras.src.backend.tensorflow.trainer import reduce_per_replica

    class TwoWorkers(tf.distribute.MultiWorkerMirroredStrategy):
        """Notes what it is given; `tests/devices/test_workers.py` has real ones."""

        extended = types.SimpleNamespace(_in_multi_worker_mode=lambda: True)

        def __init__(self) -> None:
            self.reduced: list[int] = []

        def reduce(self, reduce_op: Any, value: tf.Tensor, axis: Any) -> Any:
            self.reduced.append(axis)
            return value

    workers = TwoWorkers()
    reduce_per_replica(tf.constant(0.0), workers, "auto")
    assert workers.reduced == [0]


# ------------------------------------------------------------------------------ optimizers


@canary("a weight's own rate and step count go to another weight.")
def test_variable_index(weights):
    optimizer = keras.optimizers.SGD()
    optimizer.build(weights)
    assert [internals.variable_index(optimizer, v) for v in weights] == [0, 1]
    assert [internals.variable_index(optimizer, v.value) for v in weights] == [0, 1]


@canary("weights that are excluded from decay decay.")
def test_uses_weight_decay(weights):
    optimizer = keras.optimizers.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["b"])
    optimizer.build(weights)
    assert [internals.uses_weight_decay(optimizer, v) for v in weights] == [True, False]


@canary("Adam and AdamW decay weights twice in a step.")
def test_decays_itself():
    class Plain(internals.DecaysItself, keras.optimizers.SGD):
        pass

    weight = keras.Variable([1.0])
    optimizer = Plain(0.5, weight_decay=0.1)
    optimizer.apply([tf.zeros(1)], [weight])
    np.testing.assert_array_equal(weight.numpy(), [1.0])


# ----------------------------------------------------------------------- the whole process


@canary("gradient checkpointing in half precision trains on rounded weights.")
def test_unrounded():
    class Seen(keras.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(), initializer="ones")

        def call(self, inputs):
            self.seen = self.kernel.value.dtype, internals.unrounded(self.kernel).dtype
            return inputs

    layer = Seen(dtype="mixed_bfloat16")
    layer(np.ones(1, "float32"))
    assert [x.name for x in layer.seen] == ["bfloat16", "float32"]


@canary("a resumed run draws other numbers in layers and callbacks without a seed.")
def test_global_seeds():
    state = internals.global_seeds().state
    before = state.numpy()
    first = keras.random.uniform((4,)).numpy()
    state.assign(before)
    np.testing.assert_array_equal(keras.random.uniform((4,)), first)


@canary("a saved run says nothing of the numbers that were drawn without a seed.")
def test_drawn_global_seeds():
    seeds = internals.global_seeds()
    assert internals.drawn_global_seeds() is seeds


@canary("a worker that dies is noticed after a minute instead of some seconds.")
def test_check_workers_every(monkeypatch):
    from tensorflow.python.distribute import collective_all_reduce_strategy

    extended = collective_all_reduce_strategy.CollectiveAllReduceExtended
    for name, default in (("_check_health_interval", 30), ("_check_health_timeout", 10)):
        assert getattr(extended, name) == default
        monkeypatch.setattr(extended, name, default)
    internals.check_workers_every(5)
    assert (extended._check_health_interval, extended._check_health_timeout) == (5, 5)


@canary("no export to ONNX and OpenVINO.")
def test_with_constants():
    variable = tf.Variable([2.0])
    double = tf.function(lambda x: variable * x, input_signature=[tf.TensorSpec((1,))])
    frozen = internals.with_constants(double.get_concrete_function())
    variable.assign([7.0])
    np.testing.assert_array_equal(frozen(tf.constant([3.0])), [[6.0]])
    assert not any("Variable" in op.type for op in frozen.graph.get_operations())


@canary("byte pairs are looked up in tables of another graph: exports of GPT-2 and RoBERTa fail")
def test_for_graphs():
    from keras_hub.tokenizers import WordPieceTokenizer

    config = WordPieceTokenizer(["[UNK]", "red"]).get_config()
    made = internals.for_graphs(WordPieceTokenizer, {**config, "vocabulary": ["[UNK]", "red"]})
    assert isinstance(made("red"), tf.Tensor)  # an array is what Python's own way gives


@canary("the layers of a vision transformer's encoder are no blocks of their own.")
def test_children(model, shared):
    assert [layer.name for layer in internals.children(shared)] == ["one", "other"]
    assert {"first", "norm", "inner"} <= {layer.name for layer in internals.children(model)}


@canary("layers that draw or count in a function of their own are stored with a frozen trunk.")
def test_is_stateful():
    named = ("AssignAddVariableOp", "RandomUniform", "Conv2D", "MatMul", "NoSuchOperation")
    assert [internals.is_stateful(name) for name in named] == [True, True, False, False, True]
