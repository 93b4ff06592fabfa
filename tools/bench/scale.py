"""Measures what grows with the number of images: start-up, memory, a step, the stored trunk.

    python tools/bench/scale.py --counts=1000,10000,100000 --classes=1000

Makes small JPEG files (32 x 32, each different) as class folders and as TFRecord shards. Each count
and source runs twice in one process: the second scan reads what the first has remembered.
docs/scale.md extrapolates from the table to 1e8 images.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SOURCES = ("folder", "tfrecord")
BATCH, STEPS = 32, 60


def main() -> None:
    """Makes the data, runs a process for each row, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--counts", default="1000,10000,100000")
    parser.add_argument("--classes", type=int, default=1000, help="at most a third of the images")
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        source, path, count = options.child
        print(json.dumps(measure(source, path, int(count))))
        return
    from ftkeras.console import table

    rows = []
    for count in map(int, options.counts.split(",")):
        for source in options.sources.split(","):
            with tempfile.TemporaryDirectory(prefix="ftkeras-scale-") as scratch:
                path = os.path.join(scratch, "data")
                print(f"making {count} images ({source})", file=sys.stderr)
                make(source, path, count, min(options.classes, count // 3))
                cold, warm = (_run(source, path, count, scratch) for _ in range(2))
            rows.append(_row(source, count, cold, warm))
            print(rows[-1], file=sys.stderr)
    header = ("source", "images", "first scan s", "again s", "index B/image", "cache B/image")
    print(table(rows, (*header, "step ms", "store B/image", "peak MB")))


def _run(source: str, path: str, count: int, scratch: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", source, path, str(count)]
    environment = {**os.environ, "FTKERAS_CACHE": os.path.join(scratch, "cache")}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _row(
    source: str, count: int, cold: dict[str, float], warm: dict[str, float]
) -> tuple[Any, ...]:
    return (
        source,
        count,
        round(cold["scan"], 1),
        round(warm["scan"], 1),
        round(warm["index"] / count),
        round(cold["cache"] / count),
        round(warm["step"] * 1000, 1),
        round(cold["store"] / count),
        round(cold["peak"] / 1e6),
    )


# ------------------------------------------------------------------------ making the data


def make(source: str, path: str, count: int, classes: int) -> None:
    """Writes images of `classes` classes as folders of files, or as shards of 10,000 records."""
    if source == "folder":
        for label in range(classes):
            os.makedirs(f"{path}/{label:05d}")
        for number, content in enumerate(_jpegs(count)):
            Path(f"{path}/{number % classes:05d}/{number:09d}.jpg").write_bytes(content)
        return
    import tensorflow as tf

    os.makedirs(path)
    shards = -(-count // 10_000)
    images = _jpegs(count)
    for shard in range(shards):
        with tf.io.TFRecordWriter(f"{path}/data-{shard:05d}-of-{shards:05d}.tfrecord") as writer:
            for number in range(shard * 10_000, min(count, (shard + 1) * 10_000)):
                image = tf.train.BytesList(value=[next(images)])
                label = tf.train.Int64List(value=[number % classes])
                features = {
                    "image/encoded": tf.train.Feature(bytes_list=image),
                    "image/class/label": tf.train.Feature(int64_list=label),
                }
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())


def _jpegs(count: int) -> Iterator[bytes]:
    """One JPEG with a comment that differs: other bytes, and little time to make them."""
    from PIL import Image

    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", quality=75)
    content = stream.getvalue()
    for number in range(count):
        comment = f"{number:012d}".encode()
        yield content[:2] + b"\xff\xfe\x00\x0e" + comment + content[2:]


# -------------------------------------------------------------------------- measuring


def measure(source: str, path: str, count: int) -> dict[str, float]:
    """Loads the data, draws some batches, stores a small trunk; returns seconds and bytes."""
    import keras
    import tensorflow as tf

    from ftkeras.cache import cache_folder
    from ftkeras.data.feed import Feed
    from ftkeras.data.load import load_data
    from ftkeras.inputs.image.input import ImageInput
    from ftkeras.memory import peak_memory
    from ftkeras.trunk.extract import Part, get_stores
    from ftkeras.trunk.split import split_model

    tf.constant(0)  # what TensorFlow itself takes is not the data's
    before, start = _resident(), time.monotonic()
    data = load_data(source, path=path, split={"val": 0.01, "test": None})
    scan = time.monotonic() - start
    index = _resident() - before
    feed = Feed(data, ImageInput(32), batch_size=BATCH, cache="none", view="light")
    batches = iter(feed.train())
    for _ in range(10):
        next(batches)
    start = time.monotonic()
    for _ in range(min(STEPS, count // BATCH - 12)):
        next(batches)
    step = (time.monotonic() - start) / min(STEPS, count // BATCH - 12)
    cache = _size(cache_folder())
    image = keras.Input((32, 32, 3))
    trunk = keras.layers.Conv2D(8, 8, strides=8, name="trunk")
    trunk.trainable = False
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(trunk(image))))
    split = split_model(model)
    assert split is not None
    train = Part(data.splits["train"], lambda: feed.plain("train"), "scale")
    get_stores(split, [train], batch_size=BATCH)
    peak = peak_memory()
    store = _size(cache_folder()) - cache
    return {
        "scan": scan,
        "index": index,
        "step": step,
        "cache": cache,
        "store": store,
        "peak": peak,
    }


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()
