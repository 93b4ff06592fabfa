"""Looks at every record of TFRecord shards once: where it begins, its labels, its image.

Afterwards any record can be read by itself, so that records are shuffled as freely as files are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import PIL
import tensorflow as tf

from ftkeras.cache import Remembered, digest
from ftkeras.data.dataset import BadFile, Listing
from ftkeras.data.reading import from_records
from ftkeras.errors import UserError
from ftkeras.inputs.image.scan import VERSION, examine, in_parallel
from ftkeras.paths import shown, why_not_readable

_FRAME = 16  # bytes that TFRecord puts around a record: length, two checksums


@dataclass(frozen=True, slots=True)
class Example:
    """One record of a shard.

    Args:
        shard: The shard's path.
        number: Its place in the shard, from 0 on.
        offset: The byte at which it begins.
        labels: Class indices or names.
        copy: The normalised copy of its image, where it has one.
        reason: Why it is left out, or "".
    """

    shard: str
    number: int
    offset: int
    labels: tuple[int | str, ...]
    copy: str = ""
    reason: str = ""

    @property
    def key(self) -> str:
        """The record's id: the shard's file name and the record's place in it."""
        return f"{self.shard.rpartition('/')[2]}:{self.number}"


def scan_records(shards: Sequence[str], image_feature: str, label_feature: str) -> list[Example]:
    """Examines all records of some shards; unchanged shards are not examined again.

    Args:
        shards: The files.
        image_feature: The bytes feature of an encoded image.
        label_feature: The int64 or bytes feature of the labels.

    Raises:
        UserError: A shard is compressed.
    """
    versions = (VERSION, PIL.__version__, tf.__version__)
    known = Remembered("records", image_feature, label_feature, *versions, *sorted(shards))
    for shard in shards:
        if reason := why_not_readable(shard):
            raise UserError(f"data.path: {shown(shard)}: {reason}.")
    stamps = {shard: _stamp(shard) for shard in shards}
    facts = {shard: known.get(shard, stamps[shard]) for shard in shards}
    fresh = [shard for shard in shards if facts[shard] is None]

    def look(item: tuple[str, int, int, bytes | None]) -> Example:
        shard, number, offset, content = item
        if content is None:
            return Example(shard, number, offset, (), reason="the rest of the shard is corrupt")
        key = digest(shard, stamps[shard], offset, image_feature)
        return _examine(
            Example(shard, number, offset, ()), content, image_feature, label_feature, key
        )

    facts.update((shard, []) for shard in fresh)  # one may be empty
    examined = in_parallel(look, _contents(fresh), "scan records", None)
    try:
        for shard, records in groupby(examined, lambda record: record.shard):
            rows = [[one.offset, list(one.labels), one.copy, one.reason] for one in records]
            facts[shard] = rows
            known.put(shard, stamps[shard], rows)
    finally:
        known.save()  # also when interrupted: the next scan goes on with the shards that are left
    return [
        Example(shard, number, offset, tuple(labels), copy, reason)
        for shard in shards
        for number, (offset, labels, copy, reason) in enumerate(facts[shard])
    ]


def found_in(
    records: Sequence[Example],
    parts: Sequence[str],
    image_feature: str,
    class_names: Sequence[str] | None,
    kind: str,
) -> Listing:
    """Makes a `Found` of records.

    Args:
        records: All records, bad ones too.
        parts: The part of each, as in `Found`.
        image_feature: The bytes feature of an encoded image.
        class_names: Names of class indices; None names them by their numbers.
        kind: "classes" if a record has one label, "labels" if any number; as in `Listing`.

    Raises:
        UserError: A label is outside `class_names`.
    """
    reasons = [_why_not(record, kind) for record in records]
    good = [i for i, reason in enumerate(reasons) if not reason]
    numbered = {label for i in good for label in records[i].labels if isinstance(label, int)}
    names = class_names or [str(number) for number in sorted(numbered)] or None
    by_number = dict(enumerate(class_names)) if class_names else {n: str(n) for n in numbered}
    for i in good:
        for label in records[i].labels:
            if isinstance(label, int) and label not in by_number:
                raise UserError(
                    f"data: {records[i].key} has the label {label}, and there are "
                    f"{len(by_number)} class names (0 to {len(by_number) - 1}). Mend class_names."
                )
    return Listing(
        ids=[records[i].key for i in good],
        labels=[
            tuple(by_number[v] if isinstance(v, int) else v for v in records[i].labels)
            for i in good
        ],
        parts=[parts[i] for i in good],
        make_fetch=from_records(
            [records[i].copy or records[i].shard for i in good],
            [-1 if records[i].copy else records[i].offset for i in good],
            image_feature,
        ),
        class_names=names,
        kind=kind,
        files=[records[i].copy or records[i].shard for i in good],
        bad_files=tuple(
            BadFile(f"{record.shard}:{record.number}", reason)
            for record, reason in zip(records, reasons, strict=True)
            if reason
        ),
    )


def _why_not(record: Example, kind: str) -> str:
    if record.reason or kind == "labels" or len(record.labels) == 1:
        return record.reason
    return f"has {len(record.labels)} labels"


def _contents(shards: Sequence[str]) -> Iterator[tuple[str, int, int, bytes | None]]:
    """Yields (shard, number, offset, content); content None where the shard breaks off."""
    for shard in shards:
        whole, breaks_off = _count(shard)
        number = offset = 0
        try:
            for content in tf.data.TFRecordDataset(shard).take(whole).as_numpy_iterator():
                yield shard, number, offset, content
                number, offset = number + 1, offset + _FRAME + len(content)
        except tf.errors.OpError:
            breaks_off = True
        if breaks_off:
            yield shard, number, offset, None


def _count(shard: str) -> tuple[int, bool]:
    """Returns how many records of a shard lie whole in it, and whether there is more than those.

    TensorFlow believes the length that a record claims, and crashes where that is absurd.
    """
    size = tf.io.gfile.stat(shard).length
    records = offset = 0
    with tf.io.gfile.GFile(shard, "rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise UserError(
                f"{shard} is compressed: its records cannot be read one by one. "
                "Write it without compression; images are compressed already."
            )
        while offset < size:
            file.seek(offset)
            head = file.read(8)
            end = offset + _FRAME + int.from_bytes(head, "little")
            if len(head) < 8 or end > size:
                return records, True
            records, offset = records + 1, end
    return records, False


def _examine(
    record: Example, content: bytes, image_feature: str, label_feature: str, key: str
) -> Example:
    def bad(reason: str) -> Example:
        return Example(record.shard, record.number, record.offset, (), reason=reason)

    try:
        features = tf.train.Example.FromString(content).features.feature
    except Exception:  # protobuf's own error type differs between its implementations
        return bad("not a tf.Example")
    for name in (image_feature, label_feature):
        if name not in features:
            return bad(f"no feature {name!r} among {', '.join(sorted(features))}")
    images, labels = features[image_feature].bytes_list.value, features[label_feature]
    if len(images) != 1:
        return bad(f"{image_feature} holds {len(images)} images")
    if labels.WhichOneof("kind") == "float_list":
        return bad(f"{label_feature} holds numbers with fractions")
    names = [name.decode("utf-8", "replace") for name in labels.bytes_list.value]
    verdict = examine(record.shard, images[0], key, check_name=False)
    copy = "" if verdict.path == record.shard else verdict.path
    label_values = (*labels.int64_list.value, *names)
    return Example(record.shard, record.number, record.offset, label_values, copy, verdict.reason)


def _stamp(path: str) -> str:
    stat = tf.io.gfile.stat(path)
    return f"{stat.length}:{stat.mtime_nsec}"
