"""Rates per weight inside any Keras optimizer, and step counts that start when a weight does.

Keras optimizers have one learning rate and one step count for all weights. Fine-tuning wants lower
rates for earlier layers (discriminative rates: Howard and Ruder 2018; layer-wise decay: Bao et al.
2022), and unfreezing in stages wants a weight's bias correction to start at its own first step:
with zero momenta and a large step count, Adam's first step would be about 3.2 times the rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.keras_internals import (
    attached,
    has_own_weight_decay,
    micro_steps,
    replace_updates,
    restore_updates,
    showing,
    strategy_of_optimizer,
    uses_weight_decay,
    variable_index,
    weight_decay_method,
    weights_of_optimizer,
)
from ftkeras.phases.fused_adam import fused_update
from ftkeras.phases.phase import Phase
from ftkeras.phases.selectors import Weight, Weights, select


def rate_shares(weights: Weights, phase: Phase, trained: Sequence[Weight]) -> dict[int, float]:
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


class WeightRates:
    """Gives each weight its own share of the rate, and its own step count, in one optimizer.

    Works on the optimizer in place, inside loss scaling too, and adds nothing to its state. Shares
    and counts are plain numbers that the train function captures when it is traced, so a change
    takes effect when the train function is rebuilt.

    It also sums each group's squared gradients as they pass, after clipping and unscaling.

    Args:
        optimizer: A built Keras optimizer.
        groups: The group that each weight's gradient counts for, by id of the variable.

    Example:
        >>> weight = keras.Variable([1.0, 1.0])
        >>> optimizer = keras.optimizers.SGD(0.1)
        >>> optimizer.build([weight])
        >>> WeightRates(optimizer).set({id(weight): 0.5})
        >>> optimizer.apply([keras.ops.ones((2,))], [weight])
        >>> weight.numpy()
        array([0.95, 0.95], dtype=float32)
    """

    def __init__(
        self, optimizer: keras.optimizers.Optimizer, groups: Mapping[int, str] | None = None
    ):
        self._optimizer = innermost(optimizer)
        known = enumerate(weights_of_optimizer(self._optimizer))
        self._group_of = {i: groups[id(v)] for i, v in known if groups and id(v) in groups}
        with strategy_of_optimizer(self._optimizer).scope():
            self._squares = {
                name: keras.Variable(0.0, trainable=False, name="squared_gradients")
                for name in dict.fromkeys(self._group_of.values())
            }
        self._counted_from = self._updates()
        self._shares: dict[int, float] = {}  # by the optimizer's index of a variable
        self._offsets: dict[int, int] = {}
        self._steps: dict[int, int] = {}  # how many steps each weight has trained for
        self._training: tuple[set[int], int] = (set(), 0)
        self._laid_out: tuple[np.ndarray, int] | None = None
        replaced = attached(self._optimizer, "update_step")
        if isinstance(getattr(replaced, "__self__", None), WeightRates):
            restore_updates(self._optimizer)  # an earlier callback's
        self._plain_update = fused_update(self._optimizer)
        self._plain_decay = weight_decay_method(self._optimizer)
        replace_updates(self._optimizer, self._update_step, self._decay_later)

    def set(self, shares: Mapping[int, float]) -> None:
        """Sets which weights train from now on, and their shares, by id of the variable.

        A weight that has not trained for a while goes on with the count that it had.
        """
        self.stop()
        self._start(shares, self._iterations())

    def _start(self, shares: Mapping[int, float], now: int) -> None:
        index_of = {id(v): i for i, v in enumerate(weights_of_optimizer(self._optimizer))}
        self._shares = {index_of[key]: share for key, share in shares.items()}
        self._offsets = {i: now - self._steps.get(i, 0) for i in self._shares}
        self._training = (set(self._shares), now)
        self._laid_out = None

    def lay_out(self, rates: Sequence[float], done: int) -> None:
        """Has the train function itself take the rate of each step, as several a call must.

        Else it is what the optimizer's `learning_rate` says. Call it before that function is
        traced; it counts until other weights train.

        Args:
            rates: Of each step of a phase.
            done: How many of those steps were done before.
        """
        self._laid_out = np.asarray(rates, np.float32), self._iterations() - done

    def stop(self) -> None:
        """Counts the steps of the weights that were training."""
        training, since = self._training
        passed = self._iterations() - since
        for index in training:
            self._steps[index] = self._steps.get(index, 0) + passed
        self._training = (set(), 0)

    def state(self) -> dict[str, Any]:
        """Returns what it takes to go on in the midst of a phase, besides the phase's shares."""
        return {
            "since": self._training[1],
            "steps": [[index, steps] for index, steps in self._steps.items()],
            "counted_from": self._counted_from,
            "squares": {
                name: float(keras.ops.convert_to_numpy(squares))
                for name, squares in self._squares.items()
            },
        }

    def load_state(self, state: Mapping[str, Any], shares: Mapping[int, float]) -> None:
        """Goes on from what `state` returned in a phase with these shares, by id of the variable.

        As after `set`, the train function must be rebuilt.
        """
        self._training = (set(), 0)
        self._steps = {int(index): int(steps) for index, steps in state["steps"]}
        self._start(shares, int(state["since"]))
        self._counted_from = int(state["counted_from"])
        for name, total in state["squares"].items():
            self._squares[name].assign(total)

    def gradient_norms(self) -> dict[str, float]:
        """Returns each group's root mean squared gradient norm since this was last asked."""
        updates = self._updates() - self._counted_from
        self._counted_from += updates
        norms = {}
        for name, squares in self._squares.items():
            total = float(keras.ops.convert_to_numpy(squares))
            squares.assign(0.0)
            if updates and total != 0.0:
                norms[name] = math.sqrt(total / updates) if total >= 0 else math.nan
        return norms

    def _updates(self) -> int:
        return int(keras.ops.convert_to_numpy(self._optimizer.iterations))

    def _iterations(self) -> int:
        return int(keras.ops.convert_to_numpy(micro_steps(self._optimizer)))

    def _update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = variable_index(self._optimizer, variable)
        share, offset = self._shares.get(index, 1.0), self._offsets.get(index, 0)
        if index in self._group_of:
            values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
            squared = 2.0 * tf.nn.l2_loss(tf.cast(values, tf.float32))  # one pass, no copy
            self._optimizer.assign_add(self._squares[self._group_of[index]], squared)
        steps = micro_steps(self._optimizer)
        if self._laid_out is not None:
            rates, first = self._laid_out
            learning_rate = tf.constant(rates)[tf.minimum(steps - first, len(rates) - 1)]
        rate = learning_rate * share
        with showing(self._optimizer, steps - offset if offset else steps, rate):
            self._decay(index, variable, rate)
            self._plain_update(gradient, variable, rate)

    def _decay_later(self, variables: Sequence[Any]) -> None:
        """Takes the place of decay for all weights at once: `_update_step` decays each by itself.

        Decoupled decay is the rate times a constant, so it needs each weight's own rate; and here,
        under a strategy, the threads of all replicas are still running.
        """

    def _decay(self, index: int, variable: Any, rate: Any) -> None:
        optimizer = self._optimizer
        if has_own_weight_decay(optimizer):
            # Muon has two decays, and asks the Keras variable for its path.
            self._plain_decay([weights_of_optimizer(optimizer)[index]])
        elif optimizer.weight_decay is not None and uses_weight_decay(optimizer, variable):
            factor = tf.cast(rate * optimizer.weight_decay, variable.dtype)
            variable.assign_sub(variable * factor)


def innermost(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns the optimizer inside a loss-scaling one, or the optimizer itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)
