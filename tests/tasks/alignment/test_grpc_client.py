"""The client for gRPC, against a small server that answers as the exported signatures do."""

from __future__ import annotations

from concurrent import futures
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from ftkeras.tasks.alignment import grpc_client
from ftkeras.tasks.alignment.export import _client

FILES = [b"sound", b"broken"]


class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    def Predict(self, request: Any, context: Any) -> Any:
        assert request.model_spec.name == "shapes"
        asked = {name: tf.make_ndarray(x).tolist() for name, x in request.inputs.items()}
        first = asked.get("image_bytes") or asked["text"]
        errors = np.array([b"no picture" if x == b"broken" else b"" for x in first], object)
        said = {"error": errors}
        if request.model_spec.signature_name == "classify":
            said["scores"] = np.tile(np.float32([len(x) for x in asked["labels"]]), (2, 1)) / 10
        else:
            assert request.model_spec.signature_name in ("encode_image", "encode_text")
            said["embedding"] = np.float32([[len(x), 0] for x in first])
        response = predict_pb2.PredictResponse()
        for name, values in said.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(values))
        return response


def test_the_client_asks_all_signatures(tmp_path, capsys):
    server = grpc.server(futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Servicer(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with grpc.insecure_channel(address) as channel:
        pictures = grpc_client.encode_pictures(channel, "shapes", FILES)
        texts = grpc_client.encode_texts(channel, "shapes", ["red", "\u00e9"])
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path, content in zip(paths, FILES, strict=True):
        path.write_bytes(content)
    grpc_client.main(address, "shapes", "car, a boat", *map(str, paths))
    server.stop(None).wait()
    assert pictures["embedding"][:, 0].tolist() == [5, 6] and pictures["error"][1] == b"no picture"
    assert texts["embedding"][:, 0].tolist() == [3, 2]  # UTF-8
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == [
        [str(paths[0]), "a boat", "0.6000"],
        [str(paths[1]), "error", "no picture"],
    ]


def test_an_export_names_its_own_signatures():
    kinds = [SimpleNamespace(kind=k, wire=SimpleNamespace(raw=f"{k}_raw")) for k in ("a", "b")]
    pair: Any = SimpleNamespace(picture=kinds[0], text=kinds[1])
    for file in ("rest_client.py", "grpc_client.py"):
        text = _client(file, pair)
        assert 'PICTURE = ("encode_a", "a_raw")' in text and 'TEXT = ("encode_b", "b_raw")' in text
