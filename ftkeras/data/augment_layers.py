"""Image augmentation layers of Keras and keras-cv, driven by a key instead of their own state.

A layer draws its random numbers from a seed generator that counts its calls, so what an image gets
depends on which images came before it, and on the order in which threads ran. Here the generator is
replaced by one whose numbers follow from the key of the image at hand. What a layer draws by any
other road is found in its graph, and refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from ftkeras.data.augment import Augment
from ftkeras.data.mix import sample_beta
from ftkeras.errors import UserError, did_you_mean
from ftkeras.keras_internals import choices_of_augmentation, drawing_from, image_preprocessing_base

_UNFIT = {  # names that belong elsewhere, and where
    **dict.fromkeys(("MixUp", "CutMix", "FourierMix", "Mosaic"), "it mixes images: see data.mix"),
    **dict.fromkeys(
        ("Resizing", "CenterCrop", "RandomCrop"), "data.image_size and data.resize do it"
    ),
    **dict.fromkeys(("JitteredResize", "RandomCropAndResize"), "a strength's random crop does it"),
    **dict.fromkeys(("RandomApply", "RandomChoice"), "its layers cannot be written in a config"),
    "RandomAugmentationPipeline": "its layers cannot be written in a config",
    "MaxNumBoundingBoxes": "it does not change images",
    "RepeatedAugmentation": "it changes the size of batches",
    "Rescaling": "pixels stay 0 to 255; the model scales them itself",
}
_STATEFUL = ("Random", "Stateful", "Rng", "Multinomial", "ParameterizedTruncatedNormal", "PyFunc")
_STATELESS = ("RandomIndexShuffle",)


def layers_augment(specs: Sequence[tuple[str, Mapping[str, Any]]], image_size: int) -> Augment:
    """Makes one function of a list of layers, applied in order to each image by itself.

    Args:
        specs: For each layer its name in `keras.layers`, or `keras_cv/NAME`, and its arguments.
        image_size: Side of the images, in pixels.

    Returns:
        (image float32 (s, s, 3) 0..255, key int32 (2,)) -> the same kind of image; the key alone
        decides what happens.

    Raises:
        UserError: A name or an argument is wrong, or a layer does not fit into the pipeline.
    """
    applied = [_traced(name, _make(name, arguments), image_size) for name, arguments in specs]

    def augment(image: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        for number, apply in enumerate(applied):
            image = apply(image, tf.random.fold_in(key, number))
        return image

    return augment


def _make(name: str, arguments: Mapping[str, Any]) -> keras.layers.Layer:
    home, _, bare = name.rpartition("/")
    if home not in ("", "keras_cv"):
        raise UserError(
            f"data.augmentation: {name!r} is not a name of keras.layers or keras_cv/NAME."
        )
    layers, base = _keras_cv() if home else (keras.layers, image_preprocessing_base())
    known = sorted(
        key
        for key, value in vars(layers).items()
        if isinstance(value, type)
        and issubclass(value, base)
        and key not in _UNFIT
        and not key.endswith("BaseImageAugmentationLayer")
    )
    if bare in _UNFIT:
        raise UserError(f"data.augmentation: {name} cannot be used here; {_UNFIT[bare]}.")
    if bare not in known:
        raise UserError(
            f"data.augmentation: there is no layer {name!r}.{did_you_mean(bare, known)} "
            f"Choose one of {', '.join(known)}."
        )
    try:
        # Half precision would be too coarse for pixels up to 255.
        return getattr(layers, bare)(**{"dtype": "float32", **arguments})
    except Exception as error:  # a constructor may refuse its arguments in any way
        raise UserError(
            f"data.augmentation: {name} refuses its args: {_first_line(error)}"
        ) from error


def _keras_cv() -> tuple[Any, Any]:
    try:
        import keras_cv
    except ImportError as error:
        raise UserError(
            'data.augmentation: keras_cv/NAME needs keras-cv. Run: pip install "ftkeras[cv]"'
        ) from error
    layers = keras_cv.layers
    bases = (layers.BaseImageAugmentationLayer, layers.VectorizedBaseImageAugmentationLayer)
    return layers, bases


def _traced(name: str, layer: keras.layers.Layer, size: int) -> Callable[..., tf.Tensor]:
    """Traces a layer into a function of an image and a key, and makes sure that it is one."""

    def apply(image: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        keyed = KeyedSeeds(key)
        with _drawing_from(layer, keyed):
            output = tf.cast(_call(layer, image, keyed), tf.float32)
        return tf.clip_by_value(tf.ensure_shape(output, (size, size, 3)), 0.0, 255.0)

    signature = [tf.TensorSpec((size, size, 3), tf.float32), tf.TensorSpec((2,), tf.int32)]
    try:
        function = tf.function(apply, input_signature=signature, autograph=False)
        traced = function.get_concrete_function()
    except Exception as error:  # a layer may fail in any way on arguments that do not fit
        raise UserError(
            f"data.augmentation: {name} does not work on images of {size} x {size} x 3: "
            f"{_first_line(error)}"
        ) from error
    graph = traced.graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    kinds = {node.op for node in nodes if node.op not in _STATELESS}
    if stateful := sorted(kind for kind in kinds if kind.startswith(_STATEFUL)):
        raise UserError(
            f"data.augmentation: {name} draws random numbers of its own ({', '.join(stateful)}), "
            "so a run with it could not be repeated. Choose another layer."
        )
    return traced


class KeyedSeeds(keras.random.SeedGenerator):
    """A seed generator without state: its n-th seed follows from the key and n.

    n is counted while a graph is traced, so each place that draws has a seed of its own.
    """

    def __init__(self, key: tf.Tensor):
        self._key = key
        self._drawn = 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        """Returns the next seed, int32 (2,)."""
        self._drawn += 1
        return tf.random.fold_in(self._key, self._drawn)


def _call(layer: Any, image: tf.Tensor, seeds: KeyedSeeds) -> tf.Tensor:
    # Keras runs every operation of these two on every image and picks one result; and AugMix picks
    # its operations once, in Python, for all images to come.
    if isinstance(layer, keras.layers.RandAugment):
        one_of = _one_of(choices_of_augmentation(layer))
        for _ in range(layer.num_ops):
            image = one_of(image, seeds.next())
        return image
    if isinstance(layer, keras.layers.AugMix):
        return _aug_mix(layer, image, seeds)
    return layer(image, training=True)


def _one_of(choices: Sequence[Any]) -> Callable[..., tf.Tensor]:
    """Makes a function of an image and a key that applies one of several layers; None is none."""

    def apply(layer: Any, image: tf.Tensor, seeds: KeyedSeeds) -> tf.Tensor:
        if layer is None:
            return image
        with _drawing_from(layer, seeds):
            return tf.ensure_shape(tf.cast(layer(image, training=True), tf.float32), image.shape)

    @tf.function(autograph=False)  # traced once, however often it is called
    def one_of(image: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        seeds = KeyedSeeds(key)
        which = tf.random.stateless_uniform((), seeds.next(), 0, len(choices), tf.int32)
        branches = [lambda layer=layer: apply(layer, image, seeds) for layer in choices]
        return tf.switch_case(which, branches)

    return one_of


def _aug_mix(layer: Any, image: tf.Tensor, seeds: KeyedSeeds) -> tf.Tensor:
    """Hendrycks et al. 2020, AugMix: chains of operations, blended with the image itself."""
    one_of = _one_of([*choices_of_augmentation(layer), None])
    gammas = tf.random.stateless_gamma((layer.num_chains,), seeds.next(), layer.alpha)
    shares = tf.unstack(gammas / tf.reduce_sum(gammas), num=layer.num_chains)  # Dirichlet
    mixed = tf.zeros_like(image)
    for share in shares:
        view = image
        for _ in range(layer.chain_depth):
            view = one_of(view, seeds.next())
        mixed += share * view
    own = sample_beta(layer.alpha, seeds.next())
    return own * image + (1.0 - own) * mixed


def _drawing_from(
    layer: keras.layers.Layer, seeds: KeyedSeeds
) -> contextlib.AbstractContextManager[None]:
    """Makes a layer, and the layers within, draw from `seeds` while the block is traced."""

    def uniform(
        shape: Any, minval: Any = 0, maxval: Any = None, dtype: Any = tf.float32, **_: Any
    ) -> tf.Tensor:
        high = 1 if maxval is None and dtype.is_floating else maxval
        return tf.random.stateless_uniform(shape, seeds.next(), minval, high, dtype)

    def normal(
        shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = tf.float32, **_: Any
    ) -> tf.Tensor:
        return tf.random.stateless_normal(shape, seeds.next(), mean, stddev, dtype)

    def gamma(
        shape: Any, alpha: Any, beta: Any = None, dtype: Any = tf.float32, **_: Any
    ) -> tf.Tensor:
        return tf.random.stateless_gamma(shape, seeds.next(), alpha, beta, dtype)

    return drawing_from(layer, seeds, {"uniform": uniform, "normal": normal, "gamma": gamma})


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
