"""Decodes encoded bytes to pixels, for training, prediction and the exported model alike.

Everything here is TensorFlow operations, so it runs inside tf.data and inside a SavedModel, and all
three get the same pixels. `resize_image` returns whole numbers 0..255 in float32, so that a cache
can hold each in a byte without loss.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

from ftkeras.inputs.image.file_check import BMP, GIF, PNG, read_checked

# From the height and width of an image, int32 (2,), to the begin and the extent of a part of it,
# int32 (2,) each.
Crop = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

MODES = ("crop", "pad", "squash")

_RATIOS = (1, 2, 4, 8)  # the parts of its size that a JPEG can be decoded at
_MARGIN = 8  # pixels around a part: smoothed colours reach over its edges
_ORIENTATION_TAG = 0x0112
_MOST_ENTRIES = 128  # of the Exif directory
_HEAD_BYTES = 1 << 14  # the part of a file in which Exif is looked for


def decode_image(encoded: tf.Tensor, least: int = 0, part: Crop | None = None) -> tf.Tensor:
    """Decodes an image as people see it.

    JPEG, PNG, GIF (first frame) and BMP. Grey becomes RGB, 16 bits are scaled to 8, transparency
    is blended with white, and a JPEG's Exif orientation is applied.

    Args:
        encoded: The file's bytes, a scalar string.
        least: The length in pixels to which its shorter side will be resized. A much larger JPEG
            is decoded at a half, a quarter or an eighth of its size, which is faster, but at no
            less than twice `least`: the resize would average away the lost details. 0 is full size.
            part: The part of the image to return. Little more than that part of a JPEG is decoded;
        the pixels are the same as in the whole image.

    Returns:
        uint8 (h, w, 3), RGB.

    Raises:
        tf.errors.InvalidArgumentError: The bytes are not such an image, or have too many pixels.

    Example:
        >>> image = decode_image(tf.io.encode_png(tf.zeros((2, 3, 1), tf.uint8)))
        >>> image.shape
        TensorShape([2, 3, 3])
    """

    def jpeg(file: tf.Tensor) -> tf.Tensor:
        return _decode_jpeg(file, least, part)

    image = read_checked(encoded, jpeg, _decode_other, after=lambda image: cut(image, part))
    return tf.ensure_shape(image, (None, None, 3))


def _decode_other(kind: bytes, file: tf.Tensor) -> tf.Tensor:
    return _DECODERS[kind](file)


def _decode_jpeg(encoded: tf.Tensor, least: int, part: Crop | None) -> tf.Tensor:
    orientation = jpeg_orientation(encoded)
    shape = tf.io.extract_jpeg_shape(encoded)[:2]
    ratios = _RATIOS if least else _RATIOS[:1]
    steps = [2 * least * ratio for ratio in ratios[1:]]
    fits = tf.reduce_sum(tf.cast(tf.reduce_min(shape) >= steps, tf.int32))  # index of the ratio

    def decoded(operation: Callable[..., tf.Tensor], **more: tf.Tensor) -> tf.Tensor:
        # The accurate IDCT is what Pillow and browsers use; the default differs by a few levels.
        decode = functools.partial(
            operation, contents=encoded, channels=3, dct_method="INTEGER_ACCURATE", **more
        )
        if len(ratios) == 1:
            return decode()
        return tf.switch_case(fits, [functools.partial(decode, ratio=ratio) for ratio in ratios])

    def all_of_it() -> tf.Tensor:
        return cut(orient(decoded(tf.io.decode_jpeg), orientation), part)

    if part is None:
        return all_of_it()

    def part_of_it() -> tf.Tensor:
        size = -(-shape // tf.gather(ratios, fits))
        begin, extent = part(size)
        first = tf.maximum(begin - _MARGIN, 0)
        window = tf.concat([first, tf.minimum(begin + extent + _MARGIN, size) - first], 0)
        image = decoded(tf.raw_ops.DecodeAndCropJpeg, crop_window=window)
        return _slice(image, begin - first, extent)

    return tf.cond(orientation == 1, part_of_it, all_of_it)


def whole(raw: tf.Tensor) -> tf.Tensor:
    """Returns an image in full size, uint8 (h, w, 3); decodes it if it is a file's bytes."""
    return decode_image(raw) if raw.dtype == tf.string else raw


def cut(image: tf.Tensor, part: Crop | None) -> tf.Tensor:
    """Returns a part of an image (h, w, 3); None is all of it."""
    if part is None:
        return image
    return _slice(image, *part(tf.shape(image)[:2]))


def _slice(image: tf.Tensor, begin: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
    return tf.slice(image, tf.pad(begin, [[0, 1]]), tf.pad(extent, [[0, 1]], constant_values=3))


def _decode_png(encoded: tf.Tensor) -> tf.Tensor:
    def sixteen() -> tf.Tensor:
        # With dtype uint8, the decoder would cut off the low byte instead of rounding.
        wide = tf.io.decode_png(encoded, channels=0, dtype=tf.uint16)
        return tf.cast((tf.minimum(wide, 2**16 - 129) + 128) // 257, tf.uint8)  # no overflow

    bit_depth = tf.strings.substr(encoded, 24, 1)  # of the IHDR chunk
    image = tf.cond(bit_depth == b"\x10", sixteen, lambda: tf.io.decode_png(encoded, channels=0))
    return _as_rgb(image)


def _decode_gif(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_gif(encoded)[0]  # of (1, h, w, 3)


def _decode_bmp(encoded: tf.Tensor) -> tf.Tensor:
    return _as_rgb(tf.io.decode_bmp(encoded, channels=0))


_DECODERS = {PNG: _decode_png, GIF: _decode_gif, BMP: _decode_bmp}


def _as_rgb(image: tf.Tensor) -> tf.Tensor:
    """uint8 (h, w, 1 | 2 | 3 | 4) -> uint8 (h, w, 3); alpha is composited on white."""

    def on_white() -> tf.Tensor:
        values = tf.cast(image, tf.uint16)  # the sums fit, in half of int32's memory
        alpha = values[..., -1:]  # (h, w, 1)
        blend = values[..., :-1] * alpha + 255 * (255 - alpha)
        return tf.cast((blend + 127) // 255, tf.uint8)  # (h, w, 1 | 3)

    channels = tf.shape(image)[-1]
    image = tf.cond(channels % 2 == 0, on_white, lambda: image)  # (h, w, 1 | 3)
    return tf.cond(tf.shape(image)[-1] == 1, lambda: tf.tile(image, (1, 1, 3)), lambda: image)


def orient(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns an image (h, w, 3) by its Exif orientation, 1 to 8; 1 leaves it alone."""

    def turned() -> tf.Tensor:
        swapped = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
        mirrored = tf.logical_or(
            tf.logical_or(orientation == 2, orientation == 3),
            tf.logical_or(orientation == 6, orientation == 7),
        )
        flipped = tf.logical_or(
            tf.logical_or(orientation == 3, orientation == 4),
            tf.logical_or(orientation == 7, orientation == 8),
        )
        swapped = tf.cond(mirrored, lambda: tf.reverse(swapped, (1,)), lambda: swapped)
        return tf.cond(flipped, lambda: tf.reverse(swapped, (0,)), lambda: swapped)

    return tf.cond(orientation == 1, lambda: image, turned)


def jpeg_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Reads the Exif orientation of a JPEG: int32 scalar, 1 to 8; 1 if there is none.

    The bytes are untrusted: malformed data read as 1, and nothing here can fail. The first `Exif`
    of the file is taken for its header, so images without one cost nothing.
    """
    head = tf.strings.substr(encoded, 0, _HEAD_BYTES)
    parts = tf.raw_ops.StringSplitV2(input=[head], sep=b"Exif\0\0", maxsplit=1).values
    return tf.cond(tf.size(parts) == 2, lambda: _tiff_orientation(parts[1]), lambda: 1)


def _tiff_orientation(tiff: tf.Tensor) -> tf.Tensor:
    """Finds the orientation in the first directory of a TIFF structure."""

    def read(at: int | tf.Tensor, kind: tf.DType, count: int, little: bool) -> tf.Tensor:
        inside = tf.clip_by_value(at, 0, tf.strings.length(tiff))
        raw = tf.strings.substr(tiff, inside, count * kind.size)
        raw = tf.io.decode_raw(  # bytes beyond the end read as zeros
            raw, kind, little_endian=little, fixed_length=count * kind.size
        )
        return tf.cast(raw, tf.int32)  # (count,)

    def search(little: bool) -> tf.Tensor:
        directory = read(4, tf.int32, 1, little)[0]
        count = read(directory, tf.uint16, 1, little)[0]
        entries = tf.reshape(
            read(directory + 2, tf.uint16, 6 * _MOST_ENTRIES, little), (_MOST_ENTRIES, 6)
        )  # each: tag, type, count (2 words), value (2 words)
        is_it = (entries[:, 0] == _ORIENTATION_TAG) & (tf.range(_MOST_ENTRIES) < count)
        orientation = tf.reduce_max(tf.where(is_it, entries[:, 4], 0))
        return tf.where((orientation >= 1) & (orientation <= 8), orientation, 1)

    little = tf.strings.substr(tiff, 0, 1) == b"I"
    return tf.cond(little, lambda: search(True), lambda: search(False))


def resize_image(image: tf.Tensor, size: int, mode: str) -> tf.Tensor:
    """Makes an image square, with antialiasing.

    Args:
        image: uint8 (h, w, 3).
        size: Side of the result, in pixels.
        mode: "crop" takes the largest centred square, "pad" keeps all and adds black, "squash"
            changes the aspect ratio.

    Returns:
        float32 (size, size, 3), whole numbers 0..255.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, not {mode!r}")
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    if mode == "crop":
        side = tf.minimum(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]  # (side, side, 3)
    if mode != "pad":
        return _resize(image, size, size)
    longer = tf.maximum(height, width)
    new_height = tf.maximum((height * size + longer // 2) // longer, 1)
    new_width = tf.maximum((width * size + longer // 2) // longer, 1)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    fitted = _resize(image, new_height, new_width)
    padded = tf.image.pad_to_bounding_box(fitted, top, left, size, size)
    return tf.ensure_shape(padded, (size, size, 3))


def random_part(
    seed: tf.Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Crop:
    """Returns a random part of any image; the same seed takes the same part.

    Szegedy et al. 2015, Going Deeper with Convolutions, section 6.

    Args:
        seed: int32 (2,).
        scale: The least and greatest share of the image's area.
        ratio: The least and greatest width / height of the part.
    """

    def part(shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.pad(shape, [[0, 1]], constant_values=3),
            tf.zeros((0, 0, 4)),
            seed,
            min_object_covered=0.0,
            area_range=scale,
            aspect_ratio_range=ratio,
            use_image_if_no_bounding_boxes=True,
        )
        return begin[:2], extent[:2]

    return part


def all_of(shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The part that is all of an image."""
    return tf.zeros_like(shape), shape


def _resize(image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    # Averages of bytes need no clipping.
    return tf.round(tf.image.resize(image, (height, width), antialias=True))
