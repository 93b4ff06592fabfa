"""Perceptual hashes and the search among them, against comparing all with all."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from ftkeras.data.load import load_data
from ftkeras.doctor.look import look_at
from ftkeras.inputs.copies import exact_pairs
from ftkeras.inputs.image import duplicates
from ftkeras.inputs.image.input import ImageInput
from ftkeras.inputs.image.looks import Looks


def thumbnails(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(i.convert("L").resize((32, 32), Image.BOX)) for i in images])


def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.array([bin(int(a) ^ int(b)).count("1") for a, b in zip(one, other, strict=True)])


def looks_of(images: list[Image.Image], labels: list[int] | None = None) -> Looks:
    count = len(images)
    return Looks(
        ids=[f"{i}.png" for i in range(count)],
        splits=np.array(["train"] * count),
        indices=np.arange(count),
        labels=np.array(labels or [0] * count),
        sizes=np.array([image.size[::-1] for image in images]),
        contents=np.array([hash(image.tobytes()) for image in images]),
        deviation=np.array([np.asarray(image.convert("L")).std() for image in images]),
        coloured=np.array([image.mode == "RGB" for image in images]),
        thumbnails=thumbnails(images),
    )


def alike(rows: np.ndarray) -> np.ndarray:
    """A backbone that finds all images alike."""
    return np.ones((len(rows), 2), np.float32)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def test_candidates_are_those_of_comparing_all_with_all():
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**63, 300, dtype=np.uint64)
    for i in range(100):  # row i + 100 differs from row i in i % 5 bits
        flips = sum(1 << bit for bit in random.choice(64, i % 5, replace=False).tolist())
        hashes[i + 100] = hashes[i] ^ np.uint64(flips)
    found = set(map(tuple, duplicates.candidates(hashes).tolist()))
    near = {
        (i, j): bin(int(hashes[i]) ^ int(hashes[j])).count("1")
        for i in range(300)
        for j in range(i + 1, 300)
    }
    assert {pair for pair, bits in near.items() if bits <= 3} <= found
    assert all(near[pair] <= 8 for pair in found)


def test_a_hash_survives_what_people_do_to_images(new_photo):
    photos = [new_photo(seed, 160, 128) for seed in range(60)]
    done = {
        "jpeg": [jpeg(photo, 40) for photo in photos],
        "half": [photo.resize((80, 64)) for photo in photos],
        "bright": [ImageEnhance.Brightness(photo).enhance(0.8) for photo in photos],
    }
    everything = [*photos, *(image for images in done.values() for image in images)]
    hashes = duplicates.perceptual_hashes(thumbnails(everything))
    for number, name in enumerate(done, 1):
        bits = distance(hashes[:60], hashes[60 * number : 60 * (number + 1)])
        assert np.median(bits) <= 3, name
    others = distance(hashes[:59], hashes[1:60])
    assert others.min() > 12


def test_every_bit_of_a_hash_divides_the_data_set_in_half():
    """Also where all images have the same frame, as garments on black have."""
    random = np.random.default_rng(0)
    images = np.zeros((200, 32, 32), np.uint8)
    images[:, 8:24, 8:24] = random.integers(150, 256, (200, 16, 16))
    hashes = duplicates.perceptual_hashes(images)
    ones = np.array([[(int(h) >> bit) & 1 for bit in range(64)] for h in hashes]).mean(axis=0)
    np.testing.assert_allclose(ones, 0.5, atol=0.03)


def test_near_pairs_are_copies_and_nothing_else(new_photo):
    photos = [new_photo(seed) for seed in range(40)]
    copies = [jpeg(photos[3], 40), ImageEnhance.Brightness(photos[5]).enhance(0.8)]
    pairs = duplicates.near_pairs(looks_of([*photos, *copies]), alike)
    assert pairs.tolist() == [[3, 40], [5, 41]]


def test_a_backbone_that_finds_them_unlike_overrules(new_photo):
    photos = [new_photo(seed) for seed in range(10)]
    looks = looks_of([*photos, jpeg(photos[3], 40)])
    unlike = duplicates.near_pairs(looks, lambda rows: np.eye(len(rows), 5, dtype=np.float32))
    assert not len(unlike)


def test_a_grey_copy_is_found_whatever_the_backbone_says(new_photo):
    photos = [new_photo(seed) for seed in range(10)]
    looks = looks_of([*photos, photos[3].convert("L")])
    pairs = duplicates.near_pairs(looks, lambda rows: np.eye(len(rows), 5, dtype=np.float32))
    assert pairs.tolist() == [[3, 10]]


def test_images_that_all_look_alike_are_not_copies(new_photo):
    """Their neighbours are as close as copies of photos would be."""
    base = np.asarray(new_photo(0), np.float32)
    random = np.random.default_rng(0)
    series = []
    for _ in range(80):
        coarse = Image.fromarray(random.integers(0, 256, (5, 5), np.uint8))
        bump = np.asarray(coarse.resize((56, 48), Image.BICUBIC), np.float32) - 128
        series.append(Image.fromarray(np.clip(base + 0.12 * bump[..., None], 0, 255).astype("u1")))
    assert not len(duplicates.near_pairs(looks_of(series), alike))
    again = duplicates.near_pairs(looks_of([*series, jpeg(series[7], 95)]), alike)
    assert again.tolist() == [[7, 80]]


def test_exact_pairs_name_the_first_and_leave_out_blank_ones(new_photo):
    one, blank = new_photo(1), Image.new("RGB", (56, 48), (9, 9, 9))
    looks = looks_of([new_photo(0), one, blank, one, blank, one])
    assert exact_pairs(looks, looks.contents).tolist() == [[1, 3], [1, 5]]
    assert not len(duplicates.near_pairs(looks, alike))


def test_contradictions_need_another_label(new_photo):
    one = new_photo(1)
    images, labels = [new_photo(0), one, one], [0, 0, 1]
    found = duplicates.find_duplicates(looks_of(images, labels), ["cat", "dog"], alike)
    assert [finding.check for finding in found] == ["contradictory labels", "duplicates"]
    assert str(found[0].evidence[0]) == "train: 2.png  ('dog'; train: 1.png is 'cat')"
    same = duplicates.find_duplicates(looks_of(images, [0, 1, 1]), ["cat", "dog"], alike)
    assert [finding.check for finding in same] == ["duplicates"]


@pytest.mark.slow
def test_a_hundred_thousand_hashes_take_seconds_not_hours():
    """Comparing all with all would be 5,000,000,000 pairs."""
    hashes = np.random.default_rng(0).integers(0, 2**63, 100_000, dtype=np.uint64)
    hashes[70_000] = hashes[3] ^ np.uint64(0b101)
    assert duplicates.candidates(hashes).tolist() == [[3, 70_000]]


def test_pixels_count_and_not_the_file(tmp_path, new_photo):
    for name, seed in (("a/1.png", 1), ("a/2.bmp", 1), ("b/3.png", 2)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        new_photo(seed).save(tmp_path / name)
    looks = look_at(
        load_data("folder", path=str(tmp_path), split={"val": None, "test": None}), ImageInput()
    )
    assert exact_pairs(looks, looks.contents).tolist() == [[0, 1]]


def test_what_nobody_knows_contradicts_nothing(new_photo):
    single = dataclasses.replace(looks_of([new_photo(1)] * 3), labels=np.array([0, -1, 1]))
    assert single.same_labels(np.array([0, 0]), np.array([1, 2])).tolist() == [True, False]
    labels = np.array(
        [[1, 0, 0], [1, 0, 1], [0, 1, 1]], np.float32
    )  # two of a head, one of another
    unknown = np.array([[False, False, True], [False] * 3, [False] * 3])
    heads = dataclasses.replace(single, labels=labels, unknown=unknown)
    assert heads.same_labels(np.array([0, 1]), np.array([1, 2])).tolist() == [True, False]
