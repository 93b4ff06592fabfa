"""Case 24: lines that a person reads while they wait."""

from __future__ import annotations

import csv
import io
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import ftkeras as library
from ftkeras.cli.remarks import ON_IMAGES, Sieve
from ftkeras.console import Progress
from ftkeras.inputs.image.decode import whole

_QUIET_SECONDS = 2.0  # what is over sooner shows no progress


class Terminal(io.StringIO):
    """A stream that redraws."""

    def isatty(self) -> bool:
        return True


def test_predict_counts_the_images_that_it_answered(place, capsys):
    """Source: seen on version 0.1: `predict: 0 in 6.2 s` after 16 images.

    Here 8 images are one batch. Progress shows after 2 s, so the reader takes its time.
    """
    files = [f"photos/{name}/{i}.png" for name in ("cat", "dog") for i in range(4)]
    for _ in library.predict(library.Run.open("first run"), files):
        time.sleep(1.1 * _QUIET_SECONDS / len(files))
    assert re.findall(r"predict: (\d+) images in", capsys.readouterr().err) == ["8"]


def test_the_first_time_left_is_not_of_the_slow_first_step():
    """Source: seen on version 0.1: 14 times too long, as the first step is traced and so is slow.

    Here it takes 2 s, and 49 more take 1 s together.
    """
    stream = Terminal()
    progress = Progress("train", 50, "step", stream=stream)
    time.sleep(1.05 * _QUIET_SECONDS)
    progress.advance()
    for _ in range(49):
        time.sleep(0.02)
        progress.advance()
    progress.close()
    left = [float(seconds) for seconds in re.findall(r"([\d.]+) s left", stream.getvalue())]
    minutes = re.findall(r"min \d+ s left", stream.getvalue())
    assert left and not minutes, stream.getvalue()
    assert left[0] < 5, stream.getvalue()


@pytest.mark.parametrize(("done", "said"), [(1, "1 batch"), (3, "3 batches")])
def test_progress_names_what_it_counts(done, said, monkeypatch):
    now, stream = [0.0], Terminal()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress("encode", done, "batch", "batches", stream=stream)
    now[0] = 3.1
    progress.advance(done)
    progress.close()
    shown, end = stream.getvalue().strip().split("\r")
    assert shown.startswith(f"encode: {done}/{said} (100%)")
    assert end.strip() == f"encode: {said} in 3.1 s"


@pytest.mark.parametrize("quick", [1, 16], ids=["steps", "calls of 16 steps"])
def test_a_tenth_of_the_way_the_time_left_is_within_a_factor_of_2(quick, monkeypatch):
    """Progress as `train` records it: a first call that traces for 6 s, then 20 ms per step."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream, total = Terminal(), 640
    progress = Progress("training", total, "step", stream=stream)
    for done in range(0, total, quick):
        now[0] += 6.0 if done == 0 else 0.02 * quick
        progress.advance(quick)
        shown = re.findall(r"(\d+)/640 .*?([\d.]+) s left", stream.getvalue())
        if shown and int(shown[-1][0]) >= total / 10 and int(shown[-1][0]) < total * 0.9:
            left = 0.02 * (total - int(shown[-1][0]))
            assert left / 2 <= float(shown[-1][1]) <= 2 * left
    assert len(set(shown)) > 10


# Hundredths of a second between the steps of two epochs. `train` recorded them for the quickstart's
# whole network on two cores: tracing first, a validation after 54 steps.
RECORDED = """
980 22 33 23 17 17 33 29 24 31 24 36 29 29 26 34 22 30 23 20 25 19 23 24 23 23 24 24 24 25 24 28
24 26 23 26 20 17 18 16 18 25 17 16 17 16 20 23 23 23 22 22 23 12 336 24 34 24 24 25 19 26 32 25
38 35 29 25 26 39 34 24 24 18 16 26 24 23 22 23 25 28 25 21 22 26 25 24 22 24 24 23 24 23 22 18
16 16 16 22 24 26 24 24 26 25 19 6
"""
SHAPES = {
    "constant": [0.1] * 200,
    "a slow first item": [20.0] + [0.05] * 199,
    "recorded": [int(gap) / 100 for gap in RECORDED.split()],
    "half as fast after 5%": [0.1] * 10 + [0.2] * 190,
    "half as fast after 25%": [0.1] * 50 + [0.2] * 150,
    "half as fast after 75%": [0.1] * 150 + [0.2] * 50,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tenth_of_the_way_the_time_left_is_right_for_every_shape(shape, monkeypatch):
    """Within a factor of 2 of what was left in the end."""
    now, gaps = [0.0], SHAPES[shape]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = Terminal()
    progress = Progress("training", len(gaps), "step", stream=stream)
    for gap in gaps:
        now[0] += gap
        progress.advance()
        shown = re.findall(rf"(\d+)/{len(gaps)} .*? ([\d.]+) s left", stream.getvalue())
        if shown and int(shown[-1][0]) >= len(gaps) / 10:
            break
    done, said = int(shown[-1][0]), float(shown[-1][1])
    assert done <= len(gaps) / 5
    left = sum(gaps[done:])
    assert left / 2 <= said <= 2 * left


def _as(form: str, **options: object) -> bytes:
    pixels = np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def _with_chunk(kind: bytes, content: bytes) -> bytes:
    """Returns a PNG with one more chunk after its first."""
    png, first = _as("PNG"), 8 + 25
    sums = struct.pack(">I", zlib.crc32(kind + content))
    return png[:first] + struct.pack(">I", len(content)) + kind + content + sums + png[first:]


JPEG = _as("JPEG")
_SCAN = JPEG.rfind(b"\xff\xda") + 4  # its header
ODD = {  # but readable
    "rest.jpg": JPEG[:-2] + b"\x11" * 30 + JPEG[-2:],
    "between.jpg": JPEG.replace(b"\xff\xc4", b"\x11" * 18 + b"\xff\xc4", 1),
    "version.jpg": JPEG.replace(b"JFIF\0\x01", b"JFIF\0\x07"),
    "spectrum.jpg": JPEG[: _SCAN + 8] + b"\x3e" + JPEG[_SCAN + 9 :],
    "profile.png": _with_chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"nonsense" * 20)),
    "gamma.png": _with_chunk(b"gAMA", bytes(4)),
    "tag.tif": _as("TIFF", compression="tiff_lzw", tiffinfo={65000: "odd"}),
    "jpeg.tif": _as("TIFF", compression="jpeg"),
}


def _set(marker: bytes, offset: int, value: int) -> bytes:
    """Returns a JPEG with another byte in the segment of a marker."""
    content = bytearray(JPEG)
    content[JPEG.find(marker) + offset] = value
    return bytes(content)


BROKEN = {
    "cut.jpg": _as("JPEG", progressive=True)[:-300],
    "12 bits.jpg": _set(b"\xff\xc0", 4, 12),
    "no table.jpg": _set(b"\xff\xdb", 4, 3),
    "table 9.jpg": _set(b"\xff\xdb", 4, 9),
    "codes.jpg": _set(b"\xff\xc4", 5, 200),
    "scan.jpg": _set(b"\xff\xda", 5, 7),
}


@pytest.mark.parametrize("name", [*(name for name in ODD if name.endswith("jpg")), *BROKEN])
def test_the_remarks_of_libjpeg_are_those_that_the_command_line_knows(name, capfd):
    """Source: seen on version 0.1: `Corrupt JPEG data: 25 extraneous bytes before marker 0xd9`.

    Within a person's own process they come, and an odd image is used as it is.
    """
    capfd.readouterr()
    if name in ODD:
        expected = np.asarray(Image.open(io.BytesIO(ODD[name])))
        np.testing.assert_array_equal(whole(tf.constant(ODD[name])), expected)
    else:
        with pytest.raises(tf.errors.InvalidArgumentError):
            whole(tf.constant(BROKEN[name]))
    remarks = [line for line in capfd.readouterr().err.splitlines(True) if "0000 00:00" not in line]
    sieve = Sieve(ON_IMAGES)
    assert sieve.sift("".join(remarks).encode()) == b"" and sieve.on_images


@pytest.mark.slow
def test_a_command_prints_no_remark_on_an_odd_image_and_uses_it(place):
    Path("odd").mkdir()
    for name, content in (ODD | BROKEN).items():
        Path("odd", name).write_bytes(content)
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-m", "ftkeras", "predict", "first run", "odd"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["file"]: row for row in csv.DictReader(done.stdout.splitlines())}
    assert {Path(name).name for name, row in rows.items() if row["class"]} == ODD.keys()
    assert {Path(name).name for name, row in rows.items() if row["error"]} == BROKEN.keys()
    *progress, answered, note = done.stderr.splitlines()
    assert all(line.startswith(("predict: ", "scan: ")) for line in progress), progress
    assert answered.startswith(f"{len(ODD)} files answered"), answered
    assert re.fullmatch(r"note      \d+ remarks of libraries on images left out; .*", note)


@pytest.mark.parametrize(
    ("name", "package", "file"),
    [("litert", "ai_edge_litert", "*.tflite"), ("onnx", "tf2onnx", "*.onnx")],
)
def test_an_export_prints_nothing_of_the_converters(place, capfd, name, package, file):
    """Source: seen on version 0.1: `fully_quantize: 0, inference_type: 6`, and XNNPACK."""
    pytest.importorskip(package)
    from ftkeras.cli.main import main

    status = main(["export", "first run", f"--format={name}", "--out=served"])
    out, err = capfd.readouterr()
    if status != 0 or not list(Path("served").rglob(file)):
        raise RuntimeError(f"nothing was exported: {os.listdir('.')}, {err}")
    assert not re.search(r"fully_quantize|XNNPACK|TfLite|TensorFlow Lite", out + err), out + err
    known = ("export ", "compared ", "difference ", "size ")  # progress, and what was checked
    assert all(line.startswith(known) for line in err.splitlines()), err
