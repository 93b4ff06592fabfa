from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ftkeras.inputs.image import decode


def decoded(encoded: bytes) -> np.ndarray:
    return decode.decode_image(tf.constant(encoded)).numpy()


def with_exif(orientation: object, endian: str = "<") -> Image.Exif:
    exif = Image.Exif()
    exif.endian = endian
    exif[0x0110] = "a camera"
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_as_pillow_turns_it(photo, encode, orientation, endian):
    encoded = encode(photo(), "JPEG", exif=with_exif(orientation, endian))
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.getexif().endian == endian
        upright = np.asarray(ImageOps.exif_transpose(image))
        untouched = np.asarray(image)
    np.testing.assert_array_equal(decoded(encoded), upright)
    if orientation > 1:
        assert upright.shape != untouched.shape or (upright != untouched).any()


def test_exif_behind_another_segment_is_found(photo, encode):
    encoded = encode(photo(), "JPEG", exif=with_exif(6))
    comment = b"\xff\xfe" + (3000 + 2).to_bytes(2, "big") + b"x" * 3000
    assert decoded(encoded[:2] + comment + encoded[2:]).shape == (60, 40, 3)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(photo, encode, orientation):
    encoded = encode(photo(), "JPEG", exif=with_exif(orientation))
    assert decoded(encoded).shape == (40, 60, 3)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"", b"II*\0", b"MM\0*"]))
def test_malformed_exif_never_fails(tail, start):
    pixels = np.zeros((4, 6, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", exif=b"Exif\0\0" + start + tail)
    assert set(decoded(stream.getvalue()).shape) == {3, 4, 6}


@pytest.mark.parametrize("cut", [14, 20, 30])
def test_exif_that_breaks_off_reads_as_upright(photo, encode, cut):
    encoded = encode(photo(), "JPEG", exif=with_exif(6))
    at = encoded.index(b"Exif")
    assert int(decode.jpeg_orientation(tf.constant(encoded))) == 6
    assert int(decode.jpeg_orientation(tf.constant(encoded[: at + cut]))) == 1


def test_lossless_colour_is_exact(photo, encode):
    pixels = photo()
    for kind in ("PNG", "BMP"):
        np.testing.assert_array_equal(decoded(encode(pixels, kind)), pixels)


def test_jpeg_pixels_are_those_of_pillow(photo, encode):
    encoded = encode(photo(), "JPEG", quality=80)
    np.testing.assert_array_equal(decoded(encoded), np.asarray(Image.open(io.BytesIO(encoded))))


def test_grey_becomes_rgb(photo, encode):
    grey = photo(channels=1)
    for kind in ("PNG", "JPEG"):
        encoded = encode(grey[..., 0], kind)
        image = decoded(encoded)
        assert image.shape == (40, 60, 3)
        assert (image == image[..., :1]).all()
    np.testing.assert_array_equal(decoded(encode(grey[..., 0], "PNG")), grey.repeat(3, axis=-1))


def test_sixteen_bits_are_scaled_with_rounding(encode):
    wide = np.array([[0, 127, 128, 129, 384, 386, 32896, 65407, 65535]], np.uint16)
    expected = [0, 0, 0, 1, 1, 2, 128, 255, 255]  # round(x / 257)
    assert decoded(encode(wide, "PNG"))[0, :, 1].tolist() == expected


def test_transparency_lies_on_white(encode):
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 255, 51]]], np.uint8)
    # 0.2 * colour + 0.8 * 255
    expected = [[[10, 20, 30], [255, 255, 255], [204, 224, 255]]]
    assert decoded(encode(pixels, "PNG")).tolist() == expected
    grey = np.array([[[100, 51], [0, 255]]], np.uint8)
    image = Image.fromarray(grey[..., 0]).convert("LA")
    image.putalpha(Image.fromarray(grey[..., 1]))
    assert decoded(encode(image, "PNG")).tolist() == [[[224] * 3, [0] * 3]]


def test_a_palette_shows_its_colours(photo, encode):
    palette = Image.fromarray(photo()).quantize(16)
    np.testing.assert_array_equal(decoded(encode(palette, "PNG")), palette.convert("RGB"))


def test_the_first_frame_of_a_gif(photo, encode):
    frames = [Image.fromarray(photo(seed=seed)).quantize(64) for seed in (1, 2)]
    encoded = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decoded(encoded), frames[0].convert("RGB"))


def test_what_is_not_an_image_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoded(b"not an image")


def test_crop_takes_the_centred_square():
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 200
    square = decode.resize_image(tf.constant(image), 5, "crop")
    np.testing.assert_array_equal(square, np.full((5, 5, 3), 200.0))


@pytest.mark.parametrize("turned", [False, True])
def test_pad_keeps_all_and_adds_black(turned):
    image = np.full((10, 30, 3), 200, np.uint8)
    expected = np.zeros((9, 9, 3))
    expected[3:6] = 200.0
    if turned:
        image, expected = image.transpose(1, 0, 2), expected.transpose(1, 0, 2)
    np.testing.assert_array_equal(decode.resize_image(tf.constant(image), 9, "pad"), expected)


def test_pad_keeps_a_line_of_an_extreme_shape():
    image = tf.fill((1, 1000, 3), tf.constant(200, tf.uint8))
    square = decode.resize_image(image, 8, "pad").numpy()
    assert (square == 200).any(axis=(1, 2)).sum() == 1


def test_squash_keeps_all():
    image = np.repeat(np.array([[[0], [100]]], np.uint8), 3, axis=-1).repeat(2, axis=0)  # (2, 2, 3)
    wide = np.repeat(image, 4, axis=1)  # (2, 8, 3): left half 0, right half 100
    square = decode.resize_image(tf.constant(wide), 2, "squash").numpy()
    assert square[:, 0].max() < 20 and square[:, 1].min() > 80


def test_shrinking_averages():
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    image = np.repeat(checks[..., np.newaxis], 3, axis=-1).astype(np.uint8)
    # Without antialiasing a checkerboard shrinks to black, white or moire.
    small = decode.resize_image(tf.constant(image), 8, "squash").numpy()
    assert np.abs(small - 127.5).max() <= 1.0


@pytest.mark.parametrize("mode", decode.MODES)
def test_pixels_are_whole_numbers_in_range(photo, mode):
    square = decode.resize_image(tf.constant(photo(37, 51)), 64, mode).numpy()
    assert square.dtype == np.float32 and square.shape == (64, 64, 3)
    np.testing.assert_array_equal(square, np.clip(square.round(), 0, 255))


def test_a_random_crop_follows_from_its_seed(photo):
    image = tf.constant(photo(80, 80))
    one, again, other = (
        decode.cut(image, decode.random_part((3, seed), (0.2, 0.9))).numpy() for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert one.shape != other.shape or (one != other).any()


def test_a_random_crop_takes_its_share_of_the_area():
    # Each pixel says where it is, so the crop's extent can be read off its corners.
    rows, columns = np.meshgrid(np.arange(200), np.arange(200), indexing="ij")
    image = tf.constant(np.stack([rows, columns, columns], axis=-1).astype(np.uint8))
    for seed in range(20):
        crop = decode.cut(image, decode.random_part((0, seed), (0.25, 0.5), (0.75, 4 / 3)))
        high, wide = crop.shape[0] / 200, crop.shape[1] / 200
        assert 0.22 < high * wide < 0.53
        assert 0.7 < wide / high < 1.45


def test_a_batch_in_a_saved_model_gives_the_same_pixels(photo, encode, tmp_path):
    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
        def __call__(self, encoded):
            return tf.map_fn(
                lambda one: decode.resize_image(decode.decode_image(one, 32), 32, "crop"),
                encoded,
                fn_output_signature=tf.TensorSpec((32, 32, 3), tf.float32),
            )

    tf.saved_model.save(Module(), str(tmp_path / "saved"))
    files = [
        encode(photo(), "JPEG", exif=with_exif(8)),
        encode(photo(seed=1, channels=4), "PNG"),
        encode(photo(20, 90, seed=2)[..., 0], "PNG"),
    ]
    batch = tf.saved_model.load(str(tmp_path / "saved"))(tf.constant(files)).numpy()
    for image, file in zip(batch, files, strict=True):
        alone = decode.resize_image(decode.decode_image(tf.constant(file)), 32, "crop")
        np.testing.assert_array_equal(image, alone)
    assert tf.saved_model.load(str(tmp_path / "saved"))(tf.zeros((0,), tf.string)).shape[0] == 0


@pytest.mark.parametrize(
    ("shape", "least", "expected"),
    [
        ((640, 480), 0, (640, 480)),
        ((640, 480), 30, (80, 60)),  # an eighth is just enough
        ((640, 480), 31, (160, 120)),
        ((640, 480), 121, (640, 480)),
        ((641, 480), 120, (321, 240)),
        ((30, 20), 224, (30, 20)),
    ],
)
def test_a_large_jpeg_is_decoded_no_larger_than_needed(shape, least, expected):
    width, height = shape
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(file, "JPEG")
    image = decode.decode_image(tf.constant(file.getvalue()), least)
    assert tuple(image.shape[:2]) == expected[::-1]


def test_what_is_decoded_smaller_looks_the_same_once_resized():
    waves = np.sin(np.linspace(0, 40, 600))[:, None] * np.cos(np.linspace(0, 30, 800))
    pixels = (127 + 120 * np.stack([waves, waves**2, -waves], -1)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, exif=with_exif(6))
    encoded = tf.constant(file.getvalue())
    whole = decode.resize_image(decode.decode_image(encoded), 64, "crop")
    small = decode.resize_image(decode.decode_image(encoded, 64), 64, "crop")
    assert decode.decode_image(encoded, 64).shape == (200, 150, 3)  # upright
    assert np.abs(whole - small).mean() < 1.5


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("least", [0, 20, 40])
def test_a_part_of_a_jpeg_has_the_pixels_of_the_whole(photo, encode, sampling, progressive, least):
    options = {"subsampling": sampling, "progressive": progressive, "quality": 85}
    for height, width in ((173, 231), (241, 190)):
        noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
        pixels = (photo(height, width) // 2 + noise).astype(np.uint8)
        encoded = tf.constant(encode(pixels, "JPEG", **options))
        whole = decode.decode_image(encoded, least)
        for seed in range(12):
            part = decode.random_part((1, seed), (0.02, 1.0))
            found = decode.decode_image(encoded, least, part)
            np.testing.assert_array_equal(found, decode.cut(whole, part))


@pytest.mark.parametrize(("kind", "orientation"), [("JPEG", 6), ("JPEG", 3), ("PNG", 1)])
def test_a_part_is_one_of_the_upright_image(photo, encode, kind, orientation):
    options = {"exif": with_exif(orientation)} if kind == "JPEG" else {}
    encoded = tf.constant(encode(photo(90, 140), kind, **options))
    part = decode.random_part((0, 4), (0.1, 0.5))
    found = decode.decode_image(encoded, 0, part)
    assert found.shape[0] < 90 and found.shape[1] < 90
    np.testing.assert_array_equal(found, decode.cut(decode.decode_image(encoded), part))


def test_parts_of_grey_and_cmyk_jpegs_and_of_tiny_ones(photo, encode):
    grey = encode(photo(60, 70)[..., 0], "JPEG")
    cmyk = io.BytesIO()
    Image.fromarray(photo(60, 70)).convert("CMYK").save(cmyk, "JPEG")
    for file in (grey, cmyk.getvalue(), encode(photo(1, 1), "JPEG"), encode(photo(9, 2), "JPEG")):
        whole = decode.decode_image(tf.constant(file))
        for seed in range(6):
            part = decode.random_part((2, seed), (0.1, 1.0))
            found = decode.decode_image(tf.constant(file), 0, part)
            np.testing.assert_array_equal(found, decode.cut(whole, part))


def test_what_lies_below_a_part_of_a_jpeg_is_not_decoded(photo, encode):
    encoded = encode(photo(200, 150), "JPEG", quality=95)
    half = tf.constant(encoded[: len(encoded) // 2])  # the lower half of it cannot be decoded
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode.decode_image(half)

    def top(shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.constant([0, 0]), tf.stack([40, shape[1]])

    whole = decode.decode_image(tf.constant(encoded))
    np.testing.assert_array_equal(decode.decode_image(half, 0, top), whole[:40])
