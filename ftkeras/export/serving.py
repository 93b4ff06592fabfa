"""What TF Serving takes besides a SavedModel: warm-up requests, configurations, two clients."""

from __future__ import annotations

import os
import re
from pathlib import Path

import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from ftkeras.export.classifier import Served
from ftkeras.export.signatures import FEATURE

WARMUP_FILE = "tf_serving_warmup_requests"
FOLDER = "serving"
"""Beside the versions; not a number, so that a server does not take it for one."""

_WARMUP_BATCHES = (1, 8)

_MODELS = """\
# --model_config_file: which models there are, and which versions of them are served.
model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 1 }} }}
  }}
}}
"""

_BATCHING = """\
# --batching_parameters_file: requests that arrive together are answered together.
max_batch_size { value: 32 }
batch_timeout_micros { value: 2000 }  # how long a request waits for others
num_batch_threads { value: 4 }  # as many as there are cores
max_enqueued_batches { value: 100 }  # more than these are refused as "unavailable"
"""

_SERVE = """\
#!/bin/sh
# Serves the folder above this one: gRPC on port 8500, REST on port 8501.
here="$(cd "$(dirname "$0")/.." && pwd)"
exec docker run --rm -p 8500:8500 -p 8501:8501 -v "$here:/models/{name}:ro" \\
  tensorflow/serving:{version} \\
  --model_config_file=/models/{name}/{folder}/models.config \\
  --enable_batching --batching_parameters_file=/models/{name}/{folder}/batching.config "$@"
"""


def model_name(text: str) -> str:
    """Returns a name that is safe in URLs and shell commands."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_") or "model"


def warmup_requests(servable: Served, name: str) -> list[prediction_log_pb2.PredictionLog]:
    """Returns requests that make a server load and plan all that real ones will need.

    Each signature of encoded images and of floats is asked for one image and for several.

    Args:
        servable: What is served.
        name: What the server calls the model.
    """
    known = servable.input.able("golden", "export")
    golden = known.golden_images()
    files = [golden[name] for name in known.WARM_UP]
    signatures = {"serving_default": "image_bytes", "examples": "examples", "images": "images"}
    if servable.has_features:
        signatures["features"] = "image_bytes"
    return [
        _request(name, signature, argument, _question(argument, files, batch, servable))
        for signature, argument in signatures.items()
        for batch in _WARMUP_BATCHES
    ]


def write_warmup(extra: Path, servable: Served, name: str) -> None:
    """Writes the warm-up requests to a version's `assets.extra`."""
    with tf.io.TFRecordWriter(os.fspath(extra / WARMUP_FILE)) as file:
        for request in warmup_requests(servable, name):
            file.write(request.SerializeToString())


def write_serving_files(directory: str | os.PathLike[str], name: str) -> None:
    """Writes `serving/` beside the versions: configurations, a command, and two clients.

    Args:
        directory: Where the versions are; local or remote.
        name: What the server calls the model.
    """
    folder = os.path.join(directory, FOLDER)
    tf.io.gfile.makedirs(folder)
    here = Path(__file__).parent
    texts = {
        "models.config": _MODELS.format(name=name),
        "batching.config": _BATCHING,
        "serve.sh": _SERVE.format(name=name, folder=FOLDER, version=tf.__version__),
        "rest_client.py": (here / "rest_client.py").read_text(encoding="utf-8"),
        "grpc_client.py": (here / "grpc_client.py").read_text(encoding="utf-8"),
    }
    for file, text in texts.items():
        with tf.io.gfile.GFile(os.path.join(folder, file), "w") as stream:
            stream.write(text)


def _question(
    argument: str, files: list[bytes], batch: int, servable: Served
) -> tensor_pb2.TensorProto:
    if argument == "images":
        [spec] = servable.input.takes.values()
        shape = tf.TensorShape((batch, *spec.shape))
        # One value stands for all: the file stays small, whatever the images' size.
        return tensor_pb2.TensorProto(
            dtype=tf.float32.as_datatype_enum, tensor_shape=shape.as_proto(), float_val=[127.5]
        )
    chosen = [files[i % len(files)] for i in range(batch)]
    return tf.make_tensor_proto([_example(f) for f in chosen] if argument == "examples" else chosen)


def _example(file: bytes) -> bytes:
    value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file]))
    return tf.train.Example(
        features=tf.train.Features(feature={FEATURE: value})
    ).SerializeToString()


def _request(
    name: str, signature: str, argument: str, question: tensor_pb2.TensorProto
) -> prediction_log_pb2.PredictionLog:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    request.inputs[argument].CopyFrom(question)
    return prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(request=request)
    )
