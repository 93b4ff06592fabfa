"""The images on which an export is compared with its model."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from ftkeras.inputs.image.file_check import DAMAGED as DAMAGED
from ftkeras.inputs.image.file_check import why_not as why_not

_EXIF_ORIENTATION = 0x0112
# 8 x 8 pixels, and two frames of that. Pillow may lack the encoder.
_WEBP = base64.b64decode("UklGRh4AAABXRUJQVlA4TBEAAAAvB8ABAAdQjyLXo/+BiOh/AAA=")
_WEBP_ANIMATION = base64.b64decode(
    "UklGRoYAAABXRUJQVlA4WAoAAAACAAAABwAABwAAQU5JTQYAAAAAAAAAAABBTk1GKAAAAAAAAAAAAAcAAAcAAGQAAAJWUDhM"
    "EAAAAC8HwAEAB1CFKHL/AxHR/wBBTk1GKgAAAAAAAAAAAAcAAAcAAGQAAABWUDhMEQAAAC8HwAEAB1CFQhW0/4GI6H8AAA=="
)

LIMITS = (
    "WebP files get an error, and reach no decoder. Rare kinds that training renders with Pillow "
    "(CMYK JPEG, PNG with a transparent palette or EXIF rotation, compressed BMP) are decoded by "
    "TensorFlow and may look different."
)
"""A limit that no golden image shows."""
WARM_UP = ("colour", "grey", "alpha", "rotated")
"""The golden images that are sent to a server first."""


def is_told(name: str, error: str) -> bool:
    """Whether an error fits the file of that name in `refused_images`."""
    return ("WebP is not supported" in error) == ("webp" in name)


@functools.cache
def golden_images() -> Mapping[str, bytes]:
    """Returns encoded images of the kinds that servers meet, by name, the same every time.

    An ordinary JPEG, a grey PNG, a PNG with alpha, a JPEG that EXIF rotates, one of a single pixel,
    and one of six million.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 4), np.uint8)
    picture = Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC)  # soft colours
    colour = picture.convert("RGB")
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = 6  # shown after a quarter turn
    return {
        "colour": _encoded(colour, "JPEG"),
        "grey": _encoded(colour.convert("L"), "PNG"),
        "alpha": _encoded(picture, "PNG"),
        "rotated": _encoded(colour, "JPEG", exif=exif),
        "tiny": _encoded(colour.resize((1, 1)), "PNG"),
        "huge": _encoded(colour.resize((3000, 2000)), "JPEG"),
    }


def refused_images() -> dict[str, bytes]:
    """Returns files that an export must refuse, each with its own error, by name.

    A broken JPEG, a still WebP image, and an animated one that makes TensorFlow's own decoder end
    the process.
    """
    return {"broken": broken_image(), "webp": _WEBP, "animated webp": _WEBP_ANIMATION}


def broken_image() -> bytes:
    """Returns a JPEG with a valid beginning that breaks off in the middle."""
    whole = golden_images()["colour"]
    return whole[: len(whole) // 2]


golden, refused = golden_images, refused_images
"""The names that the module has for every kind."""


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
