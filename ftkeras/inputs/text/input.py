"""Texts as an `Input`: strings or files in, numbers of tokens out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from pydantic import ValidationError

from ftkeras.config.errors import explain
from ftkeras.errors import UserError
from ftkeras.inputs.base import Input, Tree, Verdict, View, Wire
from ftkeras.inputs.text import check
from ftkeras.inputs.text.config import TextConfig
from ftkeras.inputs.text.pieces import Pieces
from ftkeras.inputs.text.terms import TAKES, Terms, terms_in_model
from ftkeras.inputs.text.tokens import BETWEEN, UNKNOWN, Tokens, tokens_in
from ftkeras.inputs.text.vary import vary

if TYPE_CHECKING:
    import keras

_NONE, _VARIED = "none", "varied"
_TOKENS = "tokens"  # beside the terms, in what is kept of a text
_MANY_STRANGE = 0.3  # English texts and the shipped vectors: under 0.1


@dataclass(frozen=True)
class TextInput(Input):
    """Texts in UTF-8.

    Args:
        tokens: How they become numbers; None while they are only found and checked.
        columns: The columns of a table that hold the parts of a text.
        drop: The share of tokens that are left out in training.
        swap: The share of neighbouring tokens that are swapped in training.
        terms: What the model counts besides, if it does.
    """

    tokens: Tokens | Pieces | None = None
    columns: tuple[str, ...] = ("text",)
    drop: float = 0.0
    swap: float = 0.0
    terms: Terms | None = None

    kind = "text"
    noun = "text"
    files = ".txt files"
    smaller = "data.input.length"
    starter = "glosses.zip"
    version = (1, tf.__version__)
    abilities = {
        name: f"ftkeras.inputs.text.{name}"
        for name in ("golden", "cards", "looks", "duplicates", "features", "counts")
    }

    @property
    def cells(self) -> Sequence[str]:
        """The columns of the texts."""
        return self.columns

    @property
    def takes(self) -> Mapping[str, tf.TensorSpec]:
        """The numbers of tokens, int32 (steps,), 0 for padding; and further inputs of the model."""
        names = Tokens.takes if self.tokens is None else self.tokens.takes
        own = {name: tf.TensorSpec((None,), tf.int32) for name in names}
        return own if self.terms is None else {**own, **TAKES}

    @property
    def raw(self) -> tf.TensorSpec:
        """A string in UTF-8; if it has several parts, `BETWEEN` separates them."""
        return tf.TensorSpec((), tf.string)

    @property
    def sizes(self) -> Sequence[int]:
        """The lengths that batches have."""
        return () if self.tokens is None else self.tokens.lengths

    @property
    def views(self) -> Sequence[str]:
        """The unchanged text, and the varied one if `drop` or `swap` is set."""
        return (_NONE, _VARIED) if self.drop or self.swap else (_NONE,)

    @property
    def training_view(self) -> str:
        """The varied text if `drop` or `swap` is set."""
        return self.views[-1]

    @property
    def wire(self) -> Wire:
        """`text`, and `token_ids` for numbers."""
        return Wire("text", "text", "token_ids")

    @property
    def facts(self) -> Mapping[str, Any]:
        """The kind of tokens, and how many are read."""
        facts: dict[str, Any] = {"input": self.kind}
        if self.tokens is not None:
            facts |= {"tokens": self.tokens.by, "length": self.tokens.length}
            facts["vocabulary"] = self.tokens.size
            facts["vocabulary_hash"] = self.tokens.digest
        return facts

    @property
    def serving_packages(self) -> Sequence[str]:
        """TensorFlow Text, if a tokenizer of keras-hub reads the texts."""
        return ("tensorflow_text",) if isinstance(self.tokens, Pieces) else ()

    @property
    def resources(self) -> Sequence[Any]:
        """The tokenizer's tables."""
        return () if self.tokens is None else self.tokens.resources

    @property
    def title(self) -> str:
        """How many tokens are read."""
        if self.tokens is None:
            return "for texts"
        return f"for up to {self.tokens.length} {self.tokens.by}"

    @property
    def notes(self) -> Sequence[str]:
        """The share of texts that are cut, and of words without a vector if it is large."""
        if self.tokens is None:
            return ()
        notes = []
        if share := self.tokens.longer:
            notes.append(
                f"{'under 1%' if share < 0.01 else f'{share:.0%}'} of the training texts are "
                f"longer than {self.tokens.length} {self.tokens.by}; the rest of them is not read "
                "(data.input.length)."
            )
        if (share := self.tokens.strange) > _MANY_STRANGE:
            notes.append(
                f"{share:.0%} of the words in the training texts have no word vector and start "
                "random. Name vectors of their language (backbone.weights), or take "
                "data.input.tokens=characters."
            )
        return tuple(notes)

    def recipe(self, view: str = _NONE) -> str:
        """Returns a text that differs if the numbers could."""
        tokens = self.tokens
        own = "" if tokens is None else f"{tokens.length} {tokens.by}, {tokens.digest}"
        own += "" if self.terms is None else f", {self.terms.digest}"
        return own if view == _NONE else f"{own}, drop {self.drop}, swap {self.swap}"

    def accepts(self, name: str) -> bool:
        """Whether a file's name ends in .txt; hidden files are no texts."""
        base = name.rpartition("/")[2]
        return base.lower().endswith(".txt") and not base.startswith(".")

    def check(self, raw: bytes, name: str, key: str) -> Verdict:
        """Leaves out texts that are empty, too long, or not UTF-8."""
        return Verdict(name, check.examine(raw))

    def strangers(self, raw: bytes) -> tuple[list[str], int]:
        """Returns the words that are not in the vocabulary; pieces of words have any word."""
        if not isinstance(self.tokens, Tokens):
            return [], 0
        return self.tokens.strangers(raw.decode("utf-8", "replace"))

    def strangeness(self, inputs: Tree) -> np.ndarray:
        """Returns the share of each text's tokens that are not in the vocabulary, (b,)."""
        tokens = self.tokens
        if not isinstance(tokens, Tokens) or UNKNOWN not in tokens.vocabulary:
            return super().strangeness(inputs)
        ids = np.asarray(inputs[tokens.takes[0]] if isinstance(inputs, dict) else inputs)  # (b, t)
        strange, read = (ids == tokens.unknown).sum(axis=1), (ids != 0).sum(axis=1)
        return np.asarray(strange / np.maximum(read, 1))

    def check_array(self, array: np.ndarray, where: str) -> np.ndarray:
        """Returns texts (n,), or parts of texts (n, columns), as bytes (n,)."""
        if array.dtype.kind not in "US":
            raise UserError(f"{where} is {array.dtype}; texts are an array of strings.")
        parts = len(self.columns)
        if array.shape[1:] != (() if parts == 1 else (parts,)):
            wanted = "one string" if parts == 1 else f"{parts} strings"
            raise UserError(f"{where} has the shape {array.shape}; it must be {wanted} per text.")
        encoded = np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
        rows = encoded.tolist()
        texts = [_joined(row) for row in rows] if parts > 1 else rows
        for number, text in enumerate(texts):
            if reason := check.examine(text):
                raise UserError(f"{where}[{number}] cannot be used: {reason}. Leave it out.")
        return np.array(texts, object)

    def in_cells(self, cells: Sequence[str]) -> bytes:
        """Returns the text in the cells of a table's line."""
        return _joined([cell.encode() for cell in cells])

    def decode(self, raw: tf.Tensor, view: View) -> Tree:
        """Returns the numbers of the tokens, int32 (steps,); in a dict if terms count, too."""
        assert self.tokens is not None, "the input was made without a model"
        # Raises for a raw example that is no text, as image decoders do for broken files.
        reason = check.why_not(raw)
        sound = tf.debugging.Assert(reason == "", [reason])
        with tf.control_dependencies([sound]):
            text = check.without_mark(raw)
        ids = self.tokens.ids(text)
        return ids if self.terms is None else {_TOKENS: ids, **self.terms.weigh(text)}

    def prepare(self, kept: Tree, view: View, key: tf.Tensor) -> Tree:
        """Returns them unchanged or varied, with the model's further inputs."""
        tokens = self.tokens
        assert tokens is not None, "the input was made without a model"
        terms = dict(kept) if isinstance(kept, dict) else {}
        read = terms.pop(_TOKENS, kept)

        def ids(name: str) -> Any:
            if name == _NONE:
                return read
            return vary(read, key, drop=self.drop, swap=self.swap, special=tokens.special)

        made = tokens.inputs_of(view.pick(ids))
        if not terms:
            return made
        named = made if isinstance(made, dict) else {tokens.takes[0]: made}
        return {**named, **terms}


def _joined(parts: Sequence[bytes]) -> bytes:
    """Returns the parts of a text as one."""
    between = BETWEEN.encode()
    return parts[0] if len(parts) == 1 else between.join(p.replace(between, b" ") for p in parts)


def make(settings: Mapping[str, Any], model: keras.Model | None) -> TextInput:
    """Makes the input of a run; see `ftkeras.inputs.registry.Maker`.

    Raises:
        UserError: The settings are wrong, or the model has no vocabulary.
    """
    section = _checked(settings)
    tokens = tokens_in(model)
    if model is not None and tokens is None:
        raise UserError(
            "data.input: the model has no vocabulary of its tokens. Train it from a backbone for "
            "texts, or name a file with its vocabulary, data.input.vocabulary."
        )
    if section.column is not None and section.columns:
        raise UserError("data.input: column and columns exclude each other. Leave out one.")
    columns = tuple(section.columns or [section.column or "text"])
    varied = section.variation
    return TextInput(tokens, columns, varied.drop, varied.swap, terms_in_model(model))


def _checked(settings: Mapping[str, Any]) -> TextConfig:
    try:
        return TextConfig.model_validate({**settings, "kind": "text"})
    except ValidationError as error:
        item = error.errors()[0]
        where = ".".join(map(str, ("data.input", *item["loc"])))
        raise UserError(f"{where}: {explain(item, TextConfig)}") from None
