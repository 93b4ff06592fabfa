"""The types of fields, and the base of every section of a config."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictStr,
    field_validator,
)
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic.fields import FieldInfo

from ftkeras.files import whole_path

Fraction = Annotated[float, Field(ge=0.0, lt=1.0, strict=True)]
# Upper bounds are far above sensible values; they catch typing errors.
PositiveFloat = Annotated[float, Field(gt=0.0, le=1e6, strict=True)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, le=1e6, strict=True)]
PositiveInt = Annotated[int, Field(ge=1, le=10**9, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, le=10**9, strict=True)]
Side = Annotated[int, Field(ge=1, le=8192)]
Examples = Annotated[int, Field(ge=1, le=10**6)]
Units = Annotated[int, Field(ge=1, le=10**6)]
Strength = Literal["none", "light", "medium", "strong"]


def _name_or_path(name: str) -> str:
    """Returns a backbone's name as it is, and the path of a file or a folder as an absolute path.

    A run of the task alignment means the image tower that it trained.
    """
    if name.startswith("keras_hub/") or "://" in name:
        return name
    if (tower := Path(name, "tower.keras")).is_file():
        return whole_path(str(tower))
    is_path = name.endswith(".keras") or "/" in name or Path(name, "config.json").is_file()
    return whole_path(name) if is_path else name


def _weights_or_path(name: str) -> str:
    return name if name in ("imagenet", "starter", "none") else whole_path(name)


# A run is used from other folders, too, so its config has absolute paths.
FilePath = Annotated[str, AfterValidator(whole_path)]
NameOrPath = Annotated[str, AfterValidator(_name_or_path)]
WeightsOrPath = Annotated[str, AfterValidator(_weights_or_path)]

T = TypeVar("T")
if TYPE_CHECKING:
    # A later phase takes the fields that it leaves out from the phase before. All code reads the
    # phases that `resolve_phases` returned, with all fields set, so a type checker sees no None.
    LeftOut = Annotated[T, "None until it is resolved"]
    Selectors = Sequence[str]
else:
    LeftOut = Optional  # noqa: UP045 - as a name for "T or None"
    # A single selector needs no list.
    Selectors = Annotated[
        list[StrictStr],
        BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
    ]


def left_out(first: Any = None) -> Any:
    """Declares a field of a dataclass that may be left out.

    Args:
        first: Its value if no phase before has one; None if there is no default.
    """
    return dataclasses.field(default=None, metadata={"first": first})


def without_null_characters(value: Any) -> Any:
    """Returns the value; refuses texts that hold a null character.

    TensorFlow would cut a path at the first one, and Python refuses it with a traceback.
    """
    for text in value if isinstance(value, (list, dict)) else [value]:
        if isinstance(text, str) and "\0" in text:
            raise ValueError("the text holds a null character")
    return value


class Section(BaseModel):
    """The base of every section: unknown fields and values of another type are refused."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    _no_null_characters = field_validator("*")(without_null_characters)


class InputSection(Section):
    """The base of the sections in `data.input`: one for each kind of input."""

    kind: str

    @property
    def settings(self) -> dict[str, Any]:
        """All fields except the kind, as plain values by name."""
        return self.model_dump(exclude={"kind"})


def is_section(kind: Any) -> bool:
    """Whether a type has fields: a model, or a dataclass that scripts also use."""
    return isinstance(kind, type) and (issubclass(kind, BaseModel) or is_pydantic_dataclass(kind))


def fields_of(section: Any) -> Mapping[str, FieldInfo]:
    """Returns the fields of a section by name; see `is_section`."""
    is_model = issubclass(section, BaseModel)
    fields: Mapping[str, FieldInfo] = (
        section.model_fields if is_model else section.__pydantic_fields__
    )
    return fields


def field_names(section: Any) -> list[str]:
    """Returns the names of a section's fields, in order."""
    return list(fields_of(section))
