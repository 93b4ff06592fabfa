"""Fields that have moved: a config may still use their old names."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from ftkeras.errors import UserError

Location = tuple[str | int, ...]

_SECTIONS: tuple[tuple[str, ...], ...] = (("data",), ("domain_adaptation", "target"))
_MOVED = {  # within each of these sections
    "image_size": ("input", "size"),
    "resize": ("input", "resize"),
    "augmentation": ("input", "augmentation"),
    "mix": ("input", "mix"),
}


def new_location(location: Location) -> Location:
    """Returns the current location of a field.

    Example:
        >>> new_location(("data", "mix", "mixup"))
        ('data', 'input', 'mix', 'mixup')
    """
    for section in _SECTIONS:
        inside = location[len(section) :]
        if location[: len(section)] == section and inside and inside[0] in _MOVED:
            return (*section, *_MOVED[str(inside[0])], *inside[1:])
    return location


def move(tree: Any, where: str = "config") -> list[str]:
    """Moves the fields of a config that have old names, in place; returns a text for each.

    Args:
        tree: The config as plain values.
        where: The config's name in errors.

    Raises:
        UserError: A field has its old name and its new one.
    """
    texts = []
    for section in _SECTIONS:
        holder = tree
        for part in section:
            holder = holder.get(part) if isinstance(holder, dict) else None
        for old in [name for name in _MOVED if isinstance(holder, dict) and name in holder]:
            inner, new = _MOVED[old]
            if holder.get(inner) is None:
                holder[inner] = {}
            if not isinstance(holder[inner], dict):
                continue  # validation refuses it
            names = dotted((*section, old)), dotted((*section, inner, new))
            if new in holder[inner]:
                raise UserError(f"{where}: {names[0]} is now {names[1]}; the config has both.")
            holder[inner][new] = holder.pop(old)
            texts.append(f"{names[0]} is now {names[1]}")
    return texts


def announce(moved: Iterable[str]) -> None:
    """Prints in one line the texts that `move` returned, if there are any."""
    if texts := dict.fromkeys(moved):
        print(f"config: {', '.join(texts)}", file=sys.stderr)


def dotted(location: Location) -> str:
    """Returns a location in the form phases[0].epochs."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location).lstrip(".")
