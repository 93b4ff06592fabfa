"""The check of a file's bytes that comes before every TensorFlow decoder.

The bytes are untrusted: a decoder that fails on them can end the process or take all of its memory.
TensorFlow 2.21 would also read WebP and JPEG XL; a WebP animation of 142 bytes ends the process.
So a file is checked by its signature, and by the size in its header. All of it is TensorFlow
operations: the exported model, tf.data and the scan run the same check.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import tensorflow as tf

MAX_PIXELS = 89_478_485  # Pillow's own limit: 256 MiB as RGB
MAX_SCANS = 100
"""Of a JPEG: each scan visits all pixels, but may have few bytes. A photo has about ten scans."""
JPEG, PNG, GIF, BMP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM"

_REMEDY = "send JPEG, PNG, GIF or BMP"
EMPTY = "empty: there is no image file"
WEBP = f"WebP is not supported: {_REMEDY}"
UNKNOWN = f"not an image that can be decoded: {_REMEDY}"
DAMAGED = "damaged or cut short: it begins like an image, but cannot be decoded; send a whole file"
SCANS = f"a JPEG in more than {MAX_SCANS} scans: save it again"

_JPEG_LIMITS = f"a JPEG of more than {MAX_PIXELS // 10**6} million pixels or {MAX_SCANS} scans"
_SCAN = b"\xff\xda"  # how a JPEG's scan begins
_HEAD = 32  # bytes: the longest of the headers that are read here
_LIMIT = f" pixels; the limit is {MAX_PIXELS // 10**6} million: send a smaller image"
_EXTENSION, _FRAME = ord("!"), ord(",")  # how a GIF's parts begin
_MAX_EXTENSIONS = 64  # before a GIF's first frame
_MAX_RUNS = 4096  # of equal blocks in a row, within a frame or an extension of a GIF
_RUN = 4096  # blocks that are checked at once


T = TypeVar("T")


def read_checked(
    encoded: tf.Tensor,
    jpeg: Callable[[tf.Tensor], T],
    other: Callable[[bytes, tf.Tensor], T],
    after: Callable[[T], T] = lambda result: result,
) -> T:
    """Passes a file to a reader only if a decoder may read it.

    Args:
        encoded: The file's bytes, a scalar string.
        jpeg: Reads a JPEG, a scalar string.
        other: Reads a file of another kind. Takes its signature (PNG, GIF or BMP of this module),
            and the bytes to decode, a scalar string: the file, or a GIF's first frame. It is traced
            once per process: give the same function each time.
        after: Takes the result of `other`.

    Returns:
        The reader's result.

    Raises:
        tf.errors.InvalidArgumentError: No decoder may read the file; `why_not` has the reason.
    """

    # Most files are JPEGs, and each operation takes microseconds, so JPEGs need as few as possible.
    def checked_jpeg() -> T:
        pixels, parts = _jpeg(encoded)
        fits = (pixels <= MAX_PIXELS) & (parts <= MAX_SCANS + 1)
        return jpeg(_if_true(encoded, fits, _JPEG_LIMITS))

    return tf.cond(_is_jpeg(encoded), checked_jpeg, lambda: after(_checked(other)(encoded)))


def why_not(encoded: tf.Tensor) -> tf.Tensor:
    """Returns why no decoder may read a file, a scalar string; empty if one may.

    Raises:
        tf.errors.InvalidArgumentError: The header of a JPEG is damaged.

    Example:
        >>> why_not(b"RIFF\\0\\0\\0\\0WEBPVP8 ").numpy()
        b'WebP is not supported: send JPEG, PNG, GIF or BMP'
    """

    def jpeg() -> tf.Tensor:
        _, parts = _jpeg(encoded)
        reason = _why_not_sides(tf.io.extract_jpeg_shape(encoded)[:2])
        return tf.where(parts > MAX_SCANS + 1, SCANS, reason)

    return tf.cond(_is_jpeg(encoded), jpeg, lambda: _others(_reason)(encoded))


def _if_true(file: tf.Tensor, condition: tf.Tensor, message: str | tf.Tensor) -> tf.Tensor:
    """Returns the file if a condition holds; raises otherwise."""
    # A single operation; `tf.debugging.Assert` is several.
    with tf.control_dependencies([tf.raw_ops.Assert(condition=condition, data=[message])]):
        return tf.identity(file)


def _jpeg(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns a JPEG's number of pixels, int64, and of scans, int32."""
    parts = tf.raw_ops.StringSplitV2(input=[encoded], sep=_SCAN, maxsplit=MAX_SCANS + 1).values
    shape = tf.io.extract_jpeg_shape(encoded, output_type=tf.int64)
    return tf.reduce_prod(shape[:2]), tf.size(parts)


def _is_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(encoded, 0, len(JPEG)) == JPEG


def _reason(kind: bytes, file: tf.Tensor, reason: tf.Tensor) -> tf.Tensor:
    return reason


@functools.cache
def _checked(read: Callable[[bytes, tf.Tensor], T]) -> Callable[[tf.Tensor], T]:
    """Returns a function that reads a file of any kind except JPEG, if a decoder may read it."""
    return _others(lambda kind, file, reason: read(kind, _if_true(file, reason == "", reason)))


@functools.cache
def _others(do: Callable[[bytes, tf.Tensor, tf.Tensor], T]) -> Callable[[tf.Tensor], T]:
    """Returns a function that calls `do` with a file's signature, bytes to decode, and an error.

    Only for files that are no JPEG. The function is not inlined. In a graph each operation of a
    branch takes time even if the branch is not taken: 0.25 ms per JPEG in total. Tracing takes 0.3
    s.
    """

    def others(encoded: tf.Tensor) -> T:
        head = tf.strings.substr(encoded, 0, _HEAD) + bytes(_HEAD)  # never shorter than a header

        def starts_with(signature: bytes) -> tf.Tensor:
            return tf.strings.substr(head, 0, len(signature)) == signature

        def png() -> T:
            sides = _two_integers(head, 16, little_endian=False) % 2**32  # without a sign
            header_first = tf.strings.substr(head, 12, 4) == b"IHDR"
            return do(PNG, encoded, tf.where(header_first, _why_not_sides(sides), DAMAGED))

        def bmp() -> T:
            sides = tf.abs(_two_integers(head, 18, little_endian=True))  # negative: top down
            return do(BMP, encoded, _why_not_sides(sides))

        def gif() -> T:
            end, sides = _first_frame(tf.cast(tf.io.decode_raw(encoded, tf.uint8), tf.int32))
            frame = tf.strings.substr(encoded, 0, end) + b";"  # a GIF's last byte
            return do(GIF, frame, tf.where(end > 0, _why_not_sides(sides), DAMAGED))

        def none_of_these() -> T:
            webp = starts_with(b"RIFF") & (tf.strings.substr(head, 8, 4) == b"WEBP")
            reason = tf.where(webp, WEBP, UNKNOWN)
            reason = tf.where(tf.strings.length(encoded) > 0, reason, EMPTY)
            return do(BMP, tf.constant(b""), reason)  # all branches return the same types

        kinds = [(starts_with(PNG), png), (starts_with(GIF), gif), (starts_with(BMP), bmp)]
        return tf.case(kinds, default=none_of_these)

    return tf.function(
        others,
        autograph=False,
        input_signature=[tf.TensorSpec((), tf.string)],
        experimental_attributes={"_noinline": True},
    )


def _two_integers(head: tf.Tensor, at: int, little_endian: bool) -> tf.Tensor:
    """Reads two integers of 32 bits at a byte of a header: int64 (2,)."""
    raw = tf.strings.substr(head, at, 8)
    return tf.cast(tf.io.decode_raw(raw, tf.int32, little_endian=little_endian), tf.int64)


def _why_not_sides(sides: tf.Tensor) -> tf.Tensor:
    """Returns what is wrong with the sides of an image, integers (2,), or an empty string."""
    sides = tf.cast(sides, tf.int64)
    first, second = sides[0], sides[1]
    # A product could overflow.
    too_large = first > MAX_PIXELS // tf.maximum(second, 1)

    def size() -> tf.Tensor:
        text = [tf.strings.as_string(first), " x ", tf.strings.as_string(second), _LIMIT]
        return tf.strings.join(text)

    empty = tf.reduce_min(sides) < 1
    return tf.cond(too_large, size, lambda: tf.where(empty, DAMAGED, ""))


def _first_frame(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the first frame of a GIF: TensorFlow would unpack all frames.

    Args:
        data: The file's bytes, int32 (n,).

    Returns:
        The byte after the frame, or 0 if the file ends before it or is no valid GIF; and the
        frame's sides, int32 (2,).
    """
    data = tf.concat([data, tf.zeros((_HEAD,), tf.int32)], 0)  # so that headers can be read
    length = tf.size(data) - _HEAD

    def table(flags: tf.Tensor) -> tf.Tensor:
        """The bytes of the colour table, by its flags."""
        return tf.where(flags >= 0x80, 6 * tf.bitwise.left_shift(1, flags % 8), 0)

    def is_extension(at: tf.Tensor) -> tf.Tensor:
        return (at > 0) & (at < length) & (data[tf.minimum(at, length)] == _EXTENSION)

    at = 13 + table(data[10])
    at = tf.while_loop(
        is_extension,
        lambda at: (_after_blocks(data, length, at + 2),),
        (at,),
        maximum_iterations=_MAX_EXTENSIONS,
    )[0]
    at = tf.clip_by_value(at, 0, length)
    frame = data[at : at + 10]  # a mark, then left, top, width and height of two bytes, and flags
    sides = frame[5:9:2] + 256 * frame[6:9:2]
    end = _after_blocks(data, length, at + 11 + table(frame[9]))  # after the code size's byte
    return tf.where((at > 0) & (frame[0] == _FRAME), end, 0), sides


def _after_blocks(data: tf.Tensor, length: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """Returns the byte after a chain of blocks in a GIF; each block begins with its length.

    A chain ends with a block of length 0. Nearly all blocks before it are equally long, so a run
    of equal blocks is skipped at once. Returns 0 if the file breaks off or has too many runs.
    """

    def unfinished(at: tf.Tensor) -> tf.Tensor:
        return (at < length) & (data[tf.minimum(at, length)] > 0)

    def skip(at: tf.Tensor) -> tuple[tf.Tensor]:
        step = data[at] + 1
        run = data[at : tf.minimum(at + _RUN * step, length) : step]  # the lengths, if all equal
        other = tf.where(run + 1 != step)[:, 0]
        equal = tf.cast(tf.cond(tf.size(other) > 0, lambda: other[0], lambda: _size(run)), tf.int32)
        return (at + equal * step,)

    at = tf.while_loop(unfinished, skip, (at,), maximum_iterations=_MAX_RUNS)[0]
    ended = (at < length) & (data[tf.minimum(at, length)] == 0)
    return tf.where(ended, at + 1, 0)


def _size(run: tf.Tensor) -> tf.Tensor:
    return tf.size(run, tf.int64)
