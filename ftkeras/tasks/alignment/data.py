"""From a manifest to pictures with their texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ftkeras.cache import digest
from ftkeras.config.data import ManifestData, SplitSection, StarterData
from ftkeras.console import counted
from ftkeras.data.dataset import BadFile, Data, Split
from ftkeras.data.load import Expected
from ftkeras.data.reading import from_array
from ftkeras.data.reasons import sum_up
from ftkeras.data.sources.manifest_rows import AGAIN
from ftkeras.data.sources.starter import unpack
from ftkeras.errors import UserError, did_you_mean, there_are
from ftkeras.inputs.base import Input
from ftkeras.runs import build
from ftkeras.starter import archive_path
from ftkeras.tasks.alignment.config import AlignmentConfig, AlignmentSection, ClassesSection
from ftkeras.tasks.alignment.pairs import PairSplit


def load_pairs(config: AlignmentConfig, texts: Input) -> Data:
    """Returns the pictures of a config with their texts; those without any are left out.

    Args:
        config: The config.
        texts: What texts are.

    Raises:
        UserError: The source is no table, or lacks a column of texts.
    """
    section = _section(config)
    found = build.data(
        config,
        of=section,
        expected=Expected(labelled=False),
        label_column=None,
        several=tuple(config.alignment.texts),
    )
    numbers: dict[str, int] = {}
    bad: list[BadFile] = []
    splits: dict[str, Split] = {}
    for name, split in found.splits.items():
        splits[name] = _with_texts(split, config.alignment, texts, numbers, bad)
    total = sum(map(len, found.splits.values()))
    columns = ", ".join(config.alignment.texts)
    if len(bad) == total:  # no limit would help
        raise UserError(
            f"data: none of {total} {_nouns(config)} has a text that can be used: {sum_up(bad)}. "
            f"Check what alignment.texts names ({columns})."
        )
    if len(bad) > config.data.max_bad_files * total:
        raise UserError(
            f"data: {len(bad)} of {total} {_nouns(config)} have no text that can be used "
            f"({bad[0].path}: {bad[0].reason}), and data.max_bad_files is "
            f"{config.data.max_bad_files:.1%}. Add texts to {columns}, or raise the limit."
        )
    if not len(splits["train"]):
        raise UserError("data: no training picture has a text.")
    if config.alignment.classes is not None:
        check_classes(config.alignment.classes, splits["train"].columns)
    count = sum(len(s.texts) for s in splits.values() if isinstance(s, PairSplit))
    pictures = total - len(bad)
    return dataclasses.replace(
        found,
        outputs={},
        splits={name: split for name, split in splits.items() if len(split)},
        bad_files=(*found.bad_files, *bad),
        notes=(*found.notes, *_note(count, len(numbers), pictures)),
    )


def _note(texts: int, different: int, pictures: int) -> Iterator[str]:
    """Yields how many texts there are, unless each picture has one of its own."""
    each = f"{counted(texts, 'text')} of {counted(pictures, 'picture')}"
    if different < texts:
        yield (
            f"{each}, {different} of them different; a text that several pictures have is right "
            "for each."
        )
    elif texts > pictures:
        yield f"{each}, all of them different."


def _section(config: AlignmentConfig) -> ManifestData:
    if isinstance(config.data, ManifestData):
        return config.data
    if isinstance(config.data, StarterData):
        shared = {name: getattr(config.data, name) for name in SplitSection.model_fields}
        path = str(unpack(archive_path("emoji.zip")) / "emoji.csv")
        return ManifestData(source="manifest", path=path, **shared)
    raise UserError(
        f"data.source: task alignment reads a table with pictures and texts; {config.data.source} "
        "has none. Take manifest, or starter."
    )


def _nouns(config: AlignmentConfig) -> str:
    return build.input_of(config).nouns


def _with_texts(
    split: Split,
    section: AlignmentSection,
    kind: Input,
    numbers: dict[str, int],
    bad: list[BadFile],
) -> PairSplit:
    """Returns a split with texts; adds equal texts' numbers, and pictures without any to `bad`."""
    columns = [_column(split.columns, name) for name in section.texts]
    kept, rows = [], []
    for i, key in enumerate(split.ids):
        own, reason = [], "it has no text"
        for column in columns:
            sound, fault = _texts_in(str(column[i]), section.separator, kind)
            own.append(sound)
            reason = fault or reason
        if any(own):
            kept.append(i)
            rows.append(own)
        else:
            bad.append(BadFile(key, reason))
    texts: list[str] = []
    starts, counts, queries, owners = [], [], [], []
    for picture, own in enumerate(rows):
        places = []
        for sound in own:
            places.append((len(texts), len(sound)))
            texts += sound
        fallback = next(place for place in places if place[1])
        filled = [place if place[1] else fallback for place in places]
        starts.append([start for start, _ in filled])
        counts.append([count for _, count in filled])
        first, count = filled[0]
        total = sum(map(len, own))
        begin = len(texts) - total
        queries += [first <= begin + i < first + count for i in range(total)]
        owners += [picture] * total
    dropped = {name: values for name, values in split.columns.items() if name not in section.texts}
    pictures = dataclasses.replace(split, columns=dropped).take(np.array(kept, np.int64))
    fields = {f.name: getattr(pictures, f.name) for f in dataclasses.fields(Split)}
    shape = (len(kept), len(columns))
    return PairSplit(
        **{**fields, "content": digest(*texts)},
        texts=_split_of(texts, [pictures.ids[i] for i in owners], split.name),
        numbers=np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64),
        starts=np.array(starts, np.int64).reshape(shape),
        lengths=np.array(counts, np.int64).reshape(shape),
        queries=np.array(queries, bool),
        owners=np.array(owners, np.int64),
    )


def check_classes(section: ClassesSection, columns: Mapping[str, Any]) -> None:
    """Checks that a table has the column that names classes.

    Raises:
        UserError: It has no such column, besides those of texts.
    """
    if section.column not in columns:
        others = (
            there_are(list(columns), "other column") if columns else "Leave alignment.classes out."
        )
        raise UserError(
            f"alignment.classes.column: besides pictures and texts the table has no column "
            f"{section.column!r}.{did_you_mean(section.column, columns)} {others}"
        )


def _column(columns: Mapping[str, Any], name: str) -> Any:
    if name not in columns:
        raise UserError(
            f"alignment.texts: the table has no column {name!r}.{did_you_mean(name, columns)} "
            f"{there_are(list(columns), 'column')}"
        )
    return columns[name]


def _texts_in(cell: str, separator: str | None, kind: Input) -> tuple[list[str], str]:
    """Returns the texts of a cell that can be used, each once, and what is wrong with another."""
    parts = cell.split(AGAIN)
    if separator is not None:
        parts = [piece for part in parts for piece in part.split(separator)]
    sound, fault = [], ""
    for text in dict.fromkeys(part.strip() for part in parts):
        reason = kind.check(text.encode(), "", "").reason if text else ""
        fault = reason or fault
        if text and not reason:
            sound.append(text)
    return sound, fault


def _split_of(texts: Sequence[str], owners: Sequence[str], name: str) -> Split:
    raw = np.array([text.encode() for text in texts], object)
    return Split(
        name=f"{name} texts",
        ids=[f"{owner}#{i}" for i, owner in enumerate(owners)],
        labels=np.zeros((len(texts), 0), np.float32),
        classes=0,
        fetch=from_array(raw)(np.arange(len(texts))),
    )


def text_data(data: Data) -> Data:
    """Returns the texts of all splits as data of their own."""
    splits = {n: s.texts for n, s in data.splits.items() if isinstance(s, PairSplit)}
    return dataclasses.replace(data, splits=splits, bad_files=(), notes=())
