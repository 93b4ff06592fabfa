"""Writes the SavedModel that TF Serving takes as it is.

Both signatures return, for each of n images, all classes with the best first:

    scores         float32 (n, classes)   softmax, or sigmoid for a multi-label model, descending
    class_indices  int32   (n, classes)   which class each score is of
    class_names    string  (n, classes)   the same by name, UTF-8

`serving_default` takes `image_bytes`, string (n,): image files as they are, of any sizes, decoded
and resized inside by the code that training uses. `images` takes `images`, float32 (n, size,
size, 3): RGB 0..255, already resized. So a client needs no other file and no preprocessing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from ftkeras import __version__
from ftkeras.console import Progress
from ftkeras.data import decode
from ftkeras.errors import UserError
from ftkeras.export.certificate import check_saved_model, golden_images

Outputs = dict[str, tf.Tensor]


def export_saved_model(
    model: keras.Model,
    directory: str | os.PathLike[str],
    *,
    class_names: Sequence[str],
    image_size: int,
    resize: str,
    multi_label: bool,
    golden: Sequence[bytes] | None = None,
) -> str:
    """Writes `model` as the next version under `directory`, after proving that it answers alike.

    A version appears whole or not at all: it is written beside its place, checked in a fresh
    process, and only then moved there. TF Serving can watch the directory meanwhile.

    Args:
        model: Takes raw 0..255 RGB float32 (n, image_size, image_size, 3), returns logits
            (n, classes).
        directory: Where versions 1, 2, ... are; local or remote (gs://).
        class_names: One name a class.
        image_size: Side of the model's input, in pixels.
        resize: How images become square: crop, pad or squash.
        multi_label: Scores are sigmoids, one question a class, instead of a softmax.
        golden: Encoded images on which the export must agree with `model`; left out,
            `golden_images()`. An empty list skips the check.

    Returns:
        The version's folder.

    Raises:
        UserError: The directory cannot be written.
        TrainingError: The written model answers differently.

    Example:
        >>> export_saved_model(model, "run/export", class_names=["cat", "dog"], image_size=224,
        ...                    resize="crop", multi_label=False)
        'run/export/1'
    """
    golden = golden_images() if golden is None else golden
    target = os.path.join(directory, str(_next_version(directory)))
    progress = Progress("export SavedModel", 3)
    try:
        with _staged(target) as folder:
            archive = _archive(model, class_names, image_size, resize, multi_label)
            progress.advance()
            archive.write_out(folder, verbose=False)
            _write_card(
                folder,
                class_names=list(class_names),
                image_size=image_size,
                resize=resize,
                multi_label=multi_label,
            )
            progress.advance(note="checking in a fresh process")
            if golden:
                check_saved_model(
                    folder,
                    model,
                    golden,
                    class_names=class_names,
                    image_size=image_size,
                    resize=resize,
                    multi_label=multi_label,
                )
            progress.advance()
    finally:
        progress.close()
    return target


def _archive(
    model: keras.Model, class_names: Sequence[str], image_size: int, resize: str, multi_label: bool
) -> keras.export.ExportArchive:
    """Returns an archive of the model with its two signatures."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    pixels = tf.TensorSpec((None, image_size, image_size, 3), tf.float32, "images")
    answer = archive.add_endpoint(
        "images", _answer_function(model, class_names, multi_label), [pixels]
    )

    def serving_default(image_bytes: tf.Tensor) -> Outputs:
        with tf.device("CPU:0"):  # no accelerator decodes image files
            images = decode.decode_and_resize(image_bytes, image_size, resize)  # (n, s, s, 3)
        return answer(images)  # a call to the other signature's graph, so the model is traced once

    files = tf.TensorSpec((None,), tf.string, "image_bytes")
    archive.add_endpoint("serving_default", serving_default, [files])
    return archive


def _answer_function(
    model: keras.Model, class_names: Sequence[str], multi_label: bool
) -> Callable[[tf.Tensor], Outputs]:
    """Returns the function from images to what both signatures return."""

    def answer(images: tf.Tensor) -> Outputs:
        logits = tf.cast(model(images, training=False), tf.float32)  # (n, classes)
        scores = tf.sigmoid(logits) if multi_label else tf.nn.softmax(logits)
        best = tf.math.top_k(scores, k=len(class_names))
        return {
            "scores": best.values,
            "class_indices": best.indices,
            "class_names": tf.gather(tf.constant(list(class_names)), best.indices),
        }

    return answer


def _write_card(folder: str, **facts: object) -> None:
    """Writes what made the model to `assets.extra`, which servers leave alone."""
    versions = {"ftkeras": __version__, "keras": keras.__version__, "tensorflow": tf.__version__}
    extra = Path(folder, "assets.extra")
    extra.mkdir()
    text = json.dumps({**facts, "versions": versions}, indent=2, ensure_ascii=False)
    (extra / "ftkeras.json").write_text(text + "\n", encoding="utf-8")


def _next_version(directory: str | os.PathLike[str]) -> int:
    """Returns one more than the highest version there is, and makes the directory."""
    try:
        tf.io.gfile.makedirs(directory)
        names = tf.io.gfile.listdir(directory)
    except tf.errors.OpError as error:
        raise UserError(
            f"export: cannot write to {os.fspath(directory)!r}: {error.message}. "
            "Choose another folder."
        ) from error
    return 1 + max(
        (int(n) for n in (name.rstrip("/") for name in names) if n.isdecimal()), default=0
    )


@contextlib.contextmanager
def _staged(target: str) -> Iterator[str]:
    """Yields a local folder whose contents become `target` where the block succeeds."""
    if "://" in target:  # object stores cannot rename a folder
        with tempfile.TemporaryDirectory() as scratch:
            yield scratch
            _upload(Path(scratch), target)
        return
    folder = f"{target}.partial"  # not a number, so no server takes it for a version
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    try:
        yield folder
        os.rename(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _upload(folder: Path, target: str) -> None:
    """Copies a SavedModel to where it is served, all or nothing."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    try:
        # A server takes a folder for a model when it finds saved_model.pb, so that comes last.
        for path in sorted(files, key=lambda path: path.name == "saved_model.pb"):
            place = f"{target}/{path.relative_to(folder).as_posix()}"
            tf.io.gfile.makedirs(os.path.dirname(place))
            tf.io.gfile.copy(path, place)
    except BaseException:
        tf.io.gfile.rmtree(target)
        raise
