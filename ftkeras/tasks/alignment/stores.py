"""Two stores, one for each tower: what is frozen of it runs once, over pictures and over texts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from ftkeras.config.schema import TrunkConfig
from ftkeras.data.dataset import Split
from ftkeras.data.pipeline import At, Examples
from ftkeras.data.share import WHOLE, Share
from ftkeras.graph import Graph, GraphModel, Tensor
from ftkeras.inputs.base import Input
from ftkeras.tasks.alignment.pairs import Pair, PairFeed, PairSplit, Turns, by_name
from ftkeras.trunk.extract import Part, get_stores, part_of
from ftkeras.trunk.split import TrunkSplit
from ftkeras.trunk.store import FrontierStore, StoredRows

Reads = Callable[[tf.Tensor, At], tuple[tf.Tensor, ...]]


def pair_stores(
    feed: PairFeed,
    split: TrunkSplit,
    parts: Sequence[Part],
    options: TrunkConfig,
    *,
    ahead: Sequence[TrunkSplit] = (),
    **how: Any,
) -> list[PairStore] | None:
    """Does what `get_stores` does, for both towers on their own.

    A tower of which nothing is frozen, or whose examples are new each time, has no store: what it
    takes is read.

    Args:
        feed: The run's.
        split: The whole model, divided.
        parts: The data.
        options: As `get_stores` takes them.
        ahead: As `get_stores` takes it.
        **how: More of its options.
    """
    assert isinstance(feed.input, Pair)
    found: list[dict[str, FrontierStore]] = [{} for _ in parts]
    for place, (name, kind) in enumerate(feed.input.sides.items()):
        own = side_of(split, kind)
        if own is None:
            continue
        later = [side for other in ahead if (side := side_of(other, kind)) is not None]
        stores = get_stores(
            own, [_part(part, kind, place, feed) for part in parts], options, ahead=later, **how
        )
        if stores is None:
            return None
        for row, store in zip(found, stores, strict=True):
            row[name] = store
    return [
        PairStore(feed, part.examples, stores, split)
        for part, stores in zip(parts, found, strict=True)
        if isinstance(part.examples, PairSplit)
    ]


def _part(part: Part, kind: Input, place: int, feed: PairFeed) -> Part:
    examples = part.examples
    assert isinstance(examples, PairSplit)
    name = next(n for n, split in feed.data.splits.items() if split is examples)
    inputs = functools.partial(feed.encoded, name, place)
    return part_of(examples.side(place), inputs, kind)


def side_of(split: TrunkSplit, kind: Input) -> TrunkSplit | None:
    """Returns the part of a split that follows from one kind's inputs; None if nothing is frozen.

    Its trunk is that part's alone, so that a store's key does not change with the other tower.
    """
    graph = split.trunk.graph
    origin = _origins(graph)
    chosen = [i for i, x in enumerate(graph.outputs) if origin[x] & set(kind.takes)]
    outputs = tuple(graph.outputs[i] for i in chosen)
    steps = tuple(
        step for step in graph.steps if any(origin[x] & set(kind.takes) for x in step.outputs)
    )
    if not steps or set(outputs) <= set(graph.inputs):
        return None
    pairs = list(zip(graph.inputs, graph.names, strict=True))
    inputs = tuple(x for x, name in pairs if name in kind.takes)
    names = tuple(name for _, name in pairs if name in kind.takes)
    structure: Any = outputs if len(outputs) > 1 else outputs[0]
    return dataclasses.replace(
        split,
        trunk=GraphModel(Graph(steps, inputs, outputs, structure, names), "trunk"),
        frontier=tuple(split.frontier[i] for i in chosen),
    )


def _origins(graph: Graph) -> dict[Tensor, frozenset[str]]:
    """Returns from which of the graph's inputs each tensor follows."""
    origin = {x: frozenset([name]) for x, name in zip(graph.inputs, graph.names, strict=True)}
    for step in graph.steps:
        from_all = frozenset[str]().union(*(origin.get(x, frozenset()) for x in step.inputs))
        origin.update(dict.fromkeys(step.outputs, from_all))
    return origin


@dataclass(frozen=True)
class PairStore:
    """What is stored of a split's pictures and texts, to train the tail of both towers.

    Args:
        feed: The run's.
        examples: The pictures with their texts.
        stores: By tower, what is stored of it.
        split: The whole model, divided.
    """

    feed: PairFeed
    examples: PairSplit
    stores: Mapping[str, FrontierStore]
    split: TrunkSplit

    def read(self, split: Split, part: Share = WHOLE, sizes: Sequence[int] = ()) -> PairRows:
        """Returns what reads batches for the tail; see `FrontierStore.read`."""
        return PairRows(self, sizes)


class PairRows:
    """Reads the frontier of pictures, each with one of its texts, in the order of the tail.

    Args:
        store: What is stored.
        sizes: The lengths that batches of texts may have.
    """

    part = WHOLE

    def __init__(self, store: PairStore, sizes: Sequence[int]):
        feed, pair, examples = store.feed, store.feed.input, store.examples
        assert isinstance(pair, Pair)
        training = examples is feed.data.splits["train"]
        self.pad, self.sizes = pair.pad, pair.sizes
        self.by_batch = len(store.stores) == len(pair.sides)
        self._turns = Turns(examples, feed.seed, turns=training)
        self.target = self._turns.target
        graph = store.split.trunk.graph
        origin = _origins(graph)
        places: dict[Tensor, tuple[str, int]] = {}
        self._reads: dict[str, Reads] = {}
        for place, (name, kind) in enumerate(pair.sides.items()):
            outputs = [x for x in graph.outputs if origin[x] & set(kind.takes)]
            places.update((x, (name, i)) for i, x in enumerate(outputs))
            if name in store.stores:
                rows = StoredRows(store.stores[name], sizes=sizes if self.by_batch else ())
                self._reads[name] = _stored(rows, self.by_batch)
                continue
            views, cache = ["none"], "none"
            if training:
                cache = feed.cache
                views = list(kind.views) if feed.varies else [feed.view]
            one = Examples(examples.side(place), kind, ["none"] if place else views, cache)
            self._reads[name] = _raw(one, kind, [next(iter(origin[x])) for x in outputs])
        self._order = [places[x] for x in graph.outputs]

    def __call__(self, index: tf.Tensor, at: At) -> tuple[tf.Tensor, ...]:
        """Returns the tensors of the frontier, of one pair or of a batch (b,)."""
        indices = (index, self._turns.chosen(index, at))
        read = {
            name: self._reads[name](which, at)
            for name, which in zip(self._reads, indices, strict=True)
        }
        return tuple(read[name][i] for name, i in self._order)


def _stored(rows: StoredRows, by_batch: bool) -> Reads:
    def read(index: tf.Tensor, at: At) -> tuple[tf.Tensor, ...]:
        found = rows(index if by_batch else index[tf.newaxis], at)
        found = found if isinstance(found, tuple) else (found,)
        return found if by_batch else tuple(x[0] for x in found)

    return read


def _raw(examples: Examples, kind: Input, wanted: Sequence[str]) -> Reads:
    def read(index: tf.Tensor, at: At) -> tuple[tf.Tensor, ...]:
        tree = by_name(kind, examples(index, at))
        return tuple(tree[name] for name in wanted)

    return read
