from __future__ import annotations

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ftkeras.data.scan import MAX_BYTES, scan_files
from ftkeras.errors import UserError
from ftkeras.inputs.base import Verdict
from ftkeras.inputs.image import decode, scan
from ftkeras.inputs.image.input import ImageInput


def shown(path: str) -> np.ndarray:
    """What training sees of a file."""
    return decode.decode_image(tf.io.read_file(path)).numpy()


def verdict_of(folder, name: str, content: bytes) -> Verdict:
    path = folder / name
    path.write_bytes(content)
    return scan_files([str(path)], str(folder), ImageInput())[0]


def huge_png() -> bytes:
    """A PNG of a few bytes that says it has 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def pictures(photo) -> dict[str, tuple[Image.Image, str, dict]]:
    """name -> (image, format, save options), of every kind that people have."""
    rgb = Image.fromarray(photo())
    rgba = Image.fromarray(photo(channels=4))
    grey = Image.fromarray(photo(channels=1)[..., 0])
    wide = Image.fromarray((photo(channels=1)[..., 0].astype(np.uint16) * 257) ^ 0x55)
    palette = rgb.quantize(32)
    exif = Image.Exif()
    exif[0x0112] = 6
    small_frame = Image.new("P", (60, 40))
    return {
        "rgb.jpg": (rgb, "JPEG", {}),
        "progressive.jpeg": (rgb, "JPEG", {"progressive": True}),
        "grey.jpg": (grey, "JPEG", {}),
        "cmyk.jpg": (rgb.convert("CMYK"), "JPEG", {"quality": 95}),
        "turned.jpg": (rgb, "JPEG", {"exif": exif}),
        "rgb.png": (rgb, "PNG", {}),
        "rgba.png": (rgba, "PNG", {}),
        "grey.png": (grey, "PNG", {}),
        "grey_alpha.png": (rgba.convert("LA"), "PNG", {}),
        "grey16.png": (wide, "PNG", {}),
        "bilevel.png": (rgb.convert("1"), "PNG", {}),
        "palette.png": (palette, "PNG", {}),
        "palette4.png": (rgb.quantize(4), "PNG", {"bits": 2}),
        "palette_transparent.png": (palette, "PNG", {"transparency": 3}),
        "palette_alpha.png": (palette, "PNG", {"transparency": bytes(range(0, 256, 8))}),
        "key.png": (rgb, "PNG", {"transparency": rgb.getpixel((3, 3))}),
        "grey_key.png": (grey, "PNG", {"transparency": grey.getpixel((3, 3))}),
        "turned.png": (rgb, "PNG", {"exif": exif}),
        "plain.gif": (palette, "GIF", {}),
        "transparent.gif": (palette, "GIF", {"transparency": 3}),
        "animated.gif": (palette, "GIF", {"save_all": True, "append_images": [small_frame]}),
        "rgb.bmp": (rgb, "BMP", {}),
        "grey.bmp": (grey, "BMP", {}),
        "palette.bmp": (palette, "BMP", {}),
        "rgba.bmp": (rgba, "BMP", {}),
        "bilevel.bmp": (rgb.convert("1"), "BMP", {}),
        "lossless.webp": (rgb, "WEBP", {"lossless": True}),
        "lossy.webp": (rgb, "WEBP", {}),
        "alpha.webp": (rgba, "WEBP", {"lossless": True}),
        "turned.webp": (rgb, "WEBP", {"lossless": True, "exif": exif}),
    }


NAMES = list(pictures(lambda *args, channels=3: np.zeros((40, 60, channels), np.uint8)))


@pytest.mark.parametrize("name", NAMES)
def test_training_sees_what_pillow_shows(tmp_path, photo, name):
    image, kind, options = pictures(photo)[name]
    path = tmp_path / name
    image.save(path, kind, **options)
    (verdict,) = scan_files([str(path)], name, ImageInput())
    assert verdict.reason == ""
    with warnings.catch_warnings(), Image.open(path) as opened:
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(shown(verdict.path), np.asarray(scan.render(opened)))


def test_only_the_unusual_is_copied(tmp_path, photo):
    copied = set()
    for name, (image, kind, options) in pictures(photo).items():
        image.save(tmp_path / name, kind, **options)
        (verdict,) = scan_files([str(tmp_path / name)], name, ImageInput())
        if verdict.path != str(tmp_path / name):
            copied.add(name)
    plain = {"rgb.jpg", "progressive.jpeg", "grey.jpg", "turned.jpg", "rgb.png", "rgba.png"}
    plain |= {"grey.png", "grey_alpha.png", "grey16.png", "palette.png", "plain.gif", "rgb.bmp"}
    assert not copied & plain
    assert {"lossy.webp", "cmyk.jpg", "turned.png", "key.png", "palette.bmp"} <= copied


def test_rendering_is_right_where_pillow_alone_is_not(photo, encode):
    wide = np.array([[0, 128, 129, 65535]], np.uint16)
    with Image.open(io.BytesIO(encode(wide, "PNG"))) as opened:
        assert np.asarray(scan.render(opened))[0, :, 0].tolist() == [0, 0, 1, 255]
    half = np.dstack([photo(), np.full((40, 60), 51, np.uint8)])
    with Image.open(io.BytesIO(encode(half, "WEBP", lossless=True))) as opened:
        on_white = np.round(0.2 * half[..., :3].astype(float) + 0.8 * 255)
        assert np.abs(np.asarray(scan.render(opened)) - on_white).max() <= 1


def test_bad_files_are_named_with_the_reason(tmp_path, photo, encode):
    whole = encode(photo(), "JPEG")
    png = encode(photo(), "PNG")
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    made_up = bytearray(encode(noise, "GIF"))  # TensorFlow fills in what it cannot read
    made_up[len(made_up) // 2 : len(made_up) // 2 + 8] = b"\xaa" * 8
    broken = bytearray(png)
    broken[len(png) // 2] ^= 0xFF
    cases = {
        "empty.jpg": (b"", "empty file"),
        "truncated.jpg": (whole[: len(whole) // 2], "broken or truncated"),
        "truncated.png": (png[: len(png) // 2], "broken or truncated"),
        "broken.png": (bytes(broken), "broken or truncated"),
        "broken.gif": (bytes(made_up), "broken or truncated"),
        "text.jpg": (b"<html>404 not found</html>", "not an image"),
        "huge.png": (huge_png(), "the limit is 89 million"),
        "phone.heic": (b"\0\0\0\x18ftypheic", "heic images are not supported"),
        "scan.tif": (b"II*\0", "not an image"),
    }
    for name, (content, reason) in cases.items():
        verdict = verdict_of(tmp_path, name, content)
        assert reason in verdict.reason, name


def test_a_bomb_between_pillows_two_limits_is_caught_without_decoding(
    tmp_path, encode, monkeypatch
):
    content = encode(Image.new("RGB", (10, 10)), "WEBP")
    monkeypatch.setattr(scan, "MAX_PIXELS", 99)
    monkeypatch.setattr(scan, "render", lambda image: pytest.fail("decoded"))
    verdict = verdict_of(tmp_path, "ten.webp", content)
    assert verdict.reason.startswith("10 x 10 pixels")


def test_a_file_too_large_to_read_is_left_alone(tmp_path):
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    (verdict,) = scan_files([str(tmp_path / "sparse.jpg")], "x", ImageInput())
    assert "limit is 256 MiB" in verdict.reason


def test_unchanged_files_are_not_looked_at_again(tmp_path, photo, encode, monkeypatch):
    first = verdict_of(tmp_path, "a.webp", encode(photo(), "WEBP"))
    looks = []
    real = scan.examine
    monkeypatch.setattr(scan, "examine", lambda *args: looks.append(args[0]) or real(*args))
    path = str(tmp_path / "a.webp")
    assert scan_files([path], str(tmp_path), ImageInput()) == [first]
    assert looks == []
    os.utime(path, (1, 1))
    assert scan_files([path], str(tmp_path), ImageInput())[0].reason == ""
    assert looks == [path]


def test_a_deleted_copy_is_made_again(tmp_path, photo, encode):
    first = verdict_of(tmp_path, "a.webp", encode(photo(), "WEBP"))
    os.remove(first.path)
    again = scan_files([str(tmp_path / "a.webp")], str(tmp_path), ImageInput())[0]
    assert again == first and os.path.exists(again.path)


def test_a_full_disk_is_no_fault_of_a_file(tmp_path, photo, monkeypatch):
    def full(path, content):
        raise OSError("no space left on device")

    content = io.BytesIO()
    Image.fromarray(photo()).convert("CMYK").save(content, "JPEG")
    monkeypatch.setattr(scan, "write_whole", full)
    with pytest.raises(UserError, match=r"cannot be written \(no space left.*FTKERAS_CACHE"):
        scan.examine("a.jpg", content.getvalue(), "ab-key")


def test_verdicts_keep_the_order_of_the_paths(tmp_path, photo, encode):
    paths = []
    for i in range(40):
        paths.append(str(tmp_path / f"{i}.png"))
        (tmp_path / f"{i}.png").write_bytes(encode(photo(), "PNG") if i % 3 else b"")
    verdicts = scan_files([*paths, str(tmp_path / "missing.png")], "x", ImageInput())
    assert [v.path for v in verdicts[:-1]] == paths
    assert [v.reason for v in verdicts] == ["" if i % 3 else "empty file" for i in range(40)] + [
        "no such file"
    ]


@pytest.mark.parametrize(
    ("name", "is_image"),
    [("a.JPG", True), ("a.webp", True), ("a.heic", True), ("._a.jpg", False), ("a.txt", False)]
    + [("Thumbs.db", False), (".hidden.png", False), ("jpg", False)],
)
def test_image_names(name, is_image):
    assert scan.is_image_name(name) is is_image
