"""Image augmentation layers of Keras and keras-cv, in the pipeline.

A layer of Keras takes its seed in `get_random_transformation`, so its effect on an image depends
on the image's key alone. RandAugment, AugMix and RandomColorJitter ignore that seed; they are
composed here from the layers inside them. A layer of keras-cv takes no seed. It is called as it is
and draws from TensorFlow's global random state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from ftkeras.errors import UserError, did_you_mean, first_line
from ftkeras.imports import to_install
from ftkeras.inputs.image.augment import Augment
from ftkeras.inputs.image.mix import sample_beta

_UNFIT = {  # names that belong elsewhere, and where
    **dict.fromkeys(
        ("MixUp", "CutMix", "FourierMix", "Mosaic"), "it mixes images: see data.input.mix"
    ),
    **dict.fromkeys(
        ("Resizing", "CenterCrop", "RandomCrop"), "data.input.size and data.input.resize do it"
    ),
    **dict.fromkeys(("JitteredResize", "RandomCropAndResize"), "a strength's random crop does it"),
    **dict.fromkeys(("RandomApply", "RandomChoice"), "its layers cannot be written in a config"),
    "RandomAugmentationPipeline": "its layers cannot be written in a config",
    "MaxNumBoundingBoxes": "it does not change images",
    "RepeatedAugmentation": "it changes the size of batches",
    "Rescaling": "pixels stay 0 to 255; the model scales them itself",
}
# Operations that draw random numbers in a graph, or change a state such as a generator's.
_STATEFUL = (
    *("Assign", "EagerPyFunc", "Multinomial", "ParameterizedTruncatedNormal"),
    *("PyFunc", "Random", "Rng", "Stateful"),
)
_STATELESS = ("RandomIndexShuffle", "StatefulPartitionedCall")

OPERATIONS = (  # the layers inside RandAugment and AugMix; the last four if AugMix has `all_ops`
    *("random_shear", "random_translation", "random_rotation", "random_posterization"),
    *("solarization", "auto_contrast", "equalization", "random_brightness"),
    *("random_color_degeneration", "random_contrast", "random_sharpness"),
)
# The layers inside RandomColorJitter, in its order; None if its argument is left out.
JITTERS = ("random_brightness", "random_contrast", "random_saturation", "random_hue")


@dataclass(frozen=True)
class LayersAugment:
    """Layers that change each image by itself, in order.

    Args:
        changes: One function per layer: (image float32 (s, s, 3) 0..255, key int32 (2,)) -> image.
        unseeded: The names of the layers that do not follow the key.
    """

    changes: Sequence[Augment]
    unseeded: Sequence[str] = ()

    def __call__(self, image: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """Returns the changed image, float32 (s, s, 3) 0..255."""
        for number, change in enumerate(self.changes):
            image = change(image, tf.random.fold_in(key, number))
        return image

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes that are printed before training starts."""
        return tuple(
            f"data.input.augmentation: {name} takes no seed. Neither another run nor a resumed one "
            "gets the same pixels from it."
            for name in self.unseeded
        )


def layers_augment(
    specs: Sequence[tuple[str, Mapping[str, Any]]], image_size: int, *, repeatable: bool = False
) -> LayersAugment:
    """Makes one function of a list of layers.

    Args:
        specs: For each layer its name in `keras.layers`, or `keras_cv/NAME`, and its arguments.
        image_size: Side of the images, in pixels.
        repeatable: Whether a layer that does not follow the key is an error.

    Returns:
        (image float32 (s, s, 3) 0..255, key int32 (2,)) -> the same kind of image. The key alone
        decides the changes, except in the layers that `unseeded` names.

    Raises:
        UserError: A name or an argument is wrong, or a layer does not fit into the pipeline.
    """
    changes: list[Augment] = []
    unseeded: dict[str, None] = {}  # an ordered set
    for name, arguments in specs:
        # In deterministic mode, TensorFlow refuses the generator that keras-cv's layers make.
        if repeatable and name.startswith("keras_cv/"):
            raise _unrepeatable(name)
        change, is_seeded = layer_augment(name, _make(name, arguments), image_size)
        changes.append(change)
        if not is_seeded:
            unseeded[name] = None
    if repeatable and unseeded:
        raise _unrepeatable(next(iter(unseeded)))
    return LayersAugment(changes, tuple(unseeded))


def _unrepeatable(name: str) -> UserError:
    return UserError(
        f"data.input.augmentation: {name} takes no seed, so training cannot be deterministic. "
        "Choose a layer of keras.layers, or set training.deterministic: false."
    )


def _make(name: str, arguments: Mapping[str, Any]) -> keras.layers.Layer:
    home, _, bare = name.rpartition("/")
    if home not in ("", "keras_cv"):
        raise UserError(
            f"data.input.augmentation: {name!r} is not a name of keras.layers or keras_cv/NAME."
        )
    layers, is_augmentation = _keras_cv() if home else (keras.layers, _is_image_preprocessing)
    known = sorted(
        key
        for key, value in vars(layers).items()
        if isinstance(value, type) and is_augmentation(value) and key not in _UNFIT
    )
    if bare in _UNFIT:
        raise UserError(f"data.input.augmentation: {name} cannot be used here; {_UNFIT[bare]}.")
    if bare not in known:
        raise UserError(
            f"data.input.augmentation: there is no layer {name!r}.{did_you_mean(bare, known)} "
            f"Choose one of {', '.join(known)}."
        )
    try:
        # Half precision would be too coarse for pixels up to 255. tf.data runs on the CPU, and
        # cannot read the state of a generator on a GPU.
        with tf.device("CPU"):
            return getattr(layers, bare)(**{"dtype": "float32", **arguments})
    except Exception as error:  # a constructor may refuse its arguments in any way
        raise UserError(
            f"data.input.augmentation: {name} refuses its args: {first_line(error)}"
        ) from error


def _is_image_preprocessing(kind: type) -> bool:
    return hasattr(kind, "get_random_transformation")  # their base has no public name


def _keras_cv() -> tuple[Any, Callable[[type], bool]]:
    try:
        import keras_cv
    except ImportError as error:
        raise UserError(
            f"data.input.augmentation: keras_cv/NAME needs keras-cv. Run: {to_install('cv')}"
        ) from error
    layers = keras_cv.layers
    bases = (layers.BaseImageAugmentationLayer, layers.VectorizedBaseImageAugmentationLayer)
    return layers, lambda kind: issubclass(kind, bases) and kind not in bases


def layer_augment(name: str, layer: keras.layers.Layer, size: int) -> tuple[Augment, bool]:
    """Traces a layer into a function of an image and a key.

    A layer gets its seed from the key if its `call` is that of Keras's image preprocessing layers.
    Any other layer is called as it is.

    Args:
        name: The layer's name in messages.
        layer: Takes one image (s, s, 3), 0..255.
        size: Side of the images, in pixels.

    Returns:
        (image float32 (s, s, 3) 0..255, key int32 (2,)) -> the same kind of image, and whether the
        key alone decides what happens.

    Raises:
        UserError: The layer fails on such images, or changes their shape.
    """
    # Every image preprocessing layer of Keras inherits this `call`, which draws a transformation
    # and applies it.
    takes_seed = getattr(type(layer), "call", None) is keras.layers.RandomFlip.call

    def apply(image: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        if takes_seed:
            output = _change(layer, image[tf.newaxis], KeyedSeeds(key))[0]
        else:
            output = tf.cast(layer(image, training=True), tf.float32)
        return tf.clip_by_value(tf.ensure_shape(output, (size, size, 3)), 0.0, 255.0)

    signature = [tf.TensorSpec((size, size, 3), tf.float32), tf.TensorSpec((2,), tf.int32)]
    try:
        if takes_seed and not layer.built:
            layer.build((1, size, size, 3))
        # Some layers of keras-cv need autograph: they branch on tensors.
        function = tf.function(apply, input_signature=signature, autograph=not takes_seed)
        traced = function.get_concrete_function()
    except Exception as error:  # a layer may fail in any way on arguments that do not fit
        raise UserError(
            f"data.input.augmentation: {name} does not work on images of {size} x {size} x 3: "
            f"{first_line(error)}"
        ) from error
    return traced, takes_seed and not _draws_from_state(traced.graph)


def _draws_from_state(graph: tf.Graph) -> bool:
    """Whether a graph draws random numbers by itself, or changes a state."""
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for f in definition.library.function for node in f.node_def)]
    return any(node.op.startswith(_STATEFUL) and node.op not in _STATELESS for node in nodes)


class KeyedSeeds(keras.random.SeedGenerator):
    """A seed generator without state: its n-th seed follows from the key and n.

    n is counted while a graph is traced, so each operation that draws has its own seed.
    """

    def __init__(self, key: tf.Tensor):
        self._key = key
        self._drawn = 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        """Returns the next seed, int32 (2,)."""
        self._drawn += 1
        return tf.random.fold_in(self._key, self._drawn)


def _change(layer: Any, images: tf.Tensor, seeds: KeyedSeeds) -> tf.Tensor:
    """Changes images (1, s, s, 3) by a layer of Keras, with random numbers from `seeds` alone."""
    return _COMPOSED.get(type(layer), _transform)(layer, images, seeds)


def _transform(layer: Any, images: tf.Tensor, seeds: KeyedSeeds) -> tf.Tensor:
    images = tf.cast(images, layer.compute_dtype)
    transformation = layer.get_random_transformation(images, training=True, seed=seeds)
    return tf.cast(layer.transform_images(images, transformation, training=True), tf.float32)


def _rand_augment(layer: Any, images: tf.Tensor, seeds: KeyedSeeds) -> tf.Tensor:
    """Cubuk et al. 2020, RandAugment: operations one after the other."""
    one_of = _one_of(_parts(layer, OPERATIONS))
    key = seeds.next()  # an operation that is chosen twice has the same effect, as in Keras
    for _ in range(layer.num_ops):
        images = one_of(images, seeds.next(), key)
    return images


def _aug_mix(layer: Any, images: tf.Tensor, seeds: KeyedSeeds) -> tf.Tensor:
    """Hendrycks et al. 2020, AugMix: chains of operations, blended with the image itself."""
    one_of = _one_of([*_parts(layer, OPERATIONS), None])
    gammas = tf.random.stateless_gamma((layer.num_chains,), seeds.next(), layer.alpha)
    shares = tf.unstack(gammas / tf.reduce_sum(gammas), num=layer.num_chains)  # Dirichlet
    mixed = tf.zeros_like(images)
    for share in shares:
        view = images
        for _ in range(layer.chain_depth):
            view = one_of(view, seeds.next(), seeds.next())
        mixed += share * view
    own = sample_beta(layer.alpha, seeds.next())
    return tf.clip_by_value(own * images + (1.0 - own) * mixed, *layer.value_range)


def _color_jitter(layer: Any, images: tf.Tensor, seeds: KeyedSeeds) -> tf.Tensor:
    for part in _parts(layer, JITTERS):
        images = _transform(part, images, seeds)
    return images


_COMPOSED = {
    keras.layers.RandAugment: _rand_augment,
    keras.layers.AugMix: _aug_mix,
    keras.layers.RandomColorJitter: _color_jitter,
}


def _parts(layer: Any, names: Sequence[str]) -> list[Any]:
    """Returns those of the named layers that a layer contains."""
    return [part for name in names if (part := getattr(layer, name, None)) is not None]


def _one_of(choices: Sequence[Any]) -> Callable[..., tf.Tensor]:
    """Makes a function that applies one of several layers; None applies none.

    Keras runs all of them on every image and picks one result.

    Returns:
        (images (1, s, s, 3), a seed for the choice, a key for what the layer draws) -> images.
    """

    def apply(number: int, images: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        if choices[number] is None:
            return images
        changed = _transform(choices[number], images, KeyedSeeds(tf.random.fold_in(key, number)))
        return tf.ensure_shape(changed, images.shape)

    @tf.function(autograph=False)  # traced once, however often it is called
    def one_of(images: tf.Tensor, choice: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        which = tf.random.stateless_uniform((), choice, 0, len(choices), tf.int32)
        branches = [lambda i=i: apply(i, images, key) for i in range(len(choices))]
        return tf.switch_case(which, branches)

    return one_of
