"""Shares of the rate, by layer decay and by selector."""

from __future__ import annotations

import keras
import pytest

from ftkeras.errors import UserError
from ftkeras.phases import Phase, weights_of
from ftkeras.phases.phase import resolve_phases
from ftkeras.phases.plan import rate_shares
from ftkeras.phases.selectors import select


def test_shares_by_layer_decay_and_by_selector():
    model = keras.Sequential(
        [keras.Input((3,)), *(keras.layers.Dense(3, name=name) for name in ("a", "b", "head"))]
    )
    weights = weights_of(model)
    everything = select(weights, ["all"])

    def shares(**options) -> dict[str, float]:
        (phase,) = resolve_phases([Phase("p", 1, 1e-3, train=["all"], **options)])
        found = rate_shares(weights, phase, everything)
        return {w.path: pytest.approx(found[id(w.variable)]) for w in everything}

    assert shares(layer_decay=0.5) == {
        "a/kernel": 0.25, "a/bias": 0.25, "b/kernel": 0.5, "b/bias": 0.5,
        "head/kernel": 1.0, "head/bias": 1.0,
    }  # fmt: skip
    assert shares(layer_decay=0.5, rates={"block:a": 2e-3, "re:a/bias": 1e-4}) == {
        "a/kernel": 2.0, "a/bias": 0.1, "b/kernel": 0.5, "b/bias": 0.5,
        "head/kernel": 1.0, "head/bias": 1.0,
    }  # fmt: skip
    (only_head,) = resolve_phases([Phase("p", 1, 1e-3, rates={"block:a": 1e-4})])
    with pytest.raises(UserError, match="names nothing that this phase trains"):
        rate_shares(weights, only_head, select(weights, ["head"]))
