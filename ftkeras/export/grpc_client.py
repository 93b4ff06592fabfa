"""Asks a served classifier over gRPC; needs `pip install tensorflow-serving-api`.

    python grpc_client.py localhost:8500 NAME FILE ...

Prints a line for each file: file, class, score; or file, "error", what is wrong with it. A model
with several heads has classes, scores and values by head.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

RAW = "image_bytes"
"""What the signature calls its argument."""


def classify(
    channel: grpc.Channel, name: str, files: Sequence[bytes], timeout: float = 30.0
) -> dict[str, np.ndarray]:
    """Returns the answers for examples, in order.

    Args:
        channel: To the server, such as grpc.insecure_channel("localhost:8500").
        name: What the server calls the model.
        files: The files' bytes: images (JPEG, PNG, GIF or BMP, of any sizes), or texts in UTF-8.
        timeout: Seconds to wait.

    Returns:
        `scores` (n, classes), the best first, `class_names` (bytes, UTF-8) and `class_indices` of
        the same shape, and `error` (n,), which is empty unless the file could not be read.
    """
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = "serving_default"
    request.inputs[RAW].CopyFrom(tf.make_tensor_proto(list(files), tf.string))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.Predict(request, timeout)
    return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}


def main(address: str, name: str, *paths: str) -> None:
    """Classifies files and prints what they show."""
    with grpc.insecure_channel(address) as channel:
        answer = classify(channel, name, [Path(path).read_bytes() for path in paths])
    for i, path in enumerate(paths):
        if answer["error"][i]:
            print(path, "error", answer["error"][i].decode(), sep="\t")
        else:
            print(path, *columns({name: values[i] for name, values in answer.items()}), sep="\t")


def columns(answer: dict[str, np.ndarray]) -> Iterator[str]:
    """Yields the best class and its score; of several heads, each one's name before its own."""
    for name in sorted(answer):
        if name.endswith("_value"):
            yield from (name.removesuffix("_value"), f"{answer[name]:.6g}")
        elif name.endswith("class_names"):
            start = name.removesuffix("class_names")
            yield from [start[:-1]] if start else []
            yield from (answer[name][0].decode(), f"{answer[start + 'scores'][0]:.4f}")


def run(arguments: Sequence[str]) -> int:
    """Runs the command line; returns the exit status, 2 if nothing was answered."""
    if len(arguments) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        main(*arguments)
    except grpc.RpcError as error:
        reason = " ".join(error.details().split())[:300]
        hint = "; serve.sh starts a server" if error.code() is grpc.StatusCode.UNAVAILABLE else ""
        fault = f"{arguments[0]}: {error.code().name} ({reason}){hint}"
    except (OSError, ValueError, LookupError) as error:
        fault = f"{type(error).__name__}: {error}"
    else:
        return 0
    print(f"grpc_client.py: {fault}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
