"""The questions that an exported model answers: one function a signature.

All of a classifier's return, for each of n images, all classes with the best first:

    scores         float32 (n, classes)   the model's own softmax or sigmoid, descending
    class_indices  int32   (n, classes)   which class each score is of
    class_names    string  (n, classes)   the same by name, UTF-8
    predicted      bool    (n, classes)   multi-label only: the score reaches the class's threshold
    error          string  (n,)           of encoded images: empty, or why there is no answer

Of a model with several outputs, each of these names begins with its output's, as in `NAME_scores`.
A number gives `NAME_value`, float32 (n,), in the units of the data that it was trained on, even if
there is no other output.

`serving_default` takes `image_bytes`, string (n,): image files as they are, of any sizes, decoded
and resized inside by the code that training uses. `examples` takes `examples`, string (n,):
serialized tf.Examples with the file in `image/encoded`. `images` takes `images`, float32 (n, size,
size, 3): RGB 0..255, already resized. `features` takes `image_bytes` and returns `features`,
float32 (n, channels), what the head sees of the image, and `error`. `images_static` is `images` for
one batch size and without names: nothing that an accelerator's compiler cannot take.

A file that cannot be decoded costs no other file its answer: its scores and values are 0, its
indices -1, its names and features empty or 0, and `error` says why. WebP is such a file: only what
begins as JPEG, PNG, GIF or BMP, and is not too large, reaches a decoder
(`inputs.image.file_check`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from ftkeras.export.classifier import Outputs, Served
from ftkeras.inputs.base import PLAIN, Input

FEATURE = "image/encoded"
"""The feature of a tf.Example that holds the image file."""


def archive_of(servable: Served, static_batch: int | None = None) -> keras.export.ExportArchive:
    """Returns an archive of the model with its signatures.

    Args:
        servable: What is exported.
        static_batch: The batch size of `images_static`; None leaves that signature out.
    """
    model = servable.network
    [spec] = servable.input.takes.values()
    archive = keras.export.ExportArchive()
    archive.track(model)
    pixels = tf.TensorSpec((None, *spec.shape), spec.dtype, "images")
    files = tf.TensorSpec((None,), tf.string, "image_bytes")
    examples = tf.TensorSpec((None,), tf.string, "examples")

    def network(images: tf.Tensor) -> tuple[Outputs, list[tf.Tensor]]:
        said = keras.tree.flatten(model(images, training=False))
        features = [tf.cast(said.pop(), tf.float32)] if servable.has_features else []
        return servable.answers(said), features

    def reader(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return decoded(image_bytes, servable.input)

    # Two graphs that the signatures call: decoder and model are traced and stored once.
    read = tf.function(reader, autograph=False).get_concrete_function(files)
    answer = tf.function(network, autograph=False).get_concrete_function(pixels)

    def serving_default(image_bytes: tf.Tensor) -> Outputs:
        images, errors = read(image_bytes)
        return _with_errors(answer(images)[0], errors)

    def of_examples(examples: tf.Tensor) -> Outputs:
        return serving_default(_files_in(examples))

    def of_images(images: tf.Tensor) -> Outputs:
        return dict(answer(images)[0])

    def features(image_bytes: tf.Tensor) -> Outputs:
        images, errors = read(image_bytes)
        return _with_errors({"features": answer(images)[1][0]}, errors)

    def images_static(images: tf.Tensor) -> Outputs:
        outputs, _ = network(images)
        return {name: x for name, x in outputs.items() if x.dtype != tf.string}

    archive.add_endpoint("serving_default", serving_default, [files])
    archive.add_endpoint("examples", of_examples, [examples])
    archive.add_endpoint("images", of_images, [pixels])
    if servable.has_features:
        archive.add_endpoint("features", features, [files])
    if static_batch:
        fixed = tf.TensorSpec((static_batch, *spec.shape), spec.dtype, "images")
        archive.add_endpoint("images_static", images_static, [fixed])
    return archive


def decoded(encoded: tf.Tensor, kind: Input) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes and prepares a batch of files; what cannot be decoded is 0.

    Args:
        encoded: string (n,); n may be 0.
        kind: What the files are.

    Returns:
        What the model takes, (n, ...), and why each file could not be decoded, string (n,), empty
        if it was.
    """
    [spec], known = kind.takes.values(), kind.able("golden", "export")

    def read(file: tf.Tensor) -> tuple[tf.Tensor, bool]:
        return kind.read(file, PLAIN, tf.zeros(2, tf.int32)), True

    def reasons(readable: tf.Tensor) -> tf.Tensor:
        why = _each(known.why_not, encoded, known.DAMAGED)
        return tf.where(readable, "", tf.where(why == "", known.DAMAGED, why))

    with tf.device("CPU:0"):  # no accelerator decodes files
        inputs, readable = _each(read, encoded, (tf.zeros(spec.shape, spec.dtype), False))
        none = functools.partial(tf.zeros_like, encoded)
        return inputs, tf.cond(tf.reduce_all(readable), none, lambda: reasons(readable))


def _files_in(examples: tf.Tensor) -> tf.Tensor:
    """Returns the image file in each serialized tf.Example; empty where there is none."""
    feature = {FEATURE: tf.io.FixedLenFeature((), tf.string)}

    def read(example: tf.Tensor) -> tf.Tensor:
        return tf.io.parse_single_example(example, feature)[FEATURE]

    with tf.device("CPU:0"):
        return _each(read, examples, "")


def _each(read: Callable[[tf.Tensor], Any], elements: tf.Tensor, nothing: Any) -> Any:
    """Maps `read` over elements (n,), with `nothing` as the result if it fails.

    An operation that fails ends the whole graph it is in. So the elements go through a data set,
    which may lose any of them; those that come out know their numbers.
    """
    n = tf.size(elements)

    @tf.autograph.experimental.do_not_convert
    def numbered(number: tf.Tensor, element: tf.Tensor) -> Any:
        return number, read(element)

    whole = tf.data.Dataset.from_tensor_slices((tf.range(n), elements))
    instead = tf.data.Dataset.from_tensors((-1, nothing))
    # One after the other: decoded in parallel, large images would need memory at the same time.
    answered = instead.concatenate(whole.map(numbered).ignore_errors())
    numbers, results = answered.batch(tf.cast(n, tf.int64) + 1).get_single_element()
    rows = tf.range(1, tf.size(numbers))
    rows = tf.scatter_nd(numbers[1:, tf.newaxis], rows, [n])  # 0, `nothing`, unless an element came
    return tf.nest.map_structure(lambda values: tf.gather(values, rows), results)


def _with_errors(outputs: Outputs, errors: tf.Tensor) -> Outputs:
    """Empties the rows of what could not be read, and adds the errors, string (n,)."""
    readable = errors == ""

    def kept(values: tf.Tensor) -> tf.Tensor:
        # Whole numbers are indices: 0 would be a class.
        whole = values.dtype == tf.int32
        nothing = tf.cast(-1, tf.int32) if whole else tf.zeros((), values.dtype)
        rows = readable if len(values.shape) == 1 else readable[:, tf.newaxis]  # (n,) or (n, 1)
        return tf.where(rows, values, nothing)

    answered = {name: kept(values) for name, values in outputs.items()}
    return {**answered, "error": errors}
