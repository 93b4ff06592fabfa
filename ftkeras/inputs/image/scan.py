"""Looks at every image before training does: leaves out the broken, normalises the unusual.

TensorFlow's decoders read JPEG, PNG, GIF and BMP, most variants of them as people see them. What
they cannot read, or would show differently, is rendered once with Pillow into a PNG in the user's
cache folder, which then stands for the file.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import PurePosixPath

import numpy as np
import PIL
import tensorflow as tf
from PIL import Image, ImageFile, ImageOps

from ftkeras.cache import cache_folder
from ftkeras.errors import first_line
from ftkeras.files import written_whole
from ftkeras.inputs.base import Verdict
from ftkeras.inputs.image import decode
from ftkeras.inputs.image.file_check import DAMAGED, MAX_PIXELS, SCANS, why_not

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
    ".jp2": "JPEG2000",
    ".ppm": "PPM",
    ".pgm": "PPM",
}
UNSUPPORTED = frozenset(
    (".heic", ".heif", ".jxl", ".psd", ".svg", ".ico", ".tga", ".exr")
    + (".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw")
)

_ORIENTATION = 0x0112
VERSION = 5  # of what `examine` decides; a new one forgets the cached scans


def is_image_name(name: str) -> bool:
    """Whether a file's name says that it is an image; hidden files are not."""
    base = PurePosixPath(name)
    return not base.name.startswith(".") and base.suffix.lower() in FORMATS.keys() | UNSUPPORTED


def examine(name: str, encoded: bytes, key: str) -> Verdict:
    """Decides about one image.

    Args:
        name: The file's path; empty if it has none. The content decides what it is, and a note
            says so if its extension says something else.
        encoded: The file's bytes.
        key: A name for its normalised copy, unique to this content.

    Returns:
        The verdict; its path is `name`, or that of the normalised copy.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if not encoded:
        return Verdict(name, "empty file")
    try:
        with Image.open(io.BytesIO(encoded), formats=_readable()) as image:
            kind = "JPEG" if image.format == "MPO" else str(image.format)
            if image.mode == "F":
                return Verdict(name, "pixels with fractions: save it with 8 or 16 bits")
            is_other = suffix in UNSUPPORTED or FORMATS.get(suffix, kind) != kind
            note = f"content is {kind}, but the name says {suffix}" if is_other else ""
            if image.width * image.height > MAX_PIXELS:
                return Verdict(name, _too_large(image.size))
            reason = _why_not_decoded(encoded, kind)
            if reason == SCANS:
                return Verdict(name, reason)
            if not reason and _shown_alike(image, kind, encoded):
                return Verdict(name, note=note)
            copy = cache_folder("normalised", key[:2]) / f"{key}.png"
            with written_whole(copy) as temporary:
                render(image).save(temporary, "PNG", compress_level=1)
            return Verdict(str(copy), note=note)
    except Image.DecompressionBombError:
        return Verdict(name, _too_large(None))
    except PIL.UnidentifiedImageError:
        if suffix in UNSUPPORTED or FORMATS.get(suffix, "JPEG") not in _readable():
            return Verdict(name, f"{suffix[1:]} images are not supported; convert to JPEG or PNG")
        return Verdict(name, "not an image")
    except Exception as error:  # a decoder may raise anything on a stranger's bytes
        return Verdict(name, f"broken or truncated: {first_line(error)}")


@functools.cache
def _readable() -> tuple[str, ...]:
    """Returns those of the formats that this Pillow reads."""
    Image.init()
    return tuple(sorted(set(FORMATS.values()) & Image.OPEN.keys()))


def _too_large(size: tuple[int, int] | None) -> str:
    pixels = f"{size[0]} x {size[1]} pixels" if size else "far too many pixels"
    return f"{pixels}; the limit is {MAX_PIXELS // 10**6} million"


def _why_not_decoded(encoded: bytes, kind: str) -> str:
    """Returns why no TensorFlow decoder may see these bytes, or an empty string."""
    if kind == "PNG" and encoded[12:16] == b"IHDR":
        return ""  # of a PNG only the size is checked besides, and that is known; a call takes 1 ms
    try:
        return bytes(_why_not(tf.constant(encoded)).numpy()).decode()
    except tf.errors.OpError:
        return DAMAGED


_why_not = tf.function(why_not, input_signature=[tf.TensorSpec((), tf.string)], autograph=False)


def _shown_alike(image: Image.Image, kind: str, encoded: bytes) -> bool:
    """Whether TensorFlow reads this image, and shows it as Pillow does."""
    orientation = image.getexif().get(_ORIENTATION, 1)
    if kind == "JPEG":
        if image.mode not in ("RGB", "L"):
            return False
        if orientation != 1 or b"Exif\0\0" in encoded:
            shown_as = orientation if orientation in range(2, 9) else 1
            if _orientation(encoded) != shown_as:
                return False
        return _decodes(tf.io.decode_jpeg, encoded, ratio=8)  # reads all, computes little
    if orientation in range(2, 9) or "transparency" in image.info:
        return False
    if kind == "PNG":
        return _decodes(tf.io.decode_png, encoded)
    if kind == "GIF":
        # TensorFlow unpacks every frame, and there may be millions. A first frame that is smaller
        # than the canvas leaves the rest undefined.
        assert isinstance(image, ImageFile.ImageFile)
        whole = image.tile[0][1] == (0, 0, *image.size)
        still = not getattr(image, "is_animated", False)
        image.load()  # raises where TensorFlow would make up what is missing
        return whole and still and _decodes(decode.decode_image, encoded)
    if kind == "BMP":  # 24 bits without compression; other kinds are read as other things
        return encoded[28:34] == b"\x18\0\0\0\0\0" and _decodes(tf.io.decode_bmp, encoded)
    return False


def _orientation(encoded: bytes) -> int:
    return int(decode.jpeg_orientation(tf.constant(encoded)))


def _decodes(decoder: Callable[..., tf.Tensor], encoded: bytes, **options: int) -> bool:
    try:
        decoder(tf.constant(encoded), **options)  # of Python's bytes it would take twice as long
    except tf.errors.OpError:
        return False
    return True


def render(image: Image.Image) -> Image.Image:
    """Renders an image as people see it: upright, RGB, on white.

    Args:
        image: As Pillow opened it.

    Returns:
        A new image of mode RGB.
    """
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion would clip them
        wide = np.clip(np.asarray(upright, np.int64), 0, 65535)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
    if "transparency" not in upright.info and not upright.mode.endswith(("A", "a")):
        return upright.convert("RGB")
    clear = upright.convert("RGBA")
    white = Image.new("RGB", clear.size, "white")
    white.paste(clear, mask=clear.getchannel("A"))
    return white
