"""PhasedOptimizer: any Keras optimizer, with a step count and a rate for each group of weights.

A Keras optimizer has one step count and one rate for all its weights. Unfreezing in stages needs
more. A weight that joins late must start at its own first step. With zero momenta and a large step
count, Adam's first step would be about 3.2 times the rate. Earlier layers want lower rates
(discriminative rates: Howard and Ruder 2018; layer-wise decay: Bao et al. 2022).

So each group of weights that train together has its own optimizer, of the same class and settings.
This wrapper shares the gradients out. It uses public names only, as Keras's own
`LossScaleOptimizer` does.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.phases.groups import Group, check_same_layout, layout_of
from ftkeras.phases.template import check_template, clip, copy_of

_LAYOUT = "layout"  # the key of the state that says which weights the other keys belong to


@dataclasses.dataclass
class _Inner:
    """A group, and what its training has for it; in an object of its own, so that Keras's saving
    does not look inside.
    """

    group: Group
    optimizer: keras.optimizers.Optimizer
    averages: Sequence[keras.Variable]
    accumulators: Sequence[keras.Variable]

    @property
    def variables(self) -> list[keras.Variable]:
        return [*self.optimizer.variables, *self.averages, *self.accumulators]


@dataclasses.dataclass
class _Parts:
    """What the optimizer keeps out of Keras's tracking."""

    template: keras.optimizers.Optimizer
    inners: list[_Inner] = dataclasses.field(default_factory=list)
    inner_of: dict[int, tuple[int, int]] = dataclasses.field(default_factory=dict)
    names: dict[int, str] = dataclasses.field(default_factory=dict)
    squares: dict[str, keras.Variable] = dataclasses.field(default_factory=dict)
    best: list[keras.Variable] = dataclasses.field(default_factory=list)
    table: tf.Variable | None = None  # the rates of the steps of one call, if they are several
    row: tf.Variable | None = None  # which of them comes next
    phases_known: bool = True  # whether the groups are those of phases
    steered: float = 0.0  # the rate that a phase has set, without `factor`; 0 before
    factor: float = 1.0  # of `factor`: to read a variable would wait for a GPU, in every step
    touched: bool = False  # whether something else has set it since `watch`


class _Rate(keras.Variable):
    """A learning rate that others assign to by its optimizer's setter, so that it lasts."""

    def __init__(self, value: float, set_by_others: Callable[[Any], None]):
        options = {"trainable": False, "aggregation": "only_first_replica"}
        super().__init__(value, dtype=keras.config.floatx(), name="learning_rate", **options)
        self._set_by_others = set_by_others

    def assign(self, value: Any) -> None:
        self._set_by_others(value)

    def put(self, value: float) -> None:
        """Sets the rate."""
        super().assign(value)


@keras.saving.register_keras_serializable(package="ftkeras")
class PhasedOptimizer(keras.optimizers.Optimizer):
    """Trains groups of weights, each with a copy of one optimizer, so with its own step count.

    `StagedUnfreezing` puts it into a compiled model; few people make one. On one device it equals
    the optimizer that it copies in the first phase, to the bit. A group that joins later equals a
    new optimizer. Clipping sees the gradients of all groups together. With several replicas,
    gradients are summed first, then accumulated and clipped, as one device would do it. (Keras
    clips before it sums, and refuses to accumulate there.)

    Averages of weights (`use_ema`) belong to their own weight, and stand still with it: while a
    weight is frozen, its average is the weight.

    Attributes:
        micro_steps: How many batches there were. `iterations` counts whole updates.
        factor: What others (`ReduceLROnPlateau`) multiplied the rate with; it lasts.
        clock: What `StagedUnfreezing` needs to resume; float64.

    Args:
        template: The optimizer to copy. Its own state is not used.
        name: A name.

    Raises:
        UserError: The template cannot be copied: its rate is a schedule, or it holds several
            optimizers.

    Example:
        >>> weight = keras.Variable([1.0, 1.0])
        >>> optimizer = PhasedOptimizer(keras.optimizers.SGD(0.1))
        >>> optimizer.arrange([Group(("w",), (weight,), (0.5,))])
        >>> optimizer.enter(0)
        >>> optimizer.apply([keras.ops.ones((2,))], [weight])
        >>> weight.numpy()
        array([0.95, 0.95], dtype=float32)
    """

    def __init__(self, template: keras.optimizers.Optimizer, name: str = "phased"):
        check_template(template)
        super().__init__(
            learning_rate=self._rate_now,
            loss_scale_factor=template.loss_scale_factor,
            use_ema=template.use_ema,
            ema_momentum=template.ema_momentum,
            ema_overwrite_frequency=template.ema_overwrite_frequency,
            name=name,
        )
        self._parts = _Parts(template)
        rate = float(keras.ops.convert_to_numpy(template.learning_rate))
        self._rate = _Rate(rate, lambda value: setattr(self, "learning_rate", value))
        self._every = template.gradient_accumulation_steps or 1
        self.micro_steps = self._number("micro_steps", dtype="int")
        self.factor = self._number("factor", initializer="ones")
        self.measured_from = self._number("measured_from", dtype="int")

    def template(self) -> keras.optimizers.Optimizer:
        """Returns the optimizer whose class and settings the groups have."""
        # No property: Keras would save the state of an optimizer that is an attribute.
        return self._parts.template

    @property
    def groups(self) -> list[Group]:
        """The groups, in the order of `arrange`."""
        return [inner.group for inner in self._parts.inners]

    @property
    def accumulation(self) -> int:
        """Over how many batches the gradients of an update are averaged."""
        return self._every

    # -------------------------------------------------------------------------- building

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Builds one group of all these weights: what Keras calls if no phases are known."""
        if not self.built:
            paths = tuple(map(str, range(len(variables))))  # as Keras's own state: by position
            with tf.init_scope():  # Keras may call it while it traces a train function
                self.arrange([Group(paths, tuple(variables), (1.0,))])
            self._parts.phases_known = False

    def arrange(
        self,
        groups: Sequence[Group],
        *,
        clock: int = 0,
        best: Sequence[keras.Variable] = (),
        names: Mapping[int, str] | None = None,
    ) -> None:
        """Makes an inner optimizer for each group.

        Args:
            groups: The groups; each weight is in one of them.
            clock: How many numbers `clock` holds.
            best: Variables of which to hold the values of the best epoch; see `best`.
            names: For `gradient_norms`: what each weight counts for, by id of the variable.
        """
        parts, template = self._parts, self._parts.template
        weights = [weight for group in groups for weight in group.weights]
        before = len(super().variables)
        super().build(weights)
        averages = iter(super().variables[before:] if self.use_ema else ())
        self.shares = self.add_variable(
            (len(groups),), initializer="ones", name="shares", aggregation="only_first_replica"
        )
        self.clock = self.add_variable((clock,), dtype="float64", name="clock")
        for number, group in enumerate(groups):
            inner = copy_of(template, group.weights, self._rate_of(group, number))
            own_averages = [next(averages) for _ in group.weights] if self.use_ema else []
            accumulators = [
                self.add_variable_from_reference(weight, name="gradient_accumulator")
                for weight in (group.weights if self._every > 1 else ())
            ]
            parts.inners.append(_Inner(group, inner, own_averages, accumulators))
            for index, weight in enumerate(group.weights):
                parts.inner_of[id(weight)] = parts.inner_of[id(weight.value)] = number, index
                parts.names[id(weight)] = (names or {}).get(id(weight), "")
        parts.squares = {
            name: self._number(f"squared_gradients_{number}")
            for number, name in enumerate(dict.fromkeys(parts.names.values()))
            if name
        }
        parts.best = [
            self.add_variable_from_reference(v, name="best")
            for v in (*best, *(self._averages() if best else ()))
        ]
        # In a list of its own they belong to `variables` and to TensorFlow's checkpoints.
        self.group_variables = [list(inner.optimizer.variables) for inner in parts.inners]
        self._let_averages_follow(range(len(groups)))

    def _rate_of(self, group: Group, number: int) -> Callable[[], Any]:
        # A product of 1 would be no other rate, but other arithmetic once a graph is optimized.
        full = all(share in (None, 1.0) for share in group.shares)
        return self._rate_now if full else lambda: self._rate_now() * self.shares[number]

    def _number(self, name: str, **options: Any) -> keras.Variable:
        options = {"initializer": "zeros", "aggregation": "only_first_replica", **options}
        return self.add_variable((), name=name, **options)

    # ---------------------------------------------------------------------------- phases

    def enter(self, phase: int) -> None:
        """Sets the shares of a phase; averages of weights that it freezes become the weights."""
        self._read_factor()
        shares = [inner.group.shares[phase] for inner in self._parts.inners]
        self.shares.assign([share or 0.0 for share in shares])
        self._let_averages_follow([i for i, share in enumerate(shares) if share is None])

    def steer(self, rates: Sequence[float]) -> None:
        """Sets the rates of the next steps: of one, or of all those that one call does."""
        parts, factor = self._parts, self._parts.factor
        self._rate.put(rates[-1] * factor)
        parts.steered = rates[-1]
        if parts.table is None or parts.row is None:
            return
        full = [*rates, *rates[-1:] * (parts.table.shape[0] - len(rates))]
        parts.table.assign(np.asarray(full, np.float32) * np.float32(factor))
        parts.row.assign(0)

    def steps_together(self, count: int) -> None:
        """Prepares for functions that do `count` steps at a call; before they are traced."""
        parts = self._parts
        if count == 1:
            parts.table = parts.row = None
        elif parts.table is None or parts.table.shape[0] != count:
            parts.table = tf.Variable(tf.zeros(count), trainable=False)
            parts.row = tf.Variable(0, trainable=False)

    def watch(self) -> None:
        """Forgets who set the rate so far; see `touched`."""
        self._parts.touched = False
        self._read_factor()

    @property
    def touched(self) -> bool:
        """Whether anything but `steer` has set the rate since `watch`."""
        return self._parts.touched

    @property
    def learning_rate(self) -> Any:
        """The rate of the last step that `steer` knows of. While phases set it, another value
        multiplies `factor` with the ratio of the two.
        """
        return self._rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        if callable(value):
            raise UserError(
                "the phases set the learning rate: the optimizer's cannot become a schedule."
            )
        parts, rate = self._parts, float(keras.ops.convert_to_numpy(value))
        parts.touched = True
        if parts.steered:
            parts.factor = rate / parts.steered
            self.factor.assign(parts.factor)
        self._rate.put(rate)

    def _read_factor(self) -> None:
        self._parts.factor = float(keras.ops.convert_to_numpy(self.factor))

    def _rate_now(self) -> Any:
        table, row = self._parts.table, self._parts.row
        if table is None or row is None:
            return self._rate
        return table[tf.minimum(row, table.shape[0] - 1)]

    # ---------------------------------------------------------------------------- updates

    def apply(
        self,
        grads: Sequence[Any],
        trainable_variables: Sequence[keras.Variable] | None = None,
    ) -> None:
        """Updates the weights; as that of any Keras optimizer."""
        if trainable_variables is not None and not self.built:
            self.build(list(trainable_variables))
        variables = (
            [weight for group in self.groups for weight in group.weights]
            if trainable_variables is None
            else list(trainable_variables)
        )
        pairs = _present(grads, variables)
        if not pairs:
            return
        places = [self._place(variable) for _, variable in pairs]
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync
        # Dense: of an embedding's gradient, whose rows may come several times, Keras's Adam would
        # square each part, and not their sum.
        ready = [tf.convert_to_tensor(gradient) for gradient, _ in pairs]
        if replicas > 1:
            ready = context.all_reduce(tf.distribute.ReduceOp.SUM, ready)
        if self.loss_scale_factor is not None:
            ready = [gradient / self.loss_scale_factor for gradient in ready]
        if self._every == 1 and not self.use_ema:
            self._update(ready, places, replicas)
        else:
            # A condition may hold updates only here, between the replicas.
            context.merge_call(self._between_replicas, args=(ready, places, replicas))
        if self.use_ema and self.ema_overwrite_frequency:
            for _, variable in pairs:  # an average need not meet a constraint
                if variable.constraint is not None:
                    variable.assign(variable.constraint(variable))
        self.micro_steps.assign_add(1)
        if self._parts.row is not None:
            self._parts.row.assign_add(1)

    def _between_replicas(
        self, strategy: Any, gradients: Any, places: Sequence[tuple[int, int]], replicas: int
    ) -> None:
        if self._every > 1:
            kept = [self._parts.inners[i].accumulators[j] for i, j in places]
        numbers = sorted({number for number, _ in places})
        before = {i: tf.identity(self._parts.inners[i].optimizer.iterations) for i in numbers}

        def update() -> None:
            strategy.extended.call_for_each_replica(
                self._update, args=(gradients, places, replicas)
            )
            if self._every > 1:
                for sum_ in kept:
                    strategy.extended.update(sum_.value, _clear, group=False)

        def keep() -> None:
            for sum_, gradient in zip(kept, gradients, strict=True):
                strategy.extended.update(sum_.value, _add, args=(gradient,), group=False)

        if self._every == 1:
            update()
        else:
            keras.ops.cond((self.micro_steps + 1) % self._every == 0, update, keep)
        if self.use_ema:
            for number in numbers:
                self._average(strategy, self._parts.inners[number], before[number])

    def _update(
        self, gradients: Sequence[Any], places: Sequence[tuple[int, int]], replicas: int
    ) -> None:
        inners = self._parts.inners
        if self._every > 1:
            kept = [inners[i].accumulators[j] for i, j in places]
            pairs = zip(gradients, kept, strict=True)
            gradients = [(gradient + sum_) / self._every for gradient, sum_ in pairs]
        weights = [inners[i].group.weights[j] for i, j in places]
        gradients = clip(self._parts.template, gradients, weights)
        self._measure(gradients, places)
        for number, inner in enumerate(inners):
            own = [k for k, (i, _) in enumerate(places) if i == number]
            if own:
                # The inner optimizer sums over the replicas, too.
                parts = [gradients[k] / replicas if replicas > 1 else gradients[k] for k in own]
                inner.optimizer.apply(parts, [weights[k] for k in own])
        self.iterations.assign_add(1)

    def _place(self, variable: Any) -> tuple[int, int]:
        try:
            return self._parts.inner_of[id(variable)]
        except KeyError:
            name = getattr(variable, "path", variable)
            raise UserError(
                f"the optimizer got a gradient of {name!r}, which no phase trains. Make the "
                "StagedUnfreezing callback after the last layer was added."
            ) from None

    # -------------------------------------------------------------------------- averages

    def _average(self, strategy: Any, inner: _Inner, updates: Any) -> None:
        """Moves the averages of a group, as Keras does: after every batch."""
        not_first = tf.not_equal(updates, 0)
        often = self.ema_overwrite_frequency
        for weight, average in zip(inner.group.weights, inner.averages, strict=True):
            strategy.extended.update(
                average.value,
                _move,
                args=(weight.value, not_first, self.ema_momentum),
                group=False,
            )
            if often:
                due = tf.equal((updates + 1) % often, 0)
                strategy.extended.update(
                    weight.value, _overwrite, args=(average.value, due), group=False
                )

    def _let_averages_follow(self, numbers: Sequence[int] | range) -> None:
        for number in numbers:
            inner = self._parts.inners[number]
            if inner.averages:
                for weight, average in zip(inner.group.weights, inner.averages, strict=True):
                    average.assign(weight)

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Gives each weight its average, if the optimizer keeps averages."""
        for inner in self._parts.inners if self.use_ema else ():
            for weight, average in zip(inner.group.weights, inner.averages, strict=True):
                weight.assign(average)

    # -------------------------------------------------------------------- gradient norms

    def _measure(self, gradients: Sequence[Any], places: Sequence[tuple[int, int]]) -> None:
        parts = self._parts
        sums: dict[str, Any] = {}
        for gradient, (i, j) in zip(gradients, places, strict=True):
            name = parts.names.get(id(parts.inners[i].group.weights[j]), "")
            if name:
                squared = 2.0 * tf.nn.l2_loss(tf.cast(gradient, tf.float32))  # one pass, no copy
                sums[name] = sums[name] + squared if name in sums else squared
        for name, total in sums.items():
            parts.squares[name].assign_add(total)

    def gradient_norms(self) -> dict[str, float]:
        """Returns the root mean squared norm of each name's gradients since this was last called.

        After clipping. A name whose gradients were all zero is left out.
        """
        parts = self._parts
        now = int(keras.ops.convert_to_numpy(self.iterations))
        updates = now - int(keras.ops.convert_to_numpy(self.measured_from))
        self.measured_from.assign(now)  # a variable: it resumes with the sums
        norms = {}
        for name, squares in parts.squares.items():
            total = float(keras.ops.convert_to_numpy(squares))
            squares.assign(0.0)
            if updates > 0 and total != 0.0:
                norms[name] = math.sqrt(total / updates) if total >= 0 else math.nan
        return norms

    # --------------------------------------------------------------------- the best epoch

    def keep_best(self, variables: Sequence[keras.Variable]) -> None:
        """Keeps the values of the variables that `arrange` got as `best`, and of averages."""
        for kept, variable in zip(self._parts.best, [*variables, *self._averages()], strict=True):
            kept.assign(variable)

    def restore_best(self, variables: Sequence[keras.Variable]) -> None:
        """Gives these variables, and the averages, the values that `keep_best` kept."""
        for kept, variable in zip(self._parts.best, [*variables, *self._averages()], strict=True):
            variable.assign(kept)

    @property
    def keeps_best(self) -> bool:
        """Whether `arrange` got variables as `best`."""
        return bool(self._parts.best)

    def _averages(self) -> list[keras.Variable]:
        return [average for inner in self._parts.inners for average in inner.averages]

    # ------------------------------------------------------------------------------ saving

    def _own(self) -> dict[str, keras.Variable]:
        own = {
            "iterations": self.iterations,
            "micro_steps": self.micro_steps,
            "factor": self.factor,
            "clock": self.clock,
        }
        return own | {f"best_{i}": variable for i, variable in enumerate(self._parts.best)}

    def save_own_variables(self, store: Any) -> None:
        """Saves the state by weight: which paths a group has, and then its variables."""
        if not self.built:
            return
        layout = json.dumps(layout_of(self.groups))
        store[_LAYOUT] = np.frombuffer(layout.encode(), np.uint8)
        for name, variable in self._own().items():
            store[name] = keras.ops.convert_to_numpy(variable)
        for number, inner in enumerate(self._parts.inners):
            for index, variable in enumerate(inner.variables):
                store[f"group_{number}_{index}"] = keras.ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved.

        Raises:
            UserError: It is of other weights, or of weights that train in other phases or at other
                shares of the rate.
        """
        keys = set(store.keys())
        known = _LAYOUT in keys
        saved = json.loads(np.asarray(store[_LAYOUT], np.uint8).tobytes()) if known else []
        try:
            check_same_layout(saved, layout_of(self.groups))
        except UserError:
            if known and self._parts.phases_known:
                raise
            kinds = "phases that are not known here" if known else "no phases"
            warnings.warn(
                f"the file has the state of an optimizer of {kinds}, which is left out: "
                "momenta and step counts start again.",
                stacklevel=2,
            )
            return
        numbers = {tuple(paths): number for number, (paths, _) in enumerate(saved)}
        for inner in self._parts.inners:
            there = numbers[inner.group.paths]
            for index, variable in enumerate(inner.variables):
                variable.assign(np.asarray(store[f"group_{there}_{index}"]))
        for name, variable in self._own().items():
            if name in keys and np.shape(store[name]) == tuple(variable.shape):
                variable.assign(np.asarray(store[name]))
        self._read_factor()

    def __repr__(self) -> str:
        return f"<PhasedOptimizer of {type(self._parts.template).__name__}>"  # Keras's errors

    def get_config(self) -> dict[str, Any]:
        """Returns the template's config; which weights are in which group is part of the state."""
        template = keras.saving.serialize_keras_object(self._parts.template)
        return {"template": template, "name": self.name}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> PhasedOptimizer:
        """Makes one from what `get_config` returned; it has one group until phases are known."""
        template = keras.saving.deserialize_keras_object(
            config["template"], custom_objects=custom_objects
        )
        return cls(template, name=config["name"])


def _present(
    grads: Sequence[Any], variables: Sequence[keras.Variable]
) -> list[tuple[Any, keras.Variable]]:
    pairs = [(g, v) for g, v in zip(grads, variables, strict=True) if g is not None]
    missing = [v.path for g, v in zip(grads, variables, strict=True) if g is None]
    if missing and not pairs:
        raise ValueError("No gradients provided for any variable.")
    if missing:
        warnings.warn(
            f"Gradients do not exist for variables {missing} when minimizing the loss.",
            stacklevel=3,
        )
    return pairs


def _clear(variable: Any) -> None:
    variable.assign(tf.zeros_like(variable))


def _add(variable: Any, value: Any) -> None:
    variable.assign(value + variable)


def _move(average: Any, weight: Any, not_first: Any, momentum: float) -> None:
    momentum = tf.cast(not_first, average.dtype) * momentum
    average.assign(momentum * average + (1 - momentum) * weight)


def _overwrite(weight: Any, average: Any, due: Any) -> None:
    weight.assign(tf.where(due, average, weight))
