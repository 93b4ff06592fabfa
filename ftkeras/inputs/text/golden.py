"""The texts on which an export is compared with its model."""

from __future__ import annotations

from ftkeras.inputs.text.check import BINARY, EMPTY
from ftkeras.inputs.text.check import DAMAGED as DAMAGED
from ftkeras.inputs.text.check import why_not as why_not
from ftkeras.inputs.text.tokens import BETWEEN

LIMITS = (
    "A text is split into tokens by rules, not by a dictionary: words of languages that put no "
    "spaces between them, other than Chinese characters, are one token each."
)
"""A limit that no golden text shows."""
WARM_UP = ("sentence", "punctuation", "numbers", "long")
"""The golden texts that are sent to a server first."""
_REASONS = {"empty": EMPTY, "spaces": EMPTY, "binary": BINARY}
_REASONS |= dict.fromkeys(("not UTF-8", "half a character"), DAMAGED)


def is_told(name: str, error: str) -> bool:
    """Whether an error fits the text of that name in `refused`."""
    return error == _REASONS[name]


def golden() -> dict[str, bytes]:
    """Returns texts of the kinds that servers meet, by name, the same every time."""
    texts = {
        "sentence": "A small animal with soft fur that eats seeds and fruit.",
        "punctuation": "Isn't it?! (Yes; they've said: \u201cso\u201d...) don\u2019t",
        "numbers": "In 1999, 3.14 kg cost $5.00 at 10:30 a.m.",
        "one character": "a",
        "emoji": "\U0001f44d\U0001f3fd \U0001f469\u200d\U0001f680 ok \u2764\ufe0f",
        "right to left": "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd hello",
        "Chinese": "\u4f60\u597d\uff0c\u4e16\u754c",
        "accents": "Cafe\u0301 caf\u00e9 \u0130stanbul STRASSE stra\u00dfe",
        "control characters": "a\tb\r\nc\x01d\x07e\ufeff f\u2028g",
        "a byte order mark": "\ufeffbegins with one",
        "several parts": f"the first{BETWEEN}and the second",
        "long": "many words again and again " * 4000,  # over 100,000 characters
    }
    return {name: text.encode() for name, text in texts.items()}


def refused() -> dict[str, bytes]:
    """Returns texts that an export must refuse, each with its own error, by name."""
    return {
        "empty": b"",
        "spaces": b" \t\r\n",
        "not UTF-8": "caf\u00e9".encode("latin-1"),
        "half a character": "\u4f60".encode()[:2],
        "binary": b"a\0b\0",
    }
