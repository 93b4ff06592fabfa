from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ftkeras.data.load import load_data
from ftkeras.doctor.look import look_at
from ftkeras.inputs.image.input import ImageInput
from ftkeras.inputs.image.looks import find_odd


@pytest.fixture
def folder(tmp_path, new_photo):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(12):
            new_photo(100 * len(name) + i + (name == "dog") * 50).save(tmp_path / name / f"{i}.png")
    return tmp_path


def findings(folder, image_size: int = 48, resize: str = "crop"):
    data = load_data("folder", path=str(folder), split={"val": None, "test": None})
    kind = ImageInput(image_size, resize)
    found = find_odd(look_at(data, kind), data.class_names, kind)
    return {finding.check: finding for finding in found}


def test_what_is_seen_of_an_image(tmp_path):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, 15:] = (30, 60, 90)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "0.png")
    looks = look_at(
        load_data("folder", path=str(tmp_path), split={"val": None, "test": None}), ImageInput()
    )
    assert looks.sizes.tolist() == [[20, 30]] * 2
    np.testing.assert_allclose(looks.deviation, 30)  # halves of grey 0 and 60
    assert looks.coloured.all()  # channels are 60 apart in half of the pixels
    assert looks.thumbnails[0, 5, [0, -1]].tolist() == [0, 60]
    assert looks.contents[0] == looks.contents[1]
    assert (looks.ids, looks.labels.tolist()) == (["cat/0.png", "dog/0.png"], [0, 1])


def test_ordinary_images_are_not_odd(folder):
    assert findings(folder) == {}


def test_blank_tiny_and_long_images_are_named(folder, new_photo):
    Image.new("RGB", (50, 50), (80, 10, 10)).save(folder / "cat" / "blank.png")
    new_photo(900, 9, 8).save(folder / "cat" / "icon.png")
    new_photo(901, 300, 50).save(folder / "dog" / "banner.png")
    found = findings(folder)
    assert set(found) == {"blank images", "tiny images", "long images"}
    names = {check: [row.name for row in finding.evidence] for check, finding in found.items()}
    assert names == {
        "blank images": ["cat/blank.png"],
        "tiny images": ["cat/icon.png"],
        "long images": ["dog/banner.png"],
    }
    assert found["tiny images"].evidence[0].detail == "9 x 8 px"
    assert "resize: pad leaves" in findings(folder, resize="pad")["long images"].message


def test_enlarging_is_a_note(folder):
    found = findings(folder, image_size=96)
    assert [finding.severity for finding in found.values()] == ["note"]
    assert "enlarged to 96 px" in found["enlarged images"].message


def test_grey_among_colour_is_a_note_and_a_warning_where_it_tells_the_class(folder):
    for i in range(3):
        for name in ("cat", "dog"):
            path = folder / name / f"{i}.png"
            Image.open(path).convert("L").save(path)
    assert findings(folder)["grey and colour"].severity == "note"
    for i in range(12):
        path = folder / "cat" / f"{i}.png"
        Image.open(path).convert("L").save(path)
    found = findings(folder)["grey and colour"]
    assert found.severity == "warning"
    assert "100% of class cat are grey, 25% elsewhere" in found.message


def test_grey_alone_is_nothing(folder):
    for path in folder.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    assert findings(folder) == {}
