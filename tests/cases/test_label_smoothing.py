"""Each output keeps the label smoothing of its own loss."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import ftkeras
from ftkeras.training.resume.phases import ResumableUnfreezing

TRUTH = np.eye(3, dtype="float32")
SAID = np.array([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0], [1.0, 1.0, 0.0]], "float32")


def compiled(amounts: list[float]) -> keras.Model:
    inputs = keras.Input((4,))
    names = [f"head_{i}" for i in range(len(amounts))]
    outputs = {name: keras.layers.Dense(3, name=name)(inputs) for name in names}
    model = keras.Model(inputs, outputs)
    losses = {name: smoothed(amount) for name, amount in zip(names, amounts, strict=True)}
    model.compile("sgd", losses, jit_compile=False)
    return model


def smoothed(amount: float) -> keras.losses.Loss:
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=amount)


@pytest.mark.parametrize("amounts", [[0.0, 0.3], [0.3, 0.0], [0.1, 0.2, 0.0]])
def test_label_smoothing_of_each_output_after_a_resume(amounts):
    """keras 23487."""
    phase = ftkeras.Phase("all", epochs=2, learning_rate=1e-2, train=["all"])
    stopped = ResumableUnfreezing(compiled(amounts), [phase], blocks=[])
    model = compiled(amounts)
    ResumableUnfreezing(model, [phase], blocks=[]).load_state(stopped.state())
    for loss, amount in zip(model.loss.values(), amounts, strict=True):
        assert float(loss(TRUTH, SAID)) == pytest.approx(float(smoothed(amount)(TRUTH, SAID)))
