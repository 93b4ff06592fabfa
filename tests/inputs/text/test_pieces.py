"""Numbers of pieces of words: as Hugging Face's tokenizers give them, and in an exported graph."""

from __future__ import annotations

import dataclasses
import io

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.backbones.text import transformer
from ftkeras.inputs.base import PLAIN, View
from ftkeras.inputs.registry import make_input
from ftkeras.inputs.text.golden import golden
from ftkeras.inputs.text.input import TextInput
from ftkeras.inputs.text.pieces import Pieces, read_tokenizer
from ftkeras.inputs.text.tokens import BETWEEN

KEY = (0, 0)


class OneText:
    def __len__(self):
        return 1

    def fetch(self, index):
        return tf.constant("red")


@pytest.fixture(scope="module")
def pieces(hugging_face_folder) -> Pieces:
    model = transformer.load(str(hugging_face_folder), OneText()).model
    return dataclasses.replace(make_input("text", {}, model).tokens, length=20)


def test_numbers_are_those_of_hugging_face(pieces, hugging_face_folder):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.BertWordPieceTokenizer(str(hugging_face_folder / "vocab.txt"))
    texts = [text.decode("utf-8-sig") for text in golden().values()]
    texts += ["a\u00a0b\u3000c zero\u200bwidth", "stra\u00dfe", "The RED caf\u00e9's", "x" * 150]
    for text in texts:
        expected = theirs.encode(text).ids
        if len(expected) > 20:
            expected = [*expected[:19], expected[-1]]
        assert pieces.ids(tf.constant(text)).numpy().tolist() == expected, text


def test_parts_are_segments_and_the_longest_is_cut_first(pieces):
    both = dataclasses.replace(pieces, parts=2)
    text = tf.constant(f"{'red apple ' * 20}{BETWEEN}blue")
    inputs = TextInput(both).read(text, PLAIN, KEY)
    ids = inputs["token_ids"].numpy().tolist()
    [cls], [sep] = pieces.start, pieces.end
    assert len(ids) == 20 and ids[0] == cls and ids[17] == ids[19] == sep
    assert inputs["segment_ids"].numpy().tolist() == [0] * 18 + [1] * 2
    assert inputs["padding_mask"].numpy().tolist() == [1] * 20
    assert int(both.count(text)) == 40 + 1 + 3


def test_variation_leaves_the_special_tokens_where_they_are(pieces):
    kind = TextInput(dataclasses.replace(pieces, parts=2), drop=0.5, swap=0.4)
    text = tf.constant(f"red apple pie{BETWEEN}blue car road the of")
    [cls], [sep] = pieces.start, pieces.end
    lengths = set()
    for seed in range(20):
        ids = kind.read(text, View(("varied",)), (0, seed))["token_ids"].numpy()
        assert ids[0] == cls and ids[-1] == sep and (ids == sep).sum() == 2
        lengths.add(len(ids))
    assert len(lengths) > 2 and max(lengths) <= 11


def byte_pairs():
    from keras_hub.tokenizers import RobertaTokenizer

    words = ["<s>", "<pad>", "</s>", "<mask>", "re", "red", "\u0120r", "\u0120re", "\u0120red"]
    vocabulary = {word: i for i, word in enumerate([*words, *"red\u0120abcfu\u00c3\u00a9"])}
    return RobertaTokenizer(vocabulary, ["r e", "re d", "\u0120 r", "\u0120r e", "\u0120re d"])


def sentence_pieces():
    from keras_hub.tokenizers import AlbertTokenizer

    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    made = io.BytesIO()
    trainer.train(
        sentence_iterator=iter(["a red car", "a blue road", "red and blue", "a red apple"] * 9),
        model_writer=made,
        vocab_size=21,
        minloglevel=2,
        **{"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, "pad_piece": "<pad>"},
        **{"unk_piece": "<unk>", "bos_piece": "[CLS]", "eos_piece": "[SEP]"},
        user_defined_symbols="[MASK]",
    )
    return AlbertTokenizer(proto=made.getvalue())


@pytest.mark.parametrize("make", [byte_pairs, sentence_pieces])
def test_other_tokenizers_work_in_an_exported_graph(make, tmp_path):
    """Their tables must be part of it, or they are empty where it is loaded."""
    tokenizer = make()
    pieces = Pieces(*read_tokenizer(tokenizer), takes=("token_ids", "padding_mask"), start=(2,))
    kind = TextInput(pieces)

    def read(text):
        return kind.read(text, PLAIN, KEY)["token_ids"]

    archive = keras.export.ExportArchive()
    for resource in kind.resources:
        archive.track(resource)
    archive.add_endpoint("read", read, [tf.TensorSpec((), tf.string)])
    archive.write_out(str(tmp_path / "graph"), verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "graph"))
    for text in ("red red", "a red caf\u00e9"):
        own = np.array(tokenizer(text)).reshape(-1).tolist()
        assert loaded.read(tf.constant(text)).numpy().tolist() == [2, *own]
        words = pieces.words(text)
        assert sum(count for _, count in words) == len(own)
        if text == "red red":
            assert "".join(word for word, _ in words) == text
