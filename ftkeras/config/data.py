"""The section `data` of a config: one pydantic model per source."""

from __future__ import annotations

import functools
import importlib
import operator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from ftkeras.config.errors import explain
from ftkeras.config.fields import Examples, FilePath, Fraction, InputSection, Section

# By name, like the schemas of tasks: each kind's section is in the folder of the kind.
_kinds = importlib.import_module("ftkeras.inputs.registry")
section_of = _kinds.section_of


class SplitConfig(Section):
    """How examples are split: fractions, or the source's own names for its parts."""

    train: Fraction | str | None = None
    """A part of the source (TFDS split string or file pattern); not used with fractions."""
    val: Fraction | str | None = 0.15
    """Validation: a fraction, stratified by class under the seed, or a part of the source."""
    test: Fraction | str | None = 0.15
    """Test: a fraction, stratified by class under the seed, or a part of the source."""


class OtherInput(InputSection):
    """Settings of a kind of input that was registered from outside; the kind checks them."""

    model_config = ConfigDict(extra="allow")

    kind: Annotated[str, Field(json_schema_extra={"not": {"enum": list(_kinds.KINDS)}})]
    """The name of a kind that `ftkeras.register_input` added."""

    @model_validator(mode="before")
    @classmethod
    def _validated(cls, given: Any) -> Any:
        """Checks the settings by the kind's own section, if it has one, and fills in defaults."""
        kind = given.get("kind") if isinstance(given, dict) else None
        section = section_of(kind) if isinstance(kind, str) else None
        if section is None:
            return given
        settings = {name: value for name, value in given.items() if name != "kind"}
        try:
            return {**section.model_validate(settings).model_dump(), "kind": kind}
        except ValidationError as error:
            # As one text: the config's schema does not know the fields of the section.
            lines = [
                InitErrorDetails(
                    type=PydanticCustomError(
                        "value_error", "{error}", {"error": explain(item, section)}
                    ),
                    loc=item["loc"],
                    input=item["input"],
                )
                for item in error.errors()
            ]
            raise ValidationError.from_exception_data(str(kind), lines) from None


def check_kind(backbone: str, reads: str, given: dict[str, Any]) -> None:
    """Refuses a `data.input` of another kind than the backbone reads.

    Args:
        backbone: The backbone's name.
        reads: The kind that it reads.
        given: The section as it is written.

    Raises:
        ValueError: It names another kind, or only another kind has one of its fields.
    """
    known = section_of(reads).model_fields
    for other in _kinds.KINDS:
        fields = section_of(other).model_fields
        strange = [name for name in given if name in fields and name not in known]
        if given.get("kind") == other != reads:
            found, remedy = f"kind is {other}", "other data"
        elif "kind" not in given and strange:
            found, remedy = f"{strange[0]} is for {other}s", f"leave {strange[0]} out"
        else:
            continue
        raise ValueError(
            f"backbone.name: {backbone} reads {reads}s, and data.input.{found}. Take a backbone "
            f"for {other}s, or {remedy}."
        )


def _kind_of(given: Any) -> str:
    """Returns the tag in `InputConfig` of what `data.input` holds."""
    holds = given if isinstance(given, dict) else {"kind": getattr(given, "kind", _kinds.DEFAULT)}
    kind = holds.get("kind", _kinds.DEFAULT)
    return kind if kind in _kinds.KINDS else "other"


if TYPE_CHECKING:
    InputConfig = InputSection
else:
    _members = [Annotated[section_of(kind), Tag(kind)] for kind in _kinds.KINDS]
    InputConfig = Annotated[
        functools.reduce(operator.or_, [*_members, Annotated[OtherInput, Tag("other")]]),
        Discriminator(_kind_of),
    ]


class DataSection(Section):
    """The fields that all sources share."""

    input: InputConfig = section_of(_kinds.DEFAULT)()
    """The kind of input and its settings; default: images."""
    batch_size: Examples = 32
    """Examples per step, over all devices together."""
    balance: Literal["none", "class_weights", "sampling"] = "none"
    """A remedy for class imbalance: weigh the loss, or draw each class equally often."""
    cache: Literal["auto", "memory", "none"] = "auto"
    """Keep decoded, resized images in memory; auto: if a quarter of the free memory is enough."""
    max_bad_files: Fraction = 0.05
    """The share of unreadable files above which the run stops before it starts."""


class SplitSection(DataSection):
    split: SplitConfig | None = None
    """Default: the source's own parts if it has them, otherwise 15% val and 15% test."""
    split_seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Decides which examples are in which fraction; default: the config's seed. Give runs with
    several seeds the same one, to average them or to measure them on the same examples."""


class FolderData(SplitSection):
    """A folder with one folder per class, optionally under train/, val/ and test/."""

    source: Literal["folder"]
    path: FilePath
    """The folder."""


class ManifestData(SplitSection):
    """A CSV or JSON Lines file that lists images and labels; lines with one path are one image."""

    source: Literal["manifest"]
    path: FilePath
    """A .csv, .tsv or .jsonl file; paths in it are relative to its own folder."""
    image_column: str = "path"
    """The column that holds the image's path; texts have data.input.column instead."""
    label_column: str = "label"
    """The column that holds the label, or the labels (a list in JSON, 'a;b' in CSV)."""
    label_columns: list[str] | None = None
    """Instead of label_column, one column per label: 1 if the example has it, 0 or empty if not."""
    label_separator: Annotated[str, Field(min_length=1)] = ";"
    """The text between the labels of one cell, with multi_label."""
    split_column: str = "split"
    """The column that holds train, val or test, in upper or lower case; it may be missing."""
    weight_column: str | None = "weight"
    """The column that holds the example's weight in the loss; `weight` may be missing. null: all
    examples weigh the same."""
    multi_label: bool = False
    """Whether an example may have any number of the labels."""


class TfdsData(SplitSection):
    """A data set of TensorFlow Datasets."""

    source: Literal["tfds"]
    name: str
    """The TFDS name, for example tf_flowers or my_dataset:1.0.0."""
    data_dir: FilePath | None = None
    """Where TFDS keeps its data; default: its own folder."""
    download: bool = True
    """Whether TFDS may download what is missing."""
    image_feature: str = "image"
    """The feature that holds the image."""
    label_feature: str = "label"
    """The feature that holds the label."""


class TfrecordData(SplitSection):
    """Sharded TFRecord files of tf.Example with encoded images."""

    source: Literal["tfrecord"]
    path: FilePath
    """A folder, or a file pattern such as data/train-*.tfrecord."""
    image_feature: str = "image/encoded"
    """The bytes feature that holds the encoded image."""
    label_feature: str = "image/class/label"
    """The int64 feature (a class index) or bytes feature (a class name, or several)."""
    class_names: list[str] | None = None
    """Names for integer labels; default: the numbers."""
    multi_label: bool = False
    """Whether the label feature may hold any number of labels."""


class ArraysData(SplitSection):
    """A NumPy .npz file with images and labels (never unpickled)."""

    source: Literal["arrays"]
    path: FilePath
    """An .npz file with `images` (n, h, w[, c]) uint8 and `labels` (n,) or (n, classes),
    or with `x_train`, `y_train`, `x_test`, `y_test`."""
    class_names: list[str] | None = None
    """Names of the classes; default: the numbers."""


class StarterData(SplitSection):
    """The 2,000 + 1,000 Fashion-MNIST images that ftkeras ships."""

    source: Literal["starter"]


DataConfig = Annotated[
    FolderData | ManifestData | TfdsData | TfrecordData | ArraysData | StarterData,
    Field(discriminator="source"),
]
