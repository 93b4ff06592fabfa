"""Devices: which `tf.distribute` strategy a run uses, and what follows for precision and XLA.

Nothing here computes: all of it has to happen before TensorFlow touches a device.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

import keras
import tensorflow as tf

from ftkeras.devices.cluster import Cluster, find_cluster
from ftkeras.errors import UserError
from ftkeras.keras_internals import check_workers_every

_TPU_VARIABLES = ("TPU_NAME", "COLAB_TPU_ADDR", "TPU_ACCELERATOR_TYPE")
_FLOAT16_CAPABILITY = (7, 0)  # the first GPUs with tensor cores


@dataclass(frozen=True)
class Devices:
    """What a run computes on.

    Args:
        strategy: Makes the variables and runs the steps.
        kind: cpu, gpu, mirrored, multi_worker or tpu.
        reason: What it is and why, in words.
        cluster: The workers, if there are several.
    """

    strategy: tf.distribute.Strategy
    kind: str
    reason: str
    cluster: Cluster | None = None

    @property
    def replicas(self) -> int:
        """How many copies of the model train at once."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def is_chief(self) -> bool:
        """Whether this process keeps the record: the only one, or the first worker."""
        return self.cluster is None or self.cluster.index == 0

    def describe(self, batch_size: int, precision: str, jit: bool) -> str:
        """Returns one line for people.

        Raises:
            UserError: A batch cannot give every replica an example.
        """
        if batch_size < self.replicas:
            raise UserError(
                f"data.batch_size: {batch_size} examples cannot be shared among {self.replicas} "
                f"replicas; it counts all devices together, so give at least {self.replicas}."
            )
        batch = f"batches of {batch_size}"
        if self.replicas > 1:
            each = batch_size / self.replicas
            about = "" if each.is_integer() else "about "
            batch += f" over all, {about}{each:.4g} on each of {self.replicas} replicas"
        compiled = ", compiled by XLA" if jit or self.kind == "tpu" else ""
        return f"{self.reason}; {batch}; {precision}{compiled}"


def choose_devices(request: str = "auto", environ: Mapping[str, str] = os.environ) -> Devices:
    """Sets up the devices that the config asks for, or that are there.

    Call it before anything computes. With several workers it waits for all of them.

    Args:
        request: auto, cpu, gpu, mirrored, multi_worker or tpu.
        environ: The environment variables.

    Raises:
        UserError: What is asked for is not there, or `TF_CONFIG` cannot be read.
    """
    grow_memory()
    gpus = tf.config.list_physical_devices("GPU")
    kind, reason = _resolve(request, environ, len(gpus))
    if request != "auto":
        reason += f" (training.strategy: {request})"
    if kind == "tpu":
        return Devices(_tpu(environ), kind, reason)
    if kind == "multi_worker":
        cluster = find_cluster(environ)
        assert cluster is not None  # `_resolve` has seen it
        return Devices(_join(cluster), kind, reason, cluster)
    if kind == "mirrored":
        return Devices(_mirrored(len(gpus)), kind, reason)
    if kind == "cpu" and gpus:
        tf.config.set_visible_devices([], "GPU")
    return Devices(tf.distribute.get_strategy(), kind, reason)


def grow_memory() -> None:
    """Lets TensorFlow take a GPU's memory as it needs it; by itself it takes all there is."""
    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # too late: something has computed already
            tf.config.experimental.set_memory_growth(gpu, True)


def prepare(seed: int, precision: str, deterministic: bool, kind: str | None = None) -> str:
    """Sets what Keras keeps globally: random seeds, dtype policy, determinism.

    Args:
        seed: Decides all that is random.
        precision: A Keras dtype policy, or auto.
        deterministic: Whether every operation must be reproducible to the bit.
        kind: The kind of `Devices`, if they were chosen.

    Returns:
        The dtype policy.
    """
    grow_memory()
    keras.utils.set_random_seed(seed)
    if precision == "auto":
        precision = _auto_precision(kind)
    keras.config.set_dtype_policy(precision)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return precision


def choose_jit(jit: str | bool, devices: Devices, deterministic: bool = False) -> bool:
    """Returns whether Keras compiles its steps with XLA.

    On a CPU XLA is many times slower than TensorFlow's own kernels, so auto leaves it out. A TPU's
    strategy compiles what it runs by itself.

    Args:
        jit: True, False or auto.
        devices: What the steps run on.
        deterministic: Whether every operation must be reproducible to the bit.

    Raises:
        UserError: It is asked for although gradients travel between devices, which XLA cannot do.
    """
    if jit == "auto":
        return devices.kind == "gpu" and not deterministic
    if jit and devices.replicas > 1 and devices.kind != "tpu":
        raise UserError(
            f"training.jit: XLA compiles steps for one device, not for {devices.replicas} replicas "
            "that exchange gradients. Use auto."
        )
    return bool(jit) and devices.kind != "tpu"


# --------------------------------------------------------------------------------- inside


def _resolve(request: str, environ: Mapping[str, str], gpus: int) -> tuple[str, str]:
    """Returns the kind of devices, and what they are and why, in words."""
    cluster = find_cluster(environ) if request in ("auto", "multi_worker") else None
    here = f"{gpus} GPU{'s' if gpus > 1 else ''}" if gpus else "CPU"
    if request == "multi_worker" and cluster is None:
        raise UserError(
            "training.strategy: multi_worker needs the other workers' addresses in TF_CONFIG, or "
            "a Slurm step of several tasks; see docs/distributed.md."
        )
    if request == "gpu" and not gpus:
        raise UserError("training.strategy: gpu, but TensorFlow sees none. Use cpu or auto.")
    if request == "tpu" or (request == "auto" and _has_tpu(environ)):
        return "tpu", "TPU"
    if cluster is not None:
        workers = f"{len(cluster.workers)} workers, as {cluster.source} says"
        return "multi_worker", f"{here}, worker {cluster.index} of {workers}"
    if request == "mirrored" or (request == "auto" and gpus > 1):
        return "mirrored", f"{here}, mirrored" if gpus else "CPUs, mirrored"
    if request == "gpu" or (request == "auto" and gpus):
        return "gpu", "GPU" if gpus == 1 else f"the first of {gpus} GPUs"
    return "cpu", "CPU" if request == "cpu" else "CPU: no GPU is visible to TensorFlow"


def _has_tpu(environ: Mapping[str, str]) -> bool:
    named = any(environ.get(name) for name in _TPU_VARIABLES)
    return named or bool(tf.config.list_physical_devices("TPU"))


def _mirrored(gpus: int) -> tf.distribute.Strategy:
    if gpus:
        return tf.distribute.MirroredStrategy()
    cpus = tf.config.list_logical_devices("CPU")
    if len(cpus) < 2:
        raise UserError("training.strategy: mirrored, but TensorFlow sees no GPU. Use cpu or auto.")
    # Logical CPUs, as tests divide them. Reducing on one device needs no numbered collectives.
    return tf.distribute.MirroredStrategy(
        [cpu.name for cpu in cpus], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


def _join(cluster: Cluster) -> tf.distribute.Strategy:
    """Waits for the other workers and returns the strategy over all of them."""
    check_workers_every(5)  # TensorFlow's default is too long to notice within a minute
    os.environ["TF_CONFIG"] = cluster.as_tf_config()
    others = len(cluster.workers) - 1
    print(f"worker {cluster.index} waits for {others} more at {cluster.workers[0]}", flush=True)
    return tf.distribute.MultiWorkerMirroredStrategy()


def _tpu(environ: Mapping[str, str]) -> tf.distribute.Strategy:
    address = environ.get("TPU_NAME") or environ.get("COLAB_TPU_ADDR") or "local"
    if address == environ.get("COLAB_TPU_ADDR"):
        address = f"grpc://{address}"
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (tf.errors.OpError, ValueError, RuntimeError, OSError) as error:
        reason = str(getattr(error, "message", error)).splitlines()[0][:200]
        raise UserError(
            f"training.strategy: no TPU answers as {address!r} ({reason}). Set TPU_NAME, or use "
            "training.strategy=cpu."
        ) from None
    return tf.distribute.TPUStrategy(resolver)


def _auto_precision(kind: str | None) -> str:
    if kind == "tpu":
        return "mixed_bfloat16"
    gpus = [] if kind == "cpu" else tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    able = [row.get("compute_capability", (0, 0)) >= _FLOAT16_CAPABILITY for row in details]
    return "mixed_float16" if able and all(able) else "float32"
