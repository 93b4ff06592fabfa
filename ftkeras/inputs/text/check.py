"""Which texts can be read: the same check in training, in `predict` and in a served model."""

from __future__ import annotations

import re

import tensorflow as tf

from ftkeras.files import OTHER_ENCODINGS
from ftkeras.inputs.text.tokens import MOST_CHARACTERS

DAMAGED = "not UTF-8 text"
BINARY = "binary, not text"
EMPTY = "empty"
LONG = f"longer than {MOST_CHARACTERS:,} bytes"
_ZERO = r"(?s).*\x00.*"
_NOTHING = r"[\pZ\pC]*"  # spaces and control characters
_VISIBLE = re.compile(rb"[!-~]")


def why_not(raw: tf.Tensor) -> tf.Tensor:
    """Returns why a text cannot be read, a string scalar; empty if it can.

    Args:
        raw: A string scalar.
    """
    # The size is checked first.
    is_long = tf.strings.length(raw) > MOST_CHARACTERS
    text = tf.where(is_long, "", raw)
    whole = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
    reason = tf.where(tf.strings.regex_full_match(whole, _NOTHING), EMPTY, "")
    reason = tf.where(tf.strings.regex_full_match(whole, _ZERO), BINARY, reason)
    reason = tf.where(whole != text, DAMAGED, reason)
    return tf.where(is_long, LONG, reason)


def examine(raw: bytes) -> str:
    """Returns why the content of a file cannot be read as text, or ""."""
    for mark, name in OTHER_ENCODINGS.items():
        if raw.startswith(mark):
            return f"{name}, not UTF-8 text; save it as UTF-8"
    if len(raw) <= MOST_CHARACTERS and b"\0" not in raw and _VISIBLE.search(raw):
        try:  # most texts pass here, a hundred times faster
            raw.decode()
            return ""
        except UnicodeDecodeError:
            return DAMAGED
    reason: bytes = why_not(tf.constant(raw)).numpy()
    return reason.decode()


def without_mark(text: tf.Tensor) -> tf.Tensor:
    """Returns a text without the byte order mark that it may begin with."""
    return tf.strings.regex_replace(text, "^\ufeff", "")
