"""How examples are fetched by index: from files, from TFRecord shards, from arrays."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from ftkeras.data.dataset import Fetch
from ftkeras.errors import UserError
from ftkeras.inputs.image.decode import Crop, cut, decode_image
from ftkeras.paths import shown, why_not_readable

MAX_BYTES = 16 << 30  # of a file that is read whole
_READ_AHEAD = 1 << 16  # bytes; a typical record in one read


def read_whole(path: str) -> io.BytesIO:
    """Returns the content of the file that `data.path` names.

    Raises:
        UserError: It is not there, not a regular file, may not be read, or is enormous.
    """
    if reason := why_not_readable(path):
        raise UserError(f"data.path: there is no readable file {shown(path)!r} ({reason}).")
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            if file.size() > MAX_BYTES:
                raise UserError(f"data.path: {path!r} is larger than {MAX_BYTES >> 30} GiB.")
            return io.BytesIO(file.read())
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"data.path: there is no readable file {path!r}.") from error


def from_files(paths: Sequence[str]) -> Callable[[np.ndarray], Fetch]:
    """Returns `Found.make_fetch` for one image a file."""

    def make(indices: np.ndarray) -> Fetch:
        chosen = tf.constant([paths[i] for i in indices], tf.string)
        return lambda index, least=0, part=None: decode_image(
            tf.io.read_file(chosen[index]), least, part
        )

    return make


def from_records(
    paths: Sequence[str], offsets: Sequence[int], feature: str
) -> Callable[[np.ndarray], Fetch]:
    """Returns `Found.make_fetch` for records of TFRecord files, read where they lie.

    Args:
        paths: For each example its shard, or its own image file.
        offsets: For each example the byte at which its record begins; -1 for an image file.
        feature: The feature of the tf.Example that holds the encoded image.
    """

    def make(indices: np.ndarray) -> Fetch:
        numbers: dict[str, int] = {}  # of the shards; an example holds 12 bytes
        shards = (numbers.setdefault(paths[i], len(numbers)) for i in indices)
        shard = tf.constant(np.fromiter(shards, np.int32, len(indices)))
        offset = tf.constant(np.fromiter((offsets[i] for i in indices), np.int64, len(indices)))
        names = tf.constant(list(numbers), tf.string)

        def fetch(index: tf.Tensor, least: int = 0, part: Crop | None = None) -> tf.Tensor:
            path, at = names[shard[index]], offset[index]
            encoded = tf.cond(
                at < 0,
                lambda: tf.io.read_file(path),
                lambda: _image_of(_read_record(path, at), feature),
            )
            return decode_image(encoded, least, part)

        return fetch

    return make


def _read_record(path: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """Reads the one record that begins at byte `offset`: a shuffled order costs no buffer."""
    kind = {"output_types": [tf.string], "output_shapes": [[]]}
    records = tf.raw_ops.TFRecordDatasetV2(
        filenames=[path],
        compression_type="",
        buffer_size=tf.constant(_READ_AHEAD, tf.int64),
        byte_offsets=[offset],
    )
    first = tf.raw_ops.TakeDataset(input_dataset=records, count=tf.constant(1, tf.int64), **kind)
    return tf.raw_ops.DatasetToSingleElement(dataset=first, **kind)[0]


def _image_of(record: tf.Tensor, feature: str) -> tf.Tensor:
    spec = {feature: tf.io.FixedLenFeature((), tf.string)}
    return tf.io.parse_single_example(record, spec)[feature]


def from_array(images: np.ndarray) -> Callable[[np.ndarray], Fetch]:
    """Returns `Found.make_fetch` for uint8 images (n, h, w, 3) in memory."""

    def make(indices: np.ndarray) -> Fetch:
        with tf.device("CPU:0"):
            chosen = tf.constant(images[indices])
        return lambda index, least=0, part=None: cut(tf.gather(chosen, index), part)

    return make
