"""Which devices a run takes, and what it says about them."""

from __future__ import annotations

import math

import keras
import pytest
import tensorflow as tf

from ftkeras.config.load import parse_config
from ftkeras.devices import strategy
from ftkeras.devices.strategy import Devices, choose_devices, choose_jit, prepare
from ftkeras.errors import UserError
from ftkeras.phases import Phase
from ftkeras.runs import build

TWO = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'


@pytest.fixture
def gpus(monkeypatch):
    """Makes TensorFlow list GPUs that are not there."""

    def pretend(count: int, capability: tuple[int, int] = (8, 0)) -> None:
        names = [f"/physical_device:GPU:{i}" for i in range(count)]
        monkeypatch.setattr(
            tf.config, "list_physical_devices", lambda kind: names if kind == "GPU" else []
        )
        monkeypatch.setattr(
            tf.config.experimental,
            "get_device_details",
            lambda gpu: {"compute_capability": capability},
        )

    return pretend


@pytest.mark.parametrize(
    ("wish", "environ", "gpus", "kind", "reason"),
    [
        ("auto", {}, 0, "cpu", "CPU: no GPU is visible to TensorFlow"),
        ("auto", {}, 1, "gpu", "GPU"),
        ("auto", {}, 4, "mirrored", "4 GPUs, mirrored"),
        ("gpu", {}, 4, "gpu", "the first of 4 GPUs"),
        ("cpu", {"TF_CONFIG": TWO}, 4, "cpu", "CPU"),
        ("auto", {"TF_CONFIG": TWO}, 2, "multi_worker", "2 GPUs, worker 1 of 2 workers, as TF_"),
        ("auto", {"TF_CONFIG": "{}"}, 0, "cpu", "CPU"),
        ("auto", {"TPU_NAME": "x", "TF_CONFIG": TWO}, 0, "tpu", "TPU"),
        ("auto", {"COLAB_TPU_ADDR": "10.0.0.2:8470"}, 1, "tpu", "TPU"),
        ("mirrored", {}, 1, "mirrored", "1 GPU, mirrored"),
    ],
)
def test_the_setting_is_resolved_from_what_is_there(wish, environ, gpus, kind, reason):
    found, said = strategy._resolve(wish, environ, gpus)
    assert found == kind
    assert said.startswith(reason)


@pytest.mark.parametrize(
    ("wish", "environ", "message"),
    [
        ("gpu", {}, "TensorFlow sees none"),
        ("multi_worker", {}, "needs the other workers' addresses in TF_CONFIG"),
        ("multi_worker", {"TF_CONFIG": "{"}, "TF_CONFIG: not JSON"),
        ("auto", {"TF_CONFIG": '{"cluster": {"worker": "a"}}'}, "TF_CONFIG: expected"),
        ("tpu", {}, "no TPU answers as 'local'"),
    ],
)
def test_a_wish_that_cannot_be_met_is_one_line(wish, environ, message):
    with pytest.raises(UserError, match=message) as caught:
        choose_devices(wish, environ)
    assert "\n" not in str(caught.value)


def test_all_logical_cpus_are_mirrored_where_there_is_no_gpu(two_replicas):
    devices = choose_devices("mirrored", {})
    assert devices.replicas == 2
    line = devices.describe(7, "float32", False)
    assert line == (
        "CPUs, mirrored (training.strategy: mirrored); batches of 7 over all, about 3.5 on each of "
        "2 replicas; float32"
    )
    with pytest.raises(UserError, match="1 examples cannot be shared among 2 replicas"):
        devices.describe(1, "float32", False)


def test_one_device_says_nothing_of_replicas():
    devices = choose_devices("auto", {})
    assert (devices.kind, devices.replicas, devices.is_chief) == ("cpu", 1, True)
    line = devices.describe(32, "float32", False)
    assert line == "CPU: no GPU is visible to TensorFlow; batches of 32; float32"


def test_precision_follows_the_device(gpus):
    before = keras.config.dtype_policy()
    try:
        assert prepare(0, "auto", False) == "float32"
        assert prepare(0, "auto", False, "tpu") == "mixed_bfloat16"
        assert keras.config.dtype_policy().compute_dtype == "bfloat16"
        assert prepare(0, "float32", False, "tpu") == "float32"
    finally:
        keras.config.set_dtype_policy(before)
    gpus(2)
    assert strategy._auto_precision("mirrored") == "mixed_float16"
    assert strategy._auto_precision("cpu") == "float32"
    gpus(1, (6, 1))
    assert strategy._auto_precision("gpu") == "float32"


def test_xla_follows_the_device(two_replicas):
    one = tf.distribute.get_strategy()
    assert not choose_jit("auto", Devices(one, "cpu", ""))
    assert choose_jit("auto", Devices(one, "gpu", ""))
    assert not choose_jit("auto", Devices(one, "gpu", ""), deterministic=True)
    assert not choose_jit("auto", Devices(two_replicas, "mirrored", ""))
    assert choose_jit(True, Devices(one, "cpu", ""))
    assert not choose_jit(False, Devices(one, "gpu", ""))
    with pytest.raises(UserError, match="not for 2 replicas"):
        choose_jit(True, Devices(two_replicas, "mirrored", ""))
    assert "compiled by XLA" in Devices(one, "tpu", "TPU").describe(8, "mixed_bfloat16", False)


@pytest.mark.parametrize(
    ("rule", "factor"), [("none", 1.0), ("linear", 4.0), ("sqrt", math.sqrt(4.0))]
)
def test_rates_are_scaled_to_the_images_an_update(rule, factor):
    config = parse_config(
        {
            "data": {"source": "starter", "batch_size": 64},
            "backbone": {"name": "MobileNetV2", "weights": "starter"},
            "phases": [{"name": "head", "epochs": 1, "learning_rate": 1e-3}],
            "optimizer": {"scale_rate": rule, "accumulate": 2, "base_batch_size": 32},
        },
        (),
    )
    given = [Phase("head", 1, 1e-3, rates={"norm": 1e-5}), Phase("top", 1)]
    (head, top), notes = build.scaled(config, given)
    assert head.learning_rate == pytest.approx(1e-3 * factor)
    assert head.rates == {"norm": pytest.approx(1e-5 * factor)}
    assert top.learning_rate is None  # inherits
    assert bool(notes) == (rule != "none")
