"""Checks every image before training: leaves out broken ones, normalises unusual ones.

TensorFlow's decoders read JPEG, PNG, GIF and BMP, and most variants of them correctly. Pillow
renders a file that they cannot read, or would show differently, into a PNG in the user's cache
folder. That PNG is then read instead of the file.
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
from ftkeras.errors import UserError, first_line
from ftkeras.files import write_whole
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
_KNOWN = FORMATS.keys() | UNSUPPORTED

_ORIENTATION = 0x0112
VERSION = 5  # of the decisions of `examine`; a new one discards cached scans


def is_image_name(name: str) -> bool:
    """Whether a file is an image, by its name; hidden files are not."""
    base = name.rpartition("/")[2]  # in folders of 100,000 files, a Path for each takes a second
    return not base.startswith(".") and base[base.rfind(".") :].lower() in _KNOWN


def examine(name: str, encoded: bytes, key: str) -> Verdict:
    """Checks one image.

    Args:
        name: The file's path; empty if it has none. The content decides the format; if the
            extension is another format's, a note reports it.
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
            return Verdict(_copied(render(image), key), note=note)
    except UserError:
        raise
    except Image.DecompressionBombError:
        return Verdict(name, _too_large(None))
    except PIL.UnidentifiedImageError:
        if suffix in UNSUPPORTED or FORMATS.get(suffix, "JPEG") not in _readable():
            return Verdict(name, f"{suffix[1:]} images are not supported; convert to JPEG or PNG")
        return Verdict(name, "not an image")
    except Exception as error:  # a decoder may raise any error on untrusted bytes
        return Verdict(name, f"broken or truncated: {first_line(error)}")


def _copied(image: Image.Image, key: str) -> str:
    """Writes a copy to the cache, and returns its path.

    Raises:
        UserError: It cannot be written: the fault is not the file's.
    """
    copy = cache_folder("normalised", key[:2]) / f"{key}.png"
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=1)
    try:
        write_whole(copy, content.getvalue())
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"{copy}: this copy of an image cannot be written ({first_line(error)}). Make room, or "
            "name another folder for what is kept: FTKERAS_CACHE."
        ) from None
    return str(copy)


@functools.cache
def _readable() -> tuple[str, ...]:
    """Returns the formats among these that the installed Pillow reads."""
    Image.init()
    return tuple(sorted(set(FORMATS.values()) & Image.OPEN.keys()))


def _too_large(size: tuple[int, int] | None) -> str:
    pixels = f"{size[0]} x {size[1]} pixels" if size else "far too many pixels"
    return f"{pixels}; the limit is {MAX_PIXELS // 10**6} million"


def _why_not_decoded(encoded: bytes, kind: str) -> str:
    """Returns why no TensorFlow decoder may read these bytes, or an empty string."""
    if kind == "PNG" and encoded[12:16] == b"IHDR":
        return ""  # saves 1 ms: for a PNG only the size is checked, which is known
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
        return _decodes(tf.io.decode_jpeg, encoded, ratio=8)  # reads all bytes, computes little
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
        image.load()  # raises on missing data, which TensorFlow would fill in
        return whole and still and _decodes(decode.decode_image, encoded)
    if kind == "BMP":  # 24 bits without compression; TensorFlow reads other variants wrongly
        return encoded[28:34] == b"\x18\0\0\0\0\0" and _decodes(tf.io.decode_bmp, encoded)
    return False


def _orientation(encoded: bytes) -> int:
    return int(decode.jpeg_orientation(tf.constant(encoded)))


def _decodes(decoder: Callable[..., tf.Tensor], encoded: bytes, **options: int) -> bool:
    try:
        decoder(tf.constant(encoded), **options)  # with Python's bytes it would take twice as long
    except tf.errors.OpError:
        return False
    return True


def render(image: Image.Image) -> Image.Image:
    """Renders an image upright, in RGB, on white.

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
