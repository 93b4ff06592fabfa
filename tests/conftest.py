"""What every test stands on: a scratch home, quiet TensorFlow, two logical CPUs, photos."""

from __future__ import annotations

import gc
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf
    from PIL import Image

    from ftkeras.data.dataset import Data

# Before anything imports Keras, which reads its home at import: no test sees or leaves files there.
_SCRATCH = tempfile.TemporaryDirectory(prefix="ftkeras-tests-", ignore_cleanup_errors=True)
os.environ["FTKERAS_CACHE"] = os.path.join(_SCRATCH.name, "ftkeras")
os.environ["KERAS_HOME"] = os.path.join(_SCRATCH.name, "keras")
os.environ["TFDS_DATA_DIR"] = os.path.join(_SCRATCH.name, "tensorflow_datasets")
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
# TensorFlow's default where a CPU has no AVX-512, so that machines differ less. Besides, with
# oneDNN it gives no memory back: of a test of the largest backbones its process would keep five
# gigabytes. What differs with it runs so in `test_onednn.py`.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts modules with slow tests first, so that both processes of `tools/test` end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Splits the CPU in two where any collected module imported TensorFlow.

    Devices cannot change once one is used. So this comes before the first test, and no test module
    may create a tensor or variable at import. Runs that need no TensorFlow stay quick.
    """
    if "tensorflow" in sys.modules:
        _make_two_cpus()
        _free_iterators_at_once()


def _free_iterators_at_once() -> None:
    """Leaves out tf.data's tuning, whose threads sleep up to a minute before they can be ended.

    Measured with TensorFlow 2.21: five iterators that had come to their end were freed in 130 s.
    A run has few; tests leave dozens to the collector.
    """
    import tensorflow as tf

    iterate = tf.data.Dataset.__iter__

    def iterate_untuned(self: tf.data.Dataset) -> Iterator[Any]:
        options = tf.data.Options()
        options.autotune.enabled = False
        return iterate(self.with_options(options))

    tf.data.Dataset.__iter__ = iterate_untuned


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_look_through() -> Iterator[None]:
    """Frees what a module leaves, and spares the collector the rest: there are millions."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def small_images(tmp_path_factory) -> Data:
    """40 images of 8 px for training, which are 5 batches, and 16 for validation; 2 classes."""
    import numpy as np

    from ftkeras.data.load import load_data

    random = np.random.default_rng(0)
    labels = np.arange(56) % 2
    images = random.integers(0, 150, (56, 8, 8, 3)) + labels[:, None, None, None] * 60
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return load_data("arrays", path=str(path), split={"val": 0.3}, seed=0)


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FTKERAS_CACHE", str(folder))
    return folder


@pytest.fixture
def photo() -> Callable[..., np.ndarray]:
    """Makes uint8 pixels (h, w, channels) that are smooth, like a photo, and differ by seed."""
    import numpy as np
    from PIL import Image

    def make(height: int = 40, width: int = 60, channels: int = 3, seed: int = 0) -> np.ndarray:
        coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, channels), dtype=np.uint8)
        planes = [
            np.asarray(Image.fromarray(coarse[..., c]).resize((width, height), Image.BICUBIC))
            for c in range(channels)
        ]
        return np.stack(planes, axis=-1)

    return make


@pytest.fixture(scope="session")
def new_photo() -> Callable[..., Image.Image]:
    """Makes an image as smooth as a photo, of any size; another seed gives quite another one."""
    import numpy as np
    from PIL import Image

    def make(seed: int, width: int = 56, height: int = 48) -> Image.Image:
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.BICUBIC)

    return make


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """Encodes a Pillow image or an array in a format."""

    from PIL import Image

    def make(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
        stream = io.BytesIO()
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        image.save(stream, kind, **options)
        return stream.getvalue()

    return make


@pytest.fixture
def two_replicas() -> tf.distribute.Strategy:
    """A strategy over two logical CPUs.

    It reduces on one device: the default's collectives are numbered in a process, and a second
    strategy would meet the shapes of the first.
    """
    _make_two_cpus()
    import tensorflow as tf

    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=reduction)


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory) -> str:
    """A file with three blocks for images of 32 px, for tests that are not about a real backbone.

    MobileNetV2 has 17 blocks, and most of a short run's time goes into building, tracing and
    saving it. These weights are random, and a linear head on them still tells colours apart. The
    blocks have batch norm and are called as a real backbone's: block_1 to block_3.
    """
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 64, -2.0)(image)
    for number, filters in enumerate((16, 32, 64), start=1):
        options = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}
        x = keras.layers.Conv2D(filters, 3, 2, name=f"block_{number}", **options)(x)
        x = keras.layers.BatchNormalization(name=f"norm_{number}")(x)
        x = keras.layers.ReLU(name=f"relu_{number}")(x)
    path: Path = tmp_path_factory.mktemp("tiny") / "tiny.keras"
    keras.Model(image, x, name="tiny").save(path)
    return str(path)


WIDTH, LAYERS, ROOM = 32, 2, 40  # of the tiny BERTs; ROOM is how many pieces they can read
PIECES = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("red", "apple", "pie", "blue", "car", "road", "the", "of", "rare", "cafe"),
    *"abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'()$",
    *(f"##{sign}" for sign in "abcdefghijklmnopqrstuvwxyz0123456789"),
]


@pytest.fixture(scope="session")
def hugging_face_folder(tmp_path_factory) -> Path:
    """A random BERT as Hugging Face's `save_pretrained` writes it: safetensors, vocab.txt."""
    pytest.importorskip("safetensors")
    import json
    import struct

    import numpy as np

    random, sizes = np.random.default_rng(0), {"embeddings.word_embeddings": len(PIECES)}
    sizes |= {"embeddings.position_embeddings": ROOM, "embeddings.token_type_embeddings": 2}
    arrays = {f"{k}.weight": random.normal(0, 0.3, (n, WIDTH)) for k, n in sizes.items()}
    norms, square, up, down = ["embeddings.LayerNorm"], ["pooler.dense"], [], []
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        square += [f"{layer}.attention.self.{part}" for part in ("query", "key", "value")]
        square.append(f"{layer}.attention.output.dense")
        up.append(f"{layer}.intermediate.dense")
        down.append(f"{layer}.output.dense")
    for names, shape in ((square, (32, 32)), (up, (64, 32)), (down, (32, 64)), (norms, (32,))):
        for name in names:
            arrays[f"{name}.weight"] = random.normal(len(shape) == 1, 0.3, shape)
            arrays[f"{name}.bias"] = random.normal(0, 0.3, shape[0])
    header: dict[str, Any] = {}
    content = b""
    for name, array in arrays.items():
        data = array.astype("<f4").tobytes()
        offsets = [len(content), len(content) + len(data)]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": offsets}
        content += data
    head = json.dumps(header).encode()
    folder = tmp_path_factory.mktemp("hugging_face") / "tiny-bert"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + content)
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": ROOM,
        "num_attention_heads": 4,
        "num_hidden_layers": LAYERS,
        "type_vocab_size": 2,
        "vocab_size": len(PIECES),
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "strip_accents": null}')
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return folder


@pytest.fixture(scope="session")
def keras_hub_folder(tmp_path_factory) -> Path:
    """A random BERT without dropout, as `save_to_preset` of keras-hub writes it."""
    import keras
    import keras_hub

    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("keras_hub") / "tiny-bert"
    keras_hub.models.BertBackbone(
        len(PIECES), LAYERS, 4, WIDTH, 64, dropout=0.0, max_sequence_length=ROOM
    ).save_to_preset(str(folder))
    keras_hub.tokenizers.BertTokenizer(PIECES, lowercase=True).save_to_preset(str(folder))
    return folder


@pytest.fixture(scope="session")
def text_tree(tmp_path_factory) -> dict[str, Any]:
    """A config of two short phases on a manifest of 60 texts, in which a word tells the class.

    A tiny bilstm without pretrained weights; no export and no report.
    """
    import csv
    import random

    rng, path = random.Random(0), tmp_path_factory.mktemp("texts") / "texts.csv"
    own = (["red", "apple", "pie"], ["blue", "car", "road"])
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "second", "size"])
        for number in range(60):
            words = rng.choices([*own[number % 2], "the", "a", "of"], k=rng.randrange(2, 12))
            words.insert(rng.randrange(len(words)), own[number % 2][0])
            words.append(f"rare{number // 3}")  # in three texts: a few draws leave many out
            row = [" ".join(words), "ab"[number % 2], "pq"[number // 2 % 2], number / 10]
            writer.writerow(row)
    return {
        "data": {
            "source": "manifest",
            "path": str(path),
            "batch_size": 8,
            "split": {"val": 0.2, "test": 0.2},
            "input": {"kind": "text", "length": 12},
        },
        "backbone": {
            "name": "bilstm",
            "weights": "none",
            "recurrent": {"units": 8, "embedding": 8},
        },
        "phases": [
            {"name": "head", "epochs": 1, "learning_rate": 3e-2},
            {"name": "top", "train": ["head", "blocks[-1:]"], "epochs": 2, "learning_rate": 3e-2},
        ],
        "export": {"saved_model": False},
        "report": False,
    }


def _make_two_cpus() -> None:
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    if tf.config.get_logical_device_configuration(cpu) is None:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
