"""What is wrong with pairs: some that repeat, texts that tell nothing, sides that are constant."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from ftkeras.cache import digest
from ftkeras.console import counted
from ftkeras.data.dataset import Data
from ftkeras.findings import Evidence, Finding
from ftkeras.tasks.alignment.pairs import PairSplit

_MANY = 0.1  # of the queries, that fit several pictures of a split
_ALIKE = 0.5  # of the pictures, that have one text
_SAMPLE = 64  # pictures that are compared, to see whether all are alike


def examine(data: Data) -> Iterator[Finding]:
    """Yields what is wrong with the pairs of all splits."""
    splits = {n: s for n, s in data.splits.items() if isinstance(s, PairSplit)}
    yield from _constant(splits)
    yield from _repeated(splits)
    yield from _shared(splits)


def _constant(splits: dict[str, PairSplit]) -> Iterator[Finding]:
    train = splits["train"]
    firsts = train.starts[:, 0]
    numbers, counts = np.unique(train.numbers[firsts], return_counts=True)
    most = int(counts.argmax())
    if len(train) > 1 and counts[most] > _ALIKE * len(train):
        place = firsts[int(np.flatnonzero(train.numbers[firsts] == numbers[most])[0])]
        yield Finding(
            "error" if len(numbers) == 1 else "warning",
            "one text",
            f"{counts[most]} of {len(train)} training pictures have one text: "
            f"{_text(train, int(place))!r}.",
            "Check alignment.texts: the first column must tell pictures apart.",
        )
    some = np.unique(np.linspace(0, len(train) - 1, min(len(train), _SAMPLE)).astype(int))
    if len(some) > 1 and len({_content(train, int(i)) for i in some}) == 1:
        yield Finding(
            "error",
            "one picture",
            f"All of {len(some)} training pictures that were compared are the same file.",
            "Check the paths of the table.",
        )


def _repeated(splits: dict[str, PairSplit]) -> Iterator[Finding]:
    """Yields pairs of the same bytes and the same texts."""
    alike: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, split in splits.items():
        for i, row in enumerate(split.own_numbers):
            alike[digest(*sorted(row[row >= 0].tolist()))].append((name, i))
    same: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for key, places in alike.items():
        for name, i in places if len(places) > 1 else ():
            same[key + _content(splits[name], i)].append((name, i))
    groups = [places for places in same.values() if len(places) > 1]
    if not groups:
        return
    across = [places for places in groups if len({name for name, _ in places}) > 1]
    shown = across or groups
    evidence = tuple(
        Evidence(splits[name].ids[i], name, f"the same as {splits[first].ids[j]} ({first})")
        for (first, j), *others in shown
        for name, i in others
    )
    where = f", {len(across)} of them in several splits" if across else ""
    yield Finding(
        "warning" if across else "note",
        "repeated pairs",
        f"{counted(len(groups), 'pair')} of one picture and its texts: in the table again{where}.",
        "Leave out all but one of each.",
        evidence,
    )


def _shared(splits: dict[str, PairSplit]) -> Iterator[Finding]:
    """Yields texts that fit several pictures: as queries they have no single answer."""
    for name, split in splits.items():
        pairs = {
            (int(number), int(owner))
            for number, owner in zip(
                split.numbers[split.queries], split.owners[split.queries], strict=True
            )
        }
        counts = Counter(number for number, _ in pairs)
        several = [number for number, count in counts.items() if count > 1]
        if len(several) <= _MANY * len(counts):
            continue
        several.sort(key=lambda number: -counts[number])
        first = {int(number): i for i, number in reversed(list(enumerate(split.numbers)))}
        evidence = tuple(
            Evidence(_text(split, first[number]), name, f"{counts[number]} pictures")
            for number in several
        )
        yield Finding(
            "warning",
            "shared texts",
            f"{len(several)} of {len(counts)} texts of {name} that are queries fit several "
            "pictures.",
            "Put a column first in alignment.texts that tells pictures apart, or expect lower "
            "recall.",
            evidence,
        )


def _text(split: PairSplit, place: int) -> str:
    return bytes(split.texts.fetch(tf.constant(place, tf.int64)).numpy()).decode("utf-8", "replace")


def _content(split: PairSplit, place: int) -> str:
    return digest(bytes(split.fetch(tf.constant(place, tf.int64)).numpy()))
