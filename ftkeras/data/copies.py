"""Which examples that measure a model are exact copies of examples that it learns from."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from ftkeras.data.dataset import Data, Split
from ftkeras.errors import first_line
from ftkeras.findings import Finding
from ftkeras.inputs.base import Input
from ftkeras.inputs.copies import Wording, across_splits, content_hash, equal_pairs
from ftkeras.inputs.rows import Rows
from ftkeras.paths import is_remote

FILE = "copies.csv"
"""The file in a run that lists all copies."""
_MOST = 200_000  # examples that are compared
_MOST_BYTES = 1 << 30  # that are read for it


@dataclass(frozen=True)
class Copies:
    """Exact copies of examples in another split.

    Args:
        findings: One per split that measures and has copies.
        rows: (split, id, split of the original, its id) of each copy.
        why_not: Why they were not looked for, or "".
    """

    findings: Sequence[Finding] = ()
    rows: Sequence[tuple[str, str, str, str]] = ()
    why_not: str = ""

    @property
    def counts(self) -> Mapping[str, int] | None:
        """How many copies each split has; None if they were not looked for."""
        if self.why_not:
            return None
        return Counter(split for split, *_ in self.rows)

    @property
    def notes(self) -> Sequence[str]:
        """A sentence or two per split, to be printed before training."""
        if self.why_not:
            return [
                f"Copies of examples in other splits were not looked for: {self.why_not}. "
                "`ftkeras doctor` looks for them."
            ]
        return [
            f"{found.message} The first is {first.name} ({first.detail}). {found.remedy} {FILE} "
            "in the run lists all; so does `ftkeras doctor`."
            for found in self.findings
            for first in found.evidence[:1]
        ]

    def write(self, path: str) -> None:
        """Writes all copies: a CSV with the columns split, id, copy_of_split, copy_of."""
        with tf.io.gfile.GFile(path, "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["split", "id", "copy_of_split", "copy_of"])
            writer.writerows(self.rows)


def find_copies(data: Data, kind: Input) -> Copies:
    """Finds exact copies across splits, at little cost.

    Files are copies if their bytes are equal, and only files of equal size are read. Texts are
    copies if they are equal except in case and spaces, as `ftkeras doctor` compares them. Of many
    or large examples none are compared.

    Args:
        data: The data.
        kind: What the examples are.
    """
    splits, count = list(data.splits.values()), sum(map(len, data.splits.values()))
    if len(splits) < 2:
        return Copies()
    if count > _MOST:
        return Copies(why_not=f"there are {count:,} {kind.nouns}")
    paths = _own_files(splits)
    try:
        contents = _of_files(paths, splits) if paths else _of_examples(splits, kind)
    except (OSError, tf.errors.OpError) as error:  # training will say which it is
        return Copies(why_not=first_line(error))
    if isinstance(contents, str):
        return Copies(why_not=contents)
    rows = Rows(
        ids=[key for split in splits for key in split.ids],
        splits=_names(splits),
        indices=np.concatenate([np.arange(len(split)) for split in splits]),
        labels=np.concatenate([split.labels for split in splits]),
    )
    pairs = equal_pairs(contents, np.flatnonzero(contents >= 0))
    apart = rows.splits[pairs[:, 0]] != rows.splits[pairs[:, 1]]
    measures = np.array([not rows.splits[b].endswith("train") for _, b in pairs], bool)
    pairs = pairs[apart & measures]
    duplicates = kind.ability("duplicates")
    plain = Wording(kind.nouns, "", "", "one source")
    words = plain if duplicates is None else getattr(duplicates, "WORDS", plain)
    return Copies(
        tuple(across_splits(rows, pairs, words, exact=True)),
        [
            (str(rows.splits[b]), rows.ids[b], str(rows.splits[a]), rows.ids[a])
            for a, b in pairs.tolist()
        ],
    )


def _names(splits: Sequence[Split]) -> np.ndarray:
    return np.concatenate([np.full(len(split), split.name) for split in splits])


def _own_files(splits: Sequence[Split]) -> list[str]:
    """Returns the file of each example, if each has one of its own."""
    paths = [path for split in splits for path in split.files or ()]
    whole = len(paths) == sum(map(len, splits))
    return paths if whole and len(set(paths)) == len(paths) else []


def _of_files(paths: Sequence[str], splits: Sequence[Split]) -> np.ndarray | str:
    """Returns a number per file that equal files share, int64 (n,), or why there is none.

    It is -1 for files that no file of another split equals in size.
    """
    if any(map(is_remote, paths)):
        return "the files are remote"
    sizes = np.array([os.stat(path).st_size for path in paths])
    _, which = np.unique(sizes, return_inverse=True)
    first = np.full(which.max() + 1, "", object)
    several = np.zeros(len(first), bool)
    for size, name in zip(which.tolist(), _names(splits).tolist(), strict=True):
        first[size] = first[size] or name
        several[size] |= first[size] != name
    read = np.flatnonzero(several[which])
    if sizes[read].sum() > _MOST_BYTES:
        return f"{sizes[read].sum() / 1e9:.1f} GB of files have equal sizes"
    contents = np.full(len(paths), -1, np.int64)
    numbers: dict[str, int] = {}
    for i in read.tolist():
        with open(paths[i], "rb") as file:
            content = hashlib.blake2b(file.read(), digest_size=16).hexdigest()
        contents[i] = numbers.setdefault(content, len(numbers))
    return contents


def _of_examples(splits: Sequence[Split], kind: Input) -> np.ndarray | str:
    """Returns a fingerprint per example, int64 (n,), or why there is none."""
    files = {path for split in splits for path in split.files or ()}
    if any(map(is_remote, files)):
        return "the files are remote"
    if (size := sum(os.stat(path).st_size for path in files)) > _MOST_BYTES:
        return f"the files have {size / 1e9:.1f} GB"
    fingerprint = getattr(kind.ability("looks"), "fingerprint", content_hash)
    parts = []
    for split in splits:
        contents = (
            tf.data.Dataset.range(len(split))
            .map(
                lambda index, fetch=split.fetch: fingerprint(fetch(index)),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            .batch(max(len(split), 1))
        )
        parts += list(contents.as_numpy_iterator())
    return np.concatenate(parts)
