"""Which bytes a decoder may see."""

from __future__ import annotations

import functools
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ftkeras.inputs.image import decode, file_check
from ftkeras.inputs.image.file_check import DAMAGED, EMPTY, SCANS, UNKNOWN, WEBP

ANIMATION = Path(__file__).with_name("anim.webp").read_bytes()  # ends TensorFlow's own decoder


def encode(kind: str, size: tuple[int, int] = (20, 12), mode: str = "RGB", **options) -> bytes:
    stream = io.BytesIO()
    coarse = Image.frombytes("RGB", (4, 4), np.random.default_rng(0).bytes(48))
    image = coarse.resize(size).convert("L" if mode == "I;16" else "RGB").convert(mode)
    image.save(stream, kind, **options)
    return stream.getvalue()


FILE = [tf.TensorSpec((), tf.string)]
decode_image = tf.function(decode.decode_image, input_signature=FILE)


why_not = tf.function(file_check.why_not, input_signature=FILE)


def _named(kind: bytes, file: tf.Tensor) -> tf.Tensor:
    return kind + b" " + file


@functools.partial(tf.function, input_signature=FILE)
def passed(file: tf.Tensor) -> tf.Tensor:
    """What a decoder sees."""
    return file_check.read_checked(file, lambda file: file_check.JPEG + b" " + file, _named)


def check(file: bytes) -> tuple[bytes, str]:
    """Returns what a decoder sees, and the reason if that is nothing; both agree."""
    reason = why_not(tf.constant(file)).numpy().decode()
    if reason:
        with pytest.raises(tf.errors.InvalidArgumentError, match="assertion failed"):
            passed(tf.constant(file))
        return b"", reason
    kind, _, seen = passed(tf.constant(file)).numpy().partition(b" ")
    assert seen.startswith(kind)
    return seen, ""


def patched(file: bytes, at: int, form: str, *values: int) -> bytes:
    new = struct.pack(form, *values)
    return file[:at] + new + file[at + len(new) :]


def jpeg_of(height: int, width: int) -> bytes:
    file = encode("JPEG")
    return patched(file, file.index(b"\xff\xc0") + 5, ">HH", height, width)


def png_of(width: int, height: int) -> bytes:
    return patched(encode("PNG"), 16, ">II", width, height)


def bmp_of(width: int, height: int) -> bytes:
    return patched(encode("BMP"), 18, "<ii", width, height)


def gif_of(width: int, height: int, **options) -> bytes:
    file = encode("GIF", mode="P", **options)
    return patched(file, file.index(b",\0\0\0\0") + 5, "<HH", width, height)


GOOD = {
    "jpeg": encode("JPEG"),
    "progressive": encode("JPEG", progressive=True),
    "cmyk": encode("JPEG", mode="CMYK"),
    "png": encode("PNG"),
    "sixteen bits": encode("PNG", mode="I;16"),
    "bmp": encode("BMP"),
    "top down": bmp_of(20, -12),
    "gif": encode("GIF", mode="P"),
    "one pixel": encode("GIF", size=(1, 1), mode="P"),
}


@pytest.mark.parametrize("name", GOOD)
def test_ordinary_files_pass(name):
    file = GOOD[name]
    assert check(file) == (file, "")
    assert decode_image(tf.constant(file)).shape[-1] == 3


@pytest.mark.parametrize("trap", [b"RIFF", b"RIFF\0\0\0\0", b"RIFF\0\0\0\0WEB"])
def test_short_files_that_begin_as_webp_are_unknown(trap):
    assert check(trap) == (b"", UNKNOWN)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (ANIMATION, WEBP),
        (encode("WEBP"), WEBP),
        (encode("WEBP", lossless=True), WEBP),
        (encode("TIFF"), UNKNOWN),
        (b"\xff\x0a" + bytes(40), UNKNOWN),  # JPEG XL, bare and in a box
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), UNKNOWN),
        (b" " + GOOD["png"], UNKNOWN),
        (b"\x89PNG" + bytes(40), UNKNOWN),
        (b"hello", UNKNOWN),
        (b"", EMPTY),
        (GOOD["png"][:8] + GOOD["png"][33:], DAMAGED),  # no header
        (GOOD["png"][:20], DAMAGED),
        (png_of(0, 5), DAMAGED),
        (bmp_of(5, 0), DAMAGED),
        (b"BM", DAMAGED),
        (png_of(2**31 + 1, 1), "2147483649 x 1 pixels; the limit is 89 million"),
        (png_of(2**32 - 1, 2**32 - 1), "4294967295 x 4294967295 pixels"),
        (png_of(9460, 9460), "9460 x 9460 pixels"),
        (bmp_of(2**31 - 1, -(2**31)), "2147483647 x 2147483648 pixels"),
        (jpeg_of(9460, 9460), "9460 x 9460 pixels"),
        (jpeg_of(65_000, 65_000), "65000 x 65000 pixels"),
        (gif_of(65_535, 65_535), "65535 x 65535 pixels"),
        (gif_of(0, 9), DAMAGED),
    ],
)
def test_everything_else_is_refused_with_a_reason(file, reason):
    allowed, said = check(file)
    assert allowed == b"" and said.startswith(reason)
    shown = "a JPEG of more than 89 million" if file[:2] == b"\xff\xd8" else reason.split(":")[0]
    with pytest.raises(tf.errors.InvalidArgumentError, match=shown):
        decode_image(tf.constant(file))


def test_images_up_to_the_limit_pass():
    assert check(png_of(9459, 9459))[1] == check(bmp_of(9459, -9459))[1] == ""
    assert check(jpeg_of(9459, 9459))[1] == check(gif_of(9459, 9459))[1] == ""


def test_a_jpeg_of_too_many_scans_is_refused():
    file = encode("JPEG", progressive=True)
    last = file.rindex(b"\xff\xda")
    scans = file.count(b"\xff\xda")
    most = file[:last] + file[last:-2] * (101 - scans) + file[-2:]
    assert most.count(b"\xff\xda") == 100 and check(most)[1] == ""
    more = file[:last] + file[last:-2] * (102 - scans) + file[-2:]
    assert check(more) == (b"", SCANS)


# ---------------------------------------------------------------------------------- GIF


def animation(frames: int, size: tuple[int, int] = (40, 30), **options) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (frames, *size[::-1]), np.uint8)
    images = [Image.fromarray(pixels).convert("P") for pixels in noise]
    images[0].save(stream, "GIF", save_all=True, append_images=images[1:], **options)
    return stream.getvalue()


def first_of(file: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    "file",
    [
        animation(3),
        animation(2, size=(500, 400)),  # a frame of 800 blocks
        animation(2, loop=0, comment=b"x" * 2000),  # extensions before the first frame
        animation(2) + b"what comes after the end",
    ],
)
def test_of_an_animated_gif_the_first_frame_passes(file):
    allowed, reason = check(file)
    assert not reason and len(allowed) < len(file) and allowed[-1:] == b";"
    assert file.startswith(allowed[:-1])
    assert tf.io.decode_gif(allowed).shape[0] == 1
    np.testing.assert_array_equal(decode_image(tf.constant(file)), first_of(file))


def with_blocks(file: bytes, lengths: list[int]) -> bytes:
    """Cuts a still GIF's data into other blocks."""
    start = file.index(b",\0\0\0\0") + 11
    at, data = start, b""
    while file[at]:
        data, at = data + file[at + 1 : at + 1 + file[at]], at + 1 + file[at]
    blocks, position = b"", 0
    for number in range(len(data)):
        part = data[position : position + lengths[number % len(lengths)]]
        blocks, position = blocks + bytes([len(part)]) * bool(part) + part, position + len(part)
    return file[:start] + blocks + file[at:]


@pytest.mark.parametrize("lengths", [[1], [255], [7, 200], [1, 2], list(range(1, 200))])
def test_a_gif_may_have_blocks_of_any_lengths(lengths):
    whole = encode("GIF", size=(60, 50), mode="P")
    file = with_blocks(whole, lengths)
    assert check(file) == (file, "")
    found = decode_image(tf.constant(file))
    np.testing.assert_array_equal(found, decode_image(tf.constant(whole)))


def test_a_gif_that_breaks_off_anywhere_has_no_answer():
    file = encode("GIF", size=(60, 50), mode="P", comment=b"a" * 300)
    for end in range(4, len(file) - 2, 37):
        assert check(file[:end]) == (b"", DAMAGED), end


def test_a_gif_of_endless_small_parts_is_refused():
    file = GOOD["gif"]
    start = file.index(b",\0\0\0\0")
    extensions = file[:start] + b"!\xfe\1x\0" * 100 + file[start:]
    uneven = file[:start] + b"!\xfe" + b"\1x\2xx" * 3000 + b"\0" + file[start:]
    assert check(extensions)[1] == check(uneven)[1] == DAMAGED
    assert check(file[:start] + b"!\xfe\1x\0" * 60 + file[start:])[1] == ""
