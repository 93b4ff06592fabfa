"""The exported model against the Keras model it came from, on real image files."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from ftkeras.backbones import load_backbone
from ftkeras.errors import TrainingError, UserError
from ftkeras.export import saved_model
from ftkeras.export.classifier import Classifier
from ftkeras.inputs.image import decode
from ftkeras.inputs.image.golden import golden_images
from ftkeras.model.assemble import build_model

NAMES = ["cat", "dog", "\u00e9l\u00e9phant"]
SIZE = 32
FEATURES = 8 * 15 * 15


def small_model(seed: int = 0, dtype: str | None = None) -> keras.Model:
    """Returns a little convolutional network whose answers differ from image to image."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1, dtype=dtype)(image)
    x = keras.layers.Conv2D(8, 3, strides=2, dtype=dtype)(x)
    x = keras.layers.BatchNormalization(dtype=dtype)(x)
    x = keras.layers.Activation("relu", dtype=dtype)(x)
    x = keras.layers.Flatten(dtype=dtype)(x)
    x = keras.layers.Dropout(0.5, dtype=dtype)(x)
    return keras.Model(image, keras.layers.Dense(3, name="logits", dtype="float32")(x))


def export(model: keras.Model, directory, golden=(), **facts) -> str:
    classifier = Classifier(model, NAMES, **facts)
    golden = None if golden is None else dict(golden)
    return saved_model.export_saved_model(classifier, directory, golden=golden)


def answers(path: str, signature: str, batch) -> dict[str, np.ndarray]:
    loaded = tf.saved_model.load(path)  # keeps the variables alive
    outputs = loaded.signatures[signature](tf.constant(batch))
    return {name: value.numpy() for name, value in outputs.items()}


def by_class(given: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the scores (n, classes) in the order of the classes."""
    order = np.argsort(given["class_indices"], axis=1)
    return np.take_along_axis(given["scores"], order, axis=1)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return small_model()


def square(file: bytes) -> tf.Tensor:
    return decode.resize_image(decode.decode_image(tf.constant(file), SIZE), SIZE, "crop")


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> str:
    return export(model, tmp_path_factory.mktemp("export"))


def test_answers_equal_keras_for_every_kind_of_image_in_one_batch(model, exported):
    images = list(golden_images().values())  # all of different sizes
    pixels = tf.stack([square(one) for one in images])
    expected = keras.ops.softmax(model(pixels, training=False)).numpy()
    assert len({tuple(row.round(3)) for row in expected}) >= 4
    for given in (
        answers(exported, "serving_default", images),
        answers(exported, "images", pixels),
    ):
        np.testing.assert_allclose(by_class(given), expected, atol=1e-5)


def test_exif_rotation_happens_inside(exported):
    picture = Image.open(io.BytesIO(golden_images()["alpha"])).convert("RGB")
    turned, plain = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.rotate(180).save(turned, "JPEG", exif=exif, quality=100, subsampling=0)
    picture.save(plain, "JPEG", quality=100, subsampling=0)
    one, other = by_class(
        answers(exported, "serving_default", [turned.getvalue(), plain.getvalue()])
    )
    np.testing.assert_allclose(one, other, atol=0.02)


def test_a_client_needs_no_other_file(exported):
    given = answers(exported, "serving_default", list(golden_images().values()))
    assert {name: value.shape for name, value in given.items()} == {
        "scores": (6, 3),
        "class_indices": (6, 3),
        "class_names": (6, 3),
        "error": (6,),
    }
    assert (np.diff(given["scores"], axis=1) <= 0).all()  # the best first
    np.testing.assert_allclose(given["scores"].sum(axis=1), 1, atol=1e-5)
    names = [[name.decode() for name in row] for row in given["class_names"]]
    assert names == [[NAMES[index] for index in row] for row in given["class_indices"]]


def test_signatures_are_what_tf_serving_reads(exported):
    """As `saved_model_cli show` prints them, from the file itself."""
    written = saved_model_pb2.SavedModel()
    written.ParseFromString(Path(exported, "saved_model.pb").read_bytes())
    (graph,) = written.meta_graphs
    assert list(graph.meta_info_def.tags) == ["serve"]

    def shown(tensors) -> dict[str, tuple[str, list[int]]]:
        return {
            name: (tf.as_dtype(info.dtype).name, [d.size for d in info.tensor_shape.dim])
            for name, info in tensors.items()
        }

    answer = {
        "scores": ("float32", [-1, 3]),
        "class_indices": ("int32", [-1, 3]),
        "class_names": ("string", [-1, 3]),
    }
    error = {"error": ("string", [-1])}
    outputs = {
        "serving_default": answer | error,
        "examples": answer | error,
        "images": answer,
        "features": {"features": ("float32", [-1, FEATURES])} | error,
    }
    inputs = {
        "serving_default": {"image_bytes": ("string", [-1])},
        "examples": {"examples": ("string", [-1])},
        "images": {"images": ("float32", [-1, SIZE, SIZE, 3])},
        "features": {"image_bytes": ("string", [-1])},
    }
    signatures = dict(graph.signature_def)
    del signatures["__saved_model_init_op"]
    assert {name: shown(s.inputs) for name, s in signatures.items()} == inputs
    assert {name: shown(s.outputs) for name, s in signatures.items()} == outputs
    assert {s.method_name for s in signatures.values()} == {"tensorflow/serving/predict"}


def test_a_model_trained_on_two_devices_exports(two_replicas, tmp_path):
    with two_replicas.scope():
        model = small_model()
    path = export(model, tmp_path)
    pixels = np.random.default_rng(0).uniform(0, 255, (4, SIZE, SIZE, 3)).astype(np.float32)
    expected = keras.ops.softmax(small_model()(pixels, training=False)).numpy()
    np.testing.assert_allclose(by_class(answers(path, "images", pixels)), expected, atol=1e-5)


def test_the_card_says_what_made_the_model(exported):
    card = json.loads(Path(exported, "assets.extra", "ftkeras.json").read_text(encoding="utf-8"))
    assert card["class_names"] == NAMES
    assert card["image_size"] == SIZE
    assert card["resize"] == "crop"
    assert card["multi_label"] is False
    assert card["versions"]["tensorflow"] == tf.__version__


def test_versions_count_up_from_the_highest(model, tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "notes").mkdir()
    assert export(model, tmp_path) == str(tmp_path / "8")
    assert export(model, tmp_path) == str(tmp_path / "9")
    assert sorted(os.listdir(tmp_path)) == ["7", "8", "9", "notes", "serving"]


def test_a_directory_that_cannot_be_made_is_the_users_error(model, tmp_path):
    (tmp_path / "file").write_text("here already")
    with pytest.raises(UserError, match="cannot write to .*file.*Choose another folder"):
        export(model, tmp_path / "file" / "export")


def test_a_failure_in_the_middle_leaves_nothing(model, tmp_path, monkeypatch):
    def full_disk(extra: Path, *_: object) -> None:
        assert (extra.parent / "saved_model.pb").exists()  # written, not yet published
        raise OSError("No space left on device")

    monkeypatch.setattr(saved_model, "write_warmup", full_disk)
    for directory in (str(tmp_path / "local"), "ram://full-disk"):
        with pytest.raises(OSError, match="No space"):
            export(model, directory)
        assert tf.io.gfile.listdir(directory) == []


def test_what_a_killed_process_left_is_cleared(model, tmp_path):
    (tmp_path / "1.partial").mkdir()
    (tmp_path / "1.partial" / "junk").write_text("half")
    path = export(model, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["1", "serving"]
    assert not os.path.exists(os.path.join(path, "junk"))


def test_disagreement_leaves_no_version(model, tmp_path, monkeypatch):
    def disagree(*_: object, **__: object) -> dict:
        raise TrainingError("export: the SavedModel disagrees")

    monkeypatch.setattr(saved_model, "certify_saved_model", disagree)
    with pytest.raises(TrainingError, match="disagrees"):
        export(model, tmp_path, golden=golden_images())
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_remote_export_is_checked_and_complete(model):
    path = export(model, "ram://remote/export", golden=None)
    assert path == "ram://remote/export/1"
    assert tf.io.gfile.exists(f"{path}/assets.extra/ftkeras.json")
    images = list(golden_images().values())
    scores = by_class(answers(path, "serving_default", images))
    pixels = tf.stack([square(one) for one in images])
    expected = keras.ops.softmax(model(pixels, training=False)).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert export(model, "ram://remote/export") == "ram://remote/export/2"


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_models_pass_the_check(policy, tmp_path):
    path = export(small_model(dtype=policy), tmp_path, golden=None)
    files = list(golden_images().values())
    assert answers(path, "serving_default", files)["scores"].dtype == np.float32


@pytest.mark.slow
def test_a_real_backbone_passes_the_check(tmp_path):
    backbone = load_backbone("MobileNetV2", weights="starter", image_size=96)
    model = build_model(backbone, classes=3)
    path = export(model, tmp_path, resize="pad", golden=None)
    reloaded = tf.saved_model.load(path)
    assert len(reloaded.variables) == len(model.variables)
    files = list(golden_images().values())
    scores = by_class(answers(path, "serving_default", files))
    assert scores.std(axis=0).max() > 0.01  # so the check had something to compare
