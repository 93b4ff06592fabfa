"""Case 23: what is said of files that cannot be used."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ftkeras import UserError, load_data
from ftkeras.data.dataset import BadFile
from ftkeras.data.reasons import sum_up


def test_missing_files_are_summed_up_as_one_reason(tmp_path, draw):
    """Source: seen on version 0.1: each reason ends in the line of the manifest."""
    draw(tmp_path, {"pics": 4})
    rows = [f"pics/{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(40)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(UserError) as refused:
        load_data("manifest", path=str(tmp_path / "list.csv"))
    assert "36 x no such file" in str(refused.value)


def test_broken_files_are_summed_up_as_one_reason(tmp_path, draw):
    """Source: seen on version 0.1: a decoder's message has numbers that differ between files."""
    draw(tmp_path, {"cat": 2, "dog": 2})
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    for i in range(6):
        (tmp_path / "cat" / f"broken-{i}.jpg").write_bytes(file.getvalue()[: -500 * (i + 1)])
    with pytest.raises(UserError) as refused:
        load_data("folder", path=str(tmp_path))
    assert re.findall(r"(\d+) x ", str(refused.value)) == ["6"]


def test_plan_points_to_no_file_that_is_not_there(place, ftkeras):
    """Source: seen on version 0.1."""
    shutil.rmtree("first run")  # `train` did write such a file
    Path("photos", "cat", "empty.png").touch()
    done = ftkeras("plan", "--config=c.yaml")
    assert done.status == 0, done.err
    assert "1 file left out: 1 x empty file (" in done.out
    assert "bad_files.csv" not in done.out or list(place.rglob("bad_files.csv"))


def test_a_kind_keeps_the_numbers_that_its_files_share():
    sizes = {"a": 300, "b": 4000, "c": 500, "d": 600}
    limit = [BadFile(k, f"file of {n} MiB; the limit is 256 MiB") for k, n in sizes.items()]
    locked = [BadFile("e", "cannot be read: Permission denied"), BadFile("f", "empty file")]
    assert sum_up([*locked, *limit, locked[0]]) == (
        "4 x file of ... MiB; the limit is 256 MiB (a, b, c, ...); "
        "2 x cannot be read: Permission denied (e, e); 1 x empty file (f)"
    )
    loop = BadFile("g", "cannot be read: Too many levels of symbolic links")
    assert sum_up([locked[0], loop]) == "2 x cannot be read (e, g)"
    assert sum_up([BadFile(k, f"reason {k}") for k in "abcde"]).endswith("; 2 more reasons")
