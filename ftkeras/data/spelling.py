"""Whether two labels are one name, spelt in two ways."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from fractions import Fraction

_DECIMAL = re.compile(r"[+-]?\d{1,99}(\.\d{0,99})?")


def plain(name: str) -> str:
    """Returns what all spellings of a name share.

    Case, spaces and signs do not matter, nor how Unicode composes a letter. Zeros that change no
    number do not matter either: the program that wrote a table may have read `01` as 1 or as 1.0.

    Example:
        >>> plain("Guinea-Pig"), plain("01"), plain("1.0"), plain("-1.50")
        ('guineapig', '1', '1', '-3/2')
    """
    text = unicodedata.normalize("NFKC", name).casefold().strip()
    if _DECIMAL.fullmatch(text):
        return str(Fraction(text))
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text))) or text


def other_spelling(name: str, known: Iterable[str]) -> str:
    """Returns a sentence that names another spelling of a label among known ones, or "".

    Example:
        >>> other_spelling("cat", ["Cat", "dog"])
        " Training has 'Cat', which looks like the same name."
    """
    same = [one for one in known if one != name and plain(one) == plain(name)]
    return f" Training has {same[0]!r}, which looks like the same name." if same else ""
