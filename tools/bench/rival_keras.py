"""Keras's guide and KerasHub's ImageClassifier on a folder of images: `peers.py` runs this.

    python tools/bench/rival_keras.py guide|hub|weights FOLDER [--epochs 5] [--seed 0]

FOLDER has `photos/train|val|test/CLASS/` and `base.weights.h5` of MobileNetV2. Prints a line per
epoch, and at the end one of JSON. It imports nothing of ftkeras, which changes how Keras starts.

`guide` is the script of keras.io's "Transfer learning & fine-tuning": images are mirrored and
turned, a new head trains on the frozen base by Adam at 1e-3, then everything at 1e-5. `hub` is
`keras_hub.models.ImageClassifier`. No backbone of KerasHub has the layers of MobileNetV2, so it
takes Keras's model, as its documentation allows. It trains the head, then the last four blocks, at
the rates of `stock_keras.py`. `weights` writes `weights.npz` for `rival_torch.py`.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from stock_keras import fit, images, unfreeze

SIZE, CLASSES = 96, 10
FIRST_LAYER = "block_13_expand"  # of the last four blocks


def main() -> None:
    """Trains and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=("guide", "hub", "weights"))
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=int, default=5, help="of each of the two phases")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    base = keras.applications.MobileNetV2((SIZE, SIZE, 3), include_top=False, weights=None)
    base.load_weights(f"{options.folder}/base.weights.h5")
    if options.way == "weights":
        write_weights(base, f"{options.folder}/weights.npz")
        return
    keras.utils.set_random_seed(options.seed)
    settings = argparse.Namespace(folder=f"{options.folder}/photos", size=SIZE, seed=options.seed)
    train, val, test = (images(settings, part) for part in ("train", "val", "test"))
    base.trainable = False
    versions = f"keras {keras.__version__}, tensorflow {tf.__version__}"
    if options.way == "guide":
        model = guide_model(base, CLASSES, options.seed)
        fit(model, train, val, 1e-3, options.epochs)
        base.trainable = True
        fit(model, train, val, 1e-5, options.epochs)
    else:
        import keras_hub

        scale = keras.layers.Rescaling(1 / 127.5, offset=-1)
        model = keras_hub.models.ImageClassifier(base, CLASSES, preprocessor=scale, dropout=0.2)
        versions += f", keras-hub {keras_hub.__version__}"
        fit(model, train, val, 3e-3, options.epochs)
        unfreeze(base, FIRST_LAYER)
        fit(model, train, val, 3e-4, options.epochs)
    accuracy = model.evaluate(test, verbose=0, return_dict=True)["accuracy"]
    print(json.dumps({"accuracy": accuracy, "versions": versions}), flush=True)


def guide_model(base: keras.Model, classes: int, seed: int) -> keras.Model:
    """Returns the guide's model of logits around a base; it takes pixels from 0 to 255."""
    inputs = keras.Input(base.input_shape[1:])
    x = keras.layers.RandomFlip("horizontal", seed=seed)(inputs)
    x = keras.layers.RandomRotation(0.1, seed=seed)(x)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    x = base(x, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


def write_weights(base: keras.Model, file: str, **more: Any) -> None:
    """Writes a base's weights layer by layer, images and their features to compare with."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, *base.input_shape[1:]), np.uint8)
    maps = base(pixels.astype(np.float32) / 127.5 - 1, training=False)
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.BatchNormalization)
    layers = [layer for layer in base.layers if isinstance(layer, kinds)]
    weights = [each for layer in layers for each in layer.get_weights()]
    arrays: dict[str, Any] = {f"weight_{number}": each for number, each in enumerate(weights)}
    np.savez(file, pixels=pixels, features=np.mean(maps, axis=(1, 2)), **arrays, **more)


if __name__ == "__main__":
    main()
