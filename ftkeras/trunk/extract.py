"""Runs the trunk over the examples once and stores its outputs."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from ftkeras.config.schema import TrunkConfig
from ftkeras.console import Progress, counted
from ftkeras.data import dataset
from ftkeras.data.feed import Feed
from ftkeras.inputs.base import Input
from ftkeras.timeline import stage
from ftkeras.trunk.engines import Engine, Frontier, Inputs, best_precision, make_engine
from ftkeras.trunk.key import stamp_examples, store_key
from ftkeras.trunk.lengths import ByLength
from ftkeras.trunk.split import TrunkSplit, joined_trunk
from ftkeras.trunk.store import FrontierStore, Layout, is_there, open_store, stored_dtype
from ftkeras.trunk.writer import (
    choose_placement,
    estimate_bytes,
    make_writer,
    plan_layout,
)

Report = Callable[[str], None]
GetStores = Callable[..., Any]
"""`get_stores`, or a function like it for examples of several parts."""

_AHEAD = 64 << 20  # bytes of inputs that may be ready before they are used
_SORTED = 256 << 20  # bytes of outputs of the batches that are sorted by length together
_MOST_SORTED = 16  # and how many these are


@dataclass(frozen=True)
class Part:
    """Some of the data.

    Args:
        examples: Which ones.
        inputs: Returns batches that begin with the model's inputs, a tensor or several by name:
            all examples in order, once per view. It is called only if they are not stored yet.
        recipe: A text that differs if the inputs could differ.
        views: The number of versions of each example.
        nouns: The word for examples in messages.
        pad: What fills inputs after their end; see `Input.pad`.
        sizes: The lengths that batches may have; see `Input.sizes`.
    """

    examples: dataset.Split
    inputs: Callable[[], tf.data.Dataset]
    recipe: str
    views: int = 1
    nouns: str = "examples"
    pad: Mapping[str, Any] = field(default_factory=dict)
    sizes: Sequence[int] = ()


def plain_part(feed: Feed, name: str) -> Part:
    """Returns a split whose examples are taken as they are."""
    return part_of(feed.data.splits[name], functools.partial(feed.plain, name), feed.input)


def part_of(examples: dataset.Split, inputs: Callable[[], tf.data.Dataset], kind: Input) -> Part:
    """Returns examples of a kind that are taken as they are."""
    recipe = kind.recipe()
    return Part(examples, inputs, recipe, nouns=kind.nouns, pad=kind.pad, sizes=kind.sizes)


@stage("run the trunk")
def get_stores(
    split: TrunkSplit,
    parts: Sequence[Part],
    options: TrunkConfig | None = None,
    *,
    ahead: Sequence[TrunkSplit] = (),
    batch_size: int = 32,
    engine: str = "auto",
    strategy: tf.distribute.Strategy | None = None,
    report: Report = print,
) -> list[FrontierStore] | None:
    """Returns the stored frontier of each part; makes it if it is not stored yet.

    Args:
        split: The model, divided for the phase.
        parts: The data.
        options: How numbers are computed and stored, and how much memory and disk they may use.
        ahead: The model, divided for later phases, each trunk a part of this one. Their frontiers
            are stored in the same pass, if there is room on disk.
        batch_size: Examples that run through the trunk at a time.
        engine: "auto", "tensorflow" or "openvino".
        strategy: The run's.
        report: Takes a line on what was decided and done.

    Returns:
        The stores, or None if there is no room for one, on disk or in memory.
    """
    options = options or TrunkConfig()
    options = options.model_copy(update={"precision": best_precision(options.precision)})
    splits, precision = (split, *ahead), options.precision
    trunks = Trunks(
        splits, batch_size=batch_size, engine=engine, precision=precision, strategy=strategy
    )
    stores = []
    for part in parts:
        name, keys = part.examples.name, _keys(splits, part, options)
        store = open_store(keys[0], report)
        if store is not None:
            report(f"trunk     {name}: stored already ({keys[0][:8]})")
            stores.append(store)
            continue
        outlets = _outlets(splits, keys, part, options, report)
        if not outlets:
            return None
        about = f"{len(part.examples)} {name} {part.nouns}, {part.recipe}"
        try:
            stores.append(extract(trunks, part, outlets, about=about, report=report))
        except OSError as error:  # another process filled the disk, or it failed
            report(f"trunk     {name}: nothing is stored: {error}")
            return None
    return stores


def find_store(split: TrunkSplit, part: Part, options: TrunkConfig) -> FrontierStore | None:
    """Returns a part's frontier if it is stored on disk."""
    options = options.model_copy(update={"precision": best_precision(options.precision)})
    return open_store(_keys([split], part, options)[0])


def is_rounded(split: TrunkSplit, options: TrunkConfig) -> bool:
    """Whether a frontier is stored or computed in fewer bits than the model's own."""
    narrow = [spec for spec in split.frontier if stored_dtype(spec, options.dtype) != spec.dtype]
    return bool(narrow) or best_precision(options.precision) == "bfloat16"


def _keys(splits: Sequence[TrunkSplit], part: Part, options: TrunkConfig) -> list[str]:
    stamp = stamp_examples(part.examples)
    how = {"dtype": options.dtype, "precision": options.precision}
    return [store_key(one, examples=stamp, recipe=part.recipe, **how) for one in splits]


def _outlets(
    splits: Sequence[TrunkSplit],
    keys: Sequence[str],
    part: Part,
    options: TrunkConfig,
    report: Report,
) -> list[Outlet | None]:
    """Decides where each frontier goes; returns nothing if there is no room for the first."""
    outlets: list[Outlet | None] = []
    needed, count = 0, len(part.examples)
    for key, split in zip(keys, splits, strict=True):
        layout = plan_layout(split.frontier, examples=count, views=part.views, dtype=options.dtype)
        size = estimate_bytes(split.frontier, layout.rows, options.dtype)
        placement = choose_placement(needed + size, options)
        if not outlets:
            report(f"trunk     {part.examples.name}: {placement.reason}")
            if placement.where == "none":
                break
        elif placement.where != "disk" or is_there(key):  # one in memory could not be found again
            outlets.append(None)
            continue
        outlets.append(Outlet(layout, key if placement.where == "disk" else None))
        needed += size
    return outlets


class Trunks:
    """Runs the trunks of several splits of a model at once; its engine is made at the first use.

    Args:
        splits: The model, divided; the first trunk holds the others.
        batch_size: The largest batch that will come.
        engine: "auto", "tensorflow" or "openvino".
        precision: "exact", "float32" or "bfloat16".
        strategy: The run's.
    """

    def __init__(
        self,
        splits: Sequence[TrunkSplit],
        *,
        batch_size: int = 32,
        engine: str = "auto",
        precision: str = "float32",
        strategy: tf.distribute.Strategy | None = None,
    ):
        self._trunk, self._places = joined_trunk(splits)
        self._options = (batch_size, engine, precision, strategy)
        self._made: tuple[Engine, str] | None = None

    def run(
        self, part: Part, ran: Callable[[int], None] = lambda count: None
    ) -> tuple[Iterator[list[Frontier]], str]:
        """Returns the frontiers of all splits in order, some at a time, and the engine's name.

        Args:
            part: The examples.
            ran: Is told how many more have run.
        """
        inputs = part.inputs().map(lambda first, *_: first)
        size, engine, precision, strategy = self._options
        specs = tf.nest.flatten(inputs.element_spec)
        numbers = sum(spec.shape[1:].num_elements() or _AHEAD for spec in specs)  # per example
        inputs = inputs.prefetch(max(2, _AHEAD // (4 * size * numbers)))
        batches: Iterable[Inputs] = inputs
        if self._made is None:
            decoding = iter(inputs)  # decodes while the engine is being made
            first = next(decoding)
            if strategy is None or strategy.num_replicas_in_sync == 1:
                batches = itertools.chain([first], decoding)
            self._made = make_engine(
                self._trunk,
                first,
                batch_size=size,
                engine=engine,
                precision=precision,
                strategy=strategy,
            )
        run, name = self._made
        frontiers = self._sorted_by(part, inputs.element_spec)(run, batches, ran)
        return ([[batch[i] for i in row] for row in self._places] for batch in frontiers), name

    def _sorted_by(self, part: Part, spec: Any) -> Callable[..., Iterator[Frontier]]:
        size, _, precision, strategy = self._options
        numbers = sum(
            math.prod(n or max(part.sizes, default=1) for n in x.shape[1:])
            for x in self._trunk.graph.outputs
        )
        batches = min(_MOST_SORTED, _SORTED // (4 * size * numbers))
        sort = ByLength(spec, pad=part.pad, sizes=part.sizes, batches=batches)
        alone = strategy is None or strategy.num_replicas_in_sync == 1
        return sort if sort.helps and alone and precision != "exact" else _as_they_come


def _as_they_come(
    run: Engine, inputs: Iterable[Inputs], ran: Callable[[int], None]
) -> Iterator[Frontier]:
    for frontier in run(inputs):
        ran(len(frontier[0]))
        yield frontier


@dataclass(frozen=True)
class Outlet:
    """Where a frontier goes.

    Args:
        layout: The store's layout, from `plan_layout`.
        key: The store's name on disk; None for memory.
    """

    layout: Layout
    key: str | None = None


def extract(
    trunks: Trunks,
    part: Part,
    outlets: Sequence[Outlet | None],
    *,
    about: str = "",
    report: Report = print,
) -> FrontierStore:
    """Runs the trunks over inputs and stores their frontiers.

    Args:
        trunks: The trunks.
        part: The examples; `tf.data` decodes the next ones meanwhile.
        outlets: Where each trunk's frontier goes; None leaves a trunk out, but not the first.
        about: A description of the stores, for people.
        report: Takes a line on what ran.

    Returns:
        The store of the first.
    """
    shown: Progress
    frontiers, name = trunks.run(part, lambda count: shown.advance(count))
    used = [index for index, outlet in enumerate(outlets) if outlet is not None]
    layouts = [outlet.layout for outlet in outlets if outlet is not None]
    more = f", for {len(used) - 1} more of the phases too" if used[1:] else ""
    report(f"trunk     {counted(layouts[0].rows, 'example')} through {name}{more}")
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(contextlib.closing(make_writer(outlet.layout, outlet.key, about)))
            for outlet in outlets
            if outlet is not None
        ]
        progress = Progress("run the trunk", layouts[0].rows, "example")
        shown = stack.enter_context(contextlib.closing(progress))
        for frontier in frontiers:
            for index, writer in zip(used, writers, strict=True):
                writer.append(frontier[index])
        return [writer.finish() for writer in writers][0]
