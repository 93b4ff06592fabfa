"""Case 15: files that end the process of a server that decodes them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import ftkeras

pytestmark = pytest.mark.slow
ANIMATED = Path(__file__).parent / "anim.webp"  # 3 frames, 64 x 64
SERVE = """
import json, sys
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
files = [open(path, "rb").read() for path in sys.argv[2:]]
answer = model.signatures["serving_default"](tf.constant(files))
errors = [error.decode() for error in answer["error"].numpy()]
print(json.dumps({"errors": errors, "scores": answer["scores"].numpy().tolist()}))
"""


def encoded(kind: str, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> str:
    image = keras.Input((16, 16, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, keras.layers.Dense(2, name="logits")(x))
    classifier = ftkeras.Classifier(model, ["cat", "dog"])
    return ftkeras.export_saved_model(classifier, tmp_path_factory.mktemp("export"))


def test_an_animated_webp_gets_an_error_and_the_rest_of_its_batch_an_answer(exported, tmp_path):
    """Source: seen on version 0.1 with TensorFlow 2.21: `tf.io.decode_image` frees its memory
    twice (`free(): corrupted unsorted chunks`), status 134.
    """
    (tmp_path / "good.png").write_bytes(encoded("PNG"))
    command = [sys.executable, "-c", SERVE, exported, ANIMATED, tmp_path / "good.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    answer = json.loads(done.stdout)
    assert answer["errors"][0]
    assert not answer["errors"][1]
    assert answer["scores"][0] == [0, 0]
    assert sum(answer["scores"][1]) == pytest.approx(1)


@pytest.mark.parametrize("options", [{}, {"lossless": True}], ids=["lossy", "lossless"])
def test_a_still_webp_gets_the_error_that_the_manual_promises(exported, options):
    """Source: docs/serving.md ("WebP gets an `error`"), and the certificate, which says so too."""
    model = tf.saved_model.load(exported)
    answer = model.signatures["serving_default"](tf.constant([encoded("WEBP", **options)]))
    assert answer["error"].numpy()[0]


def test_the_images_that_the_certificate_asks_about_hold_a_webp(exported):
    """Source: seen on version 0.1. Each export is to prove what it does with one."""
    certificate = json.loads(Path(exported, "assets.extra", "certificate.json").read_text())
    assert {"animated webp", "webp"} <= set(certificate["refused_images"])
