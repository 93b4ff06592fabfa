"""Recurrent backbones over words and characters."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.backbones.text.catalog import TEXT_CATALOG
from ftkeras.backbones.text.load import Reading, load_text_backbone
from ftkeras.backbones.text.recurrent import Shape, build
from ftkeras.backbones.text.vectors import WordVectors, load_vectors
from ftkeras.backbones.text.vocabulary import extended, see
from ftkeras.data.dataset import Split
from ftkeras.data.reading import from_array
from ftkeras.errors import UserError
from ftkeras.inputs.text.tokens import SPECIAL, Tokens, tokens_in
from ftkeras.model.assemble import build_model

WORDS = tuple(f"w{i}" for i in range(20))
RECURRENT = [name for name in TEXT_CATALOG if name != "char_lstm"]


def texts(*raw: str) -> Split:
    encoded = np.array([text.encode() for text in raw], object)
    labels = np.arange(len(raw), dtype=np.int32) % 2
    return Split("train", list(raw), labels, 2, from_array(encoded)(np.arange(len(raw))))


@pytest.fixture
def train() -> Split:
    return texts("a cat sat on the mat", "a cat ate the zzyzx", "the zzyzx sat")


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_text_gives_the_same_whatever_it_is_padded_to(name, layers):
    tokens = Tokens("words", (*SPECIAL, *WORDS), 64)
    backbone = build(TEXT_CATALOG[name], tokens, shape=Shape(units=8, layers=layers))
    assert [block.name for block in backbone.blocks] == [
        "embedding",
        *(f"{TEXT_CATALOG[name].layer.lower()}_{n}" for n in range(1, layers + 1)),
    ]
    assert backbone.gives == "sequence"
    model = build_model(backbone, 3)
    ids = np.random.default_rng(0).integers(1, 23, (4, 9)).astype(np.int32)
    ids[1, 5:] = 0
    once, padded = (model(np.pad(ids, ((0, 0), (0, more)))).numpy() for more in (0, 40))
    np.testing.assert_allclose(once, padded, atol=1e-5)
    alone = model(ids[1:2, :5]).numpy()
    np.testing.assert_allclose(once[1:2], alone, atol=1e-5)


@pytest.mark.parametrize("name", ["lstm", "bigru"])
def test_it_learns_from_texts_that_are_padded_behind(name):
    """What decides stands first, and 30 steps of padding follow (keras issue 20898)."""
    tokens = Tokens("words", (*SPECIAL, *WORDS), 64)
    backbone = build(TEXT_CATALOG[name], tokens, shape=Shape(units=16, embedding=8))
    model = build_model(backbone, 2, pooling="last", dropout=0.0)
    random = np.random.default_rng(0)
    ids = random.integers(3, 23, (64, 34)).astype(np.int32)
    ids[:, 4:] = 0
    labels = (ids[:, 0] > 12).astype(np.int32)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss=loss)
    history = model.fit(ids, labels, epochs=25, verbose=0).history["loss"]
    assert history[-1] < 0.3 < history[0]


def test_the_vocabulary_and_length_follow_from_the_training_texts(train):
    backbone = load_text_backbone("lstm", train, weights="none")
    tokens = tokens_in(backbone.model)
    # "on", "mat" and "ate" occur once.
    assert tokens.vocabulary == (*SPECIAL, "the", "a", "cat", "sat", "zzyzx")
    assert tokens.length == 8 and tokens.by == "words"
    few = load_text_backbone("lstm", train, weights="none", reading=Reading(words=2, length=3))
    assert tokens_in(few.model).vocabulary == (*SPECIAL, "the", "a")
    assert tokens_in(few.model).longer == pytest.approx(2 / 3)


def test_shipped_vectors_are_taken_and_new_words_added(train):
    backbone = load_text_backbone("gru", train)
    tokens = tokens_in(backbone.model)
    table = backbone.model.get_layer("embedding").get_weights()[0]
    vectors = load_vectors("starter", ())
    assert len(tokens.vocabulary) == len(SPECIAL) + 20_000 + 1
    for word in ("the", "cat", "mat"):
        place = list(vectors.words).index(word)
        np.testing.assert_array_equal(table[tokens.vocabulary.index(word)], vectors.vectors[place])
    assert tokens.vocabulary[-1] == "zzyzx" and table[-1].any()
    assert not table[:3].any()


def test_vectors_from_files(train, tmp_path):
    glove = tmp_path / "vectors.txt"
    glove.write_text("the 1 2\ncat 3 4\nthe 9 9\n")
    found = load_vectors(str(glove), ())
    assert list(found.words) == ["the", "cat"]
    assert found.vectors.tolist() == [[1, 2], [3, 4]]
    word2vec = tmp_path / "vectors.vec"
    word2vec.write_text("2 3\nthe 1 2 3\ncat 4 5 6\n")
    assert load_vectors(str(word2vec), ()).vectors.shape == (2, 3)
    backbone = load_text_backbone("bilstm", train, weights=str(glove))
    assert backbone.model.get_layer("embedding").output.shape[-1] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("the 1 2\ncat 3\n", "vectors.txt:2: a word and 2 numbers"),
        ("the 1 x\n", "vectors.txt:1: a word and numbers"),
        ("the 1 nan\n", "vectors.txt:1: a word and numbers"),
        ("the\n", "vectors.txt:1: a word and numbers"),
        ("", "holds no word vectors"),
    ],
)
def test_broken_vectors_get_one_line(tmp_path, content, message):
    path = tmp_path / "vectors.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_vectors(str(path), ())


def test_other_files_are_no_vectors(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_vectors(str(tmp_path / "none.txt"), ())
    (tmp_path / "vectors.bin").write_bytes(b"\0")
    with pytest.raises(UserError, match="text file of word vectors"):
        load_vectors(str(tmp_path / "vectors.bin"), ())


def own_model(path, *, length=None, dtype="int32") -> str:
    inputs = keras.Input((length,), dtype=dtype)
    x = keras.layers.Embedding(6, 4, mask_zero=True)(inputs)
    keras.Model(inputs, keras.layers.LSTM(5)(x)).save(path)
    return str(path)


@pytest.mark.parametrize("length", [None, 7])
def test_a_model_of_ones_own_reads_its_vocabulary(train, tmp_path, length):
    path = own_model(tmp_path / "own.keras", length=length)
    (tmp_path / "words.txt").write_text("\n[UNK]\nthe\ncat\nsat\na\n")
    reading = Reading(vocabulary=str(tmp_path / "words.txt"))
    backbone = load_text_backbone(path, train, weights="imagenet", reading=reading)
    tokens = tokens_in(backbone.model)
    assert tokens.ids(tf.constant("The cat barked")).numpy().tolist() == [2, 3, 1]
    assert (tokens.length, tokens.fixed) == ((7, True) if length else (8, False))
    assert [len(block.layers) for block in backbone.blocks] == [1, 1]
    original = keras.saving.load_model(path)
    ids = np.array([[2, 3, 1, 0, 0, 0, 0]], np.int32)
    np.testing.assert_allclose(backbone.model(ids), original(ids), atol=1e-6)


def test_what_a_model_of_ones_own_lacks_is_told(train, tmp_path):
    path = own_model(tmp_path / "own.keras")
    with pytest.raises(UserError, match=r"data.input.vocabulary: .* does not say"):
        load_text_backbone(path, train, weights="imagenet")
    (tmp_path / "words.txt").write_text("the\ncat\n")
    with pytest.raises(UserError, match="first an empty line"):
        load_text_backbone(path, train, reading=Reading(vocabulary=str(tmp_path / "words.txt")))
    inputs = keras.Input((8, 8, 3))
    image = keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs))
    image.save(tmp_path / "image.keras")
    with pytest.raises(UserError, match="takes the numbers of tokens"):
        load_text_backbone(str(tmp_path / "image.keras"), train)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bilstn", {}, "Did you mean 'bilstm'"),
        ("lstm", {"reading": Reading(vocabulary="x.txt")}, "makes its own"),
        ("char_lstm", {"reading": Reading(tokens="words")}, "char_lstm reads characters"),
        ("char_lstm", {"shape": Shape()}, "the layers of char_lstm are fixed"),
        ("char_lstm", {"weights": "x.txt"}, "takes starter or none"),
    ],
)
def test_settings_that_cannot_work(train, name, options, message):
    with pytest.raises(UserError, match=message):
        load_text_backbone(name, train, **options)


def test_characters_need_no_vectors(train):
    backbone = load_text_backbone("lstm", train, reading=Reading(tokens="characters"))
    tokens = tokens_in(backbone.model)
    assert tokens.by == "characters" and " " in tokens.vocabulary


def test_what_a_vocabulary_is_made_of():
    seen = see(texts("b b a", "a c", "x x"), "words")
    assert seen.frequent() == ["a", "b", "x"]
    assert extended(["x", "the"], seen, 1) == [*SPECIAL, "x", "the", "a"]
    vectors = WordVectors(["x"], np.ones((1, 2), np.float32))
    tokens = seen.tokens("words", extended(vectors.words, seen, 9), None)
    first, again = (
        build(TEXT_CATALOG["lstm"], tokens, vectors, Shape(units=2), seed=3).model.get_weights()
        for _ in range(2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
