"""One SavedModel of both towers, and proof that it answers as they do.

    encode_image  image_bytes (n,) -> embedding float32 (n, units), error string (n,)
    encode_text   text (m,)        -> embedding float32 (m, units), error string (m,)
    classify      image_bytes (n,), labels (m,) -> scores float32 (n, m), error string (n,)

Embeddings are unit vectors: their products are cosines. Scores are the softmax over the labels, of
cosines times the learned scale. What cannot be read costs no other its answer: its embedding and
scores are 0, and `error` says why; a label that cannot be read has the score 0 throughout.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.errors import TrainingError
from ftkeras.export.archive import Archive
from ftkeras.export.certificate import TOLERANCE, FreshProcess, check_difference
from ftkeras.export.classifier import versions
from ftkeras.export.publish import new_version, size_of, write_json
from ftkeras.export.questions import Questions, questions_of
from ftkeras.export.serving import write_serving_files
from ftkeras.export.signatures import decoded
from ftkeras.inputs.base import Input
from ftkeras.measures.metrics import softmax
from ftkeras.tasks.alignment.pairs import Pair
from ftkeras.tasks.alignment.retrieval import unit

LABELS = ("dog", "a red fruit", "the flag of a country")
_LABELS_ARGUMENT = "labels"
_MOST_SCALE = 100.0


@dataclass(frozen=True)
class TwoTowers:
    """What is exported.

    Args:
        model: The model of both towers.
        pair: What both take.
        templates: Sentences with {} for a label; a label is the mean of its sentences.
    """

    model: keras.Model
    pair: Pair
    templates: tuple[str, ...] = ("{}",)

    def tower(self, kind: Input) -> keras.Model:
        """Returns the tower of a kind."""
        return self.model.get_layer(kind.nouns)

    @property
    def scale(self) -> float:
        """What cosines are multiplied with before a softmax."""
        [log_scale, _] = self.model.get_layer("meeting").get_weights()[0]
        return min(float(np.exp(log_scale)), _MOST_SCALE)

    def card(self) -> dict[str, Any]:
        """Returns what a client may want to know."""
        return {
            **versions(),
            "units": self.tower(self.pair.picture).output_shape[-1],
            "scale": self.scale,
            "needs": list(self.pair.serving_packages),
            "templates": list(self.templates),
        }


def archive_of(towers: TwoTowers) -> Archive:
    """Returns an archive of both towers with their signatures."""
    archive = Archive(towers.model, towers.pair.resources)
    picture, text, scale = towers.pair.picture, towers.pair.text, towers.scale
    specs = {
        kind.wire.raw: tf.TensorSpec((None,), tf.string, kind.wire.raw) for kind in (picture, text)
    }
    encoders = {}
    for kind in (picture, text):
        encode = tf.function(_encoder(towers.tower(kind), kind), autograph=False)
        encoders[kind.kind] = encode.get_concrete_function(specs[kind.wire.raw])
        archive.add_endpoint(
            f"encode_{kind.kind}", _named(encoders[kind.kind]), [specs[kind.wire.raw]]
        )

    def classify(raw: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        pictures, errors = encoders[picture.kind](raw)  # (n, units), (n,)
        sentences = tf.stack(  # (m, templates)
            [tf.strings.join(_filled(t, labels)) for t in towers.templates], axis=1
        )
        encoded, faults = encoders[text.kind](tf.reshape(sentences, [-1]))
        each = tf.reshape(encoded, [-1, len(towers.templates), pictures.shape[-1]])
        classes = tf.math.l2_normalize(tf.reduce_mean(each, axis=1), axis=1, epsilon=1e-12)
        bad = tf.reduce_any(tf.reshape(faults != "", [-1, len(towers.templates)]), axis=1)  # (m,)
        logits = scale * tf.matmul(pictures, classes, transpose_b=True)  # (n, m)
        scores = tf.nn.softmax(tf.where(bad[tf.newaxis], -1e9, logits), axis=1)
        answered = (errors == "")[:, tf.newaxis] & ~bad[tf.newaxis]
        return {"scores": tf.where(answered, scores, 0.0), "error": errors}

    labels = tf.TensorSpec((None,), tf.string, _LABELS_ARGUMENT)
    archive.add_endpoint("classify", classify, [specs[picture.wire.raw], labels])
    return archive


def _filled(template: str, labels: tf.Tensor) -> list[tf.Tensor]:
    """Returns the parts of a template, with the labels in place of each {}."""
    first, *others = template.split("{}")
    parts = [tf.fill(tf.shape(labels), first)]
    for other in others:
        parts += [labels, tf.fill(tf.shape(labels), other)]
    return parts


def _encoder(tower: keras.Model, kind: Input) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    def encode(raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        tree, errors = decoded(raw, kind)
        said = tf.cast(tower(tree, training=False), tf.float32)
        vectors = tf.math.l2_normalize(said, axis=1, epsilon=1e-12)
        return tf.where((errors == "")[:, tf.newaxis], vectors, 0.0), errors

    return encode


def _named(encode: Any) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    def named(raw: tf.Tensor) -> dict[str, tf.Tensor]:
        embedding, errors = encode(raw)
        return {"embedding": embedding, "error": errors}

    return named


def export_towers(towers: TwoTowers, directory: str, name: str) -> str:
    """Writes both towers as the next version under `directory`, proved in a fresh process.

    Returns:
        The version's folder.

    Raises:
        UserError: The directory cannot be written.
        TrainingError: The written model answers differently.
    """
    with new_version(directory) as (folder, target), FreshProcess(towers.pair) as fresh:
        archive_of(towers).write_out(folder)
        extra = Path(folder, "assets.extra")
        extra.mkdir()
        write_json(extra / "ftkeras.json", towers.card())
        write_json(extra / "certificate.json", certify(folder, towers, fresh))
    clients = {file: _client(file, towers.pair) for file in ("rest_client.py", "grpc_client.py")}
    # A server's batching joins requests row by row, and two of `classify` have labels of their own.
    needs = towers.pair.serving_packages
    write_serving_files(directory, name, clients, needs, batching=False)
    return target


def _client(file: str, pair: Pair) -> str:
    """Returns a client's text, with the signatures of both kinds."""
    text = Path(__file__).with_name(file).read_text(encoding="utf-8")
    for argument, kind in {"PICTURE": pair.picture, "TEXT": pair.text}.items():
        own = f'{argument} = ("encode_{kind.kind}", "{kind.wire.raw}")'
        text = re.sub(rf"(?m)^{argument} = .*$", own, text)
    return text


def certify(path: str, towers: TwoTowers, fresh: FreshProcess) -> dict[str, Any]:
    """Compares a SavedModel with the towers themselves, in a fresh process.

    What must be refused gets an error of its own, while the others are answered.

    Args:
        path: The SavedModel's folder.
        towers: What was exported.
        fresh: The process.

    Raises:
        TrainingError: The SavedModel could not be asked, or answered differently.
    """
    fresh.load(path)
    picture, text = towers.pair.picture, towers.pair.text
    asked = {kind: questions_of(kind) for kind in (picture, text)}
    raw = {kind: [*q.golden.values(), *q.refused.values()] for kind, q in asked.items()}
    strings = {text.wire.raw: raw[text], _LABELS_ARGUMENT: [label.encode() for label in LABELS]}
    fresh.ask(raw[picture], towers.pair, {}, strings)
    expected = {kind: _expected(towers, kind, q.golden) for kind, q in asked.items()}
    said = fresh.answers()
    differences = {}
    for kind, questions in asked.items():
        signature = f"encode_{kind.kind}"
        vectors = said[f"{signature}/embedding"]
        _check_refused(signature, said[f"{signature}/error"], vectors, questions, kind)
        golden = vectors[: len(questions.golden)]
        differences[signature] = float(np.abs(golden - expected[kind]).max())
    sentences = [t.replace("{}", label).encode() for label in LABELS for t in towers.templates]
    labels = _expected(towers, text, dict(enumerate(sentences)))
    classes = unit(labels.reshape(len(LABELS), len(towers.templates), -1).mean(axis=1))
    logits = towers.scale * expected[picture] @ classes.T
    shares = softmax(logits)
    scores = said["classify/scores"]
    _check_refused("classify", said["classify/error"], scores, asked[picture], picture)
    differences["classify"] = float(np.abs(scores[: len(shares)] - shares).max())
    for signature, difference in differences.items():
        check_difference(f"the SavedModel's signature {signature!r}", difference, TOLERANCE)
    return {
        **towers.card(),
        "saved_model": {
            "compared_with": "the Keras model; in a fresh process that imports only TensorFlow",
            "tolerance": TOLERANCE,
            "max_difference": differences,
            "size_bytes": size_of(path),
        },
        "golden": {kind.nouns: list(q.golden) for kind, q in asked.items()},
        "refused": {kind.nouns: list(q.refused) for kind, q in asked.items()},
        "limits": " ".join(q.limits for q in asked.values()),
    }


def _expected(towers: TwoTowers, kind: Input, raw: Mapping[Any, bytes]) -> np.ndarray:
    """Returns what a tower itself says, computed apart from all that is exported."""
    with tf.device("CPU:0"):
        inputs, _ = decoded(tf.constant(list(raw.values())), kind)
        return unit(np.asarray(towers.tower(kind)(inputs, training=False), np.float32))


def _check_refused(
    signature: str, errors: np.ndarray, values: np.ndarray, asked: Questions, kind: Input
) -> None:
    golden = len(asked.golden)
    told = [bool(str(error)) for error in errors]
    if told != [False] * golden + [True] * len(asked.refused) or values[golden:].any():
        raise TrainingError(
            f"export: the SavedModel's signature {signature!r} does not tell broken {kind.nouns} "
            f"from the others: {[str(error) for error in errors]}"
        )
