"""Label smoothing in the targets: Keras's numbers, and which phase sets how much."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import ftkeras
from ftkeras.config.schema import LossConfig
from ftkeras.outputs.any_of import AnyOf
from ftkeras.outputs.one_of import OneOf
from ftkeras.training.resume.phases import ResumableUnfreezing

ONE_HOT = np.eye(3, dtype="float32")
SEVERAL = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1]])
LOGITS = np.array([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0], [1.0, 1.0, 0.0]], "float32")
INPUTS = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")

Losses = keras.losses.Loss | list | dict


@pytest.mark.parametrize("amount", [0.0, 0.1, 0.5])
@pytest.mark.parametrize(
    ("kind", "targets", "options"),
    [
        ("CategoricalCrossentropy", ONE_HOT, {}),
        ("CategoricalCrossentropy", ONE_HOT.astype("int32"), {"reduction": "sum"}),
        ("CategoricalFocalCrossentropy", ONE_HOT, {"alpha": 1.0, "gamma": 3.0}),
        ("BinaryCrossentropy", SEVERAL, {"reduction": None}),
        ("BinaryFocalCrossentropy", SEVERAL, {"gamma": 1.5}),
    ],
)
def test_the_numbers_are_those_of_keras(kind, targets, options, amount):
    make = getattr(keras.losses, kind)
    weights = np.array([1.0, 0.0, 2.0], "float32")
    expected = make(from_logits=True, label_smoothing=amount, **options)
    smoothed = ftkeras.Smoothed(make(from_logits=True, **options), amount)
    for loss in (
        smoothed,
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(smoothed)),
    ):
        np.testing.assert_array_equal(
            loss(targets, LOGITS, weights), expected(targets, LOGITS, weights)
        )
        assert (loss.amount, loss.name) == (amount, expected.name)


@pytest.mark.parametrize("name", ["auto", "focal", "binary_cross_entropy"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_the_losses_of_configs_have_the_numbers_of_keras(name, multi_label):
    binary = multi_label or name == "binary_cross_entropy"
    kind = "Binary" if binary else "Categorical"
    focal = "Focal" if name == "focal" else ""
    options = {"gamma": 2.0} if focal else {}
    options |= {"alpha": 1.0} if focal and not binary else {}
    expected = getattr(keras.losses, f"{kind}{focal}Crossentropy")(
        from_logits=True, label_smoothing=0.2, **options
    )
    output = (AnyOf if multi_label else OneOf)(("a", "b", "c"))
    loss = output.loss(LossConfig(name=name, label_smoothing=0.2))
    targets = SEVERAL if binary else ONE_HOT
    np.testing.assert_array_equal(loss(targets, LOGITS), expected(targets, LOGITS))


class Squares(keras.losses.Loss):
    """A person's own loss."""

    def call(self, y_true, y_pred):
        return keras.ops.sum(keras.ops.square(y_true - y_pred), axis=-1)


def test_a_loss_of_ones_own_is_smoothed_as_it_says():
    loss = ftkeras.Smoothed(Squares(), 0.1, multi_label=True)
    np.testing.assert_allclose(loss.smooth(np.eye(2)), [[0.95, 0.05], [0.05, 0.95]], rtol=1e-6)
    loss = ftkeras.Smoothed(Squares(), 0.3, multi_label=False)
    np.testing.assert_allclose(loss.smooth([[1, 0, 0]]), [[0.8, 0.1, 0.1]], rtol=1e-6)
    assert float(loss([[1.0, 0, 0]], [[0.8, 0.1, 0.4]])) == pytest.approx(0.09)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ftkeras.Smoothed("categorical_crossentropy"), "give it a loss object"),
        (lambda: ftkeras.Smoothed(keras.losses.categorical_crossentropy), "give it a loss object"),
        (
            lambda: ftkeras.Smoothed(keras.losses.SparseCategoricalCrossentropy()),
            "class indices cannot be smoothed.*one-hot targets",
        ),
        (
            lambda: ftkeras.Smoothed(keras.losses.BinaryCrossentropy(label_smoothing=0.1)),
            "smooths its targets already",
        ),
        (lambda: ftkeras.Smoothed(Squares()), "say multi_label=True if"),
        (lambda: ftkeras.Smoothed(Squares(), 1.0, multi_label=True), "below 1, got 1.0"),
    ],
)
def test_what_cannot_be_smoothed_is_refused_in_one_line(make, message):
    with pytest.raises(ftkeras.UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------- by phase


def categorical(amount: float | None) -> keras.losses.Loss:
    """Returns a loss that a phase can smooth, or Keras's own."""
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    return loss if amount is None else ftkeras.Smoothed(loss, amount)


def compiled(losses: Losses | str | None) -> keras.Model:
    inputs = keras.Input((4,))
    count = len(losses) if isinstance(losses, (list, dict)) else 1
    outputs = [keras.layers.Dense(3, name=f"head_{i}")(inputs) for i in range(count)]
    if isinstance(losses, dict):
        model = keras.Model(inputs, dict(zip(losses, outputs, strict=True)))
    else:
        model = keras.Model(inputs, outputs)
    model.compile("sgd", losses, jit_compile=False)
    return model


def phase(name: str, amount: float | None) -> ftkeras.Phase:
    return ftkeras.Phase(name, epochs=1, learning_rate=1e-9, label_smoothing=amount)


@pytest.mark.parametrize("several", [list, dict])
def test_each_loss_has_its_own_amount_in_phases_that_say_none(several):
    """A second callback, a second `load_state` and what a loss says of itself change nothing."""
    amounts = [0.0, 0.3, 0.1]
    names = ["head_0", "head_1", "head_2"]
    losses = [categorical(amount) for amount in amounts]
    model = compiled(losses if several is list else dict(zip(names, losses, strict=True)))

    def said() -> list[float]:
        return [float(loss(ONE_HOT, LOGITS)) for loss in losses]

    of = {a: float(categorical(a)(ONE_HOT, LOGITS)) for a in (*amounts, 0.5)}
    own = [of[a] for a in amounts]
    unfreeze = ftkeras.StagedUnfreezing(model, [phase("plain", None), phase("high", 0.5)])
    assert said() == own
    targets = [np.eye(3, dtype="float32")[np.arange(6) % 3]] * 3
    targets = targets if several is list else dict(zip(names, targets, strict=True))
    history = model.fit(
        INPUTS, targets, batch_size=6, epochs=2, callbacks=[unfreeze], verbose=0
    ).history
    assert said() == [of[0.5]] * 3
    logits = model.predict(INPUTS, verbose=0)
    logits = logits if several is list else list(logits.values())
    for epoch, among in enumerate((amounts, [0.5] * 3)):
        whole = targets if several is list else list(targets.values())
        expected = [categorical(a)(t, x) for a, t, x in zip(among, whole, logits, strict=True)]
        assert history["loss"][epoch] == pytest.approx(sum(map(float, expected)), rel=1e-4)
    first = ResumableUnfreezing(model, [phase("plain", None)])
    state = first.state()
    for _ in range(2):
        first.load_state(state)
        assert said() == own
    assert [loss.get_config()["amount"] for loss in losses] == amounts


@pytest.mark.parametrize(
    "losses",
    [
        None,
        "mse",
        "categorical_crossentropy",
        "crossentropy",
        keras.losses.sparse_categorical_crossentropy,
        categorical(None),
        {"a": categorical(0.1), "b": categorical(None)},
        [categorical(0.1), "binary_crossentropy"],
        [categorical(0.1), keras.losses.BinaryFocalCrossentropy()],
    ],
    ids=["none", "mse", "string", "short", "sparse", "smooths", "dict", "bare", "focal"],
)
def test_a_phase_that_smooths_needs_losses_that_it_can_smooth(losses):
    model = compiled(losses)
    ftkeras.StagedUnfreezing(model, [phase("plain", None)])
    message = r"Compile the model with loss=ftkeras.Smoothed\(keras.losses"
    with pytest.raises(ftkeras.UserError, match=message) as caught:
        ftkeras.StagedUnfreezing(model, [phase("plain", None), phase("smooth", 0.1)])
    assert "\n" not in str(caught.value)


def test_losses_of_numbers_stay_as_they_are_beside_smoothed_ones():
    losses = [categorical(0.0), "mse", keras.losses.Huber(), Squares()]
    ftkeras.StagedUnfreezing(compiled(losses), [phase("smooth", 0.2)]).enter(0)
    assert float(losses[0](ONE_HOT, LOGITS)) == float(categorical(0.2)(ONE_HOT, LOGITS))


def test_a_saved_model_keeps_the_amount_that_its_loss_was_made_with(tmp_path):
    model = compiled(categorical(0.3))
    ftkeras.StagedUnfreezing(model, [phase("smooth", 0.1)]).enter(0)
    model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        loss = keras.models.load_model(tmp_path / "model.keras").loss
    assert float(loss(ONE_HOT, LOGITS)) == float(categorical(0.3)(ONE_HOT, LOGITS))
