"""Images per second from a folder of JPEGs to batches: Keras's own loader against ftkeras's.

    python tools/bench/input.py [--pairs 5] [--sizes 500x375,4000x3000] [--image-size 224]

There are three baselines:
- `keras.utils.image_dataset_from_directory` cropping to the aspect ratio, which does not antialias;
- a `tf.data` pipeline written by hand, with the same resize as ftkeras;
- the same with random crops of a quarter to all of the image instead of the middle.

Neither side has a cache; files are in the page cache. Both sides alternate; each ratio is of one
pair.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from ftkeras.console import table
from ftkeras.data.load import load_data
from ftkeras.inputs.image.augment import STRENGTHS, Strength
from ftkeras.runs.build import batches

HEADER = (
    *("files", "baseline", "baseline img/s", "ftkeras img/s"),
    *("ratio", "lowest", "highest", "goal"),
)
GOALS = {"500x375": 1.2, "4000x3000": 3.0}
BATCH = 32
CROP = STRENGTHS["crop"] = Strength(scale=0.25, ratio=4 / 3)  # nothing but the crop


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--sizes", default="500x375,4000x3000")
    parser.add_argument("--image-size", type=int, default=224)
    options = parser.parse_args()
    rows = []
    for size in options.sizes.split(","):
        width, height = map(int, size.split("x"))
        count = 512 if width < 1000 else 64
        with tempfile.TemporaryDirectory() as folder:
            write_photos(Path(folder), width, height, count)
            for name, baseline in baselines(folder, options.image_size).items():
                loader = ours_over(folder, options.image_size, name == "random crops")
                pairs = [(rate(baseline, count), rate(loader, count)) for _ in range(options.pairs)]
                ratios = [second / first for first, second in pairs]
                speeds = [f"{statistics.median(column):.0f}" for column in zip(*pairs, strict=True)]
                shown = [f"{f(ratios):.2f}" for f in (statistics.median, min, max)]
                rows.append((size, name, *speeds, *shown, GOALS.get(size, "-")))
    print(table(rows, HEADER))
    print(f"to {options.image_size} px; medians over {options.pairs} alternating pairs")


def write_photos(folder: Path, width: int, height: int, count: int) -> None:
    """Writes JPEGs with the spectrum of photographs: noise at every scale, quality 90."""
    random = np.random.default_rng(0)
    picture = np.zeros((height, width, 3), np.float32)
    for cells in (4, 16, 64, 256):
        noise = random.normal(size=(cells, cells, 3)).astype(np.float32)
        picture += tf.image.resize(noise, (height, width), "bicubic").numpy() * 96 / cells**0.5
    for number in range(count):
        rolled = np.roll(picture, number * 7, axis=1)
        image = tf.cast(tf.clip_by_value(rolled + 128, 0, 255), tf.uint8)
        path = folder / f"class_{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tf.io.encode_jpeg(image, quality=90).numpy())


def ours_over(folder: str, size: int, crops: bool) -> tf.data.Dataset:
    """Returns ftkeras's batches of all the images."""
    data = load_data("folder", path=folder, split={"val": None, "test": None})
    return batches(
        data.splits["train"],
        image_size=size,
        batch_size=BATCH,
        training=crops,
        strength="crop",
        cache="none",
    )


def baselines(folder: str, size: int) -> dict[str, tf.data.Dataset]:
    """Returns Keras's batches of all the images, without and with antialiasing."""
    options = {"batch_size": BATCH, "label_mode": "categorical", "shuffle": False, "verbose": False}
    plain = keras.utils.image_dataset_from_directory(
        folder, image_size=(size, size), crop_to_aspect_ratio=True, **options
    )

    def middle(image: tf.Tensor) -> tf.Tensor:
        side = tf.reduce_min(tf.shape(image)[:2])
        return tf.image.resize_with_crop_or_pad(image, side, side)

    def random_crop(image: tf.Tensor) -> tf.Tensor:
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros((0, 0, 4)),
            aspect_ratio_range=(1 / CROP.ratio, CROP.ratio),
            area_range=(CROP.scale, 1.0),
            min_object_covered=0.0,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.slice(image, begin, extent)

    def by_hand(cut: Callable[[tf.Tensor], tf.Tensor]) -> tf.data.Dataset:
        def read(path: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            image = cut(tf.io.decode_jpeg(tf.io.read_file(path), channels=3))
            label = tf.strings.split(path, "/")[-2] == ["class_0", "class_1"]
            return tf.image.resize(image, (size, size), antialias=True), tf.cast(label, tf.float32)

        files = tf.data.Dataset.list_files(f"{folder}/*/*.jpg", shuffle=False)
        return files.map(read, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(2)

    return {
        "bilinear": plain.prefetch(2),
        "antialiased": by_hand(middle),
        "random crops": by_hand(random_crop),
    }


def rate(data: tf.data.Dataset, count: int) -> float:
    """Returns the images per second of some passes."""
    passes = 4 if count >= 512 else 1  # of small images one pass takes too short to tell
    start = time.perf_counter()
    for _ in range(passes):
        seen = sum(int(batch[0].shape[0]) for batch in data)
        if seen != count:
            raise AssertionError(f"{seen} images came, not {count}")
    return passes * count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
