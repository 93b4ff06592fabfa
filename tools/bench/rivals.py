"""What a beginner's other scripts give on the sets and splits of `from_floor.py`.

    python tools/bench/rivals.py --data FOLDER [--ways keras,fastai] [--fastai PYTHON] [--sets ...]

`keras` is the script of Keras's guide (keras.io, "Transfer learning & fine-tuning"): images are
mirrored and turned, a new head trains on the frozen base for 20 epochs of Adam, then everything for
10 at 1e-5, batch normalisation in inference. `fastai` is `fine_tune(20)` with its defaults, the
weights converted (`rival_fastai.py`, which the interpreter `--fastai` runs). All begin from the
shipped weights, see batches of 32, and train on training and validation examples together, as a run
with `training.refit` does. `from_floor.py --rules` sets the results beside it. A result that
`--out` already holds is not measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from floor_rules import packed
from from_floor import BATCH, SETS, SIZE, drawn
from image_sets import load
from rival_keras import guide_model, write_weights

from ftkeras.backbones import Backbone, load_backbone

HERE = Path(__file__).parent
HEAD_EPOCHS, FINE_EPOCHS, FASTAI_EPOCHS = 20, 10, 20
Split = tuple[np.ndarray, np.ndarray]


def main() -> None:
    """Measures what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=".")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--ways", default="keras,fastai")
    parser.add_argument("--fastai", default="python", help="the interpreter that has fastai")
    parser.add_argument("--out", default=str(HERE / "rivals.jsonl"))
    options = parser.parse_args()
    out, ways = Path(options.out), {"keras": keras_guide, "fastai": fastai(options.fastai)}
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    known = {(row["set"], row["seed"], row["way"]) for row in rows}
    for way in options.ways.split(","):
        for name in options.sets.split(","):
            for seed in map(int, options.seeds.split(",")):
                if (name, seed, way) not in known:
                    row = measure(name, seed, way, ways[way], Path(options.data))
                    with out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(name, seed, way, f"{row['test']:.3f} {row['seconds']} s", flush=True)


Way = Callable[[Backbone, Split, np.ndarray, int], np.ndarray]
"""Returns the classes of test images; takes the backbone, what to train on, them, and a seed."""


def measure(name: str, seed: int, way: str, run: Way, folder: Path) -> dict[str, object]:
    """Returns the row of one training."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    base, count, tests = SETS[name]
    pixels, labels = load(base, SIZE, folder)
    rows, start = drawn(labels, count, tests, seed), time.time()
    seen = np.concatenate([rows["train"], rows["val"]])
    backbone = load_backbone("MobileNetV2", weights="starter", image_size=SIZE)
    said = run(backbone, (pixels[seen], labels[seen]), pixels[rows["test"]], seed)
    wrong = said != labels[rows["test"]]
    return {"set": name, "seed": seed, "way": way, "test": float(1 - wrong.mean()),
            "missed": packed(wrong), "seconds": round(time.time() - start, 1)}  # fmt: skip


def keras_guide(backbone: Backbone, train: Split, test: np.ndarray, seed: int) -> np.ndarray:
    """Trains as the guide does."""
    base = backbone.model
    base.trainable = False
    model = guide_model(base, int(train[1].max()) + 1, seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pixels = train[0].astype(np.float32)
    for rate, epochs in ((1e-3, HEAD_EPOCHS), (1e-5, FINE_EPOCHS)):
        model.compile(keras.optimizers.Adam(rate), loss)
        model.fit(pixels, train[1], batch_size=BATCH, epochs=epochs, verbose=0)
        base.trainable = True
    return np.argmax(model.predict(test.astype(np.float32), verbose=0), axis=1)


def fastai(python: str) -> Way:
    """Returns the way that another interpreter goes."""

    def run(backbone: Backbone, train: Split, test: np.ndarray, seed: int) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            write_weights(
                backbone.model, f"{folder}/in.npz", x=train[0], y=train[1], test=test, seed=seed,
                epochs=FASTAI_EPOCHS, batch=BATCH,
            )  # fmt: skip
            subprocess.run([python, str(HERE / "rival_fastai.py"), folder], check=True)
            return np.load(f"{folder}/out.npy")

    return run


if __name__ == "__main__":
    main()
