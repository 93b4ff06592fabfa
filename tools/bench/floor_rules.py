"""What the rows of `from_floor.py` and `rivals.py` say: rules of choice, sets, rivals, regret."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ftkeras.console import table

Row = dict[str, Any]
IN_USE = "t4 3e-4 20"
DRAWS = 9_999


def packed(flags: np.ndarray) -> str:
    """Returns flags as hexadecimal digits."""
    return np.packbits(flags).tobytes().hex()


def unpacked(digits: str, count: int) -> np.ndarray:
    """Returns the flags that `packed` has written, bool (count,)."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8))[:count].astype(bool)


def first_best(*candidates: str) -> Callable[[Row], str]:
    """Returns the rule that takes the least wrong candidate, the first one among equals."""
    return lambda row: min(candidates, key=lambda tag: row[tag]["wrong"].count("1"))


def by_standard_error(row: Row) -> str:
    """Keeps the floor unless another one is ahead by a standard error (of 100 examples or more)."""
    best = first_best("floor", "final 0.5", "final 1.0")(row)
    pairs = zip(row["floor"]["wrong"], row[best]["wrong"], strict=True)
    ahead = [int(a) - int(b) for a, b in pairs]
    error = math.sqrt(sum(each**2 for each in ahead))
    return "floor" if len(ahead) < 100 and sum(ahead) <= error else best


RULES: dict[str, Callable[[Row], str]] = {
    "always the last epoch": lambda row: "final 1.0",
    "always half way to it": lambda row: "final 0.5",
    "always the best epoch": lambda row: "best 1.0",
    "half, last or floor: most accurate, floor first": first_best(
        "floor", "final 0.5", "final 1.0"
    ),
    "half, last or floor: most accurate, floor last": first_best("final 0.5", "final 1.0", "floor"),
    "half, last or floor: the floor unless beaten by an error": by_standard_error,
    "half, last or floor: least validation loss": lambda row: min(
        ("floor", "final 0.5", "final 1.0"), key=lambda tag: row[tag]["val_loss"]
    ),
    "half, best or floor: most accurate, floor last": first_best("best 0.5", "best 1.0", "floor"),
}
KEPT = RULES["half, last or floor: most accurate, floor last"]


def gains(rows: Sequence[Row], rule: Callable[[Row], str]) -> list[float]:
    """Returns for each set the mean gain over the floor, in points of test accuracy."""
    names = dict.fromkeys(row["set"] for row in rows)
    return [
        statistics.mean(
            100 * (row[rule(row)]["test"] - row["floor"]["test"])
            for row in rows
            if row["set"] == name
        )
        for name in names
    ]


def summary(rows: Sequence[Row]) -> str:
    """Returns two tables: what rules gain over the sets, and each set with the rule in use."""
    shown = []
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        own = [row for row in rows if row["recipe"] == recipe]
        for name, rule in RULES.items():
            each = gains(own, rule)
            numbers = (statistics.mean(each), statistics.median(each), min(each))
            shown.append((recipe, str(len(each)), name, *(f"{number:+.1f}" for number in numbers)))
    first = table(shown, ("recipe", "sets", "what is kept", "mean", "median", "worst set"))
    shown = []
    for (name, recipe), own in _grouped(rows).items():
        floor, kept, floor_of_all, refit = (
            statistics.mean(row[tag(row)]["test"] for row in own)
            for tag in (
                lambda row: "floor",
                KEPT,
                lambda row: "refit floor",
                lambda row: KEPT(row).replace("final", "refit").replace("floor", "refit floor"),
            )
        )
        shares = (f"{share:.3f}" for share in (floor, kept, floor_of_all, refit))
        shown.append((name, recipe, str(len(own)), *shares))
    header = ("set", "recipe", "seeds", "floor", "kept", "floor, refit", "kept, refit")
    return f"{first}\n\n{table(shown, header)}"


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["set"], row["recipe"]), []).append(row)
    return groups
