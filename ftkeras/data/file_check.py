"""What a decoder may see: the check of a file's bytes that comes before every TensorFlow decoder.

The bytes may be a stranger's, and a decoder that fails on them can end the process or take all of
its memory. TensorFlow 2.21 would also read WebP and JPEG XL; a WebP animation of 142 bytes ends the
process. So a file is known by its signature, and by the size that its header states. All of it is
TensorFlow operations: the exported model, tf.data and the scan run the same check.
"""

from __future__ import annotations

import tensorflow as tf

MAX_PIXELS = 89_478_485  # Pillow's own limit: 256 MiB as RGB
MAX_SCANS = 100
"""Of a JPEG: each scan visits all pixels, and may be a few bytes. A photo has about ten."""
JPEG, PNG, GIF, BMP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM"

_REMEDY = "send JPEG, PNG, GIF or BMP"
EMPTY = "empty: there is no image file"
WEBP = f"WebP is not supported: {_REMEDY}"
UNKNOWN = f"not an image that can be decoded: {_REMEDY}"
DAMAGED = "damaged or cut short: it begins like an image, but cannot be decoded; send a whole file"
SCANS = f"a JPEG in more than {MAX_SCANS} scans: save it again"

_SCAN = b"\xff\xda"  # how a JPEG's scan begins
_HEAD = 32  # bytes: the longest of the headers that are read here
_LIMIT = f" pixels; the limit is {MAX_PIXELS // 10**6} million: send a smaller image"
_EXTENSION, _FRAME = ord("!"), ord(",")  # how a GIF's parts begin
_MAX_EXTENSIONS = 64  # before a GIF's first frame
_MAX_RUNS = 4096  # of equal blocks in a row, within a frame or an extension of a GIF
_RUN = 4096  # blocks that are looked at together


def starts_with(encoded: tf.Tensor, signature: bytes) -> tf.Tensor:
    """Whether a file begins with some bytes, bool scalar."""
    return tf.strings.substr(encoded, 0, len(signature)) == signature


def check_file(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Decides whether a decoder may see a file.

    Args:
        encoded: The file's bytes, a scalar string.

    Returns:
        What may be decoded, a scalar string: the file (of a GIF up to the end of its first frame),
        or nothing. And why nothing may be, a scalar string, empty if something may.

    Raises:
        tf.errors.InvalidArgumentError: The header is damaged.

    Example:
        >>> check_file(b"RIFF\\0\\0\\0\\0WEBPVP8 ")[1].numpy()
        b'WebP is not supported: send JPEG, PNG, GIF or BMP'
    """

    head = tf.strings.substr(encoded, 0, _HEAD) + bytes(_HEAD)  # so that all of it can be read

    def jpeg() -> tuple[tf.Tensor, tf.Tensor]:
        parts = tf.raw_ops.StringSplitV2(input=[encoded], sep=_SCAN, maxsplit=MAX_SCANS + 1).values
        reason = _why_not_sides(tf.io.extract_jpeg_shape(encoded)[:2])
        return encoded, tf.where(tf.size(parts) > MAX_SCANS + 1, SCANS, reason)

    def png() -> tuple[tf.Tensor, tf.Tensor]:
        sides = _two_integers(head, 16, little_endian=False) % 2**32  # without a sign
        header_first = tf.strings.substr(head, 12, 4) == b"IHDR"
        return encoded, tf.where(header_first, _why_not_sides(sides), DAMAGED)

    def bmp() -> tuple[tf.Tensor, tf.Tensor]:
        sides = tf.abs(_two_integers(head, 18, little_endian=True))  # upside down if negative
        return encoded, _why_not_sides(sides)

    def gif() -> tuple[tf.Tensor, tf.Tensor]:
        end, sides = _first_frame(tf.cast(tf.io.decode_raw(encoded, tf.uint8), tf.int32))
        frame = tf.strings.substr(encoded, 0, end) + b";"  # a GIF's last byte
        return frame, tf.where(end > 0, _why_not_sides(sides), DAMAGED)

    def other() -> tuple[tf.Tensor, tf.Tensor]:
        webp = starts_with(head, b"RIFF") & (tf.strings.substr(head, 8, 4) == b"WEBP")
        reason = tf.where(webp, WEBP, UNKNOWN)
        return encoded, tf.where(tf.strings.length(encoded) > 0, reason, EMPTY)

    kinds = {JPEG: jpeg, PNG: png, GIF: gif, BMP: bmp}
    cases = [(starts_with(head, signature), check) for signature, check in kinds.items()]
    file, reason = tf.case(cases, default=other)
    return tf.where(reason == "", file, ""), reason


def _two_integers(head: tf.Tensor, at: int, little_endian: bool) -> tf.Tensor:
    """Reads two integers of 32 bits at a byte of a header: int64 (2,)."""
    raw = tf.strings.substr(head, at, 8)
    return tf.cast(tf.io.decode_raw(raw, tf.int32, little_endian=little_endian), tf.int64)


def _why_not_sides(sides: tf.Tensor) -> tf.Tensor:
    """Returns what is wrong with the sides of an image, integers (2,), or an empty string."""
    sides = tf.cast(sides, tf.int64)
    first, second = sides[0], sides[1]
    # Without a product, which could overflow.
    too_large = first > MAX_PIXELS // tf.maximum(second, 1)

    def size() -> tf.Tensor:
        text = [tf.strings.as_string(first), " x ", tf.strings.as_string(second), _LIMIT]
        return tf.strings.join(text)

    empty = tf.reduce_min(sides) < 1
    return tf.cond(too_large, size, lambda: tf.where(empty, DAMAGED, ""))


def _first_frame(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the first frame of a GIF: TensorFlow would unpack every frame to show one.

    Args:
        data: The file's bytes, int32 (n,).

    Returns:
        The byte after the frame, 0 if the file breaks off before it or is not built as a GIF; and
        the frame's sides, int32 (2,).
    """
    data = tf.concat([data, tf.zeros((_HEAD,), tf.int32)], 0)  # so that headers can be read
    length = tf.size(data) - _HEAD

    def table(flags: tf.Tensor) -> tf.Tensor:
        """The bytes of the colour table that some flags announce."""
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
    """Returns the byte after a chain of blocks in a GIF, each of which begins with its length.

    A chain ends with a block of length 0. Nearly all blocks before it are equally long, so runs of
    such are skipped at once. 0 is returned if the file breaks off, or the chain has too many runs.
    """

    def goes_on(at: tf.Tensor) -> tf.Tensor:
        return (at < length) & (data[tf.minimum(at, length)] > 0)

    def skip(at: tf.Tensor) -> tuple[tf.Tensor]:
        step = data[at] + 1
        run = data[at : tf.minimum(at + _RUN * step, length) : step]  # the lengths, if all equal
        other = tf.where(run + 1 != step)[:, 0]
        equal = tf.cast(tf.cond(tf.size(other) > 0, lambda: other[0], lambda: _size(run)), tf.int32)
        return (at + equal * step,)

    at = tf.while_loop(goes_on, skip, (at,), maximum_iterations=_MAX_RUNS)[0]
    ended = (at < length) & (data[tf.minimum(at, length)] == 0)
    return tf.where(ended, at + 1, 0)


def _size(run: tf.Tensor) -> tf.Tensor:
    return tf.size(run, tf.int64)
