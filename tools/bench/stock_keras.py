"""Fine-tuning as Keras's own guide writes it: the baseline of `end_to_end.py`, which runs this.

First a frozen base with `training=False`, a new head, `fit`. Then the last layers unfrozen,
compiled again with a low rate, `fit` again (keras.io, "Transfer learning & fine-tuning"). Decoded
images are cached in memory, as the guide recommends. Prints a line per epoch, and one of JSON at
the end.
"""

from __future__ import annotations

import argparse
import json

import keras
import tensorflow as tf


def main() -> None:
    """Trains and prints what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("weights")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--head-epochs", type=int, required=True)
    parser.add_argument("--top-epochs", type=int, required=True)
    parser.add_argument("--first-layer", required=True, help="the first layer that is unfrozen")
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed)
    train, val = (images(options, part) for part in ("train", "val"))

    base = keras.applications.MobileNetV2(
        input_shape=(options.size, options.size, 3), include_top=False, weights=None
    )
    base.load_weights(options.weights)
    base.trainable = False
    inputs = keras.Input((options.size, options.size, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = base(x, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(x)
    model = keras.Model(inputs, keras.layers.Dense(10)(x))

    fit(model, train, val, 3e-3, options.head_epochs)
    if options.top_epochs:
        unfreeze(base, options.first_layer)
        fit(model, train, val, 3e-4, options.top_epochs)
    accuracy = model.evaluate(val, verbose=0, return_dict=True)["accuracy"]
    print(json.dumps({"accuracy": accuracy}), flush=True)


def images(options: argparse.Namespace, part: str) -> tf.data.Dataset:
    """Returns a part's batches of 32."""
    data = keras.utils.image_dataset_from_directory(
        f"{options.folder}/{part}",
        label_mode="categorical",
        image_size=(options.size, options.size),
        batch_size=None,
        shuffle=False,
        verbose=False,
    ).cache()
    if part == "train":
        data = data.shuffle(len(data), seed=options.seed)
    return data.batch(32).prefetch(tf.data.AUTOTUNE)


def unfreeze(base: keras.Model, first_layer: str) -> None:
    """Lets the layers from one on train, without batch normalisation."""
    base.trainable = True
    names = [layer.name for layer in base.layers]
    for layer in base.layers[: names.index(first_layer)]:
        layer.trainable = False
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def fit(
    model: keras.Model, train: tf.data.Dataset, val: tf.data.Dataset, rate: float, epochs: int
) -> None:
    """Compiles again and trains."""
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    report = keras.callbacks.LambdaCallback(on_epoch_end=print_epoch)
    model.fit(train, validation_data=val, epochs=epochs, verbose=0, callbacks=[report])


def print_epoch(epoch: int, logs: dict[str, float]) -> None:
    """Prints how an epoch ended."""
    print(f"epoch {epoch + 1}: val_accuracy {logs['val_accuracy']:.4f}", flush=True)


if __name__ == "__main__":
    main()
