"""The character LSTM gives textgenrnn's numbers, whatever a text is padded to."""

from __future__ import annotations

import csv
import io
import zipfile

import keras
import numpy as np
import pytest

from ftkeras.backbones.text import char_lstm
from ftkeras.inputs.text.tokens import SEPARATOR, UNKNOWN, TokenIds, Tokens, tokens_in
from ftkeras.model.assemble import build_model
from ftkeras.starter import text as starter
from ftkeras.trunk.split import split_or_reason

# English as people write it online, like what the model was trained on.
CHAT = (
    "I have been a fan of the Star Wars movies since I was a kid, and I was wondering what people "
    "think of the new one. What is the best way to learn how to play the guitar if you have never "
    "played an instrument before? My girlfriend and I are looking for a place to live in the city, "
    "does anyone have any advice? Just got my first job as a software engineer, what should I know "
    "before I start working there?"
)


def backbone_model() -> keras.Model:
    tokens = Tokens("characters", tuple(char_lstm.characters()), length=200)
    return char_lstm.load(TokenIds(tokens.as_config(), name="tokens")).model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return backbone_model()


@pytest.fixture(scope="module")
def reader(model) -> keras.Model:
    return char_lstm.language_model(model)


def ids_of(text: str) -> list[int]:
    number = {character: at for at, character in enumerate(char_lstm.characters())}
    return [number[character] for character in text]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def by_hand(ids: list[int]) -> np.ndarray:
    """Returns the features of a text with 39 signs of padding in front, as textgenrnn saw it."""
    _, arrays = starter.char_lstm()
    x = arrays["embedding/embeddings"][[0] * 39 + ids]
    found = [x]
    for name in ("lstm_1", "lstm_2"):
        h = c = np.zeros(128)
        steps = []
        for step in found[-1]:
            z = step @ arrays[f"{name}/kernel"] + h @ arrays[f"{name}/recurrent_kernel"]
            i, f, g, o = np.split(z + arrays[f"{name}/bias"], 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            steps.append(h)
        found.append(np.array(steps))
    return np.concatenate(found, axis=1)[39:]  # (steps, 356)


def windows(ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns all windows of 40 characters, (n, 40), and the character behind each, (n,)."""
    starts = range(len(ids) - 40)
    return np.array([ids[at : at + 40] for at in starts]), np.array([ids[at + 40] for at in starts])


def bits_by_window(ids: list[int]) -> float:
    """Returns bits per character as textgenrnn predicts: from a window of 40, starting at zero."""
    model = backbone_model()
    for name in ("lstm_1", "lstm_2"):
        layer = model.get_layer(name)
        layer.start_hidden.assign(np.zeros(128))
        layer.start_cell.assign(np.zeros(128))
    inputs, targets = windows(ids)
    logits = char_lstm.language_model(model).predict(inputs, batch_size=256, verbose=0)[:, -1]
    return float(bits(logits, targets).mean())


def bits(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    known = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(known, targets[..., None], axis=-1)[..., 0] / np.log(2)


def test_features_are_what_textgenrnn_computes(model):
    ids = ids_of("a small furry animal that lives in trees")
    features = model.predict(np.array([ids]), verbose=0)[0]
    np.testing.assert_allclose(features, by_hand(ids), atol=1e-5)


@pytest.mark.parametrize("padding", [1, 7, 60])
def test_features_do_not_depend_on_padding(model, padding):
    ids = ids_of("the flesh of animals used as food")
    padded = model.predict(np.array([ids + [0] * padding]), verbose=0)[0]
    alone = model.predict(np.array([ids]), verbose=0)[0]
    np.testing.assert_allclose(padded[: len(ids)], alone, atol=1e-5)


def test_the_mask_reaches_the_features_and_the_predictions(model, reader):
    ids = np.array([ids_of("food") + [0, 0]])
    for part in (model, reader):
        mask = keras.ops.convert_to_numpy(keras.tree.flatten(part(ids))[0]._keras_mask)
        np.testing.assert_array_equal(mask, ids > 0)


def test_blocks_hold_every_weight_once_and_the_model_knows_its_tokens():
    tokens = Tokens("characters", tuple(char_lstm.characters()), length=200)
    backbone = char_lstm.load(TokenIds(tokens.as_config(), name="tokens"))
    assert [block.name for block in backbone.blocks] == ["embedding", "lstm_1", "lstm_2"]
    weights = [w.path for block in backbone.blocks for layer in block.layers for w in layer.weights]
    assert sorted(weights) == sorted(w.path for w in backbone.model.weights)
    assert backbone.gives == "sequence" and backbone.model.output.shape == (None, None, 356)
    assert tokens_in(backbone.model) == tokens


def test_without_shipped_weights_they_are_random():
    tokens = Tokens("characters", tuple(char_lstm.characters()), length=200)
    random = char_lstm.load(TokenIds(tokens.as_config(), name="tokens"), pretrained=False).model
    table = random.get_layer("embedding").get_weights()[0]
    assert table.shape == (466, 100) and 0 < np.abs(table).max() <= 0.05  # Keras's own start


def test_special_characters_are_the_last_and_unknown_is_read_as_padding_was(model):
    known = char_lstm.characters()
    assert known[0] == "" and known[464:] == [SEPARATOR, UNKNOWN] and len(set(known)) == 466
    table = model.get_layer("embedding").get_weights()[0]
    np.testing.assert_array_equal(table[465], table[0])
    assert np.abs(table[464] - table[0]).max() > 0.1


def test_a_saved_model_gives_the_same(model, reader, tmp_path):
    ids = np.array([ids_of("a feeling of joy")])
    for part in (model, reader):
        part.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(again.predict(ids, verbose=0), part.predict(ids, verbose=0))


def test_in_windows_english_takes_1_3_bits_per_character_and_shuffled_9():
    ids = ids_of(CHAT)
    assert bits_by_window(ids) == pytest.approx(1.33, abs=0.05)
    shuffled = np.random.default_rng(0).permutation(ids).tolist()
    assert bits_by_window(shuffled) > 8


def test_in_windows_definitions_take_2_7_bits_per_character():
    with zipfile.ZipFile(starter.glosses_path()) as archive:
        rows = csv.DictReader(io.StringIO(archive.read("glosses.csv").decode("utf-8")))
        texts = [row["text"] for row in rows]
    assert bits_by_window(ids_of("; ".join(texts[:20]))) == pytest.approx(2.74, abs=0.1)


def test_read_from_the_start_the_first_window_is_predicted_and_later_ones_are_worse(reader):
    ids = np.array([ids_of(CHAT[:200])])
    found = bits(reader.predict(ids[:, :-1], verbose=0), ids[:, 1:])[0]
    assert found[:20].mean() < 4 < found[60:].mean() < 8.9  # log2(465)


def test_a_prediction_depends_on_what_is_read_so_far_alone(reader):
    first, other = ids_of("the art of war"), ids_of("the art of cat")
    one, two = reader.predict(np.array([first, other]), verbose=0)
    np.testing.assert_allclose(one[:11], two[:11], atol=1e-5)
    assert np.abs(one[11:] - two[11:]).max() > 0.1


def averages(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    rows = []
    for step in range(1, len(x) + 1):
        scores = (x[:step] @ kernel)[:, 0].astype(np.float64)
        weights = np.exp(scores - scores.max())
        rows.append(weights / weights.sum() @ x[:step])
    return np.array(rows)


@pytest.mark.parametrize("size", [1.0, 500.0])  # exp(500) is no float32
def test_causal_attention_averages_the_steps_so_far(size):
    layer = char_lstm.CausalAttention()
    x = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    layer.build(x.shape)
    layer.kernel.assign(np.array([[size], [-size], [size / 2]]))
    found = keras.ops.convert_to_numpy(layer(x))
    for row, sequence in zip(found, x, strict=True):
        np.testing.assert_allclose(row, averages(sequence, layer.get_weights()[0]), atol=1e-4)


def test_causal_attention_leaves_masked_steps_out():
    layer = char_lstm.CausalAttention()
    x = np.random.default_rng(0).normal(size=(1, 5, 3)).astype(np.float32)
    mask = np.array([[False, True, True, False, True]])
    found = keras.ops.convert_to_numpy(layer(x, mask=mask))[0]
    expected = averages(x[0, mask[0]], layer.get_weights()[0])
    np.testing.assert_allclose(found[mask[0]], expected, atol=1e-6)
    assert np.isfinite(found).all()


def test_an_lstm_starts_where_its_weights_say_and_learns_where():
    layer = char_lstm.StartedLSTM(2, return_sequences=True)
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    plain = keras.layers.LSTM(2, return_sequences=True)
    plain.build(x.shape)
    layer(x)
    layer.cell.set_weights(plain.cell.get_weights())
    np.testing.assert_allclose(layer(x), plain(x), atol=1e-6)
    hidden, cell = np.array([0.5, -0.5], np.float32), np.array([1.0, -2.0], np.float32)
    layer.start_hidden.assign(hidden)
    layer.start_cell.assign(cell)
    state = [np.tile(hidden, (3, 1)), np.tile(cell, (3, 1))]
    np.testing.assert_allclose(layer(x), plain(x, initial_state=state), atol=1e-6)
    assert {"start_hidden", "start_cell"} < {v.name for v in layer.trainable_variables}


def test_a_trunk_may_hold_its_frozen_layers():
    tokens = Tokens("characters", tuple(char_lstm.characters()), 16)
    backbone = char_lstm.load(TokenIds(tokens.as_config(), name="tokens"), pretrained=False)
    model = build_model(backbone, 2, dropout=0.0)
    for block in backbone.blocks[:2]:
        block.layers[0].trainable = False
    split = split_or_reason(model, length=16)
    assert not isinstance(split, str), split
    shapes = {(spec.shape, spec.varies) for spec in split.frontier}
    assert ((16, char_lstm.UNITS), True) in shapes
    ids = np.array([[3, 4, 5, 6, 0, 0], [7, 8, 9, 10, 11, 12]], np.int32)
    np.testing.assert_array_equal(split.tail(split.trunk(ids)), model(ids))
