"""Why files were left out, summed up by kind."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ftkeras.data.dataset import BadFile

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
_EXAMPLES = 3


def sum_up(bad_files: Sequence[BadFile], kinds: int = 3) -> str:
    """Returns how often each kind of reason occurs, most frequent first, with three files each.

    A kind is what a reason says before its first colon, whatever the numbers in it.

    Example:
        >>> sum_up([BadFile("a.png", "3 bytes left"), BadFile("b.png", "7 bytes left")])
        '2 x ... bytes left (a.png, b.png)'
    """
    by_kind: dict[str, list[BadFile]] = {}
    for bad in bad_files:
        by_kind.setdefault(_without_numbers(bad.reason.partition(": ")[0]), []).append(bad)
    groups = sorted(by_kind.values(), key=len, reverse=True)
    more = [f"{len(groups) - kinds} more reasons"] if len(groups) > kinds + 1 else []
    return "; ".join([*map(_line, groups[:kinds] if more else groups), *more])


def _line(group: Sequence[BadFile]) -> str:
    reasons = {bad.reason for bad in group}
    if len(set(map(_without_numbers, reasons))) > 1:
        reasons = {reason.partition(": ")[0] for reason in reasons}
    pieces = zip(*map(_NUMBER.split, reasons), strict=True)
    reason = "".join(each[0] if len(set(each)) == 1 else "..." for each in pieces)
    names = [bad.path for bad in group[:_EXAMPLES]] + ["..."] * (len(group) > _EXAMPLES)
    return f"{len(group)} x {reason} ({', '.join(names)})"


def _without_numbers(reason: str) -> str:
    return _NUMBER.sub("0", reason)
