"""The fused update does what Keras's Adam does, except for the last digit."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.phases.fused_adam import FusedAdam, FusedAdamW

KINDS = {FusedAdam: keras.optimizers.Adam, FusedAdamW: keras.optimizers.AdamW}


def trained(optimizer: keras.optimizers.Optimizer, shape: tuple[int, ...], sparse: bool):
    random = np.random.default_rng(0)
    weight = keras.Variable(random.normal(size=shape).astype("float32"))
    optimizer.build([weight])
    for _ in range(30):
        gradient = tf.constant(random.normal(size=shape).astype("float32"))
        rows = tf.constant([0, 2])
        if sparse:
            gradient = tf.IndexedSlices(tf.gather(gradient, rows), rows, shape)
        optimizer.apply([gradient], [weight])
    return weight.numpy(), [variable.numpy() for variable in optimizer.variables]


@pytest.mark.parametrize("shape", [(3, 2), (64, 65), (1, 1, 32, 7)])
@pytest.mark.parametrize("ours", KINDS, ids=lambda kind: kind.__name__)
def test_weights_and_slots_are_keras_own_to_the_last_digit(ours, shape):
    weight, slots = trained(ours(0.01, weight_decay=0.1), shape, sparse=False)
    expected, others = trained(KINDS[ours](0.01, weight_decay=0.1), shape, sparse=False)
    np.testing.assert_allclose(weight, expected, atol=5e-6)
    assert not np.array_equal(weight, expected) or weight.size < 10  # it is another operation
    for one, other in zip(slots, others, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(("options", "sparse"), [({"amsgrad": True}, False), ({}, True)])
@pytest.mark.parametrize("ours", KINDS, ids=lambda kind: kind.__name__)
def test_the_rest_is_keras_own_update_to_the_bit(ours, options, sparse):
    weight, _ = trained(ours(0.01, **options), (4, 3), sparse)
    expected, _ = trained(KINDS[ours](0.01, **options), (4, 3), sparse)
    np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize("ours", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_excluded_does_not_decay(ours, two_replicas):
    with two_replicas.scope():
        weights = [keras.Variable([1.0, 1.0], name=name) for name in ("kernel", "bias")]
        optimizer = ours(0.5, weight_decay=0.1)
        optimizer.exclude_from_weight_decay(var_list=weights[1:])
        optimizer.build(weights)
    two_replicas.run(lambda: optimizer.apply([tf.zeros(2), tf.zeros(2)], weights))
    np.testing.assert_allclose(weights[0].numpy(), [0.95, 0.95])
    np.testing.assert_array_equal(weights[1].numpy(), [1.0, 1.0])
