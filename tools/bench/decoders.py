"""Processor time per JPEG, of decoders and of the resize, on one thread.

    pip install simplejpeg
    python tools/bench/decoders.py [--sizes 500x375,1600x1200] [--image-size 224] [--rounds 5]

`tf.io.decode_jpeg` and simplejpeg both call libjpeg-turbo. "accurate" is the inverse transform that
Pillow and browsers use, and ftkeras; "fast" is TensorFlow's default. Images are those of
`input.py`. Medians of the rounds, which alternate.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import simplejpeg
import tensorflow as tf
from input import write_photos

from ftkeras.console import table

COUNT = 32
Work = Callable[[Any], Any]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="500x375,1600x1200")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    sizes, columns = options.sizes.split(","), []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            width, height = map(int, size.split("x"))
            write_photos(Path(folder), width, height, COUNT)
            files = [path.read_bytes() for path in sorted(Path(folder).glob("*/*.jpg"))]
        columns.append(measured(files, options.image_size, options.rounds))
    lines = [(name, *(f"{column[name]:.2f}" for column in columns)) for name in columns[0]]
    print(table(lines, ("processor ms per image", *sizes)))


def measured(files: list[bytes], size: int, rounds: int) -> dict[str, float]:
    """Returns the milliseconds per image of each step."""
    decoded = [tf.io.decode_jpeg(file) for file in files]
    steps: dict[str, tuple[Work, list[Any]]] = {
        "TensorFlow, accurate": (decoder("INTEGER_ACCURATE"), files),
        "TensorFlow, fast": (decoder("INTEGER_FAST"), files),
        "simplejpeg, accurate": (simplejpeg.decode_jpeg, files),
        "simplejpeg, fast": (lambda file: simplejpeg.decode_jpeg(file, fastdct=True), files),
        f"antialiased resize to {size} px": (
            lambda image: tf.image.resize(image, (size, size), antialias=True),
            decoded,
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (work, items) in steps.items():
            start = time.process_time()
            for item in items:
                work(item)
            times[name].append(1000 * (time.process_time() - start) / len(items))
    return {name: statistics.median(each) for name, each in times.items()}


def decoder(method: str) -> Work:
    """Returns TensorFlow's decoder with an inverse transform."""
    return lambda file: tf.io.decode_jpeg(file, channels=3, dct_method=method)


if __name__ == "__main__":
    main()
