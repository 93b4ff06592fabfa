"""The check that an exported model answers as its Keras model, in a fresh process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from ftkeras.errors import TrainingError
from ftkeras.export import certificate
from ftkeras.export.certificate import certify_saved_model
from ftkeras.export.classifier import Classifier
from ftkeras.export.saved_model import export_saved_model
from ftkeras.inputs.image.file_check import WEBP
from ftkeras.inputs.image.golden import broken_image, golden_images, refused_images
from ftkeras.inputs.image.input import ImageInput

NAMES = ["cat", "dog", "\u00e9l\u00e9phant"]


def linear_classifier(names=NAMES) -> Classifier:
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 127.5, offset=-1)(image))
    return Classifier(keras.Model(image, keras.layers.Dense(3, name="logits")(x)), names)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("export")
    return export_saved_model(linear_classifier(), folder, static_batch=4, golden={})


@pytest.fixture(scope="module")
def answers(exported) -> dict[str, np.ndarray]:
    """What the fresh process really says, asked once."""
    kept: list[dict[str, np.ndarray]] = []
    answers = certificate.FreshProcess.answers
    with pytest.MonkeyPatch.context() as patch:
        keep = lambda process: kept.append(answers(process)) or kept[0]  # noqa: E731
        patch.setattr(certificate.FreshProcess, "answers", keep)
        certify_saved_model(exported, linear_classifier(), golden_images())
    return kept[0]


class Answered(contextlib.nullcontext):
    """In place of the process: it has answered."""

    def __enter__(self):
        return self

    def load(self, _):
        pass

    def ask(self, *_):
        pass

    def answers(self):
        return self.enter_result


@pytest.fixture
def certify(exported, answers, monkeypatch):
    """Certifies the export by the process's answers, or by changed ones."""

    def run(classifier: Classifier | None = None, **changes) -> dict:
        said = answers | {name.replace("__", "/"): value for name, value in changes.items()}
        monkeypatch.setattr(certificate, "FreshProcess", lambda _: Answered(said))
        return certify_saved_model(exported, classifier or linear_classifier(), golden_images())

    return run


@pytest.mark.slow
def test_a_certificate_says_what_was_compared_and_measured(exported, certify):
    found = certify()
    assert found["golden_images"] == list(golden_images())
    assert found["refused_images"] == ["broken", "webp", "animated webp"]
    own, other = found["saved_model"], found["openvino"]
    signatures = {"serving_default", "examples", "images", "features", "images_static"}
    assert set(own["max_difference"]) == signatures
    assert max(own["max_difference"].values()) <= 1e-5 < own["tolerance"]
    assert other["max_difference"] <= other["tolerance"]
    for signature in ("serving_default", "images"):
        assert set(own["latency_ms"][signature]) == {"1", "32"}
        assert min(own["latency_ms"][signature].values()) > 0
    files = [path for path in Path(exported).rglob("*") if path.is_file()]
    assert own["size_bytes"] == sum(path.stat().st_size for path in files)


@pytest.mark.slow
def test_weights_that_changed_are_caught(certify):
    other = linear_classifier()
    kernel = other.model.get_layer("logits").kernel
    kernel.assign(kernel * 1.05)
    with pytest.raises(TrainingError, match="signature '.*' and the Keras model disagree by"):
        certify(other)


def at(row: int, value):
    def change(values: np.ndarray) -> np.ndarray:
        changed = values.copy()
        changed[row] = value
        return changed

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("serving_default__class_names", at(1, "cow"), "other class names"),
        ("images__scores", at(2, np.nan), "'images' and the Keras model disagree by nan"),
        ("examples__scores", lambda x: x * 1.01, "'examples' and the Keras model disagree by 0.0"),
        ("features__features", lambda x: x * 1.01, "features and the Keras model disagree"),
        ("serving_default__error", at(0, "why?"), "does not tell broken images"),
        ("features__error", at(-1, ""), "does not tell broken images"),
        ("examples__error", at(-1, "damaged"), "gives the image 'animated webp' another"),
        ("features__error", at(-3, WEBP), "gives the image 'broken' another"),
        ("serving_default__scores", at(-1, 0.5), "gives scores for what it refuses"),
        ("examples__class_indices", at(-2, 0), "gives class_indices for what it refuses"),
        ("serving_default__class_names", at(-3, "cat"), "gives class_names for what it refuses"),
    ],
)
def test_an_answer_that_is_wrong_in_one_place_is_caught(certify, answers, name, change, message):
    with pytest.raises(TrainingError, match=message):
        certify(**{name: change(answers[name.replace("__", "/")])})


@pytest.mark.slow
def test_openvino_objects_where_it_disagrees(certify, monkeypatch):
    monkeypatch.setattr(
        certificate, "openvino_answer", lambda _: lambda images: np.full((len(images), 3), 1 / 3)
    )
    with pytest.raises(TrainingError, match="OpenVINO and the Keras model disagree"):
        certify()


@pytest.mark.slow
def test_check_says_why_a_model_cannot_be_served(tmp_path):
    with pytest.raises(TrainingError, match="cannot be served: .*SavedModel file does not exist"):
        certify_saved_model(str(tmp_path), linear_classifier(), golden_images())


@pytest.mark.slow
def test_the_fresh_process_answers_without_ftkeras(exported, tmp_path):
    """In isolated mode, in which only what is installed can be imported."""
    (tmp_path / "0.raw").write_bytes(golden_images()["colour"])
    np.savez(tmp_path / "prepared.npz", images=np.zeros((2, 16, 16, 3), np.float32))
    names = {"raw": "image_bytes", "feature": "image/encoded", "prepared": "images"}
    names |= {"more": {}}
    (tmp_path / "names.json").write_text(json.dumps(names))
    script = Path(certificate.__file__).with_name("fresh_process.py")
    source = (
        "import runpy, sys; sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__');"
        "assert not [name for name in sys.modules if name.startswith('ftkeras')]"
    )
    lines = [exported, [str(tmp_path), str(tmp_path / "a.npz")]]
    said = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    command = [sys.executable, "-I", "-c", source, script]
    subprocess.run(command, input=said, check=True, capture_output=True)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as answers:
        assert answers["serving_default/scores"].shape == (1, 3)
        assert answers["images/scores"].shape == (2, 3)
        assert answers["images_static/scores"].shape == (4, 3)
        assert set(answers["images/class_names"][0]) == set(NAMES)


@pytest.mark.slow
def test_the_fresh_process_ends_with_the_one_that_started_it(tmp_path):
    code = (
        "import os, signal\n"
        "from ftkeras.export.certificate import FreshProcess\n"
        "from ftkeras.inputs.image.input import ImageInput\n"
        "print(FreshProcess(ImageInput(size=16))._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    until = time.monotonic() + 300
    while _lives(done.stdout.strip()) and time.monotonic() < until:
        time.sleep(0.1)
    assert not _lives(done.stdout.strip())


def _lives(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(ImageInput, "serving_packages", ("no_such_package",))
    with pytest.raises(TrainingError, match="cannot be served: .*No module named 'no_such_pack"):
        certify_saved_model("nowhere", linear_classifier(), golden_images())


def test_golden_images_are_the_kinds_they_say_and_never_change():
    images = golden_images()
    assert images == golden_images.__wrapped__()
    opened = {name: Image.open(io.BytesIO(image)) for name, image in images.items()}
    assert {name: (image.format, image.mode) for name, image in opened.items()} == {
        "colour": ("JPEG", "RGB"),
        "grey": ("PNG", "L"),
        "alpha": ("PNG", "RGBA"),
        "rotated": ("JPEG", "RGB"),
        "tiny": ("PNG", "RGB"),
        "huge": ("JPEG", "RGB"),
    }
    assert opened["rotated"].getexif()[0x0112] == 6
    assert opened["tiny"].size == (1, 1)
    assert opened["huge"].size == (3000, 2000)
    broken = Image.open(io.BytesIO(broken_image()))  # it begins as a JPEG does
    with pytest.raises(OSError, match="truncated"):
        broken.load()


def test_the_refused_images_are_a_still_and_an_animated_webp_besides():
    refused = refused_images()
    assert refused["broken"] == broken_image()
    opened = [Image.open(io.BytesIO(refused[name])) for name in ("webp", "animated webp")]
    assert [(image.format, image.size) for image in opened] == [("WEBP", (8, 8))] * 2
    assert [image.n_frames for image in opened] == [1, 2]
