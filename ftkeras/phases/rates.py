"""Each weight's share of a phase's rate."""

from __future__ import annotations

from collections.abc import Sequence

from ftkeras.errors import UserError
from ftkeras.phases.phase import ResolvedPhase
from ftkeras.phases.selectors import Weight, Weights, select


def rate_shares(
    weights: Weights, phase: ResolvedPhase, trained: Sequence[Weight]
) -> dict[int, float]:
    """Returns, for each trained weight (by id of its variable), its share of the phase's rate.

    With `layer_decay` d the head has share 1, the last block d, the one before it d^2, and so on. A
    rate in `rates` replaces that; where several selectors name a weight, the last one counts.

    Raises:
        UserError: A selector in `rates` names nothing that the phase trains.
    """
    depth = {name: len(weights.blocks) - i for i, name in enumerate(weights.blocks)}
    shares = {
        id(weight.variable): phase.layer_decay ** depth.get(weight.block or "", 0)
        for weight in trained
    }
    for selector, rate in phase.rates.items():
        named = [w for w in select(weights, [selector]) if id(w.variable) in shares]
        if not named:
            raise UserError(
                f"phase {phase.name!r}: rates: {selector!r} names nothing that this phase trains."
            )
        shares.update({id(weight.variable): rate / phase.learning_rate for weight in named})
    return shares
