"""What fields may hold, and the base of every section of a config."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
# Upper bounds are far above what makes sense, and keep what follows from a slip finite.
PositiveFloat = Annotated[float, Field(gt=0.0, le=1e6)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, le=1e6)]
PositiveInt = Annotated[int, Field(ge=1, le=10**9)]
NonNegativeInt = Annotated[int, Field(ge=0, le=10**9)]
Pixels = Annotated[int, Field(ge=1, le=8192)]
Images = Annotated[int, Field(ge=1, le=10**6)]
Units = Annotated[int, Field(ge=1, le=10**6)]
Strength = Literal["none", "light", "medium", "strong"]
# One selector may be written without a list around it.
Selectors = Annotated[
    list[str], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)
]


class Section(BaseModel):
    """The base of every section: unknown fields are refused, values do not change type."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    @field_validator("*")
    @classmethod
    def _no_null_characters(cls, value: Any) -> Any:
        # TensorFlow would read a path up to the first, and Python refuses it with a traceback.
        for text in value if isinstance(value, (list, dict)) else [value]:
            if isinstance(text, str) and "\0" in text:
                raise ValueError("the text holds a null character")
        return value
