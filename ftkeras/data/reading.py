"""How raw examples are fetched by index: from files, from TFRecord shards, from arrays."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from ftkeras.data.dataset import Fetch
from ftkeras.errors import UserError
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
    """Returns `Listing.make_fetch` for one example per file: its bytes."""

    def make(indices: np.ndarray) -> Fetch:
        chosen = tf.constant([paths[i] for i in indices], tf.string)
        return lambda index: tf.io.read_file(chosen[index])

    return make


def from_records(
    paths: Sequence[str], offsets: Sequence[int], feature: str
) -> Callable[[np.ndarray], Fetch]:
    """Returns `Listing.make_fetch` for records of TFRecord files, read in place.

    Args:
        paths: For each example its shard, or a file of its own.
        offsets: For each example the byte at which its record begins; -1 for a file of its own.
        feature: The feature of the tf.Example that holds the example's bytes.
    """

    def make(indices: np.ndarray) -> Fetch:
        numbers: dict[str, int] = {}  # of the shards; an example holds 12 bytes
        shards = (numbers.setdefault(paths[i], len(numbers)) for i in indices)
        shard = tf.constant(np.fromiter(shards, np.int32, len(indices)))
        offset = tf.constant(np.fromiter((offsets[i] for i in indices), np.int64, len(indices)))
        names = tf.constant(list(numbers), tf.string)

        def fetch(index: tf.Tensor) -> tf.Tensor:
            path, at = names[shard[index]], offset[index]
            return tf.cond(
                at < 0,
                lambda: tf.io.read_file(path),
                lambda: _bytes_of(_read_record(path, at), feature),
            )

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


def _bytes_of(record: tf.Tensor, feature: str) -> tf.Tensor:
    spec = {feature: tf.io.FixedLenFeature((), tf.string)}
    return tf.io.parse_single_example(record, spec)[feature]


def from_array(array: np.ndarray) -> Callable[[np.ndarray], Fetch]:
    """Returns `Listing.make_fetch` for examples in memory, (n, ...)."""

    def make(indices: np.ndarray) -> Fetch:
        with tf.device("CPU:0"):
            chosen = tf.constant(array[indices])
        return lambda index: tf.gather(chosen, index)

    return make
