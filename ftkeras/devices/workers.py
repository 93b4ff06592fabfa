"""Several workers that train one model: how they meet, share the data, wait, and stop."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from ftkeras.data.share import Share, as_long_as, take_share
from ftkeras.devices.strategy import Devices
from ftkeras.errors import TrainingError
from ftkeras.phases.audit import fingerprint
from ftkeras.run import Run

# How a worker that is gone shows: its connections break, or it no longer answers.
_PEER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
)


def worker_share(strategy: tf.distribute.Strategy) -> Share:
    """Returns this process's share of every global batch."""
    replicas = strategy.num_replicas_in_sync
    if not in_step_with_others(strategy):
        return Share(replicas=replicas)
    resolver = strategy.cluster_resolver
    return Share(resolver.task_id, resolver.cluster_spec().num_tasks("worker"), replicas)


def share_of(batches: tf.data.Dataset, strategy: tf.distribute.Strategy) -> tf.data.Dataset:
    """Returns this worker's share of global batches that every worker can make, padded."""
    return take_share(batches, worker_share(strategy))


def spread(batches: tf.data.Dataset, strategy: tf.distribute.Strategy) -> tf.data.Dataset:
    """Returns what to give to `fit`: padded batches, divided among this worker's replicas.

    By default TensorFlow lets every worker read all the data and drop what other workers train on.
    It gives the last batch of an epoch to the first replicas alone.

    Args:
        batches: This worker's share of the global batches, from `share_of` or a feed.
        strategy: What they are trained under.
    """
    if strategy.num_replicas_in_sync == 1:
        return batches
    steps = int(batches.cardinality())

    def among_replicas(context: tf.distribute.InputContext) -> tf.data.Dataset:
        replicas = context.num_replicas_in_sync // context.num_input_pipelines
        if replicas == 1:
            return batches

        def parts(*batch: Any) -> Any:
            return tf.nest.map_structure(lambda rows: tf.stack(tf.split(rows, replicas)), batch)

        return as_long_as(batches.map(parts).unbatch(), steps)

    return strategy.distribute_datasets_from_function(among_replicas)


def wait_for_all(strategy: tf.distribute.Strategy, number: int = 0) -> list[int]:
    """Returns, once every worker has called this, the numbers that they brought."""
    if not in_step_with_others(strategy):
        return [number]

    @tf.function
    def gather() -> tf.Tensor:
        return strategy.gather(strategy.run(lambda: tf.constant([number], tf.int64)), axis=0)

    return [int(brought) for brought in gather()]


def agree_on_weights(model: keras.Model) -> None:
    """Makes sure that all workers have the same weights, to the bit, and says so.

    Raises:
        TrainingError: They differ.
    """
    strategy = model.distribute_strategy
    if not in_step_with_others(strategy):
        return
    digest = hashlib.sha256(b"".join(fingerprint(variable) for variable in model.variables))
    numbers = wait_for_all(strategy, int.from_bytes(digest.digest()[:7], "big"))
    if len(set(numbers)) > 1:
        raise TrainingError(
            f"the workers ended with different weights ({', '.join(map(hex, numbers))}): do all "
            "see the same data, and run the same version?"
        )
    print(f"workers   {worker_share(strategy).count} have the same weights, digest {numbers[0]:x}")


@contextmanager
def taking_part(devices: Devices, run: Run, resumes: bool) -> Iterator[Run]:
    """Yields the run that this worker writes; the chief's is `run`, and it alone speaks.

    The others do what the chief does, so that all decide alike, but in a folder that goes away. All
    have to see the chief's: a run that resumes begins with a copy of its states.

    Args:
        devices: What the run computes on.
        run: The run.
        resumes: Whether it is there already, and resumes.
    """
    if devices.cluster is None or devices.is_chief:
        with peers_watched(devices):
            wait_for_all(devices.strategy)  # others copy what is about to change
        yield run
        return
    print(f"worker {devices.cluster.index} takes part; worker 0 keeps the record in {run.folder}")
    sys.stdout.flush()
    with (
        tempfile.TemporaryDirectory(prefix="ftkeras-worker-") as scratch,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        own = Run(os.path.join(scratch, "run"))
        if resumes:
            _copy(run.folder, own.folder)
        with peers_watched(devices):
            wait_for_all(devices.strategy)
        yield own


def _copy(folder: str, to: str) -> None:
    for parent, _, names in tf.io.gfile.walk(folder):
        there = os.path.join(to, os.path.relpath(parent, folder))
        tf.io.gfile.makedirs(there)
        for name in names:
            tf.io.gfile.copy(os.path.join(parent, name), os.path.join(there, name), overwrite=True)


@contextmanager
def peers_watched(devices: Devices) -> Iterator[None]:
    """Turns what TensorFlow raises if another worker is gone into one clear line.

    Raises:
        TrainingError: That line.
    """
    try:
        yield
    except _PEER_ERRORS as error:
        if devices.cluster is None:
            raise
        raise TrainingError(
            "another worker has stopped or cannot be reached, so this one stops too. See what that "
            f"one said, then start all of them again. ({str(error).splitlines()[0][:200]})"
        ) from error


def in_step_with_others(strategy: tf.distribute.Strategy) -> bool:
    """Whether every step of this process is one of other processes, too."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
