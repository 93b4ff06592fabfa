"""Looks at every image before training does: leaves out the broken, normalises the unusual.

TensorFlow's decoders read JPEG, PNG, GIF and BMP, most variants of them as people see them. What
they cannot read, or would show differently, is rendered once with Pillow into a PNG in the user's
cache folder, which then stands for the file.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import TypeVar

import numpy as np
import PIL
import tensorflow as tf
from PIL import Image, ImageFile, ImageOps

from ftkeras.cache import Remembered, cache_folder, digest
from ftkeras.console import Progress
from ftkeras.errors import first_line
from ftkeras.files import written_whole
from ftkeras.inputs.image import decode
from ftkeras.inputs.image.file_check import DAMAGED, MAX_PIXELS, SCANS, why_not
from ftkeras.paths import shown, why_not_readable

T = TypeVar("T")
R = TypeVar("R")

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
}
UNSUPPORTED = frozenset(
    (".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd", ".svg", ".ico")
    + (".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".tga", ".ppm", ".pgm", ".exr")
)

MAX_BYTES = 256 << 20
_ORIENTATION = 0x0112
VERSION = 4  # of what `examine` decides; a new one forgets the cached scans
_CHUNK = 256  # files in flight


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the scan says of one image: leave it out (a reason), or read it from `path`."""

    path: str
    reason: str = ""


def is_image_name(name: str) -> bool:
    """Whether a file's name says that it is an image; hidden files are not."""
    base = PurePosixPath(name)
    return not base.name.startswith(".") and base.suffix.lower() in FORMATS.keys() | UNSUPPORTED


def scan_files(paths: Sequence[str], about: str) -> list[Verdict]:
    """Examines image files, several at a time; what is known of unchanged files is not redone.

    Args:
        paths: The files, anywhere that `tf.io.gfile` reads.
        about: What they belong to (a folder, a manifest); names the cache.

    Returns:
        A verdict for each path, in order.
    """
    known = Remembered("scan", about, VERSION, PIL.__version__, tf.__version__)

    def look(path: str) -> tuple[str, str, list[str] | None, Verdict]:
        if reason := why_not_readable(path):
            return path, "", None, Verdict(shown(path), reason)
        try:
            stat = tf.io.gfile.stat(path)
        except tf.errors.OpError:
            return path, "", None, Verdict(path, "no such file")
        stamp = f"{stat.length}:{stat.mtime_nsec}"
        fact = known.get(path, stamp)
        if isinstance(fact, list) and (not fact[0] or fact[1] or os.path.exists(fact[0])):
            return path, stamp, None, Verdict(fact[0] or path, fact[1])
        if stat.length > MAX_BYTES:
            verdict = Verdict(path, f"file of {stat.length >> 20} MiB; the limit is 256 MiB")
        else:
            try:
                with tf.io.gfile.GFile(path, "rb") as file:
                    verdict = examine(path, file.read(), digest(path, stamp))
            except (OSError, tf.errors.OpError) as error:
                return path, "", None, Verdict(path, f"cannot be read: {first_line(error)}")
        return path, stamp, ["" if verdict.path == path else verdict.path, verdict.reason], verdict

    verdicts = []
    try:
        for path, stamp, fact, verdict in in_parallel(look, paths, "scan images", len(paths)):
            verdicts.append(verdict)
            if fact:
                known.put(path, stamp, fact)
    finally:
        known.save()  # also when interrupted: the next scan goes on from here
    return verdicts


def in_parallel(
    look: Callable[[T], R], items: Iterable[T], label: str, total: int | None
) -> Iterator[R]:
    """Yields `look(item)` in order from a pool of threads; Pillow and TensorFlow free the GIL."""
    progress = Progress(label, total)
    remaining = iter(items)
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow's remarks about odd but readable files
        while chunk := list(islice(remaining, _CHUNK)):
            for result in pool.map(look, chunk):
                yield result
                progress.advance()
    progress.close()


def examine(name: str, encoded: bytes, key: str, check_name: bool = True) -> Verdict:
    """Decides about one image.

    Args:
        name: The file's path.
        encoded: The file's bytes.
        key: A name for its normalised copy, unique to this content.
        check_name: Whether the name's extension must fit the content.

    Returns:
        The verdict; its path is `name`, or that of the normalised copy.
    """
    suffix = PurePosixPath(name).suffix.lower() if check_name else ""
    if suffix in UNSUPPORTED:
        return Verdict(name, f"{suffix[1:]} images are not supported; convert it to JPEG or PNG")
    if not encoded:
        return Verdict(name, "empty file")
    try:
        with Image.open(io.BytesIO(encoded), formats=sorted(set(FORMATS.values()))) as image:
            kind = "JPEG" if image.format == "MPO" else str(image.format)
            if suffix in FORMATS and FORMATS[suffix] != kind:
                return Verdict(name, f"content is {kind}, but the name says {suffix}")
            if image.width * image.height > MAX_PIXELS:
                return Verdict(name, _too_large(image.size))
            reason = _why_not_decoded(encoded, kind)
            if reason == SCANS:
                return Verdict(name, reason)
            if not reason and _shown_alike(image, kind, encoded):
                return Verdict(name)
            copy = cache_folder("normalised", key[:2]) / f"{key}.png"
            with written_whole(copy) as temporary:
                render(image).save(temporary, "PNG", compress_level=1)
            return Verdict(str(copy))
    except Image.DecompressionBombError:
        return Verdict(name, _too_large(None))
    except PIL.UnidentifiedImageError:
        return Verdict(name, "not an image")
    except Exception as error:  # a decoder may raise anything on a stranger's bytes
        return Verdict(name, f"broken or truncated: {first_line(error)}")


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
