"""Sharded TFRecord files of tf.Example, each with the bytes of an example."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

import tensorflow as tf

from ftkeras.data.dataset import Listing
from ftkeras.data.records import found_in, scan_records
from ftkeras.errors import UserError, there_are
from ftkeras.inputs.base import Input

_SHARD = re.compile(r"\.tfrec(ord)?s?\b|-\d{5}-of-\d{5}")
_PART = re.compile(r"(?:^|[-_.])(train|val|test)(?:ing|id|idation)?(?=[-_.])", re.IGNORECASE)


_NAMED = 3  # files, in an error


def find(
    *,
    path: str,
    parts: Mapping[str, str],
    kind: Input,
    image_feature: str = "image/encoded",
    label_feature: str = "image/class/label",
    class_names: Sequence[str] | None = None,
    multi_label: bool = False,
) -> Listing:
    """Finds the records of TFRecord files.

    Args:
        path: A folder, or a file pattern.
        parts: File patterns, by name, of train, val or test; left out, names that begin with or
            contain train, val or test say so.
        kind: What the records are.
        image_feature: The bytes feature that holds the example.
        label_feature: The int64 feature (a class index) or bytes feature (a class name).
        class_names: Names for integer labels; left out, the numbers.
        multi_label: Whether the label feature may hold any number of labels.

    Raises:
        UserError: There are no such files, or they cannot be read record by record.
    """
    shards = _shards(path)
    part_of = _parts_by_pattern(shards, parts) if parts else _parts_by_name(shards)
    records = scan_records(sorted(part_of), image_feature, label_feature, kind)
    labels = "labels" if multi_label else "classes"
    parts_of = [part_of[record.shard] for record in records]
    return found_in(records, parts_of, image_feature, class_names, labels)


def _shards(path: str) -> list[str]:
    pattern = f"{path.rstrip('/')}/*" if tf.io.gfile.isdir(path) else path
    try:
        files = tf.io.gfile.glob(pattern)
    except tf.errors.OpError:
        files = []
    shards = [file for file in files if pattern == path or _SHARD.search(_name(file))]
    if not shards:
        raise UserError(
            f"data.path: no TFRecord files at {path!r}. Give a folder of .tfrecord files or of "
            "NAME-00000-of-00010 shards, or a file pattern."
        )
    return sorted(shards)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _parts_by_pattern(shards: Sequence[str], parts: Mapping[str, str]) -> dict[str, str]:
    """The part of each shard; what matches no pattern is for train, unless that has its own."""
    part_of: dict[str, str] = {}
    for part, pattern in parts.items():
        matched = [shard for shard in shards if fnmatch(_name(shard), pattern)]
        if not matched:
            more = [f"{len(shards) - _NAMED} more"] if shards[_NAMED:] else []
            names = [*map(_name, shards[:_NAMED]), *more]
            raise UserError(
                f"data.split.{part}: no file matches {pattern!r}. {there_are(names, 'file')}"
            )
        for shard in matched:
            if part_of.setdefault(shard, part) != part:
                raise UserError(
                    f"data.split: {_name(shard)} is in {part_of[shard]} and in {part}. "
                    "Give patterns that do not overlap."
                )
    if "train" not in parts:
        part_of.update((shard, "train") for shard in shards if shard not in part_of)
    return part_of


def _parts_by_name(shards: Sequence[str]) -> dict[str, str]:
    matches = {shard: _PART.search(_name(shard)) for shard in shards}
    part_of = {shard: match.group(1).lower() if match else "" for shard, match in matches.items()}
    return part_of if "train" in part_of.values() else dict.fromkeys(shards, "")
