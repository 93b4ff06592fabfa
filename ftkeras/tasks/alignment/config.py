"""What a config of the task `alignment` says besides the shared sections."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ftkeras.config.data import InputConfig, section_of
from ftkeras.config.fields import PositiveFloat, Section, Units
from ftkeras.config.schema import BackboneConfig, Config

_OTHER = "text"


class ClassesSection(Section):
    """Classes of the pictures, to measure how well their names alone tell them apart."""

    column: str
    """The column of the manifest with each picture's class; no weight is trained on it."""
    templates: Annotated[list[str], Field(min_length=1)] = ["{}", "a picture of {}"]
    """Sentences with {} for the name of a class; a class is the mean of its sentences."""


class AlignmentSection(Section):
    """The texts, their tower, and how both towers meet."""

    texts: Annotated[list[str], Field(min_length=1)] = ["text"]
    """The columns of the manifest with texts of a picture; training takes the columns in turns.
    Those of the first column are the queries that retrieval is measured with."""
    separator: Annotated[str, Field(min_length=1)] | None = None
    """What stands between several texts in one cell; left out, a cell is one text. Lines of one
    path, and lists in JSON, are several texts either way."""
    input: InputConfig = section_of(_OTHER)(kind=_OTHER)
    """How texts are read: a section like `data.input`."""
    backbone: BackboneConfig = BackboneConfig(name="gru", weights="starter")
    """The network of the texts: a section like `backbone`, which is the network of the pictures."""
    pooling: Literal["mean", "max", "first", "last", "attention", "pooler", "none"] | None = None
    """How a text's features become one vector; see head.pooling."""
    units: Units = 256
    """Width of the space that both are projected to."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """softmax (CLIP: Radford et al. 2021) or sigmoid (SigLIP: Zhai et al. 2023)."""
    temperature: PositiveFloat = 0.07
    """What similarities are divided by at first; it is learned. If the projections start from the
    floor, it is chosen with them."""
    classes: ClassesSection | None = None
    """Left out, zero-shot classification is not measured."""


class AlignmentConfig(Config):
    """An experiment in bringing pictures and texts into one space."""

    after_training: ClassVar[tuple[str, ...]] = (*Config.after_training, "alignment.classes")

    task: Literal["alignment"]
    alignment: AlignmentSection = AlignmentSection()
    """The texts, their tower, and how both towers meet."""

    @model_validator(mode="before")
    @classmethod
    def _kind_of_texts(cls, given: Any) -> Any:
        """Lets `alignment.input` leave out its kind."""
        section = given.get("alignment") if isinstance(given, dict) else None
        if not isinstance(section, dict):
            return given
        examples = section.get("input")
        if not isinstance(examples, dict) or "kind" in examples:
            return given
        return {**given, "alignment": {**section, "input": {**examples, "kind": _OTHER}}}
