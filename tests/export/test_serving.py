"""What TF Serving takes, and the clients, against a server that answers from the real SavedModel.

`tensorflow_model_server` itself comes in a container only. The servers here speak its two
protocols, REST's predict in JSON and PredictionService over gRPC, and ask the exported signatures.
"""

from __future__ import annotations

import base64
import json
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

from ftkeras.export import grpc_client, rest_client
from ftkeras.export.classifier import Classifier
from ftkeras.export.saved_model import export_saved_model
from ftkeras.export.serving import model_name
from ftkeras.inputs.image.golden import broken_image, golden_images

NAMES = ["cat", "dog", "\u00e9l\u00e9phant"]
FILES = [golden_images()["rotated"], broken_image(), golden_images()["alpha"]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, keras.layers.Dense(3, name="logits")(x))
    folder = tmp_path_factory.mktemp("served")
    return Path(export_saved_model(Classifier(model, NAMES), folder, name="pets", golden={}))


@pytest.fixture(scope="module")
def served(exported):
    return tf.saved_model.load(str(exported))


@pytest.fixture(scope="module")
def wanted(served) -> dict[str, np.ndarray]:
    answer = served.signatures["serving_default"](image_bytes=tf.constant(FILES))
    return {name: values.numpy() for name, values in answer.items()}


def test_warm_up_requests_are_answered(exported, served):
    """As the server replays them: the model's own signatures, asked for one and for several."""
    records = tf.data.TFRecordDataset(
        str(exported / "assets.extra" / "tf_serving_warmup_requests")
    ).as_numpy_iterator()
    asked = []
    for record in records:
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == "pets"
        signature = request.model_spec.signature_name
        inputs = {name: tf.constant(tf.make_ndarray(x)) for name, x in request.inputs.items()}
        outputs = served.signatures[signature](**inputs)
        (batch,) = {int(values.shape[0]) for values in [*inputs.values(), *outputs.values()]}
        assert not any(outputs.get("error", tf.constant([b""])).numpy())
        asked.append((signature, batch))
    assert sorted(asked) == [
        (signature, batch)
        for signature in ("examples", "features", "images", "serving_default")
        for batch in (1, 8)
    ]


def test_models_config_is_what_the_server_reads(exported):
    text = (exported.parent / "serving" / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == (
        "pets", "/models/pets", "tensorflow"
    )  # fmt: skip


def test_batching_config_is_what_the_server_reads(exported):
    """Against the message as TF Serving's session_bundle_config.proto defines it."""
    text = (exported.parent / "serving" / "batching.config").read_text()
    parsed = text_format.Parse(text, batching_parameters())
    assert parsed.max_batch_size.value == 32
    assert parsed.batch_timeout_micros.value > 0
    assert parsed.num_batch_threads.value > 0
    assert parsed.max_enqueued_batches.value >= parsed.num_batch_threads.value


def batching_parameters():
    from google.protobuf import wrappers_pb2

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="batching.proto", syntax="proto3", dependency=[wrappers_pb2.DESCRIPTOR.name]
    )
    message = file.message_type.add(name="BatchingParameters")
    names = ["max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"]
    for number, name in enumerate(names, start=1):
        message.field.add(
            name=name, number=number, label=1, type=11, type_name=".google.protobuf.Int64Value"
        )
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("BatchingParameters"))()


def test_the_command_names_what_is_there(exported):
    text = (exported.parent / "serving" / "serve.sh").read_text()
    assert f"tensorflow/serving:{tf.__version__}" in text
    for name in ("models.config", "batching.config"):
        assert f"=/models/pets/serving/{name}" in text
        assert (exported.parent / "serving" / name).exists()


def test_names_are_safe_in_urls_and_commands():
    assert model_name("my run; rm -rf") == "my_run_rm_-rf"
    assert model_name("\u00e9\u00e9") == "model"


@pytest.fixture
def rest_server(served):
    """Speaks TF Serving's REST predict, row format."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/models/pets:predict"
            signature = served.signatures[body["signature_name"]]
            (argument,) = signature.structured_input_signature[1]
            rows = [base64.b64decode(row["b64"], validate=True) for row in body["instances"]]
            outputs = signature(**{argument: tf.constant(rows)})
            columns = {name: plain(values.numpy()) for name, values in outputs.items()}
            predictions = [dict(zip(columns, row)) for row in zip(*columns.values())]  # noqa: B905
            answer = json.dumps({"predictions": predictions}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_) -> None:
            pass

    def plain(values: np.ndarray) -> list:
        return (
            np.char.decode(values.astype("S"), "utf-8").tolist()
            if values.dtype == object
            else (values.tolist())
        )

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/models/pets"
    server.shutdown()
    server.server_close()


def test_the_rest_client_asks_and_understands(rest_server, wanted, tmp_path, capsys):
    answers = rest_client.classify(rest_server, FILES)
    assert [bool(answer["error"]) for answer in answers] == [False, True, False]
    for row, answer in enumerate(answers):
        np.testing.assert_allclose(answer["scores"], wanted["scores"][row], atol=1e-6)
        assert answer["class_indices"] == wanted["class_indices"][row].tolist()
        assert answer["class_names"] == [x.decode() for x in wanted["class_names"][row]]
    paths = written(tmp_path)
    rest_client.main(rest_server, *paths)
    check_lines(capsys.readouterr().out, paths, wanted)


@pytest.fixture
def grpc_server(served):
    class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            assert request.model_spec.name == "pets"
            inputs = {name: tf.constant(tf.make_ndarray(x)) for name, x in request.inputs.items()}
            outputs = served.signatures[request.model_spec.signature_name](**inputs)
            response = predict_pb2.PredictResponse()
            for name, values in outputs.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(values))
            return response

    server = grpc.server(futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_the_grpc_client_asks_and_understands(grpc_server, wanted, tmp_path, capsys):
    with grpc.insecure_channel(grpc_server) as channel:
        answer = grpc_client.classify(channel, "pets", FILES)
    np.testing.assert_allclose(answer.pop("scores"), wanted["scores"], atol=1e-6)
    for name, values in answer.items():
        np.testing.assert_array_equal(values, wanted[name])
    paths = written(tmp_path)
    grpc_client.main(grpc_server, "pets", *paths)
    check_lines(capsys.readouterr().out, paths, wanted)


def written(folder: Path) -> list[str]:
    paths = [folder / f"{i}.jpg" for i in range(len(FILES))]
    for path, file in zip(paths, FILES, strict=True):
        path.write_bytes(file)
    return [str(path) for path in paths]


def check_lines(output: str, paths: list[str], wanted: dict[str, np.ndarray]) -> None:
    lines = [line.split("\t") for line in output.splitlines()]
    assert [line[0] for line in lines] == paths
    assert lines[1][1] == "error"
    for row in (0, 2):
        assert lines[row][1] == wanted["class_names"][row][0].decode()
        assert abs(float(lines[row][2]) - wanted["scores"][row][0]) < 1e-3


def test_the_clients_that_an_export_carries_are_those(exported):
    for module in (rest_client, grpc_client):
        source = Path(module.__file__)
        assert (exported.parent / "serving" / source.name).read_text() == source.read_text()
