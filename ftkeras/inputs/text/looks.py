"""Measurements of texts (words, length, script), and odd texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from ftkeras.console import counted
from ftkeras.findings import Finding, percent
from ftkeras.inputs.rows import Rows
from ftkeras.inputs.text.giveaways import find_giveaways
from ftkeras.inputs.text.input import TextInput
from ftkeras.inputs.text.pieces import Pieces
from ftkeras.inputs.text.tokens import Tokens
from ftkeras.inputs.text.words import Words

_READ = 20_000  # bytes of a text that are measured
_SHORT = 3  # words
_SHORTER = 6.0  # times shorter than half of the texts
_MIXED = 0.02  # the smaller share from which scripts count as mixed
_CUT = 0.5  # of a split's texts that are longer than the model reads
_UNKNOWN = 0.2  # of a split's tokens
_LISTED = 50  # unknown words


@dataclass(frozen=True, kw_only=True)
class Looks(Rows):
    """Measurements of all texts of all splits, one row per text.

    Args:
        words: The words of each.
        contents: A 62-bit fingerprint of the text, without case and kinds of spaces. (n,)
        lengths: In the model's tokens; 0 if there is no model. (n,)
        read: How many of them the model reads. (n,)
        strange: How many of these are not in its vocabulary. (n,)
    """

    words: Words
    contents: np.ndarray
    lengths: np.ndarray
    read: np.ndarray
    strange: np.ndarray

    @property
    def blank(self) -> np.ndarray:
        """Which texts have no words. (n,)"""
        return self.words.counts == 0


@tf.autograph.experimental.do_not_convert
def measure(raw: tf.Tensor, kind: TextInput) -> tuple[tf.Tensor, ...]:
    """Returns a text's beginning, fingerprint, and numbers of tokens: all, read, and strange.

    Args:
        raw: As a source yields it.
        kind: How the model reads it.
    """
    plain = tf.strings.regex_replace(tf.strings.lower(raw, "utf-8"), r"[\pZ\pC]+", " ")
    content = tf.strings.to_hash_bucket_strong(
        tf.strings.strip(plain), 2**62, key=[0x66746B65, 0x72617321]
    )
    begin = tf.strings.substr(raw, 0, _READ)
    if kind.tokens is None:
        return begin, content, tf.constant(0), tf.constant(0), tf.constant(0)
    length, ids = kind.tokens.count(raw), kind.tokens.ids(raw)
    strange = tf.reduce_sum(tf.cast(ids == kind.tokens.unknown, tf.int32))
    return begin, content, length, tf.size(ids), strange


def gather(seen: Sequence[np.ndarray], **rows: Any) -> Looks:
    """Returns the measurements of all texts as rows.

    Args:
        seen: The results of `measure`, (n,) each.
        **rows: The arguments of `Rows`.
    """
    begins, contents, lengths, read, strange = seen
    return Looks(
        **rows,
        words=Words.of(begin.decode("utf-8", "ignore") for begin in begins),
        contents=contents,
        lengths=lengths,
        read=read,
        strange=strange,
    )


def find_odd(looks: Looks, class_names: Sequence[str], kind: TextInput) -> list[Finding]:
    """Finds texts without content, and other faults of a data set of texts.

    Args:
        looks: The measurements.
        class_names: Names of the classes.
        kind: The kind of input, with the model's tokens.
    """
    odd = [_blank(looks), _short(looks), _scripts(looks, class_names)]
    if kind.tokens is not None:
        odd += [*_cut(looks, kind.tokens), *_strange(looks, kind.tokens)]
    return [*(finding for finding in odd if finding), *find_giveaways(looks, class_names)]


def _blank(looks: Looks) -> Finding | None:
    rows = np.flatnonzero(looks.blank)
    if not len(rows):
        return None
    return Finding(
        "warning",
        "texts without words",
        f"{percent(len(rows), len(looks))} texts have no word, only signs.",
        "Check them and remove them: a model can only memorise their labels.",
        tuple(looks.evidence(i) for i in rows.tolist()),
    )


def _short(looks: Looks) -> Finding | None:
    counts = looks.words.counts
    usual = float(np.median(counts))
    rows = np.flatnonzero((counts < min(_SHORT, usual / _SHORTER)) & ~looks.blank)
    if not len(rows):
        return None
    return Finding(
        "warning",
        "very short texts",
        f"{percent(len(rows), len(looks))} texts have {counts[rows].max()} words or fewer; half of "
        f"all have {usual:.0f} or more.",
        "Check them: remove headings and fragments, or find the whole texts.",
        tuple(looks.evidence(i, counted(int(counts[i]), "word")) for i in rows.tolist()),
    )


def _scripts(looks: Looks, class_names: Sequence[str]) -> Finding | None:
    """Several scripts are harmless if spread evenly, and a shortcut if they are not."""
    script = looks.words.script
    shown = script != ""
    names, counts = np.unique(script[shown], return_counts=True)
    if len(names) < 2:
        return None
    usual = names[counts.argmax()]
    other = shown & (script != usual)
    if other.sum() < _MIXED * shown.sum():
        return None
    order = np.argsort(-counts, kind="stable")
    listed = ", ".join(f"{counts[i]:,} {names[i]}" for i in order)
    message = f"Texts are in {len(names)} scripts ({listed})"
    evidence = tuple(looks.evidence(i, str(script[i])) for i in np.flatnonzero(other).tolist())
    if apart := looks.telling(other, shown, class_names, f"not in {usual}"):
        return Finding(
            "warning",
            "mixed scripts",
            f"{message}, and {apart}: the model can use the script instead of content.",
            "Keep to one script, or find texts of each for every class and split.",
            evidence,
        )
    remedy = "Expect the same mix where the model will be used, or divide the data by language."
    return Finding("note", "mixed scripts", f"{message}.", remedy, evidence)


def _cut(looks: Looks, tokens: Tokens | Pieces) -> Iterator[Finding]:
    longer = looks.lengths > tokens.length
    for name in np.unique(looks.splits):
        inside = looks.splits == name
        rows = np.flatnonzero(longer & inside)
        if len(rows) < _CUT * inside.sum():
            continue
        usual = float(np.median(looks.lengths[inside]))
        yield Finding(
            "warning",
            "truncated texts",
            f"{percent(len(rows), int(inside.sum()))} {name} texts are longer than the "
            f"{tokens.length} {tokens.by} that are read; half have {usual:.0f} or more.",
            "Raise data.input.length, or divide long texts into parts.",
            tuple(looks.evidence(i, f"{looks.lengths[i]} {tokens.by}") for i in rows.tolist()),
        )


def _strange(looks: Looks, tokens: Tokens | Pieces) -> Iterator[Finding]:
    for name in np.unique(looks.splits):
        inside = looks.splits == name
        strange, read = int(looks.strange[inside].sum()), int(looks.read[inside].sum())
        if strange < _UNKNOWN * max(read, 1):
            continue
        share = looks.strange / np.maximum(looks.read, 1)
        rows = [i for i in np.argsort(-share, kind="stable").tolist() if inside[i] and share[i]]
        yield Finding(
            "warning",
            "unknown tokens",
            f"{percent(strange, read)} {tokens.by} that are read of {name} texts are not in the "
            f"model's vocabulary, such as {_examples(looks, inside, tokens)}.",
            "Take weights of the texts' language and field, raise data.input.words, or read "
            "characters.",
            tuple(looks.evidence(i, f"{share[i]:.0%} unknown") for i in rows[:_LISTED]),
        )


def _examples(looks: Looks, inside: np.ndarray, tokens: Tokens | Pieces) -> str:
    """Returns the most frequent unknown tokens of some texts, in words."""
    if isinstance(tokens, Pieces):  # their words are not known
        return "rare signs"
    words, known = looks.words, set(tokens.vocabulary)
    counts = np.bincount(words.numbers[inside[words.rows]], minlength=len(words.vocabulary))
    found: dict[str, int] = {}
    for number in np.argsort(-counts, kind="stable").tolist():
        word = words.vocabulary[number]
        for token in [word] if tokens.by == "words" else word:
            if counts[number] and token not in known:
                found.setdefault(token, number)
        if len(found) >= 5:
            break
    return ", ".join(map(repr, list(found)[:5])) or "parts of words"
