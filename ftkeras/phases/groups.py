"""Groups of weights that train together, and the names by which checkpoints know them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import keras

from ftkeras.errors import UserError


@dataclasses.dataclass(frozen=True)
class Group:
    """Weights that train together in every phase, at the same share of the rate.

    Args:
        paths: The path of each weight.
        weights: The weights.
        shares: The share of the phase's rate, for each phase; None in phases that freeze the group.
    """

    paths: tuple[str, ...]
    weights: tuple[keras.Variable, ...]
    shares: tuple[float | None, ...]


def same_groups(some: Sequence[Group], others: Sequence[Group]) -> bool:
    """Whether two lists of groups have the same weights and the same shares."""

    def facts(groups: Sequence[Group]) -> list[Any]:
        return [(group.paths, group.shares, list(map(id, group.weights))) for group in groups]

    return facts(some) == facts(others)


def canonical_paths(paths: Sequence[str]) -> list[str]:
    """Returns paths in which the numbers that Keras appends to names count from the model's start.

    Keras counts names through the process, so the same model built twice has other names.

    Example:
        >>> canonical_paths(["dense_4/kernel", "dense_4/bias", "dense_5/kernel", "logits/kernel"])
        ['dense/kernel', 'dense/bias', 'dense_1/kernel', 'logits/kernel']
    """
    known: dict[tuple[str, str], str] = {}
    counts: dict[tuple[str, str], int] = {}
    results = []
    for path in paths:
        parent = ""
        for name in path.split("/"):
            if (parent, name) not in known:
                base = re.sub(r"_\d+$", "", name)
                number = counts[parent, base] = counts.get((parent, base), -1) + 1
                known[parent, name] = f"{base}_{number}" if number else base
            parent = f"{parent}/{known[parent, name]}"
        results.append(parent[1:])
    return results


Layout = Sequence[tuple[Sequence[str], Sequence[float | None]]]


def layout_of(groups: Sequence[Group]) -> Layout:
    """Returns the paths and the shares of each group, as a checkpoint keeps them."""
    return [(list(group.paths), list(group.shares)) for group in groups]


def check_same_layout(saved: Layout, here: Layout) -> None:
    """Raises UserError if groups of a checkpoint are not those of the phases at hand."""
    there, own = ({p: list(shares) for paths, shares in of for p in paths} for of in (saved, here))
    differences = [
        f"{what} {_some(sorted(paths))}"
        for what, paths in (
            ("it also trained", there.keys() - own.keys()),
            ("now also train", own.keys() - there.keys()),
        )
        if paths
    ]
    if not differences:
        others = [path for path in own if own[path] != there[path]]
        if not others:
            return
        before, now = (_shares(of[others[0]]) for of in (there, own))
        differences = [f"in its phases {_some(others)} trained at {before}, and now at {now}"]
    raise UserError(
        "the checkpoint's optimizer belongs to other phases: "
        + "; ".join(differences)
        + ". Use the phases that it was saved with, or begin at the first epoch."
    )


def _shares(shares: Sequence[float | None]) -> str:
    words = ("frozen" if share is None else f"{share:g} of the rate" for share in shares)
    return f"({', '.join(words)})"


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
