"""Asks served towers over gRPC; needs `pip install tensorflow-serving-api`.

    python grpc_client.py localhost:8500 NAME "cat,dog,a red boat" FILE ...

Prints a line for each file: file, the likeliest label, its score; or file, "error", what is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

PICTURE = ("encode_image", "image_bytes")
TEXT = ("encode_text", "text")
"""The signatures of both towers, and what each calls its argument."""

Answers = dict[str, np.ndarray]


def encode_pictures(
    channel: grpc.Channel, name: str, files: Sequence[bytes], timeout: float = 30.0
) -> Answers:
    """Returns `embedding`, a unit vector for each file, and `error`.

    Args:
        channel: To the server, such as grpc.insecure_channel("localhost:8500").
        name: What the server calls the model.
        files: The bytes of files.
        timeout: Seconds to wait.
    """
    return _ask(channel, name, PICTURE[0], {PICTURE[1]: files}, timeout)


def encode_texts(
    channel: grpc.Channel, name: str, texts: Sequence[str], timeout: float = 30.0
) -> Answers:
    """Returns `embedding`, a unit vector for each text, and `error`."""
    return _ask(channel, name, TEXT[0], {TEXT[1]: [text.encode() for text in texts]}, timeout)


def classify(
    channel: grpc.Channel,
    name: str,
    files: Sequence[bytes],
    labels: Sequence[str],
    timeout: float = 30.0,
) -> Answers:
    """Returns `scores`, for each file one for each label, and `error`."""
    inputs = {PICTURE[1]: files, "labels": [label.encode() for label in labels]}
    return _ask(channel, name, "classify", inputs, timeout)


def _ask(
    channel: grpc.Channel,
    name: str,
    signature: str,
    inputs: dict[str, Sequence[bytes]],
    timeout: float,
) -> Answers:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    for argument, values in inputs.items():
        request.inputs[argument].CopyFrom(tf.make_tensor_proto(list(values), tf.string))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.Predict(request, timeout)
    return {output: tf.make_ndarray(tensor) for output, tensor in response.outputs.items()}


def main(address: str, name: str, labels: str, *paths: str) -> None:
    """Classifies files by any words and prints what they show."""
    names = [label.strip() for label in labels.split(",")]
    with grpc.insecure_channel(address) as channel:
        answers = classify(channel, name, [Path(path).read_bytes() for path in paths], names)
    for path, scores, error in zip(paths, answers["scores"], answers["error"], strict=True):
        if error:
            print(path, "error", error.decode(), sep="\t")
        else:
            best = int(scores.argmax())
            print(path, names[best], f"{scores[best]:.4f}", sep="\t")


def run(arguments: Sequence[str]) -> int:
    """Runs the command line; returns the exit status, 2 if nothing was answered."""
    if len(arguments) < 4:
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
