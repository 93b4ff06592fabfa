"""What storing the trunk would cost and save in each phase, and so whether it is done."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import math
import operator
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from ftkeras.cache import Remembered, digest
from ftkeras.config.schema import TrunkConfig
from ftkeras.console import table
from ftkeras.data.feed import Feed
from ftkeras.devices.workers import wait_for_all
from ftkeras.graph import Graph, flatten
from ftkeras.model.inference import batch_spec, outputs_function
from ftkeras.phases.callback import StagedUnfreezing
from ftkeras.phases.phase import Phase
from ftkeras.timeline import stage
from ftkeras.trunk.cost import NOMINAL_LENGTH, work
from ftkeras.trunk.extract import GetStores, get_stores
from ftkeras.trunk.split import Spec, TrunkSplit, is_within, split_or_reason
from ftkeras.trunk.writer import choose_placement, estimate_bytes

MakeTail = Callable[[Graph], keras.Model]

_BACKWARD = 2.0  # a layer's backward pass is about two of its forward passes
_OVERHEAD = 2.0  # seconds to set up a store: graphs to trace, files to open
EPOCH = 0.08  # seconds of an epoch without its steps: iterators, validation, records, saving
_STEP = 4e-4  # seconds of a step without its work
_TIMED = 16 * 224 * 224  # places whose forward pass is timed: what no training minds


@dataclasses.dataclass(frozen=True)
class TrunkForecast:
    """What is expected of one phase.

    Args:
        phase: Its name.
        stored: Whether its trunk is stored.
        reason: Why, or why not.
        made_in: The phase in which the examples run through the trunk: this one, or an earlier one
            whose trunk holds this phase's.
        exact: Whether the tail trains on the same numbers, to the bit, as without a store.
        share: How much of the forward pass is in the trunk, from 0 to 1.
        bytes: The size of the stores.
        seconds_without: Time of the phase without a store.
        seconds_with: Time with a store, including the time to make it.
    """

    phase: str
    stored: bool
    reason: str
    made_in: str = ""
    exact: bool = True
    share: float = 0.0
    bytes: int = 0
    seconds_without: float = 0.0
    seconds_with: float = 0.0


@dataclasses.dataclass
class TrunkPlan:
    """Which phases train from a store.

    Args:
        options: How trunks are stored.
        forecasts: One per phase.
        make_tail: Makes a model of a split's tail, compiled with the optimizer and the loss of the
            whole model and with copies of its metrics. It is called in the strategy's scope.
        splits: The model, divided for each phase; None if that is impossible.
        seconds: How long it took to get the stores, by phase; filled in during training.
        first_stores: The first phase's stores by split, if they were made before the phase began.
            get_stores: The function that stores the trunk.
    """

    options: TrunkConfig
    forecasts: tuple[TrunkForecast, ...]
    make_tail: MakeTail
    splits: tuple[TrunkSplit | None, ...] = ()
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    first_stores: dict[str, Any] | None = None
    get_stores: GetStores = get_stores

    def ahead(self, index: int) -> list[TrunkSplit]:
        """Returns the later phases' splits whose trunks run together with that of a phase."""
        name, later = self.forecasts[index].phase, slice(index + 1, None)
        both = zip(self.forecasts[later], self.splits[later], strict=True)
        return [split for f, split in both if f.stored and f.made_in == name and split is not None]

    def never_trained(self) -> int | None:
        """Returns the phase with a store whose trunk is frozen in all phases; None without one."""
        if self.get_stores is not get_stores:  # a task's own, of other frontiers
            return None
        for index, split in enumerate(self.splits):
            if split is None:
                return None
            inside = (other is not None and is_within(split, other) for other in self.splits)
            if self.forecasts[index].stored and all(inside):
                return index
        return None

    def state(self) -> dict[str, Any]:
        """Returns which phases are stored, because a run that resumes could decide differently."""
        return {"stored": [f.stored for f in self.forecasts], "seconds": self.seconds}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores the decision that `state` returned."""
        self.seconds = dict(state["seconds"])
        self._keep_to(state["stored"], "as when the run began")

    def agree(self, strategy: tf.distribute.Strategy) -> None:
        """With several workers, stores only the trunks that all of them would store."""
        bits = sum(forecast.stored << index for index, forecast in enumerate(self.forecasts))
        common = functools.reduce(operator.and_, wait_for_all(strategy, bits))
        indices = range(len(self.forecasts))
        self._keep_to([bool(common >> index & 1) for index in indices], "as another worker decided")

    def _keep_to(self, stored: Sequence[bool], reason: str) -> None:
        self.forecasts = tuple(
            f if f.stored == now else dataclasses.replace(f, stored=now, reason=reason)
            for f, now in zip(self.forecasts, stored, strict=True)
        )

    def as_json(self, metrics: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
        """Returns the forecasts, with the seconds that each phase took."""
        rows = []
        for forecast in self.forecasts:
            own = [r["seconds"] for r in metrics if r.get("phase") == forecast.phase]
            took = {"seconds": round(sum(own) + self.seconds.get(forecast.phase, 0.0), 3)}
            rows.append({**dataclasses.asdict(forecast), **(took if own else {})})
        return rows


@stage("forecast the trunk")
def plan_trunk(
    model: keras.Model,
    feed: Feed,
    unfreeze: StagedUnfreezing,
    options: TrunkConfig,
    make_tail: MakeTail,
) -> TrunkPlan:
    """Decides for each phase whether its trunk is stored: if that is possible and saves time.

    The time of a phase is estimated from one forward pass of the whole model on this machine. It is
    divided between trunk and tail in proportion to their work. What each epoch and step takes
    whatever their size is added as measured on two cores.

    Args:
        model: The compiled model; its flags will be set.
        feed: The data.
        unfreeze: The phases.
        options: How trunks would be stored.
        make_tail: See `TrunkPlan`.
    """
    why_not = _why_not_any(unfreeze)
    if why_not:
        forecasts = [TrunkForecast(phase.name, False, why_not) for phase in unfreeze.phases]
        return TrunkPlan(options, tuple(forecasts), make_tail)
    graph, length = flatten(model), feed.input.sizes[-1] if feed.input.sizes else None
    unit = 0.0 if graph is None else _seconds_per_work(model, graph, length or NOMINAL_LENGTH)
    forecasts = []
    splits: list[TrunkSplit | None] = []
    for index, phase in enumerate(unfreeze.phases):
        unfreeze.set_flags(index)  # they decide the split
        fresh = feed.input.fresh(view_of(phase, feed))
        split = split_or_reason(
            model, silence=bool(options.silence), graph=graph, length=length, fresh=fresh
        )
        if isinstance(split, str):
            forecasts.append(TrunkForecast(phase.name, False, split))
            splits.append(None)
            continue
        maker = _maker(unfreeze.phases, forecasts, splits, split, feed)
        forecasts.append(_forecast(model, phase, split, maker, feed, options, unit))
        splits.append(split)
    unfreeze.set_flags(0)
    return TrunkPlan(options, tuple(forecasts), make_tail, tuple(splits))


def _maker(
    phases: Sequence[Phase],
    forecasts: Sequence[TrunkForecast],
    splits: Sequence[TrunkSplit | None],
    split: TrunkSplit,
    feed: Feed,
) -> str:
    """Returns the phase in which a trunk runs: the earliest one that can run it.

    No weight in the trunk may train in between, and the examples must be the same.

    Args:
        phases: All phases.
        forecasts: Those of the phases before this one.
        splits: The model, divided for them.
        split: The model, divided for this one.
        feed: The data.
    """
    phase = phases[len(splits)]
    name = phase.name
    for before, forecast, other in reversed(list(zip(phases, forecasts, splits, strict=False))):
        if other is None or not is_within(split, other):
            break
        same_examples = view_of(before, feed) == view_of(phase, feed)
        if forecast.stored and forecast.made_in == before.name and same_examples:
            name = before.name
    return name


def _forecast(
    model: keras.Model,
    phase: Phase,
    split: TrunkSplit,
    maker: str,
    feed: Feed,
    options: TrunkConfig,
    unit: float,
) -> TrunkForecast:
    changes = list(_what_changes(phase, feed))
    why_not = _why_not(changes, split, feed, options)
    train, val = (len(feed.data.splits.get(name, ())) for name in ("train", "val"))
    views = views_of(phase, feed, options)
    parts = feed.share.count if stores_share(model, feed, phase) else 1
    rows = -(-train // parts) * views + -(-val // parts)
    size = estimate_bytes(_stored_specs(split, feed, phase), rows, options.dtype)
    length = feed.input.sizes[-1] if feed.input.sizes else NOMINAL_LENGTH
    trunk = work(split.trunk.graph, length) * unit
    tail = work(split.tail.graph, length) * unit
    epochs = phase.length(None)  # at most
    tails = epochs * (train * (1 + _BACKWARD) + val) * tail
    fixed = epochs * (EPOCH + feed.steps_per_epoch * _STEP)
    # The unit is for all workers together; each runs its own rows.
    once = rows * feed.share.count * trunk if maker == phase.name else 0.0
    facts: dict[str, Any] = {
        "made_in": maker,
        "exact": not changes and not split.silenced,
        "share": trunk / (trunk + tail),
        "bytes": size,
        "seconds_without": fixed + tails + epochs * (train + val) * trunk,
        "seconds_with": fixed + _OVERHEAD + tails + once,
    }
    if why_not:
        return TrunkForecast(phase.name, False, why_not, **facts)
    placement = choose_placement(size, options)
    if placement.where == "none":
        return TrunkForecast(phase.name, False, placement.reason, **facts)
    if options.mode != "on" and facts["seconds_with"] >= facts["seconds_without"]:
        return TrunkForecast(phase.name, False, "it would save no time", **facts)
    if split.silenced:
        first, *others = split.silenced
        more = f" and {len(others)} more" if others else ""
        changes.append(f"frozen layers run without dropout ({first}{more})")
    approximate = f"approximates: {' and '.join(changes)}; " if changes else ""
    return TrunkForecast(phase.name, True, approximate + placement.reason, **facts)


def _stored_specs(split: TrunkSplit, feed: Feed, phase: Phase) -> Sequence[Spec]:
    """Returns the stored part of the frontier, without inputs that are new in each epoch."""
    fresh, trunk = feed.input.fresh(view_of(phase, feed)), split.trunk.graph
    new = {x for x, n in zip(trunk.inputs, trunk.names, strict=False) if n in fresh}
    both = zip(split.frontier, trunk.outputs, strict=True)
    return [spec for spec, tensor in both if tensor not in new]


def training_work(split: TrunkSplit) -> float:
    """Returns the work of training a split's tail on one example, as `trunk.cost` counts it."""
    return (1 + _BACKWARD) * work(split.tail.graph)


def stores_share(model: keras.Model, feed: Feed, phase: Phase) -> bool:
    """Whether each of several workers stores only its share of the examples.

    Each worker then trains on those rows of a batch that it has stored. The parts vary in size, for
    which XLA would compile again. Mixing needs whole batches, and augmentation depends on an
    example's index among all.
    """
    workers = feed.share.count
    random = bool(next(_what_changes(phase, feed), None))
    few = any(len(split) < workers for split in feed.data.splits.values())
    return workers > 1 and not (random or few or feed.full or feed.complete or model.jit_compile)


def views_of(phase: Phase, feed: Feed, options: TrunkConfig) -> int:
    """Returns the number of versions of each training example in a phase's store."""
    return max(1, options.views) if view_of(phase, feed) else 1


def view_of(phase: Phase, feed: Feed) -> str | None:
    """Returns how a phase augments: one of `Input.views`, or None if it doesn't."""
    name = phase.augmentation or feed.view
    return None if name == "none" else name


def _what_changes(phase: Phase, feed: Feed) -> Iterator[str]:
    view = view_of(phase, feed)
    if view and not feed.input.fresh(view):
        yield f"augmentation makes each epoch's {feed.input.nouns} new"
    if feed.input.mixes:
        yield f"mixing makes each epoch's {feed.input.nouns} new"


def _why_not(changes: Sequence[str], split: TrunkSplit, feed: Feed, options: TrunkConfig) -> str:
    """Returns why a phase cannot be trained from a store, or ""."""
    if changes and not options.views:
        return f"{' and '.join(changes)} (trunk.views stores a few versions)"
    numbers = all(tf.as_dtype(spec.dtype).is_floating for spec in split.frontier)
    if feed.input.mixes and not numbers:
        return "mixing blends numbers, but a mask or integers cross the frontier"
    return feed.input.why_not_mixed(split.frontier) if feed.input.mixes else ""


def _why_not_any(unfreeze: StagedUnfreezing) -> str:
    """Returns why one `fit` per phase is not enough, or ""."""
    if any(phase.steps is not None for phase in unfreeze.phases):
        return "a phase ends on steps"
    clock, steps = unfreeze.clock, unfreeze.clock.steps_per_epoch or 1
    uneven = steps % unfreeze.plan.accumulation != 0
    for index, phase in enumerate(clock.phases[:-1]):
        if clock.end(index) % steps or (uneven and phase.until is not None):
            return "a phase ends within an epoch, with a whole update of accumulated gradients"
    if any(phase.batch_norm == "recalibrate" for phase in unfreeze.phases):
        return "a phase recalibrates batch norm"
    return ""


def _seconds_per_work(model: keras.Model, graph: Graph, length: int) -> float:
    """Returns the seconds of a forward pass, divided by its work.

    They are measured once a day on a machine for all models of the same calls and sizes, because a
    graph has to be traced for it. Not for ever: the machine may have been busy.
    """
    devices = [device.name for device in tf.config.list_logical_devices()]
    known = Remembered("forward", platform.node(), tf.__version__, os.cpu_count(), devices)
    calls = [
        (type(step.operation).__name__, [(x.shape, x.dtype) for x in step.outputs])
        for step in graph.steps
    ]
    key = digest(length, model.dtype_policy.name, calls)
    today = datetime.date.today().isoformat()
    seconds: float | None = known.get(key, today)
    if seconds is None:
        seconds = _measured(model, graph, length)
        known.put(key, today, seconds)
        known.save()
    strategy = model.distribute_strategy
    return seconds / (strategy.num_replicas_in_sync if strategy else 1)


def _measured(model: keras.Model, graph: Graph, length: int) -> float:
    """Returns the seconds of a forward pass on one replica, divided by its work.

    Sizes that only the batch decides are `length`. If the model takes no sequence of that length
    (it may have fewer positions), half of that is tried, and so on.
    """
    while True:
        try:
            return _forward_seconds(model, length) / work(graph, length)
        except tf.errors.InvalidArgumentError:
            if length == 1 or not any(None in x.shape[1:] for x in graph.inputs):
                raise
            length //= 2


def _forward_seconds(model: keras.Model, length: int) -> float:
    """Returns the seconds of a forward pass per example; the first call is not counted."""
    spec = batch_spec(model)
    shapes = [[n or length for n in x.shape[1:]] for x in tf.nest.flatten(spec)]
    places = max(math.prod(shape[:2]) for shape in shapes)  # of a map, or steps of a sequence
    count = max(1, min(16, _TIMED // places))
    zeros = [
        tf.zeros((count, *shape), x.dtype)
        for shape, x in zip(shapes, tf.nest.flatten(spec), strict=True)
    ]
    batch = tf.nest.pack_sequence_as(spec, zeros)
    run = outputs_function(model)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        for tensor in tf.nest.flatten(run(batch)):
            keras.ops.convert_to_numpy(tensor)  # waits for the device
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]) / count


def format_trunk(plan: TrunkPlan) -> str:
    """Returns the forecasts as a table."""
    rows = [
        (
            f.phase,
            ("stored" if f.exact else "stored, approximate") if f.stored else "no",
            f"{f.share:.0%}",
            f"{f.bytes / 1e6:.1f} MB" if f.bytes else "-",
            f"{f.seconds_without:.0f} s" if f.share else "-",
            f"{f.seconds_with:.0f} s" if f.share else "-",
            f.reason,
        )
        for f in plan.forecasts
    ]
    header = ("trunk of phase", "stored", "of the work", "size", "without", "with", "why")
    return table(rows, header)
