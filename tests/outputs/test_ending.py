"""What a model's outputs are, for every way that a classifier may end."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from ftkeras.errors import UserError
from ftkeras.outputs.ending import ending_of


class Own(layers.Layer):
    """A layer of another make."""

    def call(self, inputs):
        return inputs[:, :3]


class Subclassed(keras.Model):
    """A nested model without a graph."""

    def call(self, inputs):
        return inputs[:, :3]


def dense(units: int = 3, activation=None) -> layers.Layer:
    return layers.Dense(units, activation)


def own(activation: str) -> layers.Layer:
    layer = Own()
    layer.activation = activation
    return layer


def nested(activation: str):
    """A model that cannot be opened as one flat graph, since it takes a dict."""
    vector = keras.Input((8,), name="x")
    inner = keras.Model({"x": vector}, layers.Dropout(0.5)(dense(3, activation)(vector)))
    return lambda x: inner({"x": x})


def model(*last, inputs=(8,)) -> keras.Model:
    x = vector = keras.Input(inputs)
    for layer in last:
        x = layer(x)
    return keras.Model(vector, x)


def average(activation: str):
    return lambda x: layers.Average()([dense(3, activation)(x), dense(3, activation)(x)])


def float32(layer: str) -> layers.Layer:
    return layers.Activation(layer, dtype="float32")


# Functions, since no test module may make a layer's tensors when it is imported.
ENDS = {
    "logits": [
        lambda: (dense(),),
        lambda: (dense(), float32("linear")),
        lambda: (dense(3, "relu"), layers.BatchNormalization()),
        lambda: (dense(), layers.Rescaling(2.0)),
        lambda: (lambda x: dense()(x) + dense(3, "sigmoid")(x),),
        lambda: (layers.UnitNormalization(), layers.SpectralNormalization(dense())),
        lambda: (own("linear"),),
        lambda: (nested("linear"),),
    ],
    "softmax": [
        lambda: (dense(3, "softmax"),),
        lambda: (dense(3, tf.nn.softmax),),
        lambda: (dense(3, layers.Softmax()),),
        lambda: (dense(), layers.Activation("softmax", dtype="float32")),
        lambda: (dense(3, "softmax"), float32("linear"), layers.Dropout(0.5)),
        lambda: (dense(), layers.Softmax()),
        lambda: (dense(), layers.Softmax(axis=1)),
        lambda: (dense(), ops.softmax, lambda x: ops.cast(x, "float32")),
        lambda: (
            layers.Reshape((2, 4)),
            layers.Conv1D(3, 1, activation="softmax"),
            layers.GlobalAveragePooling1D(),
        ),
        lambda: (
            layers.Reshape((1, 8)),
            layers.TimeDistributed(dense(3, "softmax")),
            layers.Flatten(),
        ),
        lambda: (average("softmax"),),
        lambda: (keras.Sequential([dense(), keras.Sequential([layers.Softmax()])]),),
        lambda: (nested("softmax"),),
        lambda: (own("softmax"),),
    ],
    "sigmoid": [
        lambda: (dense(3, "sigmoid"),),
        lambda: (dense(), layers.Activation("sigmoid"), layers.ActivityRegularization(1e-3)),
        lambda: (dense(), ops.sigmoid),
        lambda: (lambda x: layers.Concatenate()([dense(1, "sigmoid")(x), dense(2, "sigmoid")(x)]),),
        lambda: (nested("sigmoid"),),
    ],
}


@pytest.mark.parametrize(
    ("kind", "number"), [(kind, n) for kind, ends in ENDS.items() for n in range(len(ends))]
)
def test_the_last_activation_is_found(kind, number):
    """And what it does is what the numbers show."""
    found = model(*ENDS[kind][number]())
    output = ending_of(found, exclusive=kind != "sigmoid")
    assert (output.kind, output.units, output.classes) == (kind, 3, 3)
    said = found(np.random.default_rng(0).normal(0, 5, (16, 8)), training=False)
    scores = output.scores(said).numpy()
    if kind == "logits":
        np.testing.assert_allclose(scores, keras.ops.softmax(said), atol=1e-6)
    elif not isinstance(found.layers[-1], Own):  # that does not do what it says
        np.testing.assert_array_equal(scores, said)
        assert np.allclose(scores.sum(axis=1), 1) == (kind == "softmax")


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (
            lambda: (dense(3, "relu"),),
            r"'last' \(Dense\) has the activation relu.* no activation \(logits",
        ),
        (lambda: (dense(3, "tanh"),), "activation tanh"),
        (lambda: (dense(3, lambda x: x**2),), "activation <lambda>"),
        (lambda: (dense(3, "log_softmax"),), "activation log_softmax"),
        (lambda: (dense(3, "hard_sigmoid"),), "activation hard_sigmoid"),
        (lambda: (dense(), layers.ReLU()), r"\(ReLU\) has the activation relu"),
        (lambda: (dense(), layers.PReLU()), "activation prelu"),
        (lambda: (dense(), layers.LeakyReLU()), "activation leaky_relu"),
        (lambda: (dense(), ops.tanh), "activation tanh"),
        (lambda: (layers.Reshape((2, 4)), layers.LSTM(3)), r"\(LSTM\) has the activation tanh"),
        (lambda: (average("relu"),), "activation relu"),
        (lambda: (nested("relu"),), "activation relu"),
        (lambda: (dense(), layers.Softmax(axis=0)), "softmax over axis 0"),
        (
            lambda: (dense(6), layers.Reshape((2, 3)), layers.Softmax(), layers.Flatten()),
            "3 of 6 units",
        ),
        (lambda: (dense(4, "softmax"), lambda x: x[:, :3]), "softmax over 4 of 3 units"),
        (
            lambda: (dense(1, "softmax"),),
            "1 for every example, since it has one unit. End .* a sigmoid",
        ),
        (
            lambda: (dense(3, "softmax"), layers.Rescaling(2.0)),
            "nothing says what the layer 'last'",
        ),
        (lambda: (average("softmax"), layers.BatchNormalization()), "nothing says what"),
        (
            lambda: (Own(),),
            r"'last' \(Own\) puts out. Set its attribute `activation` to 'linear' \(logits",
        ),
        (lambda: (Subclassed(),), r"\(Subclassed\) puts out"),
        (lambda: (layers.Lambda(lambda x: tf.nn.softmax(x)),), r"\(Lambda\) puts out"),
        (
            lambda: (layers.Reshape((2, 4)),),
            r"shape \(None, 2, 4\); a classifier's is \(None, classes\)",
        ),
        (lambda: (lambda x: [dense()(x), dense()(x)],), "it has 2 outputs, by name"),
        (lambda: (lambda x: {"a": dense()(x)},), "it has 1 output, by name"),
    ],
)
def test_what_is_neither_logits_nor_scores_is_refused_with_the_remedy(last, message):
    ends = last()
    if isinstance(ends[-1], layers.Layer):
        ends[-1].name = "last"
    with pytest.raises(UserError, match=message):
        ending_of(model(*ends))


def test_a_softmax_of_several_labels_is_refused():
    with pytest.raises(UserError, match="share 1 among the classes.* Leave multi_label out, or"):
        ending_of(model(dense(3, "softmax")), exclusive=False)


def test_one_sigmoid_per_class_is_served_but_not_measured_with_one_label():
    output = ending_of(model(dense(3, "sigmoid")))
    said = np.array([[0.9, 0.6, 0.1]], np.float32)
    np.testing.assert_array_equal(output.scores(said), said)
    np.testing.assert_allclose(output.scores(said, 2.0), [[0.75, 0.5505, 0.25]], atol=1e-4)
    with pytest.raises(UserError, match="a sigmoid of its own, and exactly one class"):
        output.logits(said)


def test_each_of_several_outputs_is_what_it_is():
    vector = keras.Input((8,))
    ends = {"b": dense(3, "softmax"), "a": dense(1, "sigmoid"), "c": dense(2)}
    several = keras.Model(vector, {name: layer(vector) for name, layer in ends.items()})
    kinds = {name: ending_of(several, name) for name in ends}
    assert {name: (x.kind, x.classes) for name, x in kinds.items()} == {
        "a": ("sigmoid", 2), "b": ("softmax", 3), "c": ("logits", 2)
    }  # fmt: skip
    with pytest.raises(UserError, match="no output 'd'"):
        ending_of(several, "d")


LOGITS = np.array([[5.0, 0.0, -3.0], [-20.0, 1.0, 1.0]], np.float32)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("kind", ENDS)
def test_scores_and_logits_mean_the_same_under_every_temperature(kind, temperature):
    several = kind == "sigmoid"
    output = ending_of(model(dense(3, None if kind == "logits" else kind)), exclusive=not several)
    said = {"logits": LOGITS, "softmax": ops.softmax(LOGITS), "sigmoid": ops.sigmoid(LOGITS)}[kind]
    activation = ops.sigmoid if several else ops.softmax
    expected = activation(LOGITS / temperature)
    np.testing.assert_allclose(output.scores(said, temperature), expected, atol=2e-6)
    np.testing.assert_allclose(activation(output.logits(said) / temperature), expected, atol=2e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("activation", ["linear", "sigmoid"])
def test_one_unit_is_two_classes_or_one_label(activation, temperature):
    z = np.array([[2.0], [-1.0], [0.0]], np.float32)
    p = 1 / (1 + np.exp(-z / temperature))
    said = z if activation == "linear" else ops.sigmoid(z)
    one = model(dense(1, activation))
    both, label = ending_of(one), ending_of(one, exclusive=False)
    assert (both.classes, label.classes) == (2, 1)
    np.testing.assert_allclose(both.scores(said, temperature), np.hstack([1 - p, p]), atol=1e-6)
    np.testing.assert_allclose(label.scores(said, temperature), p, atol=1e-6)
    logits = both.logits(said)
    np.testing.assert_allclose(ops.softmax(logits / temperature)[:, 1:], p, atol=1e-6)
    np.testing.assert_array_equal(np.argmax(logits[:2], axis=1), [1, 0])


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_scores_of_0_and_1_have_finite_logits(kind):
    output = ending_of(model(dense(2, kind)), exclusive=kind != "sigmoid")
    logits = output.logits(np.array([[0.0, 1.0]], np.float32)).numpy()
    assert np.isfinite(logits).all() and logits[0, 1] > logits[0, 0] + 80
    assert output.scores(np.array([[0.0, 1.0]], np.float32), 2.0).numpy().tolist()[0][1] > 0.999
