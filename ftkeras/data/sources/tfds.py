"""Any data set of TensorFlow Datasets that has examples as bytes, and labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftkeras.data.dataset import Listing
from ftkeras.data.records import Example, found_in, scan_records
from ftkeras.errors import UserError, did_you_mean, first_line
from ftkeras.imports import to_install
from ftkeras.inputs.base import Input

_OWN_NAMES = {
    "train": ("train",),
    "val": ("validation", "val", "valid", "dev"),
    "test": ("test",),
}


def find(
    *,
    name: str,
    parts: Mapping[str, str],
    kind: Input,
    data_dir: str | None = None,
    download: bool = True,
    image_feature: str = "image",
    label_feature: str = "label",
) -> Listing:
    """Finds the examples of a TFDS data set, read from the TFRecord files that TFDS prepared.

    Args:
        name: The TFDS name, for example "tf_flowers" or "my_dataset:1.0.0".
        kind: What the examples are.
        parts: TFDS split strings such as "train[:80%]". Where train has none, it is the data
            set's own, without what val and test take of it.
        data_dir: Where TFDS keeps its data; None is its own default.
        download: Whether TFDS may download what is missing.
        image_feature: The feature that holds the example.
        label_feature: The feature that holds the label, or a sequence of labels.

    Raises:
        UserError: The data set is unknown, not to be had, or has no such features.
    """
    builder = _prepared(name, data_dir, download)
    class_names, label_kind = _classes(builder, image_feature, label_feature, kind)
    wanted = _split_strings(builder, parts)
    instructions = {part: _instructions(builder, part, text) for part, text in wanted.items()}
    shards = sorted({str(piece.filename) for pieces in instructions.values() for piece in pieces})
    by_shard: dict[str, list[Example]] = {shard: [] for shard in shards}
    for record in scan_records(shards, image_feature, label_feature, kind):
        by_shard[record.shard].append(record)
    part_of: dict[tuple[str, int], str] = {}
    chosen: list[Example] = []
    # Val and test first: they may be cut from a train that is not cut itself.
    for part in ("val", "test", "train"):
        for piece in instructions.get(part, ()):
            records = by_shard[str(piece.filename)]
            end = len(records) if piece.take < 0 else piece.skip + piece.take
            for record in records[piece.skip : end]:
                at = (record.shard, record.number)
                if at not in part_of:
                    part_of[at] = part
                    chosen.append(record)
                elif part != "train" or "train" in parts:
                    raise UserError(
                        f"data.split: {part} ({wanted[part]}) and {part_of[at]} "
                        f"({wanted[part_of[at]]}) share examples. Give splits that do not overlap."
                    )
    chosen.sort(key=lambda record: (record.shard, record.number))
    in_parts = [part_of[record.shard, record.number] for record in chosen]
    return found_in(chosen, in_parts, image_feature, class_names, label_kind)


def _prepared(name: str, data_dir: str | None, download: bool) -> Any:
    """Returns the TFDS builder of a data set that lies ready on disk."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"data.source: tfds needs TensorFlow Datasets. Run: {to_install('tfds')}"
        ) from error
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        near = did_you_mean(name.partition(":")[0], tfds.list_builders())
        raise UserError(
            f"data.name: TFDS knows no data set {name!r}.{near} A data set of your own must be "
            "prepared under data.data_dir."
        ) from error
    except Exception as error:  # a builder is a stranger's code
        raise UserError(f"data.name: TFDS cannot load {name!r}: {first_line(error)}") from error
    if not builder.is_prepared():
        advice = (
            f"Check the network, or run `tfds build {name}` if there is one, copy the folder "
            "and name it with data.data_dir."
        )
        if not download:
            raise UserError(f"data.name: {name!r} is not under {builder.data_dir}. {advice}")
        try:
            builder.download_and_prepare()
        except Exception as error:  # networks, disks and builders fail in many ways
            why = first_line(error).rstrip(".")
            raise UserError(
                f"data.name: TFDS could not prepare {name!r}: {why}. {advice}"
            ) from error
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise UserError(
            f"data.name: {name!r} is stored as {builder.info.file_format.value}; only tfrecord is "
            "read. Prepare it with `tfds build --file_format=tfrecord`."
        )
    return builder


def _classes(
    builder: Any, image_feature: str, label_feature: str, kind: Input
) -> tuple[list[str] | None, str]:
    """The class names, where the feature has them, and `Listing.label_kind`."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    for name, field in ((image_feature, "image_feature"), (label_feature, "label_feature")):
        if name not in features:
            raise UserError(
                f"data.{field}: {builder.name} has no feature {name!r}."
                f"{did_you_mean(name, features)} It has {', '.join(features)}."
            )
    wanted = tfds.features.Text if kind.cells else tfds.features.Image
    if not isinstance(features[image_feature], wanted):
        field = "input.column" if kind.cells else "image_feature"
        raise UserError(f"data.{field}: {image_feature!r} of {builder.name} holds no {kind.nouns}.")
    label = features[label_feature]
    several = isinstance(label, tfds.features.Sequence)
    label = label.feature if several else label
    names = list(label.names) if isinstance(label, tfds.features.ClassLabel) else None
    return names, "labels" if several else "classes"


def _split_strings(builder: Any, parts: Mapping[str, str]) -> dict[str, str]:
    own = {
        part: name
        for part, names in _OWN_NAMES.items()
        for name in reversed(names)
        if name in builder.info.splits
    }
    wanted = {**own, **parts}
    if "train" not in wanted:
        raise UserError(
            f"data.split.train: {builder.name} has no split called train; it has "
            f"{', '.join(builder.info.splits)}. Name one."
        )
    return wanted


def _instructions(builder: Any, part: str, text: str) -> list[Any]:
    """Which records of which files a TFDS split string means."""
    try:
        return list(builder.info.splits[text].file_instructions)
    except Exception as error:
        why = first_line(error).rstrip(".")
        raise UserError(
            f"data.split.{part}: TFDS does not understand {text!r} ({why}). "
            f"{builder.name} has the splits {', '.join(builder.info.splits)}."
        ) from error
