from __future__ import annotations

import keras
import numpy as np
import pytest

from ftkeras.graph import GraphModel, flatten


def branchy():
    """Nested twice, with a shared layer, several outputs, operations, and keyword arguments."""
    inner_in = keras.Input((6, 6, 4))
    inner = keras.Model(inner_in, keras.layers.Conv2D(4, 3, padding="same")(inner_in), name="inner")
    outer_in = keras.Input((6, 6, 3))
    shared = keras.layers.Conv2D(4, 1, name="shared")
    a = shared(keras.ops.flip(outer_in, axis=-1))
    b = keras.layers.Add()(
        [inner(a, training=False), shared(outer_in), inner(inputs=shared(outer_in))]
    )
    outer = keras.Model(outer_in, [a, b], name="outer")
    images = keras.Input((6, 6, 3), name="image")
    first, second = outer(images * 0.5)
    x = keras.layers.Concatenate()([first, second, keras.ops.sum(second, axis=-1, keepdims=True)])
    x = keras.layers.MultiHeadAttention(2, 3)(x, value=x, key=x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, {"a": keras.layers.Dense(2)(x), "b": first})


def images_like(model, count=3):
    return np.random.default_rng(0).normal(size=(count, *model.input_shape[1:])).astype("float32")


def test_a_flat_graph_computes_the_same():
    model = branchy()
    graph = flatten(model)
    images = images_like(model)
    expected, found = model(images), GraphModel(graph, "flat")(images)
    assert set(found) == {"a", "b"}
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)
    assert not any(isinstance(step.operation, keras.Model) for step in graph.steps[:4])


def test_flattening_leaves_no_trace_in_the_layers():
    model = branchy()
    calls = {layer.name: len(layer._inbound_nodes) for layer in model._flatten_layers()}
    for _ in range(3):
        GraphModel(flatten(model), "flat")(images_like(model))
    assert {layer.name: len(layer._inbound_nodes) for layer in model._flatten_layers()} == calls


def test_it_holds_the_very_same_weights_once():
    model = branchy()
    flat = GraphModel(flatten(model), "flat")
    assert {id(v) for v in flat.trainable_variables} == {id(v) for v in model.trainable_variables}
    assert len(flat.trainable_variables) == len(model.trainable_variables)


def test_its_weights_come_in_the_order_of_the_whole_model():
    """Otherwise a norm over all gradients is rounded in another way."""
    inputs = keras.Input((4,))
    x = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4) for _ in "ab")])(inputs)
    heads = keras.Model(inputs, {name: keras.layers.Dense(2, name=name)(x) for name in "pqr"})
    for model in (branchy(), heads):
        tail = GraphModel(flatten(model), "tail", model)
        assert [v.path for v in tail.variables] == [v.path for v in model.variables]
    by_calls = GraphModel(flatten(heads), "tail")
    assert [v.path for v in by_calls.variables] != [v.path for v in heads.variables]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_inputs_keep_their_type_whatever_the_policy(dtype):
    inputs = keras.Input((3,), dtype=dtype)
    model = keras.Model(inputs, [keras.ops.multiply(inputs, 2), keras.ops.add(inputs, 0)])
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        flat = GraphModel(flatten(model), "flat")
    finally:
        keras.config.set_dtype_policy(policy)
    given = np.array([[1000, 1001, 30001]]).astype(dtype)  # 30001 is no float16
    doubled, same = flat(given)
    assert same.dtype == dtype
    np.testing.assert_array_equal(same, given)
    np.testing.assert_array_equal(doubled, model(given)[0])


def test_sequential_models_are_opened_and_others_are_not():
    sequential = keras.Sequential(
        [keras.Input((4,)), keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])]
    )
    assert [type(s.operation).__name__ for s in flatten(sequential).steps] == ["Dense"]

    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    assert flatten(Own()) is None
    inputs = keras.Input((4,))
    around = keras.Model(inputs, Own()(inputs))
    assert [type(s.operation).__name__ for s in flatten(around).steps] == ["Own"]


def test_a_nested_model_that_would_run_differently_stays_whole():
    inner_in = keras.Input((4, 4, 3))
    inner = keras.Model(inner_in, keras.layers.Dropout(0.5)(inner_in), name="inner")
    images = keras.Input((4, 4, 3))
    (step,) = flatten(keras.Model(images, inner(images, training=True))).steps
    assert step.operation is inner


def test_a_nested_model_of_any_size_is_opened_at_the_size_it_is_called_with():
    inner_in = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(2, 3, strides=2, name="conv")(inner_in)
    inner = keras.Model(inner_in, keras.layers.Activation("relu")(x), name="inner")
    images = keras.Input((9, 7, 3))
    model = keras.Model(images, inner(images))
    steps = flatten(model).steps
    assert [step.outputs[0].shape for step in steps] == [(None, 4, 3, 2)] * 2
    x = images_like(model)
    np.testing.assert_array_equal(GraphModel(flatten(model), "flat")(x), model(x))


def named(kind, nested=False):
    """Two inputs by name, in a dict or a list; the model may be called by another, with a dict."""
    b, a = keras.Input((3,), name="b"), keras.Input((4,), name="a", dtype="int32")
    x = keras.layers.Concatenate()([keras.layers.Dense(2)(b), keras.ops.cast(a, "float32")])
    model = keras.Model({"b": b, "a": a} if kind == "dict" else [b, a], keras.layers.Dense(2)(x))
    if not nested:
        return model
    inputs = {"a": keras.Input((4,), name="a", dtype="int32"), "b": keras.Input((3,), name="b")}
    return keras.Model(inputs, model(inputs))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["dict", "list"])
def test_inputs_are_given_by_name_or_in_order(kind, nested):
    model = named(kind, nested)
    graph = flatten(model)
    flat = GraphModel(graph, "flat")
    assert not any(isinstance(step.operation, keras.Model) for step in graph.steps)
    assert graph.names == (("a", "b") if nested or kind == "dict" else ("b", "a"))
    rng = np.random.default_rng(0)
    values = {"a": rng.integers(0, 5, (2, 4)), "b": rng.normal(size=(2, 3)).astype("float32")}
    expected = model(values)
    in_order = [values[name] for name in graph.names]
    for given in (values, in_order, tuple(in_order), {**values, "other": np.zeros(2)}):
        np.testing.assert_array_equal(flat(given), expected)
    with pytest.raises(ValueError, match=r"\['b'\] are missing"):
        flat({"a": values["a"]})
