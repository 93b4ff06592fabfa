"""The kinds of input by name: those that ftkeras has, and those that others register."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel

from ftkeras.errors import UserError, did_you_mean, there_are

if TYPE_CHECKING:
    import keras

    from ftkeras.inputs.base import Input

Maker = Callable[[Mapping[str, Any], "keras.Model | None"], "Input"]
"""From the settings of a kind, and the model that takes the examples, to the input.

The settings are the fields of a config's `data.input` without `kind`. The model is None if none is
built yet: examples are then found and checked, but not prepared.
"""

DEFAULT = "image"
_HOMES = {kind: f"ftkeras.inputs.{kind}.input" for kind in ("image", "text")}  # each has `make`
_SECTIONS = {  # these import no TensorFlow
    "image": "ftkeras.inputs.image.config:ImageConfig",
    "text": "ftkeras.inputs.text.config:TextConfig",
}
KINDS = tuple(_SECTIONS)
"""The kinds that ftkeras has."""
_REGISTERED: dict[str, tuple[Maker, type[BaseModel] | None]] = {}


def nouns_in(facts: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the words for one example and several, from a run's `data.json`.

    Old runs, from before there were other kinds, do not have them; they are of the default kind.
    """
    return str(facts.get("noun", DEFAULT)), str(facts.get("nouns", f"{DEFAULT}s"))


def size_in(facts: Mapping[str, Any]) -> int | None:
    """Returns the size of a run's examples, by its `data.json`; None if they have none."""
    return facts.get("image_size")


def register_input(kind: str, make: Maker, section: type[BaseModel] | None = None) -> None:
    """Registers a kind of input, so that `data.input.kind` of a config can name it.

    Args:
        kind: Its name. If it is registered already, the new maker replaces the old one.
        make: Makes the input; see `Maker`.
        section: A pydantic model that checks the settings when a config is read, best with
            `extra="forbid"`. Without one, all settings are passed to `make`.

    Raises:
        UserError: ftkeras has a kind of that name.

    Example:
        ```python
        ftkeras.register_input("points", lambda settings, model: Points(**settings))
        ```
    """
    if kind in _HOMES:
        raise UserError(f"register_input: ftkeras has a kind {kind!r} already. Take another name.")
    _REGISTERED[kind] = make, section


def section_of(kind: str) -> type[BaseModel] | None:
    """Returns the pydantic model of a kind's settings; None if it has none, or is not known."""
    if kind in _SECTIONS:
        module, _, name = _SECTIONS[kind].partition(":")
        return cast(type[BaseModel], getattr(importlib.import_module(module), name))
    return _REGISTERED[kind][1] if kind in _REGISTERED else None


def make_input(
    kind: str = DEFAULT,
    settings: Mapping[str, Any] | None = None,
    model: keras.Model | None = None,
) -> Input:
    """Returns an input of a kind; see `Maker`.

    Raises:
        UserError: There is no such kind, or it refuses the settings.
    """
    if kind in _HOMES:
        make = cast(Maker, importlib.import_module(_HOMES[kind]).make)
    elif kind in _REGISTERED:
        make, _ = _REGISTERED[kind]
    else:
        known = [*_HOMES, *_REGISTERED]
        raise UserError(
            f"data.input.kind: there is no kind {kind!r}.{did_you_mean(kind, known)} "
            f"{there_are(known, 'kind')} ftkeras.register_input adds another one."
        )
    try:
        return make(settings or {}, model)
    except TypeError as error:  # a field that it does not have
        raise UserError(f"data.input: {error}") from error
