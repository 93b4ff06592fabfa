"""What fields may hold, and the base of every section of a config."""

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
# Upper bounds are far above what makes sense, and keep what follows from a slip finite.
PositiveFloat = Annotated[float, Field(gt=0.0, le=1e6, strict=True)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, le=1e6, strict=True)]
PositiveInt = Annotated[int, Field(ge=1, le=10**9, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, le=10**9, strict=True)]
Side = Annotated[int, Field(ge=1, le=8192)]
Examples = Annotated[int, Field(ge=1, le=10**6)]
Units = Annotated[int, Field(ge=1, le=10**6)]
Strength = Literal["none", "light", "medium", "strong"]


def _name_or_path(name: str) -> str:
    """Returns a backbone's name as it is, and the path of a file or a folder whole.

    A run of the task alignment stands for the tower of images that it trained.
    """
    if name.startswith("keras_hub/") or "://" in name:
        return name
    if (tower := Path(name, "tower.keras")).is_file():
        return whole_path(str(tower))
    is_path = name.endswith(".keras") or "/" in name or Path(name, "config.json").is_file()
    return whole_path(name) if is_path else name


def _weights_or_path(name: str) -> str:
    return name if name in ("imagenet", "starter", "none") else whole_path(name)


# A run is used from other folders, too, so its config has whole paths.
FilePath = Annotated[str, AfterValidator(whole_path)]
NameOrPath = Annotated[str, AfterValidator(_name_or_path)]
WeightsOrPath = Annotated[str, AfterValidator(_weights_or_path)]

T = TypeVar("T")
if TYPE_CHECKING:
    # A later phase takes what it leaves out from the one before. Whatever reads phases reads those
    # that `resolve_phases` returned, with nothing left out: for a type checker None is not there.
    LeftOut = Annotated[T, "None until it is resolved"]
    Selectors = Sequence[str]
else:
    LeftOut = Optional  # noqa: UP045 - as a name for "T or None"
    # One selector may be written without a list around it.
    Selectors = Annotated[
        list[StrictStr],
        BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
    ]


def left_out(first: Any = None) -> Any:
    """Declares a field of a dataclass that may be left out.

    Args:
        first: Its value if no phase before has one; None if there is none.
    """
    return dataclasses.field(default=None, metadata={"first": first})


def without_null_characters(value: Any) -> Any:
    """Returns the value; refuses texts that hold a null character.

    TensorFlow would read a path up to the first, and Python refuses it with a traceback.
    """
    for text in value if isinstance(value, (list, dict)) else [value]:
        if isinstance(text, str) and "\0" in text:
            raise ValueError("the text holds a null character")
    return value


class Section(BaseModel):
    """The base of every section: unknown fields are refused, values do not change type."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    _no_null_characters = field_validator("*")(without_null_characters)


class InputSection(Section):
    """The base of what `data.input` holds: one section for each kind of input."""

    kind: str

    @property
    def settings(self) -> dict[str, Any]:
        """All but the kind, as plain values by name."""
        return self.model_dump(exclude={"kind"})


def is_section(kind: Any) -> bool:
    """Whether a type has fields: a model, or a dataclass that scripts use too."""
    return isinstance(kind, type) and (issubclass(kind, BaseModel) or is_pydantic_dataclass(kind))


def fields_of(section: Any) -> Mapping[str, FieldInfo]:
    """Returns the fields of what `is_section` holds for, by name."""
    is_model = issubclass(section, BaseModel)
    fields: Mapping[str, FieldInfo] = (
        section.model_fields if is_model else section.__pydantic_fields__
    )
    return fields


def field_names(section: Any) -> list[str]:
    """Returns the names of a section's fields, in order."""
    return list(fields_of(section))
