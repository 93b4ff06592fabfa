"""Files made to do harm: code on load, ways out of the folder, links, bombs. One of each."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ftkeras.backbones.weights_file import load_into, read_model
from ftkeras.data.load import load_data
from ftkeras.data.scan import scan_files
from ftkeras.data.sources import starter
from ftkeras.errors import UserError
from ftkeras.inputs.image.input import ImageInput


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Works in a folder of its own, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTKERAS_CACHE", str(tmp_path / "cache"))


def small() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")])


def refusal(call, *arguments) -> str:
    """The one line with which a call refuses."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Touch:
    """Unpickles into a file called hacked."""

    def __reduce__(self):
        return os.system, ("touch hacked",)


# -------------------------------------------------------------------- .keras files


def write_keras(config: dict, **members: bytes) -> str:
    small().save("honest.keras")
    with zipfile.ZipFile("honest.keras") as honest, zipfile.ZipFile("evil.keras", "w") as evil:
        for name in honest.namelist():
            content = json.dumps(config).encode() if name == "config.json" else honest.read(name)
            evil.writestr(name, content)
        for name, content in members.items():
            evil.writestr(name, content)
    return "evil.keras"


def test_a_lambda_layer():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x + 1)])
    model.save("evil.keras")
    assert "Python code" in refusal(read_model, "evil.keras", "backbone.name")


@pytest.mark.parametrize(
    "config",
    [
        {"module": "os", "class_name": "system", "config": "touch hacked"},
        {"module": "builtins", "class_name": "function", "config": "os.system"},
        {
            "module": "keras.utils",
            "class_name": "get_file",
            "config": {"fname": "x", "origin": "file:///etc/passwd"},
        },
        {
            "module": "keras.layers",
            "class_name": "TFSMLayer",
            "config": {"filepath": "/tmp", "call_endpoint": "serve"},
        },
        {"module": "subprocess", "class_name": "Popen", "config": {"args": ["touch", "hacked"]}},
    ],
    ids=lambda config: config["class_name"],
)
def test_a_config_that_names_other_code(config):
    refusal(read_model, write_keras({**config, "registered_name": None}), "backbone.name")
    assert not Path("hacked").exists()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a\\..\\..\\outside", "C:outside"])
def test_a_member_outside_of_the_archive(name):
    small().save("evil.keras")
    with zipfile.ZipFile("evil.keras", "a") as archive:
        archive.writestr(name, b"x")
    assert "points outside" in refusal(read_model, "evil.keras", "backbone.name")


def link(name: str, target: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


def test_a_member_that_is_a_link():
    small().save("evil.keras")
    with zipfile.ZipFile("evil.keras", "a") as archive:
        archive.writestr(link("assets/x", "/etc/passwd"), "/etc/passwd")
    assert "points outside" in refusal(read_model, "evil.keras", "backbone.name")


@pytest.mark.parametrize("name", ["config.json", "assets/x"])
def test_a_decompression_bomb(name):
    with zipfile.ZipFile("evil.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(200 << 20))
    assert os.path.getsize("evil.keras") < 1 << 20
    assert "unpacks to 210 MB" in refusal(read_model, "evil.keras", "backbone.name")


def test_what_is_no_archive():
    Path("evil.keras").write_bytes(pickle.dumps(Touch()))
    assert "no .keras file" in refusal(read_model, "evil.keras", "backbone.name")
    os.mkfifo("pipe.keras")
    assert "no file" in refusal(read_model, "pipe.keras", "backbone.name")
    assert not Path("hacked").exists()


# ------------------------------------------------------------------------ .h5 files


def legacy(path: str) -> h5py.File:
    """A weights file as Keras 2 wrote it, up to its arrays."""
    file = h5py.File(path, "w")
    file.attrs["layer_names"] = ["dense"]
    file.create_group("dense").attrs["weight_names"] = ["kernel", "bias"]
    file["dense/bias"] = np.zeros(3, np.float32)
    return file


def test_h5_that_links_to_another_file():
    with h5py.File("secret.h5", "w") as secret:
        secret["kernel"] = np.ones((4, 3), np.float32)
    with legacy("evil.h5") as file:
        file["dense/kernel"] = h5py.ExternalLink("secret.h5", "kernel")
    assert "damaged" in refusal(load_into, small(), "evil.h5", "Small")


def test_h5_whose_data_lie_in_another_file():
    np.ones((4, 3), np.float32).tofile("secret.bin")
    with legacy("evil.h5") as file:
        file["dense"].create_dataset(
            "kernel", (4, 3), np.float32, external=[("secret.bin", 0, h5py.h5f.UNLIMITED)]
        )
    assert "other files" in refusal(load_into, small(), "evil.h5", "Small")
    with h5py.File("secret.h5", "w") as secret:
        secret["kernel"] = np.ones((4, 3), np.float32)
    layout = h5py.VirtualLayout((4, 3), np.float32)
    layout[:] = h5py.VirtualSource("secret.h5", "kernel", (4, 3))
    with legacy("evil.h5") as file:
        file["dense"].create_virtual_dataset("kernel", layout)
    assert "other files" in refusal(load_into, small(), "evil.h5", "Small")


@pytest.mark.parametrize("shape", [(1 << 30, 1 << 20), (1 << 40,)])
def test_h5_that_claims_to_hold_a_petabyte(shape):
    with legacy("evil.h5") as file:
        file["dense"].create_dataset("kernel", shape, np.float32, chunks=(1,) * len(shape))
    assert os.path.getsize("evil.h5") < 1 << 20
    assert "does not fit" in refusal(load_into, small(), "evil.h5", "Small")


def test_weights_h5_with_links_and_absurd_shapes():
    model = small()
    model.save_weights("honest.weights.h5")
    for evil in ("link", "shape"):
        with h5py.File("honest.weights.h5") as honest, h5py.File("evil.weights.h5", "w") as file:
            for name in honest:
                honest.copy(name, file)
            del file["layers/dense/vars/0"]
            if evil == "link":
                file["layers/dense/vars/0"] = h5py.ExternalLink("honest.weights.h5", "/layers")
            else:
                file["layers/dense/vars"].create_dataset(
                    "0", (1 << 30, 1 << 20), np.float32, chunks=(1, 1)
                )
        assert "does not fit" in refusal(load_into, model, "evil.weights.h5", "Small")


def test_h5_with_code():
    with legacy("evil.h5") as file:
        file["dense"].create_dataset("kernel", (1,), h5py.special_dtype(vlen=np.uint8))
        file["dense/kernel"][0] = np.frombuffer(pickle.dumps(Touch()), np.uint8)
    refusal(load_into, small(), "evil.h5", "Small")
    assert not Path("hacked").exists()


# --------------------------------------------------------------- archives and arrays


@pytest.mark.parametrize("name", ["../outside.png", "/tmp/outside.png", "link"])
def test_an_archive_that_writes_outside(tmp_path, name):
    with zipfile.ZipFile("evil.zip", "w") as archive:
        archive.writestr(link(name, "/tmp") if name == "link" else name, "/tmp")
    assert "outside its folder" in refusal(starter.unpack, tmp_path / "evil.zip")
    assert not (tmp_path / "cache" / "outside.png").exists()


def test_arrays_with_pickled_objects():
    np.savez("evil.npz", images=np.array([Touch()], object), labels=np.zeros(1))
    assert "not an .npz file of plain arrays" in refusal(load_arrays)
    assert not Path("hacked").exists()


def load_arrays() -> object:
    return load_data("arrays", path="evil.npz")


def test_arrays_that_unpack_to_more_than_the_memory():
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999, 9999, 9999, 3), }"
    header = header.ljust(117) + b"\n"
    with zipfile.ZipFile("evil.npz", "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\1\0" + struct.pack("<H", 118) + header)
    assert "not an .npz file of plain arrays" in refusal(load_arrays)
    with zipfile.ZipFile("evil.npz", "a") as archive:
        member = archive.infolist()[0]
        member.file_size = 1 << 50  # as the directory of a bomb would say
        archive._didModify = True
    assert "unpacks to 1125899.9 GB" in refusal(load_arrays)


def test_labels_that_ask_for_too_many_classes():
    images = np.zeros((8, 4, 4, 3), np.uint8)
    np.savez("evil.npz", images=images, labels=np.full(8, 2**62))
    assert "only 8 examples" in refusal(load_arrays)


# ----------------------------------------------------------------------------- images


def png_bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def jpeg(**options: object) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, "JPEG", **options)
    return stream.getvalue()


def huge_jpeg() -> bytes:
    content = bytearray(jpeg())
    start = content.index(b"\xff\xc0")
    content[start + 5 : start + 9] = struct.pack(">HH", 65_000, 65_000)
    return bytes(content)


def jpeg_of_many_scans() -> bytes:
    content = jpeg(progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * 5_000 + content[-2:]


def webp_bomb() -> bytes:
    canvas = struct.pack("<I", 16382)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas * 2
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("a.png", png_bomb, "50000 x 50000 pixels|far too many pixels"),
        ("a.jpg", huge_jpeg, "far too many pixels"),
        ("b.jpg", jpeg_of_many_scans, "more than 100 scans"),
        ("a.webp", webp_bomb, "pixels|broken|not an image"),
    ],
)
def test_image_bombs_are_left_out(name, make, reason):
    Path(name).write_bytes(make())
    (verdict,) = scan_files([name], name, ImageInput())
    assert any(text in verdict.reason for text in reason.split("|")), verdict


def test_a_gif_of_a_hundred_thousand_frames_shows_its_first():
    stream = io.BytesIO()
    frames = [Image.new("P", (64, 64), color) for color in (1, 2)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], duration=10)
    content = stream.getvalue()
    start = content.rindex(b"\x21\xf9")  # the second frame
    Path("a.gif").write_bytes(content[:-1] + content[start:-1] * 100_000 + content[-1:])
    (verdict,) = scan_files(["a.gif"], "a", ImageInput())
    assert verdict.reason == "" and verdict.path != "a.gif"
    assert tf.io.decode_png(tf.io.read_file(verdict.path)).shape == (64, 64, 3)


# ------------------------------------------------------------------ folders and shards


def photos(folder: Path, count: int = 8) -> None:
    for number, kind in enumerate(("cat", "dog")):
        (folder / kind).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (i, number, 0)).save(folder / kind / f"{i}.png")


def test_a_folder_with_loops_pipes_sockets_and_odd_names(tmp_path):
    folder = tmp_path / "photos"
    photos(folder)
    os.symlink("..", folder / "cat" / "up")
    os.symlink(".", folder / "cat" / "here")
    os.mkdir(folder / "cat" / "more")
    os.symlink("..", folder / "cat" / "more" / "up")
    os.symlink("/dev/zero", folder / "cat" / "endless.png")
    os.symlink("nowhere", folder / "cat" / "nothing.png")
    os.mkfifo(folder / "cat" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(folder)
        server.bind("cat/socket.png")
    os.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save(folder / "cat" / "two\nlines.png")
    with open(os.fsencode(folder) + b"/cat/caf\xe9.png", "wb") as file:
        file.write(b"x")
    data = load_data("folder", path=str(folder), max_bad_files=0.9)
    reasons = {Path(bad.path).name: bad.reason for bad in data.bad_files}
    assert reasons == {
        "endless.png": "not a regular file",
        "nothing.png": "no such file",
        "pipe.png": "not a regular file",
        "socket.png": "not a regular file",
        "caf\\udce9.png": "its name is not UTF-8 text",
    }
    # `up` leads to the folder above once, so the dogs are found there too.
    ids = [key for split in data.splits.values() for key in split.ids]
    assert "cat/two\nlines.png" in ids and len(ids) == len(set(ids)) <= 26


def test_a_class_folder_that_is_not_utf8(tmp_path):
    photos(tmp_path / "photos")
    os.mkdir(os.fsencode(tmp_path / "photos") + b"/\xff")
    assert "not UTF-8" in refusal(lambda: load_data("folder", path="photos"))


def test_a_manifest_may_point_anywhere_but_reads_images_only(tmp_path):
    photos(tmp_path / "elsewhere")
    (tmp_path / "list").mkdir()
    rows = [f"{tmp_path}/elsewhere/cat/{i}.png,cat" for i in range(8)]
    rows += [f"../elsewhere/dog/{i}.png,dog" for i in range(8)]
    rows += ["/etc/passwd,cat", "../../../../../../dev/zero,dog"]
    (tmp_path / "list" / "m.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    data = load_data("manifest", path="list/m.csv", max_bad_files=0.5)
    assert sum(map(len, data.splits.values())) == 16
    assert [bad.reason.partition(" (")[0] for bad in data.bad_files] == [
        "not an image",
        "not a regular file",
    ]


@pytest.mark.parametrize("line", ["[" * 100_000, '{"path": "\\ud800", "label": "a"}', "{"])
def test_a_manifest_line_that_is_no_record(line):
    Path("m.jsonl").write_text(line + "\n")
    assert "m.jsonl:1" in refusal(lambda: load_data("manifest", path="m.jsonl"))


def masked_crc(content: bytes) -> bytes:
    """The checksum that TFRecord puts behind a length."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def test_a_record_that_claims_to_be_longer_than_its_shard():
    def record(label: int) -> bytes:
        features = {
            "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg()])),
            "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        }
        return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()

    with tf.io.TFRecordWriter("evil.tfrecord") as writer:
        for number in range(12):
            writer.write(record(number % 2))
    length = struct.pack("<Q", 10**11)  # with a right checksum TensorFlow would crash on it
    with open("evil.tfrecord", "ab") as file:
        file.write(length + masked_crc(length) + bytes(100))
    data = load_data("tfrecord", path="evil.tfrecord", max_bad_files=0.5)
    assert [bad.reason for bad in data.bad_files] == ["the rest of the shard is corrupt"]
    assert sum(map(len, data.splits.values())) == 12
