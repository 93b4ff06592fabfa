from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.data.load import load_data
from ftkeras.data.sources import tfrecord
from ftkeras.errors import UserError
from ftkeras.inputs.base import Verdict
from ftkeras.inputs.image.decode import whole
from ftkeras.inputs.image.input import ImageInput
from ftkeras.runs.build import batches

IMAGES = ImageInput()

NAMES = {"image_feature": "image", "label_feature": "label"}


def feature(value: object) -> tf.train.Feature:
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def example(**values: object) -> bytes:
    features = {name: feature(value) for name, value in values.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@pytest.fixture
def write(tmp_path):
    def make(name: str, records: list[bytes], **options: str) -> str:
        kind = tf.io.TFRecordOptions(**options)
        with tf.io.TFRecordWriter(str(tmp_path / name), kind) as writer:
            for record in records:
                writer.write(record)
        return str(tmp_path / name)

    return make


@pytest.fixture
def shards(write, photo, encode):
    """Three shards of six records; each record's picture has a size of its own."""

    def image(number: int) -> bytes:
        kind = "WEBP" if number % 4 == 3 else "PNG"
        return encode(photo(10 + number, 12, seed=number), kind, lossless=True)

    for name, first in (("train-0", 0), ("train-1", 6), ("val-0", 12)):
        records = [example(image=image(i), label=i % 2) for i in range(first, first + 6)]
        write(f"{name}.tfrecord", records)


def test_any_record_is_read_by_itself(shards, tmp_path, photo):
    data = load_data("tfrecord", path=str(tmp_path), split={"val": "val-*"}, **NAMES)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 12, "val": 6}
    train = data.splits["train"]
    assert train.ids[:2] == ["train-0.tfrecord:0", "train-0.tfrecord:1"]
    assert train.labels.tolist() == [0, 1] * 6
    for i in (11, 3, 0, 7):  # in any order; 3 and 7 and 11 are WebP, read from their copies
        pixels = whole(train.fetch(tf.constant(i, tf.int64))).numpy()
        np.testing.assert_array_equal(pixels, photo(10 + i, 12, seed=i))
    (batch,) = batches(data.splits["val"], image_size=8, batch_size=8)
    assert batch[0].shape == (6, 8, 8, 3)


def test_names_of_shards_say_their_part(shards, tmp_path):
    found = tfrecord.find(kind=IMAGES, path=str(tmp_path), parts={}, **NAMES)
    assert found.parts == ["train"] * 12 + ["val"] * 6
    found = tfrecord.find(kind=IMAGES, path=f"{tmp_path}/val-*", parts={}, **NAMES)
    assert found.parts == [""] * 6


def test_unchanged_shards_are_scanned_once(shards, tmp_path, monkeypatch):
    first = tfrecord.find(kind=IMAGES, path=str(tmp_path), parts={}, **NAMES)
    monkeypatch.setattr(ImageInput, "check", lambda *args: pytest.fail("again"))
    again = tfrecord.find(kind=IMAGES, path=str(tmp_path), parts={}, **NAMES)
    assert (first.ids, first.labels) == (again.ids, again.labels)


def test_an_interrupted_scan_goes_on_with_the_shards_that_are_left(shards, tmp_path, monkeypatch):
    check, seen = ImageInput.check, []

    def watched(self: ImageInput, raw: bytes, name: str, key: str) -> Verdict:
        if len(seen) == 8:
            raise KeyboardInterrupt  # in the midst of the second shard
        seen.append(name)
        return check(self, raw, name, key)

    monkeypatch.setattr(ImageInput, "check", watched)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        load_data("tfrecord", path=str(tmp_path), **NAMES)
    seen[:] = [""] * 10
    data = load_data("tfrecord", path=str(tmp_path), **NAMES)
    assert len(seen) == 10 + 12  # of the other two shards
    assert sum(len(split) for split in data.splits.values()) == 18


def test_names_as_labels(write, encode, photo):
    image = encode(photo(), "JPEG")
    path = write(
        "a.tfrecord",
        [example(image=image, label=[b"cat", b"indoors"]), example(image=image, label=b"dog")],
    )
    found = tfrecord.find(kind=IMAGES, path=path, parts={}, multi_label=True, **NAMES)
    assert found.labels == [("cat", "indoors"), ("dog",)]
    single = tfrecord.find(kind=IMAGES, path=path, parts={}, **NAMES)
    assert [bad.reason for bad in single.bad_files] == ["has 2 labels"]


def test_numbers_are_named_in_order(write, encode, photo):
    image = encode(photo(), "JPEG")
    path = write("a.tfrecord", [example(image=image, label=i) for i in (10, 9, 2)])
    assert tfrecord.find(kind=IMAGES, path=path, parts={}, **NAMES).class_names == [
        "2",
        "9",
        "10",
    ]
    with pytest.raises(UserError, match="has the label 10, and there are 2 class names"):
        tfrecord.find(kind=IMAGES, path=path, parts={}, class_names=["a", "b"], **NAMES)


def test_bad_records_are_named_with_the_reason(write, encode, photo):
    whole = encode(photo(), "JPEG")
    records = [
        example(image=whole, label=1),
        example(image=whole[:300], label=1),
        example(image=b"", label=1),
        example(image=[whole, whole], label=1),
        example(picture=whole, label=1),
        b"\xff\xff not an example",
    ]
    path = write("a.tfrecord", records)
    with open(path, "ab") as file:
        file.write(b"half a record")
    found = tfrecord.find(kind=IMAGES, path=path, parts={}, **NAMES)
    assert found.ids == ["a.tfrecord:0"]
    expected = ["broken or truncated", "empty file", "holds 2 images", "no feature 'image' among"]
    expected += ["not a tf.Example", "the rest of the shard is corrupt"]
    for number, (bad, reason) in enumerate(zip(found.bad_files, expected, strict=True), 1):
        assert bad.path == f"{path}:{number}" and reason in bad.reason


def test_compressed_shards_are_refused(write):
    path = write("a.tfrecord", [b"x"], compression_type="GZIP")
    with pytest.raises(UserError, match="is compressed"):
        tfrecord.find(kind=IMAGES, path=path, parts={})


def test_patterns_that_do_not_fit(shards, tmp_path):
    with pytest.raises(UserError, match="no file matches 'vel-"):
        tfrecord.find(kind=IMAGES, path=str(tmp_path), parts={"val": "vel-*"})
    with pytest.raises(UserError, match="train-0.tfrecord is in train and in val"):
        tfrecord.find(kind=IMAGES, path=str(tmp_path), parts={"train": "train-*", "val": "*-0.*"})
    os.mkdir(tmp_path / "empty")
    with pytest.raises(UserError, match="no TFRecord files"):
        tfrecord.find(kind=IMAGES, path=str(tmp_path / "empty"), parts={})
