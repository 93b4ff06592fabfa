"""What TF Serving takes besides a SavedModel: warm-up requests, configurations, two clients."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from ftkeras.export.classifier import Served
from ftkeras.export.fresh_process import example_of
from ftkeras.export.questions import questions_of
from ftkeras.export.signatures import prepared_specs
from ftkeras.timeline import stage

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
# Serves the folder above this one: gRPC on port 8500, REST on port 8501.{needs}
here="$(cd "$(dirname "$0")/.." && pwd)"
exec docker run --rm -p 8500:8500 -p 8501:8501 -v "$here:/models/{name}:ro" \\
  tensorflow/serving:{version} \\
  --model_config_file=/models/{name}/{folder}/models.config \\
  --enable_batching --batching_parameters_file=/models/{name}/{folder}/batching.config "$@"
"""


_BATCHING_FLAGS = re.compile(r" \\\n  --enable_batching --batching_parameters_file=\S+")
_NEEDS = {
    "tensorflow_text": """
# The model has operations of TensorFlow Text. TensorFlow Serving links them since 2.0, those of the
# version that it was built with; a server of your own must `import tensorflow_text` first."""
}


def model_name(text: str) -> str:
    """Returns a name that is safe in URLs and shell commands."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_") or "model"


def warmup_requests(servable: Served, name: str) -> list[prediction_log_pb2.PredictionLog]:
    """Returns requests that make a server load and plan all that real ones will need.

    Each signature of raw and of prepared examples is called with one and with several.

    Args:
        servable: What is served.
        name: What the server calls the model.
    """
    kind, asked = servable.input, questions_of(servable.input)
    raw = [asked.golden[name] for name in asked.warm_up]
    signatures = ["serving_default", "examples", *(["features"] if servable.has_features else [])]
    requests = []
    for batch in _WARMUP_BATCHES:
        chosen = [raw[i % len(raw)] for i in range(batch)]
        for signature in signatures:
            if signature == "examples":
                examples = [example_of(one, kind.wire.feature) for one in chosen]
                question = {"examples": tf.make_tensor_proto(examples)}
            else:
                values = chosen if isinstance(chosen[0], bytes) else np.stack(chosen)
                question = {kind.wire.raw: tf.make_tensor_proto(values)}
            requests.append(_request(name, signature, question))
        prepared = {spec.name: _constant(spec, batch) for spec in prepared_specs(kind)}
        requests.append(_request(name, kind.wire.prepared, prepared))
    return requests


@stage("export: serving files")
def write_warmup(extra: Path, servable: Served, name: str) -> None:
    """Writes the warm-up requests to a version's `assets.extra`."""
    with tf.io.TFRecordWriter(os.fspath(extra / WARMUP_FILE)) as file:
        for request in warmup_requests(servable, name):
            file.write(request.SerializeToString())


def clients_of(raw: str) -> dict[str, str]:
    """Returns the two clients of a classifier, by file.

    Args:
        raw: What the signature of raw examples calls its argument.
    """
    here = Path(__file__).parent
    grpc = (here / "grpc_client.py").read_text(encoding="utf-8")
    return {
        "rest_client.py": (here / "rest_client.py").read_text(encoding="utf-8"),
        "grpc_client.py": re.sub(r'(?m)^RAW = ".*"$', f'RAW = "{raw}"', grpc),
    }


@stage("export: serving files")
def write_serving_files(
    directory: str | os.PathLike[str],
    name: str,
    clients: Mapping[str, str],
    needs: Sequence[str] = (),
    *,
    batching: bool = True,
) -> None:
    """Writes `serving/` beside the versions: configurations, a command, and clients.

    Args:
        directory: Where the versions are; local or remote.
        name: What the server calls the model.
        clients: Their texts by file.
        needs: The packages whose operations a server must link; see `Input.serving_packages`.
        batching: Whether the server may answer requests together.
    """
    folder = os.path.join(directory, FOLDER)
    tf.io.gfile.makedirs(folder)
    notes = "".join(_NEEDS[package] for package in needs)
    serve = _SERVE.format(name=name, folder=FOLDER, version=tf.__version__, needs=notes)
    texts = {
        "models.config": _MODELS.format(name=name),
        **({"batching.config": _BATCHING} if batching else {}),
        "serve.sh": serve if batching else _BATCHING_FLAGS.sub("", serve),
        **clients,
    }
    for file, text in texts.items():
        with tf.io.gfile.GFile(os.path.join(folder, file), "w") as stream:
            stream.write(text)


def _constant(spec: tf.TensorSpec, batch: int) -> tensor_pb2.TensorProto:
    """Returns a batch of one value everywhere: the file stays small, whatever the shape is."""
    shape = tf.TensorShape([batch, *(size or 1 for size in spec.shape[1:])])
    value = np.ones(1, spec.dtype.as_numpy_dtype)
    proto = tf.make_tensor_proto(value)
    proto.tensor_shape.CopyFrom(shape.as_proto())
    return proto


def _request(
    name: str, signature: str, question: Mapping[str, tensor_pb2.TensorProto]
) -> prediction_log_pb2.PredictionLog:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    for argument, values in question.items():
        request.inputs[argument].CopyFrom(values)
    return prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(request=request)
    )
