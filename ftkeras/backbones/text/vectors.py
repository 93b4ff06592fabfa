"""Word vectors: those that ftkeras ships, or a file in the text format of GloVe or word2vec."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from ftkeras.console import Progress
from ftkeras.errors import UserError
from ftkeras.paths import why_not_readable
from ftkeras.starter import text as starter

FIRST = 50_000  # words of a file that are always kept
_MOST_NUMBERS = 4096  # per word
_MOST_OF_A_LINE = 1 << 20  # bytes
_CHUNK = 1 << 20
_FILES = (".txt", ".vec", ".glove")


@dataclass(frozen=True)
class WordVectors:
    """Words and their vectors.

    Args:
        words: The words, the most frequent first.
        vectors: float32 (words, numbers).
    """

    words: Sequence[str]
    vectors: np.ndarray


def load_vectors(weights: str, wanted: Collection[str]) -> WordVectors | None:
    """Returns the vectors that a config names.

    Args:
        weights: starter, none, or the path of a file: a line per word, "word 0.1 -0.2 ...", for
            word2vec after a line with the number of words and of numbers.
        wanted: The words of the training texts; only these and a file's first 50,000 are kept.

    Raises:
        UserError: The file cannot be read, or has a line of another form.
    """
    if weights == "none":
        return None
    if weights == "starter":
        return WordVectors(*starter.word_vectors())
    return _read(weights, wanted)


def _read(path: str, wanted: Collection[str]) -> WordVectors:
    if reason := why_not_readable(path):
        raise UserError(f"backbone.weights: {path!r}: {reason}.")
    if not path.lower().endswith(_FILES):
        raise UserError(
            f"backbone.weights: {path!r} must be a text file of word vectors, {', '.join(_FILES)}."
        )
    wanted, words, rows = set(wanted), list[str](), list[np.ndarray]()
    size, seen = 0, set[str]()
    progress = Progress("read word vectors", None, "line")
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            for number, line in enumerate(_lines(file, path), 1):
                progress.advance()
                if number == 1 and len(line.split()) == 2:  # word2vec's counts
                    continue
                word, _, values = line.rstrip(b"\r\n ").partition(b" ")
                name = word.decode("utf-8", "replace")
                if number > FIRST and name not in wanted or name in seen:
                    continue
                vector = _numbers(values, size, f"{path}:{number}")
                size = len(vector)
                seen.add(name)
                words.append(name)
                rows.append(vector)
    except tf.errors.OpError as error:
        raise UserError(f"backbone.weights: {path!r} cannot be read: {error.message}") from error
    finally:
        progress.close()
    if not words:
        raise UserError(f"backbone.weights: {path} holds no word vectors.")
    return WordVectors(words, np.stack(rows))


def _lines(file: tf.io.gfile.GFile, path: str) -> Iterator[bytes]:
    """Yields the lines of a file; raises before a huge line fills the memory."""
    rest, number = b"", 1
    while chunk := file.read(_CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        number += len(lines)
        if len(rest) > _MOST_OF_A_LINE:
            raise UserError(
                f"{path}:{number}: the line is longer than {_MOST_OF_A_LINE >> 20} MiB; a word and "
                "numbers are expected, separated by spaces."
            )
    if rest:
        yield rest


def _numbers(values: bytes, size: int, where: str) -> np.ndarray:
    try:
        vector = np.array(values.split(), np.float32)
    except ValueError:
        vector = np.zeros(0, np.float32)
    good = 0 < len(vector) <= _MOST_NUMBERS and np.isfinite(vector).all()
    if not good or (size and len(vector) != size):
        expected = f"{size} numbers" if size else "numbers"
        raise UserError(f"{where}: a word and {expected} are expected, separated by spaces.")
    return vector
