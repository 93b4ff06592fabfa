"""What every test stands on: a scratch home, quiet TensorFlow, and two logical CPUs."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import tensorflow as tf

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


def pytest_collection_finish() -> None:
    """Splits the CPU in two where any collected module imported TensorFlow.

    Devices cannot change once one is used, so this comes before the first test, and no test
    module may create a tensor or variable at import. Runs that need no TensorFlow stay quick.
    """
    if "tensorflow" in sys.modules:
        _make_two_cpus()


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_look_through() -> Iterator[None]:
    """Frees what a module leaves, and spares the collector the rest: there are millions."""
    yield
    gc.collect()
    gc.freeze()


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


def _make_two_cpus() -> None:
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    if tf.config.get_logical_device_configuration(cpu) is None:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
