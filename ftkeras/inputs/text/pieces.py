"""From a text to the numbers of a Transformer's tokenizer, by TensorFlow operations alone.

The tokenizer is keras-hub's; TensorFlow Text has its operations. The special tokens around a text,
such as [CLS] and [SEP], are added here, so that a batch is as long as its longest text.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import importlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from ftkeras.cache import digest
from ftkeras.errors import UserError
from ftkeras.imports import to_install
from ftkeras.inputs.base import Tree
from ftkeras.inputs.text.tokens import TokenIds, lengths_up_to, parts_of
from ftkeras.keras_internals import for_graphs

# Words without spaces, or, for byte pairs, with the spaces before them.
_ALONE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # writing without spaces: kana and Han
_WORDS = rf"[{_ALONE}]|[^\s{_ALONE}]+|\s+"
_WORDS_AFTER_SPACES = r"\s*\S+|\s+"

IDS, MASK, SEGMENTS = "token_ids", "padding_mask", "segment_ids"


@dataclass(frozen=True)
class Pieces:
    """From texts to the numbers of word pieces.

    Args:
        tokenizer: The name of keras-hub's class, and its settings.
        assets: The files of its vocabulary by name, in base 64.
        takes: The model's inputs by name: token_ids, padding_mask, perhaps segment_ids.
        start: The numbers before a text.
        between: The numbers between the parts of a text.
        end: The numbers after it.
        length: How many numbers of a text are read, including those around it.
        cleans: Whether control characters are removed and all spaces become plain ones, as in
            Hugging Face's tokenizers of BERT.
        lowers: Whether texts are lowercased first.
        longer: The share of the training texts that are longer, for messages.
        parts: The number of parts of a text.
    """

    tokenizer: Mapping[str, Any]
    assets: Mapping[str, str] = field(repr=False)
    takes: tuple[str, ...]
    start: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    length: int = 512
    cleans: bool = False
    lowers: bool = False
    longer: float = 0.0
    parts: int = 1

    by: ClassVar[str] = "word pieces"
    strange: ClassVar[float] = 0.0

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths that batches may have."""
        return lengths_up_to(self.length)

    @functools.cached_property
    def _text(self) -> str:
        return json.dumps([dict(self.tokenizer), dict(self.assets)], sort_keys=True)

    @property
    def _made(self) -> Any:
        """keras-hub's tokenizer. It is made once per vocabulary, because that may take a second."""
        return _tokenizer(self._text)

    @functools.cached_property
    def digest(self) -> str:
        """A hash of all settings."""
        return digest(self._text, self.start, self.between, self.end, self.cleans, self.lowers)

    @property
    def size(self) -> int:
        """The size of the vocabulary."""
        return int(self._made.vocabulary_size())

    @functools.cached_property
    def unknown(self) -> int:
        """The number of unknown tokens; -1 if the vocabulary covers every text."""
        token = getattr(self._made, "oov_token", None)
        return -1 if token is None else int(self._made.token_to_id(token))

    @property
    def resources(self) -> Sequence[Any]:
        """The resources that a SavedModel with the operations must track."""
        return (self._made,)

    @property
    def special(self) -> tuple[int, ...]:
        """The numbers of special tokens."""
        return (*self.start, *self.between, *self.end)

    @property
    def room(self) -> int:
        """How many numbers are left for the text itself."""
        around = len(self.start) + len(self.end) + len(self.between) * (self.parts - 1)
        return self.length - around

    def split(self, text: tf.Tensor) -> tf.Tensor:
        """Returns the numbers of one part of a text, int32 (t,), uncut, without special tokens."""
        if self.cleans:
            text = tf.strings.regex_replace(text, r"[\t\n\r\pZ]", " ")
            text = tf.strings.regex_replace(text, "[\\pC\ufffd]", "")
        if self.lowers:
            text = tf.strings.lower(text, encoding="utf-8")
        return tf.cast(tf.ensure_shape(self._made(text), (None,)), tf.int32)

    @functools.cached_property
    def _split(self) -> Any:
        """Does the same as one graph, because byte pairs are found in a loop."""
        return tf.function(
            self.split, autograph=False, input_signature=[tf.TensorSpec((), tf.string)]
        )

    def ids(self, text: tf.Tensor) -> tf.Tensor:
        """Returns the numbers of a text, int32 (t,), with special tokens.

        Args:
            text: A string scalar, UTF-8. `BETWEEN` separates its parts, if it has several. If it is
                too long, the longest parts are cut first.
        """
        pieces = self.read(text)
        joined: list[Any] = [tf.constant(self.start, tf.int32), pieces[0]]
        for part in pieces[1:]:
            joined += [tf.constant(self.between, tf.int32), part]
        return tf.concat([*joined, tf.constant(self.end, tf.int32)], 0)

    def read(self, text: tf.Tensor) -> list[tf.Tensor]:
        """Returns the numbers of each part of a text, cut to the length, int32 (t,)."""
        pieces = [self.split(part) for part in parts_of(text, self.parts)]
        if len(pieces) == 1:
            return [pieces[0][: self.room]]
        trimmer = _package("tensorflow_text").RoundRobinTrimmer(self.room)
        rows = [tf.RaggedTensor.from_tensor(part[tf.newaxis]) for part in pieces]
        return [part[0] for part in trimmer.trim(rows)]

    def count(self, text: tf.Tensor) -> tf.Tensor:
        """Returns the number of a text's tokens before it is cut, int32."""
        pieces = [tf.size(self.split(part)) for part in parts_of(text, self.parts)]
        return tf.add_n(pieces) + self.length - self.room

    def inputs_of(self, ids: tf.Tensor) -> Tree:
        """Returns the model's inputs for a text's numbers (t,)."""
        made = {IDS: ids, MASK: tf.ones_like(ids)}
        if SEGMENTS in self.takes:
            made[SEGMENTS] = tf.zeros_like(ids)
            if self.parts > 1:
                ends = tf.cast(ids == self.between[-1], tf.int32)
                passed = tf.cumsum(ends, exclusive=True)
                made[SEGMENTS] = tf.minimum(passed, self.parts - 1)
        return {name: made[name] for name in self.takes}

    def words(self, text: str) -> list[tuple[str, int]]:
        """Returns the words of a text as it is written, and how many numbers each has.

        Falls back to the text's pieces if the words' numbers are not those of the whole text.
        """
        whole = self._split(tf.constant(text)).numpy()
        for pattern in (_WORDS, _WORDS_AFTER_SPACES):
            words = [found[0] for found in re.finditer(pattern, text)]
            numbers = [
                self._split(tf.constant(word)).numpy() if not word.isspace() else whole[:0]
                for word in words
            ]
            if np.array_equal(np.concatenate([whole[:0], *numbers]), whole):
                return list(zip(words, map(len, numbers), strict=True))
        names = [str(self._made.id_to_token(number)) for number in whole.tolist()]
        return [one for name in names for one in ((name, 1), (" ", 0))]

    def as_config(self) -> dict[str, Any]:
        """Returns the arguments of `Pieces`, ready for JSON."""
        config = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {name: list(x) if isinstance(x, tuple) else x for name, x in config.items()}


def read_tokenizer(tokenizer: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the class, settings and files of a tokenizer of keras-hub, for `Pieces`."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_assets(folder)
        assets = {
            path.name: base64.b64encode(path.read_bytes()).decode()
            for path in sorted(Path(folder).iterdir())
        }
    return {"class_name": type(tokenizer).__name__, "config": tokenizer.get_config()}, assets


@functools.lru_cache(maxsize=4)
def _tokenizer(text: str) -> Any:
    described, assets = json.loads(text)
    kind = getattr(_package("keras_hub").tokenizers, described["class_name"])
    _package("tensorflow_text")  # keras-hub fails later without it
    with tf.init_scope(), tempfile.TemporaryDirectory() as folder:
        for name, content in assets.items():
            Path(folder, Path(name).name).write_bytes(base64.b64decode(content))
        made = for_graphs(kind, described["config"])
        if hasattr(made, "set_proto"):  # it would leave the file open
            [content] = assets.values()
            made.set_proto(base64.b64decode(content))
        else:
            made.load_assets(folder)
        made(tf.constant("a"))  # makes its tables now, outside any graph
    return made


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"data.input: the tokenizer needs {error.name}, which is not installed. Run: "
            f"{to_install('hub')}"
        ) from None


@keras.saving.register_keras_serializable(package="ftkeras")
class PieceIds(TokenIds):
    """Returns the numbers of pieces unchanged, and keeps their vocabulary; see `TokenIds`.

    Args:
        tokens: The result of `Pieces.as_config`.
    """

    def read(self) -> Any:
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, (list, tuple)) else value
            for name, value in self.config.items()
        }
        return Pieces(**given)
