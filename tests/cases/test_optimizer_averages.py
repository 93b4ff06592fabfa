"""Averages that the optimizer keeps belong to their own weights, whatever trains."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import ftkeras

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(16, 4)).astype("float32")
START = [RANDOM.normal(size=(4, units)).astype("float32") for units in (4, 4, 4)]
TINY = 1e-6  # a learning rate at which no weight moves by more than about itself


def moves(
    phases: list[list[str]], last_units: int = 4, swap: bool = False, **average: object
) -> dict[str, float]:
    """Trains the layers a, b and c with averages; returns the largest move of each."""
    units = {"a": 4, "b": 4, "c": last_units}
    layers = [keras.layers.Dense(n, use_bias=False, name=name) for name, n in units.items()]
    model = keras.Sequential([keras.Input((4,)), *layers])
    start = [*START[:2], START[2][:, :last_units]]
    model.set_weights(start)
    optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5, **average)
    model.compile(optimizer, "mse", jit_compile=False)
    stages = [
        ftkeras.Phase(f"phase {i}", epochs=1, learning_rate=TINY, train=train)
        for i, train in enumerate(phases)
    ]
    unfreeze = ftkeras.StagedUnfreezing(model, stages)
    swaps = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if swap else []
    targets = np.zeros((16, last_units), "float32")
    model.fit(
        INPUTS, targets, batch_size=4, epochs=len(phases), callbacks=[unfreeze, *swaps], verbose=0
    )
    both = zip(start, model.get_weights(), strict=True)
    return dict(zip("abc", (float(np.abs(x - y).max()) for x, y in both), strict=True))


FIRST_STAYS = [["block:a", "head"], ["head"]]
ENDS_STAY = [["all"], ["block:b"]]


@pytest.mark.parametrize("options", [{}, {"ema_overwrite_frequency": 2}], ids=["end", "often"])
@pytest.mark.parametrize(
    ("phases", "trains"), [(FIRST_STAYS, "c"), (ENDS_STAY, "b")], ids=["first", "ends"]
)
def test_each_average_belongs_to_its_own_weight(phases, trains, options):
    """keras 18978."""
    moved = moves(phases, **options)
    assert max(moved.values()) < 1000 * TINY
    assert moved[trains] > 0.0


def test_averages_of_weights_of_several_shapes():
    """keras 18978."""
    moved = moves(FIRST_STAYS, last_units=3)
    assert max(moved.values()) < 1000 * TINY
    assert moved["c"] > 0.0


def test_swapped_averages_belong_to_their_own_weights():
    """keras 18978: the callback swaps weights that the last phase has frozen."""
    moved = moves(FIRST_STAYS, swap=True)
    assert max(moved.values()) < 1000 * TINY
    assert moved["c"] > 0.0
