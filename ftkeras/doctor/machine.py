"""The machine: versions, devices, memory, disk, and how long a training step takes."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from ftkeras.cache import cache_folder
from ftkeras.console import counted
from ftkeras.findings import Finding
from ftkeras.memory import available_memory

_GIB = 1 << 30
_LITTLE = _GIB  # bytes, of memory or of disk
_TIMED_STEPS = 3
_SIDE = 1024  # of the matrices whose product is timed

# What is known not to work together: (names and versions below which, what goes wrong, remedy).
_BAD_PAIRS = (
    ("numpy", (2, 0), "tensorflow", (2, 18), "TensorFlow before 2.18 cannot use NumPy 2"),
    ("keras", (3, 0), "tensorflow", (2, 16), "TensorFlow before 2.16 cannot use Keras 3"),
    ("tensorflow", (2, 21), "keras", (3, 12), "Keras before 3.12 was never tried with it"),
)
Version = tuple[int, ...]


def machine_facts() -> dict[str, str]:
    """Returns versions, devices and room, in words."""
    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name") for gpu in gpus]
    devices = ", ".join(str(name or "GPU") for name in names) or "CPU: TensorFlow sees no GPU"
    installed = importlib.util.find_spec("openvino") is not None
    return {
        "software": f"Python {platform.python_version()}, TensorFlow {tf.__version__}, "
        f"Keras {keras.__version__}, NumPy {np.__version__}",
        "devices": f"{devices}; {counted(os.cpu_count() or 1, 'processor')}",
        "memory": f"{available_memory() / _GIB:.1f} GiB free",
        "disk": ", ".join(f"{free / _GIB:.1f} GiB free at {at}" for at, free in _disks().items()),
        "OpenVINO": "installed: a stored trunk can use it" if installed else "not installed",
    }


def check_machine() -> list[Finding]:
    """Finds what would stop a run on this machine, or slow it down."""
    versions = {
        "numpy": _version(np.__version__),
        "keras": _version(keras.__version__),
        "tensorflow": _version(tf.__version__),
    }
    return [*check_versions(versions), *check_settings(os.environ), *_check_gpu(), *_check_room()]


def check_versions(versions: Mapping[str, Version]) -> list[Finding]:
    """Finds versions that are known not to work together.

    Args:
        versions: The first numbers of the versions of numpy, keras and tensorflow.
    """
    return [
        Finding(
            "error",
            "versions",
            f"{_spell(first, versions)} with {_spell(second, versions)}: {why}.",
            f"pip install --upgrade {second}",
        )
        for first, since, second, below, why in _BAD_PAIRS
        if versions[first] >= since and versions[second] < below
    ]


def check_settings(environment: Mapping[str, str]) -> list[Finding]:
    """Finds settings in the environment that make two versions of Keras.

    Args:
        environment: The environment's variables.
    """
    if environment.get("TF_USE_LEGACY_KERAS", "0").lower() not in ("1", "true"):
        return []
    message = "TF_USE_LEGACY_KERAS is set: tf.keras is then Keras 2, beside Keras 3."
    return [Finding("warning", "Keras", message, "Unset it.")]


def _check_gpu() -> Iterator[Finding]:
    present = Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia").exists()
    if present and not tf.config.list_physical_devices("GPU"):
        built = "is" if tf.test.is_built_with_cuda() else "is not"
        yield Finding(
            "warning",
            "GPU",
            f"There is an NVIDIA GPU, and TensorFlow (which {built} built for it) does not see it.",
            'pip install "tensorflow[and-cuda]", and compare the driver with what it asks for.',
        )


def _check_room() -> Iterator[Finding]:
    if available_memory() < _LITTLE:
        message = f"Only {available_memory() / _GIB:.1f} GiB of memory are free."
        yield Finding("warning", "memory", message, "Close something, or train elsewhere.")
    for path, free in _disks().items():
        if free < _LITTLE:
            message = f"Only {free / _GIB:.1f} GiB are free at {path}."
            remedy = "Make room, or choose another folder (--out of train, or FTKERAS_CACHE)."
            yield Finding("warning", "disk", message, remedy)


def _disks() -> dict[str, int]:
    """Bytes that are free here, where runs go, and in the cache."""
    cache = str(cache_folder())
    return {path: shutil.disk_usage(path).free for path in dict.fromkeys((os.getcwd(), cache))}


def _version(text: str) -> Version:
    return tuple(int(part) for part in text.split(".")[:2])


def _spell(name: str, versions: Mapping[str, Version]) -> str:
    return f"{name} {'.'.join(map(str, versions[name]))}"


def arithmetic() -> str:
    """Returns how fast this machine multiplies matrices; that takes a tenth of a second."""
    matrix = tf.random.uniform((_SIDE, _SIDE))
    taken = []
    for _ in range(1 + _TIMED_STEPS):
        start = time.perf_counter()
        float(tf.reduce_sum(matrix @ matrix))  # waits for the device
        taken.append(time.perf_counter() - start)
    return f"{2 * _SIDE**3 / min(taken) / 1e9:.0f} GFLOP/s in float32 (products of matrices)"


def seconds_a_step(model: keras.Model, batch: Sequence[tf.Tensor]) -> float:
    """Returns how long one training step takes, at best, once everything is traced.

    Args:
        model: A compiled model; what is trainable now trains, its weights change.
        batch: Images, targets, and weights if there are any.
    """
    model.make_train_function(force=True)
    taken = []
    for _ in range(1 + _TIMED_STEPS):
        start = time.perf_counter()
        model.train_on_batch(*batch)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])  # the first one traces
