"""Looks at every record of TFRecord shards once: where it begins, its labels, its content.

Afterwards any record can be read by itself, so that records are shuffled as freely as files are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import tensorflow as tf

from ftkeras.cache import Remembered, digest
from ftkeras.data.dataset import BadFile, Listing
from ftkeras.data.reading import from_records
from ftkeras.data.scan import in_parallel
from ftkeras.errors import UserError
from ftkeras.inputs.base import Input
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
        copy: The normalised copy of its content, if it has one.
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


def scan_records(
    shards: Sequence[str], feature: str, label_feature: str, kind: Input
) -> list[Example]:
    """Examines all records of some shards; unchanged shards are not examined again.

    Args:
        shards: The files.
        feature: The bytes feature of an example.
        label_feature: The int64 or bytes feature of the labels.
        kind: What the examples are.

    Raises:
        UserError: A shard is compressed.
    """
    known = Remembered("records", feature, label_feature, *kind.version, *sorted(shards))
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
        key = digest(shard, stamps[shard], offset, feature)
        record = Example(shard, number, offset, ())
        return _examine(record, content, (feature, label_feature), kind, key)

    facts.update((shard, []) for shard in fresh)  # one may be empty
    examined = in_parallel(look, _contents(fresh), "scan", None, "record")
    try:
        for shard, records in groupby(examined, lambda record: record.shard):
            rows = [[one.offset, list(one.labels), one.copy, one.reason] for one in records]
            facts[shard] = rows
            known.put(shard, stamps[shard], rows)
    finally:
        known.save()  # also when interrupted: the next scan resumes with the shards that are left
    return [
        Example(shard, number, offset, tuple(labels), copy, reason)
        for shard in shards
        for number, (offset, labels, copy, reason) in enumerate(facts[shard])
    ]


def found_in(
    records: Sequence[Example],
    parts: Sequence[str],
    feature: str,
    class_names: Sequence[str] | None,
    label_kind: str,
) -> Listing:
    """Makes a `Listing` of records.

    Args:
        records: All records, bad ones too.
        parts: The part of each, as in `Listing`.
        feature: The bytes feature of an example.
        class_names: Names of class indices; None names them by their numbers.
        label_kind: "classes" if a record has one label, "labels" if any number; as in `Listing`.

    Raises:
        UserError: A label is outside `class_names`.
    """
    reasons = [_why_not(record, label_kind) for record in records]
    good = [i for i, reason in enumerate(reasons) if not reason]
    numbered = {label for i in good for label in records[i].labels if isinstance(label, int)}
    names = class_names or [str(number) for number in sorted(numbered)] or None
    by_number = dict(enumerate(class_names)) if class_names else {n: str(n) for n in numbered}
    for i in good:
        for label in records[i].labels:
            if isinstance(label, int) and label not in by_number:
                raise UserError(
                    f"data: {records[i].key} has the label {label}, and there are "
                    f"{len(by_number)} class names (0 to {len(by_number) - 1}). Fix class_names."
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
            feature,
        ),
        class_names=names,
        label_kind=label_kind,
        files=[records[i].copy or records[i].shard for i in good],
        bad_files=tuple(
            BadFile(f"{record.shard}:{record.number}", reason)
            for record, reason in zip(records, reasons, strict=True)
            if reason
        ),
    )


def _why_not(record: Example, label_kind: str) -> str:
    if record.reason or label_kind == "labels" or len(record.labels) == 1:
        return record.reason
    return f"has {len(record.labels)} labels"


def _contents(shards: Sequence[str]) -> Iterator[tuple[str, int, int, bytes | None]]:
    """Yields (shard, number, offset, content); content None if the shard breaks off."""
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

    TensorFlow believes the length that a record claims, and crashes if that is absurd.
    """
    size = tf.io.gfile.stat(shard).length
    records = offset = 0
    with tf.io.gfile.GFile(shard, "rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise UserError(
                f"{shard} is compressed: its records cannot be read one by one. "
                "Write it without compression."
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
    record: Example, content: bytes, names: tuple[str, str], kind: Input, key: str
) -> Example:
    def bad(reason: str) -> Example:
        return Example(record.shard, record.number, record.offset, (), reason=reason)

    try:
        features = tf.train.Example.FromString(content).features.feature
    except Exception:  # protobuf's own error type differs between its implementations
        return bad("not a tf.Example")
    for name in names:
        if name not in features:
            return bad(f"no feature {name!r} among {', '.join(sorted(features))}")
    contents, labels = (features[name] for name in names)
    held = contents.bytes_list.value
    if len(held) != 1:
        return bad(f"{names[0]} holds {len(held)} {kind.nouns}")
    if labels.WhichOneof("kind") == "float_list":
        return bad(f"{names[1]} holds numbers with fractions")
    texts = [name.decode("utf-8", "replace") for name in labels.bytes_list.value]
    verdict = kind.check(held[0], "", key)
    values = (*labels.int64_list.value, *texts)
    return Example(record.shard, record.number, record.offset, values, verdict.path, verdict.reason)


def _stamp(path: str) -> str:
    stat = tf.io.gfile.stat(path)
    return f"{stat.length}:{stat.mtime_nsec}"
