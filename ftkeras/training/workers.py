"""Several workers."""

from __future__ import annotations

import os

import tensorflow as tf

from ftkeras.training.cluster import Cluster


def join_cluster(cluster: Cluster) -> tf.distribute.Strategy:
    """Waits for the other workers and returns the strategy over all of them."""
    os.environ["TF_CONFIG"] = cluster.as_tf_config()
    return tf.distribute.MultiWorkerMirroredStrategy()
