"""Devices: which `tf.distribute` strategy a run uses, and its random seeds."""

from __future__ import annotations

import keras
import tensorflow as tf


def choose_strategy() -> tuple[tf.distribute.Strategy, str]:
    """Returns a strategy for the devices that are there, and the reason in a sentence."""
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:  # before anything touches a device: TensorFlow otherwise takes all its memory
        tf.config.experimental.set_memory_growth(gpu, True)
    if len(gpus) > 1:
        return tf.distribute.MirroredStrategy(), f"{len(gpus)} GPUs, mirrored"
    device = "1 GPU" if gpus else "CPU: no GPU is visible to TensorFlow"
    return tf.distribute.get_strategy(), device


def prepare(seed: int, precision: str, deterministic: bool) -> None:
    """Sets what Keras keeps globally: random seeds, dtype policy, determinism."""
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
