"""Measures how much memory training takes with few and with many images, by the store's budget.

    python tools/bench/memory.py --counts=1000,10000

Each row is one process. It fine-tunes the starter's MobileNetV2 for an epoch from a stored trunk,
on JPEG files that it does not keep decoded. The process's own memory (RssAnon and RssShmem) is read
every 50 ms. Pages of a store on disk do not count: they are mapped, and the system takes them back
when it needs them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SIZE, CLASSES = 96, 10
BUDGETS = {"on disk": 0, "in memory": 4096}  # MB that the store may take in memory


def main() -> None:
    """Makes the images, runs a process for each row, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--counts", default="1000,10000")
    parser.add_argument(
        "--runs", type=int, default=1, help="of each row; the table has the largest"
    )
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        images, budget, out = options.child
        print(json.dumps(measure(images, int(budget), out)))
        return
    from ftkeras.console import table

    rows = []
    for count in map(int, options.counts.split(",")):
        with tempfile.TemporaryDirectory(prefix="ftkeras-memory-") as scratch:
            images = os.path.join(scratch, "images")
            make(images, count)
            for name, budget in BUDGETS.items():
                results = [_run(images, budget, scratch) for _ in range(options.runs)]
                own = max(one["own"] for one in results)
                rows.append((count, name, f"{results[0]['store'] / 1e6:.0f}", f"{own / 1e6:.0f}"))
                print(rows[-1], file=sys.stderr)
    print(table(rows, ("images", "store", "store MB", "peak MB of its own")))


def _run(images: str, budget: int, scratch: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=scratch) as own:
        command = [sys.executable, __file__, "--child", images, str(budget), os.path.join(own, "r")]
        environment = {**os.environ, "FTKERAS_CACHE": os.path.join(own, "cache")}
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def make(folder: str, count: int) -> None:
    """Writes different JPEG files of noise, in class folders."""
    from PIL import Image

    random = np.random.default_rng(0)
    for label in range(CLASSES):
        os.makedirs(f"{folder}/{label}")
    for number in range(count):
        stream = io.BytesIO()
        pixels = random.integers(0, 256, (SIZE // 4, SIZE // 4, 3), np.uint8)
        Image.fromarray(pixels).resize((SIZE, SIZE)).save(stream, "JPEG", quality=80)
        Path(f"{folder}/{number % CLASSES}/{number:06d}.jpg").write_bytes(stream.getvalue())


def measure(images: str, budget: int, out: str) -> dict[str, float]:
    """Fine-tunes for an epoch; returns the most bytes that the process had of its own."""
    import ftkeras
    from ftkeras.config.load import parse_config

    config = parse_config(
        {
            "data": {"source": "folder", "path": images, "cache": "none",
                     "input": {"size": SIZE, "augmentation": "none"}},
            "backbone": {"name": "MobileNetV2", "weights": "starter"},
            "phases": [{"name": "top", "train": ["head", "blocks[-4:]"], "epochs": 1,
                        "learning_rate": 1e-4}],
            "trunk": {"mode": "on", "memory_mb": budget},
            "export": {"saved_model": False},
            "report": False,
        }
    )  # fmt: skip
    most, over = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, own_memory())
            time.sleep(0.05)

    watching = threading.Thread(target=watch)
    watching.start()
    run = ftkeras.train(config, out)
    over.set()
    watching.join()
    [trunk] = run.read_json("plan.json")["trunk"]
    return {"own": most, "store": trunk["bytes"]}


def own_memory() -> int:
    """Returns the bytes that this process holds and no file backs."""
    facts = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(facts[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem"))


if __name__ == "__main__":
    main()
