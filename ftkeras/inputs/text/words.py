"""The words of many texts as numbers, for checks of a whole data set."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

# Kana and Han stand alone: they are written without spaces.
_ALONE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+|[^\w\s]|_")
_SCRIPTS = {  # by the first word of the names of their letters
    "HIRAGANA": "Han and Kana",
    "KATAKANA": "Han and Kana",
    "CJK": "Han and Kana",
    "FULLWIDTH": "Latin",
}


def words_in(text: str) -> list[str]:
    """Returns the words and signs of a text in lower case; forms of one letter count as one.

    Example:
        >>> words_in("Don't PANIC, \uff21!")
        ['don', "'", 't', 'panic', ',', 'a', '!']
    """
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return _WORD.findall(plain.lower())


def script_of(word: str) -> str:
    """Returns the script of a word's first letter: "Latin"; "" if it has none."""
    for character in word:
        if character.isalpha():
            first = unicodedata.name(character, "").partition(" ")[0].partition("-")[0]
            return _SCRIPTS.get(first, first.capitalize())
    return ""


def stem(word: str) -> str:
    """Returns a word without the endings of plurals and gerunds, roughly.

    Example:
        >>> [stem(word) for word in ("feelings", "bodies", "sports", "glass")]
        ['feel', 'body', 'sport', 'glass']
    """
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        word = word[:-1]
    return word[:-3] if word.endswith("ing") and len(word) > 5 else word


@dataclass(frozen=True)
class Words:
    """The words of texts, in order.

    Args:
        numbers: The words of all texts as indices, one text after the other, int32 (words,).
        starts: The start of each text, and the end of the last, int64 (texts + 1,).
        vocabulary: The words.
    """

    numbers: np.ndarray
    starts: np.ndarray
    vocabulary: Sequence[str]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Words:
        """Reads texts."""
        number_of: dict[str, int] = {}
        parts = [np.zeros(0, np.int32)]
        for text in texts:
            found = [number_of.setdefault(word, len(number_of)) for word in words_in(text)]
            parts.append(np.array(found, np.int32))
        starts = np.cumsum([len(part) for part in parts])
        return cls(np.concatenate(parts), starts, tuple(number_of))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def rows(self) -> np.ndarray:
        """The text of each word, int64 (words,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @cached_property
    def is_word(self) -> np.ndarray:
        """Which numbers are words, not signs; bool (vocabulary,)."""
        return np.array([word[0].isalnum() for word in self.vocabulary], bool)

    @cached_property
    def counts(self) -> np.ndarray:
        """How many words each text has, signs left out. (texts,)"""
        return np.bincount(self.rows[self.is_word[self.numbers]], minlength=len(self))

    @cached_property
    def once(self) -> tuple[np.ndarray, np.ndarray]:
        """Each text with each of its words once: (rows, numbers), by rising row."""
        keys = np.sort((self.rows << 32) | self.numbers)
        keys = keys[np.diff(keys, prepend=-1) > 0]
        return keys >> 32, keys & 0xFFFFFFFF

    @cached_property
    def script(self) -> np.ndarray:
        """The script that most words of each text are in; "" if none. str (texts,)"""
        each = np.array([script_of(word) for word in self.vocabulary] or [""])
        names, kind = np.unique(each, return_inverse=True)
        kinds = kind[self.numbers]
        seen = names[kinds] != "" if len(kinds) else np.zeros(0, bool)
        keys = self.rows[seen] * len(names) + kinds[seen]
        counts = np.bincount(keys, minlength=len(self) * len(names)).reshape(len(self), -1)
        return np.where(counts.sum(axis=1) > 0, names[counts.argmax(axis=1)], "")
