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

`serving_default` takes raw examples, of images `image_bytes`, string (n,): files as they are, of
any sizes, decoded and resized inside by the code that training uses. `examples` takes `examples`,
string (n,): serialized tf.Examples with the file in `image/encoded`. `images` takes `images`,
float32 (n, size, size, 3): RGB 0..255, already resized. `features` takes `image_bytes` and returns
`features`, float32 (n, channels), what the head gets of the image, and `error`. `images_static` is
`images` for one batch size and without names: nothing that an accelerator's compiler cannot take.

Of another kind the raw examples are called as `Input.wire` says, and `inputs` (`inputs_static`)
takes what the model takes: one tensor `inputs`, or several by their names.

A raw example that cannot be read does not affect the answers of other examples. Its scores and
values are 0, its indices -1, its names and features empty or 0, and `error` has the reason. Of
images WebP is such a file: only what begins as JPEG, PNG, GIF or BMP, and is not too large, reaches
a decoder.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from ftkeras.export.archive import Archive
from ftkeras.export.classifier import Outputs, Served, prepared_specs
from ftkeras.export.questions import questions_of
from ftkeras.inputs.base import PLAIN, Input, Tree
from ftkeras.timeline import stage


@stage("export: trace signatures")
def archive_of(servable: Served, static_batch: int | None = None) -> Archive:
    """Returns an archive of the model with its signatures.

    Args:
        servable: What is exported.
        static_batch: The batch size of `images_static`; None leaves that signature out.
    """
    kind, wire = servable.input, servable.input.wire
    archive = Archive(servable.network, kind.resources)
    raw_spec = tf.TensorSpec((None, *kind.raw.shape), kind.raw.dtype, wire.raw)
    examples_spec = tf.TensorSpec((None,), tf.string, "examples")

    def reader(raw: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        tree, errors = decoded(raw, kind)
        inputs = [tree[name] for name in kind.takes] if isinstance(tree, dict) else [tree]
        return inputs, errors

    # Two graphs that the signatures call: decoder and model are traced and stored once.
    read = tf.function(reader, autograph=False).get_concrete_function(raw_spec)
    run = servable.traced

    def serving_default(raw: tf.Tensor) -> Outputs:
        inputs, errors = read(raw)
        return _with_errors(servable.answers(run(*inputs)[0]), errors)

    def of_examples(examples: tf.Tensor) -> Outputs:
        return serving_default(_raw_in(examples, kind))

    def of_prepared(*inputs: tf.Tensor) -> Outputs:
        return servable.answers(run(*inputs)[0])

    def features(raw: tf.Tensor) -> Outputs:
        inputs, errors = read(raw)
        return _with_errors({"features": run(*inputs)[1][0]}, errors)

    def static(*inputs: tf.Tensor) -> Outputs:
        outputs = servable.answers(servable.run(*inputs)[0])
        return {name: x for name, x in outputs.items() if x.dtype != tf.string}

    archive.add_endpoint("serving_default", serving_default, [raw_spec])
    archive.add_endpoint("examples", of_examples, [examples_spec])
    archive.add_endpoint(wire.prepared, of_prepared, prepared_specs(kind))
    if servable.has_features:
        archive.add_endpoint("features", features, [raw_spec])
    if static_batch:
        archive.add_endpoint(f"{wire.prepared}_static", static, prepared_specs(kind, static_batch))
    return archive


def decoded(raw: tf.Tensor, kind: Input) -> tuple[Tree, tf.Tensor]:
    """Decodes and prepares a batch of raw examples; what cannot be read is 0.

    Args:
        raw: (n, ...); n may be 0.
        kind: What they are.

    Returns:
        What the model takes, (n, ...), and why each example could not be read, string (n,), empty
        if it was.
    """
    asked = questions_of(kind)
    pads = {
        name: tf.constant(kind.pad[name], spec.dtype) if name in kind.pad else None
        for name, spec in kind.takes.items()
    }
    nothing = {
        name: tf.fill([size or 0 for size in spec.shape], tf.zeros((), spec.dtype))
        for name, spec in kind.takes.items()
    }
    pad, none_read = (tree if len(tree) > 1 else tree.popitem()[1] for tree in (pads, nothing))

    def read(one: tf.Tensor) -> tuple[Tree, tf.Tensor]:
        return kind.read(one, PLAIN, tf.zeros(2, tf.int32)), tf.constant(True)

    def reasons(readable: tf.Tensor) -> tf.Tensor:
        why = _each(asked.why_not, raw, asked.damaged)
        return tf.where(readable, "", tf.where(why == "", asked.damaged, why))

    with tf.device("CPU:0"):  # no accelerator decodes files
        tree, readable = _each(read, raw, (none_read, tf.constant(False)), (pad, None))
        none = functools.partial(tf.fill, [tf.shape(raw)[0]], "")
        return tree, tf.cond(tf.reduce_all(readable), none, lambda: reasons(readable))


def _raw_in(examples: tf.Tensor, kind: Input) -> tf.Tensor:
    """Returns the raw example in each serialized tf.Example; empty, or zeros, if there is none."""
    name, spec = kind.wire.feature, kind.raw
    held = {True: tf.int64, False: tf.float32}[spec.dtype.is_integer]
    held = tf.string if spec.dtype == tf.string else held
    feature = {name: tf.io.FixedLenFeature(spec.shape, held)}

    def read(example: tf.Tensor) -> tf.Tensor:
        found = tf.io.parse_single_example(example, feature)[name]
        return found if held == spec.dtype else tf.cast(found, spec.dtype)

    with tf.device("CPU:0"):
        return _each(read, examples, tf.zeros(spec.shape, spec.dtype))


def _each(
    read: Callable[[tf.Tensor], Any], elements: tf.Tensor, nothing: Any, pad: Any = None
) -> Any:
    """Maps `read` over elements (n, ...), with `nothing` as the result if it fails.

    An operation that fails ends the whole graph it is in. So the elements go through a data set,
    which may lose any of them; those that come out know their numbers. Results of different lengths
    are padded, with what `pad` says.
    """
    n = tf.shape(elements)[0]

    @tf.autograph.experimental.do_not_convert
    def numbered(number: tf.Tensor, element: tf.Tensor) -> Any:
        return number, read(element)

    whole = tf.data.Dataset.from_tensor_slices((tf.range(n), elements))
    instead = tf.data.Dataset.from_tensors((-1, nothing))
    # One after the other: decoded in parallel, large images would need memory at the same time.
    answered = instead.concatenate(whole.map(numbered).ignore_errors())
    size = tf.cast(n, tf.int64) + 1
    if all(spec.shape.is_fully_defined() for spec in tf.nest.flatten(answered.element_spec)):
        answered = answered.batch(size)
    else:
        answered = answered.padded_batch(size, padding_values=(None, pad))
    numbers, results = answered.get_single_element()
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
