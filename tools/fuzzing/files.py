"""Files and folders: real ones of every kind, mutated, and what a child process does with them."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import signal
import socket
import stat
import tempfile
import traceback
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ftkeras.memory import peak_memory
from fuzzing.mutate import mutate

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
REQUEST = 10  # damaged files of one request to an exported model
# How the files begin that TensorFlow's decoders know, JPEG XL among them.
_BEGINNINGS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\x5c\1\0\0WEBPVP8"),
    *(b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n", b""),
)
_SUFFIX = {"JPEG": "jpg", "WEBP": "webp"}


def make(rng: random.Random, folder: Path) -> None:
    """Makes one case: a folder with what is to be read, and a file that says what it is."""
    folder.mkdir()
    kinds = ("image", "tfrecord", "manifest", "arrays", "weights", "folder", "texts", "text files")
    kind = rng.choices(kinds, (60, 10, 9, 5, 3, 3, 7, 3))[0]
    (folder / "kind").write_text(kind)
    _MAKERS[kind](rng, folder)


def make_request(rng: random.Random, folder: Path) -> None:
    """Makes one case for the exported model: a request of damaged files, whole ones among them."""
    folder.mkdir()
    (folder / "kind").write_text("request")
    for number in range(REQUEST):
        (folder / f"{number}.bad").write_bytes(_damaged(rng))
    for number, kind in enumerate(("JPEG", "PNG")):
        (folder / f"{rng.randrange(REQUEST)}.good{number}").write_bytes(_image(rng, kind)[0])


def run_all(folder: Path, seconds: int) -> int:
    """Runs the cases of a folder that have no result yet; writes each result as it comes."""

    def ring(number: int, frame: Any) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    import keras  # noqa: F401  before the clock runs

    signal.signal(signal.SIGALRM, ring)
    signal.signal(signal.SIGPROF, ring)
    log = folder / "results.jsonl"
    done = (
        {json.loads(line)["case"] for line in log.read_text().splitlines()}
        if log.exists()
        else set()
    )
    for case in sorted(
        (path for path in folder.iterdir() if path.is_dir()), key=lambda p: int(p.name)
    ):
        if case.name in done:
            continue
        (folder / "begun").write_text(case.name)
        signal.alarm(10 * seconds)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            outcome = _read(case)
        except BaseException:
            outcome = f"BAD: {traceback.format_exc()}"
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        peak = peak_memory()
        with log.open("a") as file:
            file.write(json.dumps({"case": case.name, "outcome": outcome, "peak": peak}) + "\n")
    return 0


def not_plain(folder: str, names: list[str]) -> list[str]:
    """Which entries of a folder cannot be copied: pipes and sockets."""
    modes = {name: os.lstat(os.path.join(folder, name)).st_mode for name in names}
    return [
        n for n, m in modes.items() if not (stat.S_ISREG(m) or stat.S_ISDIR(m) or stat.S_ISLNK(m))
    ]


# ------------------------------------------------------------------------------ reading


def _read(case: Path) -> str:
    """Scans as `train` scans, then reads as training reads."""
    from ftkeras.errors import UserError

    try:
        return _READERS[(case / "kind").read_text()](case)
    except UserError as error:
        return f"refused: {error}" if "\n" not in str(error) else f"BAD: two lines: {error}"


def _read_image(case: Path) -> str:
    import tensorflow as tf

    from ftkeras.data.scan import scan_files
    from ftkeras.inputs.image import decode, scan
    from ftkeras.inputs.image.input import ImageInput

    (path,) = (str(path) for path in case.iterdir() if path.name != "kind")
    (verdict,) = scan_files([path], str(case), ImageInput())
    if verdict.reason:
        assert "\n" not in verdict.reason
        return f"refused: {verdict.reason}"
    image = decode.decode_image(tf.io.read_file(verdict.path))
    assert image.shape[0] * image.shape[1] <= scan.MAX_PIXELS
    assert decode.resize_image(image, 32, "pad").shape == (32, 32, 3)
    with Image.open(path) as opened:
        shown = np.asarray(scan.render(opened), np.int16)
    difference = np.abs(shown - image.numpy()).mean()
    assert difference < 3, f"training sees another image than Pillow: {difference:.1f}"
    return "read"


def _read_data(source: str, case: Path, **options: Any) -> str:
    import tensorflow as tf

    from ftkeras.data.load import load_data
    from ftkeras.inputs.image import decode

    data = load_data(source, max_bad_files=0.99, **options)
    for split in data.splits.values():
        for index in range(len(split)):
            assert decode.whole(split.fetch(tf.constant(index, tf.int64))).shape[-1] == 3
    return "read"


def _read_texts(source: str, path: Path) -> str:
    """Finds texts, counts their words and makes numbers of them, as training does."""
    import tensorflow as tf

    from ftkeras.backbones.text.vocabulary import extended, see
    from ftkeras.data.load import load_data
    from ftkeras.inputs.base import PLAIN
    from ftkeras.inputs.text.input import TextInput

    data = load_data(source, path=str(path), kind=TextInput(), max_bad_files=0.99)
    for by in ("words", "characters"):
        seen = see(data.splits["train"], by)
        tokens = seen.tokens(by, extended((), seen, 100), None)
        kind = TextInput(tokens)
        for split in data.splits.values():
            for index in range(len(split)):
                kept: Any = kind.decode(split.fetch(tf.constant(index, tf.int64)), PLAIN)
                ids = kept.numpy()
                assert len(ids) <= tokens.length and (ids > 0).all(), ids
    return "read"


def _read_weights(case: Path) -> str:
    from ftkeras.backbones.weights_file import load_into

    (path,) = (str(path) for path in case.iterdir() if path.name != "kind")
    load_into(_model(), path, "tiny")
    return "read"


def _read_request(case: Path) -> str:
    """Asks an exported model: whole files must get the answer that they get without the others."""
    import tensorflow as tf

    paths = sorted(path for path in case.iterdir() if path.name != "kind")
    whole = [number for number, path in enumerate(paths) if ".good" in path.name]
    contents = [path.read_bytes() for path in paths]
    ask = _served().signatures["serving_default"]
    # Empty files instead of the damaged ones: the number of rows may change a sum's last digit.
    alone = ask(image_bytes=tf.constant([c if i in whole else b"" for i, c in enumerate(contents)]))
    among = ask(image_bytes=tf.constant(contents))
    for name, values in alone.items():
        wanted, found = tf.gather(values, whole).numpy(), tf.gather(among[name], whole).numpy()
        np.testing.assert_array_equal(found, wanted, err_msg=name)
    assert not any(alone["error"].numpy()[whole]) and alone["scores"].numpy()[whole].all()
    for number, error in enumerate(among["error"].numpy()):
        assert contents[number][:4] != b"RIFF" or error, f"{paths[number].name} has an answer"
        assert not (error and among["scores"][number].numpy().any()), paths[number].name
    return "answered"


@cache
def _served() -> Any:
    """A small model, exported and loaded again."""
    import tensorflow as tf
    from keras import Input, Sequential, layers

    from ftkeras.export.classifier import Classifier
    from ftkeras.export.signatures import archive_of

    image = [Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.Flatten()]
    model = Sequential([*image, layers.Dense(3, name="logits")])
    with tempfile.TemporaryDirectory() as folder:
        archive_of(Classifier(model, ["a", "b", "c"])).write_out(folder)
        return tf.saved_model.load(folder)


@cache
def _model() -> Any:
    import keras

    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")])


_READERS: dict[str, Callable[[Path], str]] = {
    "image": _read_image,
    "tfrecord": lambda case: _read_data("tfrecord", case, path=str(case / "*.tfrecord")),
    "manifest": lambda case: _read_data(
        "manifest", case, path=str(next(case.glob("list.*"))), multi_label=case.name[-1] in "13"
    ),
    "arrays": lambda case: _read_data("arrays", case, path=str(case / "data.npz")),
    "folder": lambda case: _read_data("folder", case, path=str(case / "photos")),
    "weights": _read_weights,
    "texts": lambda case: _read_texts("manifest", next(case.glob("list.*"))),
    "text files": lambda case: _read_texts("folder", case / "notes"),
    "request": _read_request,
}


# ------------------------------------------------------------------------------- making


def _image(rng: random.Random, kind: str | None = None) -> tuple[bytes, str]:
    """A real image of some format and mode; (bytes, suffix)."""
    kind = kind or rng.choice(_FORMATS)
    size = (rng.randrange(1, 90), rng.randrange(1, 90))
    coarse = Image.frombytes("RGB", (4, 4), rng.randbytes(48)).resize(size)
    modes = {"JPEG": ("RGB", "L", "CMYK"), "BMP": ("RGB", "L", "P", "1"), "GIF": ("P", "L")}
    mode = rng.choice(
        modes.get(kind, ("RGB", "RGBA", *(("L", "P", "LA", "1", "I;16") * (kind == "PNG"))))
    )
    image = coarse.convert("L").convert("I;16") if mode == "I;16" else coarse.convert(mode)
    options: dict[str, Any] = {}
    if kind == "JPEG":
        options = {"progressive": rng.random() < 0.4, "quality": rng.choice((5, 75, 95))}
    if kind in ("JPEG", "PNG", "WEBP") and rng.random() < 0.4:
        exif = Image.Exif()
        exif[0x0112] = rng.randrange(10)
        options["exif"] = exif
    if kind in ("GIF", "WEBP", "PNG") and rng.random() < 0.3:
        options |= {"save_all": True, "append_images": [image.rotate(90 * i) for i in range(3)]}
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue(), _SUFFIX.get(kind, kind.lower())


def _damaged(rng: random.Random) -> bytes:
    """A file of any kind that TensorFlow's decoders know, changed, or a beginning with noise."""
    if rng.random() < 0.15:
        return rng.choice(_BEGINNINGS) + rng.randbytes(rng.choice((0, 9, 40, 400)))
    content = _image(rng)[0]
    return content if rng.random() < 0.1 else mutate(rng, content, _image(rng)[0])


def _make_image(rng: random.Random, folder: Path) -> None:
    content, suffix = _image(rng)
    if rng.random() < 0.9:
        content = mutate(rng, content, _image(rng)[0])
    (folder / f"image.{suffix}").write_bytes(content)


def _make_tfrecord(rng: random.Random, folder: Path) -> None:
    import tensorflow as tf

    def feature(value: Any) -> tf.train.Feature:
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    path = folder / "data.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(12):
            content = _image(rng)[0]
            if rng.random() < 0.3:
                content = mutate(rng, content)
            label = number % 2 if rng.random() < 0.9 else rng.choice((-1, 2**62, b"\xff", b""))
            features = {"image/encoded": feature(content), "image/class/label": feature(label)}
            example = tf.train.Example(features=tf.train.Features(feature=features))
            record = example.SerializeToString()
            writer.write(mutate(rng, record) if rng.random() < 0.2 else record)
    content = path.read_bytes()
    if rng.random() < 0.5:
        path.write_bytes(mutate(rng, content, content))
    elif rng.random() < 0.5:  # a length with a right checksum, which TensorFlow believes
        length = rng.choice((10**9, 10**12, 2**62, 2**63, 2**64 - 1)).to_bytes(8, "little")
        path.write_bytes(length + masked_crc(length) + content[12:])


def masked_crc(content: bytes) -> bytes:
    """The checksum that TFRecord puts behind a length."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def _make_manifest(rng: random.Random, folder: Path) -> None:
    images = []
    for number in range(8):
        content, suffix = _image(rng)
        images.append(f"{number}.{suffix}")
        (folder / images[-1]).write_bytes(content)
    odd: tuple[str, ...] = (
        "/etc/passwd",
        "../../../../etc/shadow",
        "/dev/zero",
        "",
        ".",
        "a\0b",
        "\ud800",
        "x" * 5000,
    )
    odd += ("http://localhost/x.jpg", "ram://x.jpg", "s3://", "\n", '"', "{", images[0])
    rows: list[dict[str, Any]] = []
    for number in range(16):
        path = rng.choice(odd) if rng.random() < 0.15 else images[number % 8]
        label = (
            rng.choice(("", None, 3, 1e9, [], ["a"], "\ud800", "x\ny", True))
            if rng.random() < 0.1
            else "ab"[number % 2]
        )
        row = {"path": path, "label": label, "split": "train" if number < 8 else ""}
        row["weight"] = rng.choice((1, 1, 1, 0, -1, "nan", 1e308, "")) if rng.random() < 0.2 else 1
        rows.append(row)
    text = io.StringIO()
    if rng.random() < 0.5:
        target = folder / "list.jsonl"
        text.write("".join(json.dumps(row) + "\n" for row in rows))
        if rng.random() < 0.1:
            text.write("[" * 100_000)
    else:
        target = folder / "list.csv"
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    content = text.getvalue().encode("utf-8", "surrogatepass")
    target.write_bytes(mutate(rng, content, content) if rng.random() < 0.6 else content)


def _make_arrays(rng: random.Random, folder: Path) -> None:
    images = np.zeros(rng.choice(((8, 4, 4, 3), (8, 4, 4), (0, 4, 4, 3), (8, 4, 4, 2))), np.uint8)
    labels: Any = rng.choice(
        (np.arange(8) % 2, np.arange(8) % 2 == 0, np.eye(8), np.full(8, 2**62), np.full(8, np.nan))
        + (np.array(list("abcdefgh")), np.array([object()] * 8), np.zeros((8, 0)), np.zeros(()))
        + (np.arange(8) * 1j, np.array([b"x"] * 8), np.arange(8).astype("datetime64[s]"))
    )
    stream = io.BytesIO()
    rng.choice((np.savez, np.savez_compressed))(stream, images=images, labels=labels)
    content = stream.getvalue()
    kind = rng.random()
    if kind < 0.5:
        content = mutate(rng, content, content)
    elif kind < 0.6:  # a header that promises more than fits into memory
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            header = "{'descr': '|u1', 'fortran_order': False, 'shape': (9000000000, 99, 99, 3), }"
            text = (header.ljust(117) + "\n").encode()
            archive.writestr(
                "images.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
            )
        content = stream.getvalue()
    (folder / "data.npz").write_bytes(content)


def _make_weights(rng: random.Random, folder: Path) -> None:
    name = rng.choice(("w.weights.h5", "w.keras"))
    path = folder / name
    _model().save(path) if name == "w.keras" else _model().save_weights(path)
    if rng.random() < 0.9:
        path.write_bytes(mutate(rng, path.read_bytes()))


def _make_folder(rng: random.Random, folder: Path) -> None:
    root = os.fsencode(folder / "photos")
    for name in (b"cat", b"dog"):
        os.makedirs(os.path.join(root, name))
        for number in range(6):
            content, suffix = _image(rng)
            Path(os.fsdecode(os.path.join(root, name)), f"{number}.{suffix}").write_bytes(content)
    inside = os.path.join(root, b"cat")
    for _ in range(rng.randrange(1, 6)):
        name = rng.choice(
            (
                b"\xff.png",
                b"a\nb.jpg",
                b"caf\xc3\xa9.jpg",
                b" .png",
                b"-x.gif",
                b"*.jpg",
                b"a" * 250 + b".png",
            )
        )
        path = os.path.join(inside, name)
        if os.path.lexists(path):
            continue
        kind = rng.randrange(8)
        if kind == 0:
            os.mkfifo(path)
        elif kind == 1 and len(path) < 100:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path)
        elif kind == 2:
            os.symlink(
                rng.choice((b"..", b".", b"/", b"/dev/zero", path, b"nothing", b"../dog")), path
            )
        elif kind == 3:
            os.mkdir(path)
        else:
            Path(os.fsdecode(path)).write_bytes(rng.choice((b"", _image(rng)[0])))
    if rng.random() < 0.5:
        target = rng.choice((b"..", b".", b"../dog", b"../../photos"))
        os.symlink(target, os.path.join(inside, b"loop"))
    if rng.random() < 0.3:
        os.mkdir(os.path.join(root, rng.choice((b"\xfe", b"a\nb", b".hidden", b"__pycache__"))))
    shutil.copytree(folder / "photos" / "dog", folder / "photos" / "emu")


_TEXTS = (
    *("a small animal", "It's 5\u20ac: don't!", "\u4f60\u597d", "", " \t", "\0", "a\0b"),
    *("\ufeffx", "\ud800"),
    *("e\u0301" * 50, "x" * 100_000, "a\rb\r\nc\n", '"', "\x1e\x1e"),
    *("\U0001f469\u200d\U0001f680", "[UNK] [SEP]"),
    *("\u202e\u2028", "\ue000", "{" * 500, "=1+1"),
)  # fmt: skip
_ENCODINGS = ("utf-16", "utf-32", "utf-16-le", "latin-1", "utf-8-sig")


def _text(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return rng.choice(_TEXTS)
    return " ".join(rng.choices(("red", "blue", "car", "apple", "the"), k=rng.randrange(1, 9)))


def _encoded(rng: random.Random, text: str) -> bytes:
    """The bytes of a text, perhaps in another encoding, with other line ends, or damaged."""
    if rng.random() < 0.2:
        text = text.replace("\n", rng.choice(("\r\n", "\r", "\n\n", "\u2028")), rng.randrange(9))
    encoding = rng.choice(_ENCODINGS) if rng.random() < 0.15 else "utf-8"
    content = text.encode(encoding, "replace" if encoding == "latin-1" else "surrogatepass")
    return mutate(rng, content, content) if rng.random() < 0.4 else content


def _make_texts(rng: random.Random, folder: Path) -> None:
    """A manifest whose lines hold texts."""
    rows: list[dict[str, Any]] = []
    for number in range(16):
        odd: Any = rng.choice((None, 3, [], {"a": 1}, True)) if rng.random() < 0.05 else None
        row = {"text": odd or _text(rng), "label": "ab"[number % 2], "other": _text(rng)}
        rows.append({**row, "split": "train" if number < 8 else ""})
    text = io.StringIO()
    if rng.random() < 0.5:
        target = folder / "list.jsonl"
        text.write("".join(json.dumps(row) + "\n" for row in rows))
    else:
        target = folder / rng.choice(("list.csv", "list.tsv"))
        delimiter = "\t" if target.suffix == ".tsv" else rng.choice(",;|")
        names = [*rows[0], *(f"c{i}" for i in range(rng.choice((0, 0, 0, 0, 20_000))))]
        writer = csv.DictWriter(text, names, delimiter=delimiter, restval="")
        writer.writeheader()
        writer.writerows(rows)
        if rng.random() < 0.1:
            text.write('"a quote that never ends' * rng.choice((1, 10_000)))
    content = _encoded(rng, text.getvalue())
    target.write_bytes(rng.choice((b"", b"\0" * 100, content)) if rng.random() < 0.1 else content)


def _make_text_files(rng: random.Random, folder: Path) -> None:
    """Folders of text files, one for each class."""
    for name in ("cat", "dog"):
        inside = folder / "notes" / name
        inside.mkdir(parents=True)
        for number in range(6):
            (inside / f"{number}.txt").write_bytes(_encoded(rng, _text(rng)))
        path = inside / rng.choice(("x.txt", "caf\u00e9.txt", ".hidden.txt", "a\nb.txt", "L.TXT"))
        kind = rng.randrange(5)
        if kind == 0:
            os.mkfifo(path)
        elif kind == 1:
            path.symlink_to(rng.choice(("/dev/zero", "nothing", "..", path.name)))
        elif kind == 2:
            path.mkdir()
        elif kind == 3:
            path.write_bytes(rng.choice((b"", rng.randbytes(100), b"a" * 2_000_000)))
        else:
            path.write_text("unreadable")
            path.chmod(0)


_MAKERS: dict[str, Callable[[random.Random, Path], None]] = {
    "image": _make_image,
    "tfrecord": _make_tfrecord,
    "manifest": _make_manifest,
    "arrays": _make_arrays,
    "weights": _make_weights,
    "folder": _make_folder,
    "texts": _make_texts,
    "text files": _make_text_files,
}
