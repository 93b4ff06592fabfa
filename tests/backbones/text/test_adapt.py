"""Adapting the character LSTM to texts without labels lowers its bits per character."""

from __future__ import annotations

import csv
import io
import zipfile

import keras
import numpy as np
import pytest

from ftkeras.backbones.text import adapt as module
from ftkeras.backbones.text import char_lstm
from ftkeras.backbones.text.adapt import adapt, slanted_triangle
from ftkeras.errors import UserError
from ftkeras.inputs.text.tokens import TokenIds, Tokens
from ftkeras.starter import text as starter


def backbone_model(length: int = 120) -> keras.Model:
    tokens = Tokens("characters", tuple(char_lstm.characters()), length=length)
    return char_lstm.load(TokenIds(tokens.as_config(), name="tokens")).model


def definitions(count: int) -> list[str]:
    with zipfile.ZipFile(starter.glosses_path()) as archive:
        rows = csv.DictReader(io.StringIO(archive.read("glosses.csv").decode("utf-8")))
        return [row["text"] for row in rows if row["split"] == "train"][:count]


@pytest.mark.slow
def test_bits_per_character_of_held_out_texts_fall(capfd):
    model = backbone_model()
    before = [layer.get_weights() for layer in model.layers]
    history = adapt(model, definitions(200), epochs=2)
    assert len(history) == 3
    assert history[0] > 3.5 and history[1] < history[0] - 0.5 and history[2] < history[1]
    changed = [
        layer.name
        for layer, old in zip(model.layers, before, strict=True)
        if any(np.abs(x - y).max() > 1e-4 for x, y in zip(layer.get_weights(), old, strict=True))
    ]
    assert changed == ["embedding", "lstm_1", "lstm_2"]
    err = capfd.readouterr().err
    assert f"20 held-out texts: {history[0]:.2f}" in err and f"2/2: {history[2]:.2f}" in err


@pytest.mark.slow
def test_the_same_seed_gives_the_same_and_frozen_layers_learn_too():
    ends = []
    for _ in range(2):
        model = backbone_model(length=16)
        model.trainable = False
        ends.append((adapt(model, definitions(30), epochs=1, seed=3), model.get_weights()))
    assert ends[0][0] == pytest.approx(ends[1][0], abs=1e-4)
    start = backbone_model().get_weights()
    assert all(np.abs(x - y).max() > 0 for x, y in zip(ends[0][1], start, strict=True))


def test_rates_fall_from_layer_to_layer():
    model = backbone_model()
    reader = char_lstm.language_model(model)
    train, _, rates = module._functions(reader)
    before = {layer.name: layer.get_weights() for layer in reader.layers}
    rates(1e-3)
    ids = np.array([[1, 2, 3, 4, 5, 6]], np.int32)
    train(ids[:, :-1], ids[:, 1:])
    moved = {
        layer.name: max(
            float(np.abs(new - old).max())
            for new, old in zip(layer.get_weights(), before[layer.name], strict=True)
        )
        for layer in reader.layers
        if layer.weights
    }
    # Adam's first step moves each value by the rate itself.
    expected = {"attention": 0, "output": 0, "lstm_2": 1, "lstm_1": 2, "embedding": 3}
    assert moved == pytest.approx({k: 1e-3 / 2.6**d for k, d in expected.items()}, rel=0.05)


def test_padding_and_unknown_characters_are_not_counted():
    model = backbone_model()
    _, measure, _ = module._functions(char_lstm.language_model(model))
    ids = np.array([[1, 2, 3, 4, 5, 6]], np.int32)
    total, count = measure(ids[:, :-1], ids[:, 1:])
    padded = np.pad(ids, ((0, 0), (0, 5)))
    total_padded, count_padded = measure(padded[:, :-1], padded[:, 1:])
    assert float(count) == float(count_padded) == 5
    assert float(total_padded) == pytest.approx(float(total), rel=1e-5)
    targets = ids[:, 1:].copy()
    targets[0, 2] = 465  # [UNK]
    assert float(measure(ids[:, :-1], targets)[1]) == 4


def test_texts_become_characters_a_separator_and_padding():
    ids = module._read(backbone_model(length=5), ["It is", "It's long", "☃I"] + ["t it"] * 20)
    assert [list(x) for x in ids[:3]] == [[1, 2, 5, 7, 4, 464], [1, 2, 3, 4, 5, 464], [465, 1, 464]]
    batches = module._batches(ids, 8, np.random.default_rng(0))
    assert sorted(len(x) for x, _ in batches) == [7, 8, 8]
    for inputs, targets in batches:
        np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
    assert sum(int((y == 464).sum()) for _, y in batches) == 23


def test_the_slanted_triangle_peaks_once_and_ends_low():
    rates = [slanted_triangle(step, 100) for step in range(100)]
    assert max(rates) == rates[9] == 1.0 and rates[-1] == pytest.approx(1 / 32)
    assert np.all(np.diff(rates[:10]) > 0) and np.all(np.diff(rates[9:]) < 0)
    assert slanted_triangle(0, 1) == 1.0


def test_too_few_texts_are_refused():
    with pytest.raises(UserError, match="it has 2 texts of two characters or more"):
        adapt(backbone_model(), ["one", "two", "", "x"] * 1)


def test_a_model_that_does_not_read_texts_is_refused():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs), name="other")
    with pytest.raises(UserError, match="'other' does not say how it reads texts"):
        adapt(model, ["some text"] * 30)
