"""Whether the pixels that reach the backbone are what its weights were trained on.

The commonest bug of the field shows no error: a network fed with 0..255 that knew -1..1 still
trains, and badly.
"""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from ftkeras.backbones import Backbone
from ftkeras.backbones.preprocessing import preprocess
from ftkeras.findings import Evidence, Finding
from ftkeras.keras_internals import inbound_nodes

KINDS = {  # what each does, and the values that can come out
    "none": ("0..255", 0.0, 255.0),
    "tf": ("-1..1", -1.0, 1.0),
    "torch": ("minus ImageNet's mean, by its deviation", -2.2, 2.7),
    "caffe": ("BGR, minus ImageNet's mean", -124.0, 152.0),
}
_CLEARLY = 2.0  # times worse than the best kind
_DEAD = 0.9  # share of features that are the same for all images


def check_preprocessing(
    model: keras.Model, backbone: Backbone, images: np.ndarray
) -> tuple[str, list[Finding]]:
    """Looks at what a batch of images becomes on its way into the backbone.

    Args:
        model: The classifier, with preprocessing and backbone inside.
        backbone: The backbone.
        images: float32 (n, size, size, 3), as the model gets them; some tens, of all classes.

    Returns:
        A sentence about what was seen, and findings.
    """
    into = inbound_nodes(model.get_layer(backbone.model.name))[-1].input_tensors[0]
    reached = keras.Model(model.inputs[0], into)(images).numpy()
    low, high = float(reached.min()), float(reached.max())
    name, least, most = KINDS[backbone.preprocessing]
    said = f"{backbone.preprocessing} ({name}): {low:.2f} .. {high:.2f} in {len(images)} images"
    findings = list(_raw_range(images))
    if not least - 0.01 <= low <= high <= most + 0.01:
        findings.append(
            Finding(
                "error",
                "preprocessing range",
                f"{backbone.name} expects {name}, from {least:g} to {most:g}; what reaches it goes "
                f"from {low:.2f} to {high:.2f}.",
                "Give the pipeline images of 0..255.",
            )
        )
    misfits = statistics_misfit(backbone.model, images)
    if misfits:
        said += "; first batch norm expects " + min(misfits, key=misfits.__getitem__)
    return said, [*findings, *_judge_fit(backbone, misfits), *_dead(backbone.model, reached)]


def _raw_range(images: np.ndarray) -> Iterator[Finding]:
    if 0 < images.max() <= 1.5:
        yield Finding(
            "error",
            "pixel range",
            f"No pixel of {len(images)} images is above {images.max():.2g}: they seem scaled to "
            "0..1 already, and the model takes 0..255.",
            "Store the images as bytes, 0..255.",
        )


def statistics_misfit(backbone: keras.Model, images: np.ndarray) -> dict[str, float]:
    """Returns how badly each kind of preprocessing fits the first batch norm's memory.

    A batch norm remembers mean and variance of each channel as they were in pretraining. Those
    of these images, under the right preprocessing, are of that order; under a wrong one they are
    far off. Measured is the Kullback-Leibler divergence between the two Gaussians, in nats,
    averaged over the channels.

    Args:
        backbone: The backbone without preprocessing.
        images: float32 (n, size, size, 3), RGB, 0..255.

    Returns:
        A number for each kind, 0 for a perfect fit; empty if there is no batch norm with
        statistics of its own.
    """
    norm = next(
        (x for x in backbone.layers if isinstance(x, keras.layers.BatchNormalization)), None
    )
    if norm is None:
        return {}
    mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
    if not mean.any() and (variance == 1).all():
        return {}  # never trained
    into = keras.Model(backbone.inputs[0], inbound_nodes(norm)[-1].input_tensors[0])
    axes = tuple(range(len(into.output_shape) - 1))
    misfits = {}
    for kind in KINDS:
        values = into(preprocess(tf.constant(images), kind), training=False).numpy()
        spread = (values.var(axis=axes) + norm.epsilon) / (variance + norm.epsilon)
        shift = (values.mean(axis=axes) - mean) ** 2 / (variance + norm.epsilon)
        misfits[kind] = float(np.mean((spread + shift - 1 - np.log(spread)) / 2))
    return misfits


def _judge_fit(backbone: Backbone, misfits: dict[str, float]) -> Iterator[Finding]:
    if not misfits:
        return
    best = min(misfits, key=misfits.__getitem__)
    misfit = misfits[backbone.preprocessing]
    if misfit > _CLEARLY * misfits[best] + 0.5:
        yield Finding(
            "error",
            "preprocessing of the weights",
            f"{backbone.name} gets {backbone.preprocessing} ({KINDS[backbone.preprocessing][0]}), "
            f"but the statistics that its first batch norm kept from pretraining fit {best} "
            f"({KINDS[best][0]}) much better: {misfits[best]:.2g} against {misfit:.2g} nats.",
            "Put the preprocessing that the weights were trained with into the .keras file, as its "
            "first layers, or take weights that fit.",
            tuple(Evidence(kind, detail=f"{misfits[kind]:.3g} nats") for kind in misfits),
        )


def _dead(backbone: keras.Model, reached: np.ndarray) -> Iterator[Finding]:
    maps = backbone(reached, training=False).numpy()  # (n, h, w, channels)
    features = maps.mean(axis=tuple(range(1, maps.ndim - 1)))  # (n, channels)
    if not np.isfinite(features).all():
        message = "Some of the backbone's features are not finite."
        yield Finding("error", "features", message, "Take other weights; these are broken.")
        return
    spread = features.std(axis=0)  # (channels,)
    dead = float(np.mean(spread <= 1e-6 * np.abs(features).max(axis=0)))
    if dead >= _DEAD:
        yield Finding(
            "error",
            "features",
            f"{dead:.0%} of the backbone's features are the same for all of {len(reached)} images.",
            "Check that the weights belong to this backbone, and their preprocessing.",
        )
