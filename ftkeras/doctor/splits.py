"""Whether the splits can be trusted: enough of every class in each, and all of one kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ftkeras.console import counted
from ftkeras.data.dataset import Data
from ftkeras.data.paired import TARGET
from ftkeras.findings import Evidence, Finding, percent
from ftkeras.inputs.base import Input
from ftkeras.measures.metrics import auc_shares

_FEW = 10  # training examples of a class
_FEW_TO_MEASURE = 50  # examples of a whole split
_SURE = 3.5  # standard errors
_MOVED = 0.1  # total variation between label distributions that matters
_TOLD_APART = 0.65  # AUC of telling two splits apart that matters
_SAMPLE = 300  # examples of a split that are compared
_LEAST = 40
_COMPONENTS = 50


def read_errors(data: Data, max_bad_files: float) -> Iterator[Finding]:
    """Reports the files that were left out as unreadable."""
    bad = data.bad_files
    total = len(bad) + sum(map(len, data.splits.values()))
    if bad:
        yield Finding(
            "error" if len(bad) > max_bad_files * total else "warning",
            "unreadable files",
            f"{percent(len(bad), total)} {bad[0].noun}s cannot be used; data.max_bad_files allows "
            f"{max_bad_files:.1%}.",
            "Fix, convert or remove them.",
            tuple(Evidence(file.path, detail=file.why) for file in bad),
        )


def others(data: Data) -> list[str]:
    """Returns the names of the splits that are to be like train; another domain's are not."""
    return [name for name in data.splits if name != "train" and not name.startswith(TARGET)]


def check_classes(data: Data, kind: Input) -> Iterator[Finding]:
    """Finds classes that are missing from a split, or too small to learn from."""
    counts = {name: split.counts for name, split in data.splits.items()}
    train = counts["train"]
    for name in others(data):
        yield from _missing(data, kind, name, counts)
    unlearned = [i for i, count in enumerate(train) if not count]
    if unlearned:
        yield Finding(
            "error",
            "class missing from train",
            f"{percent(len(unlearned), len(train))} classes have no training {kind.noun}.",
            f"Add training {kind.nouns} of them, or take them out of val and test.",
            tuple(_class(data, i, counts) for i in unlearned),
        )
    few = [i for i, count in enumerate(train) if 0 < count < _FEW]
    if few:
        yield Finding(
            "warning",
            "tiny classes",
            f"{percent(len(few), len(train))} classes have fewer than {_FEW} training "
            f"{kind.nouns}.",
            f"Find more {kind.nouns} of them, merge them with others, or leave them out.",
            tuple(_class(data, i, counts) for i in few),
        )


def _missing(
    data: Data, kind: Input, name: str, by_split: dict[str, np.ndarray]
) -> Iterator[Finding]:
    counts, train = by_split[name], by_split["train"]
    missing = [i for i, count in enumerate(counts) if not count and train[i]]
    total = len(data.splits[name])
    if missing:
        yield Finding(
            "warning",
            f"class missing from {name}",
            f"{percent(len(missing), len(counts))} classes have no {name} {kind.noun}: it cannot "
            "be seen how well they do.",
            f"Move some of their {kind.nouns} to {name}, or raise data.split.{name}.",
            tuple(Evidence(data.class_names[i], name, f"{train[i]} in train") for i in missing),
        )
    if total < _FEW_TO_MEASURE:
        yield Finding(
            "note",
            f"small {name}",
            f"{name} has {counted(total, kind.noun, kind.nouns)}: each counts {1 / total:.1%} of "
            "what is measured.",
            f"Raise data.split.{name}, or read small differences as noise.",
        )


def _class(data: Data, index: int, counts: dict[str, np.ndarray]) -> Evidence:
    detail = ", ".join(f"{count[index]} in {name}" for name, count in counts.items())
    return Evidence(data.class_names[index], detail=detail)


# -------------------------------------------------------------------------- distributions


def check_shift(
    data: Data, kind: Input, looks: Any, features: Callable[[np.ndarray], np.ndarray]
) -> Iterator[Finding]:
    """Compares val and test with train: what their examples of like classes look like.

    Args:
        data: The data set.
        kind: What its examples are.
        looks: What was seen of its examples.
        features: Rows (m,) of `looks` -> features (m, channels); see `make_embedding`.
    """
    for name in others(data):
        yield from _shift(looks, name, features, kind)


def check_labels(data: Data) -> Iterator[Finding]:
    """Compares val and test with train: their shares of classes."""
    for name in others(data):
        yield from _label_shift(data, name)


def _label_shift(data: Data, name: str) -> Iterator[Finding]:
    train, other = data.splits["train"].counts, data.splits[name].counts
    seen = (train + other) > 0
    if not seen.any():  # numbers have no classes
        return
    train, other = train[seen], other[seen]
    moved, sure = label_distance(train, other)
    if moved < _MOVED or sure < _SURE:
        return
    names = [n for n, there in zip(data.class_names, seen, strict=True) if there]
    shares = np.stack([train / train.sum(), other / other.sum()])  # (2, classes)
    order = np.argsort(-np.abs(shares[1] - shares[0]))
    yield Finding(
        "warning",
        "label shift",
        f"Classes have other shares in {name} than in train: {moved:.0%} of {name} would have to "
        "change class.",
        "Draw the splits again by class, or set data.balance if the difference is meant.",
        tuple(
            Evidence(names[i], name, f"{shares[0, i]:.1%} of train, {shares[1, i]:.1%} of {name}")
            for i in order[:20]
        ),
    )


def label_distance(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Returns how far two distributions of counts are apart, and how sure that is.

    Args:
        one: Counts (k,), none 0 in both.
        other: Counts (k,).

    Returns:
        The total variation distance, 0 to 1; and the standard score of Pearson's chi-square test
        of homogeneity (by Wilson and Hilferty 1931).
    """
    table = np.stack([one, other]).astype(float)  # (2, k)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    chi_square = float(((table - expected) ** 2 / expected).sum())
    freedom = max(table.shape[1] - 1, 1)
    spread = 2 / (9 * freedom)
    sure = ((chi_square / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    shares = table / table.sum(axis=1, keepdims=True)
    return float(np.abs(shares[0] - shares[1]).sum() / 2), sure


def _shift(
    looks: Any, name: str, features: Callable[[np.ndarray], np.ndarray], kind: Input
) -> Iterator[Finding]:
    one, other = _alike_in_class(looks, name)
    if min(len(one), len(other)) < _LEAST:
        return
    vectors = features(np.concatenate([one, other]))
    belongs = np.repeat([False, True], [len(one), len(other)])
    scores = tell_apart(vectors, belongs)
    area = float(auc_shares(belongs, scores).mean())
    error = math.sqrt((len(vectors) + 1) / (12 * len(one) * len(other)))
    if area < _TOLD_APART or area - 0.5 < _SURE * error:
        return
    most = other[np.argsort(-scores[belongs])][:20]
    yield Finding(
        "warning",
        f"{kind.noun} shift",
        f"The {kind.nouns} of {name} are of another kind than those of train: a classifier on "
        f"{kind.able('features', 'doctor').WHAT} tells which split one is from (AUC {area:.2f}; "
        "0.5 is a guess).",
        f"Look at {kind.nouns} of both; if {name} is what the model will meet, train on such "
        f"{kind.nouns} too.",
        tuple(looks.evidence(i, "among the least like train") for i in most.tolist()),
    )


def _alike_in_class(looks: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Draws rows of train and of another split, as many of each class from both."""
    random = np.random.default_rng(0)
    train, other = (np.flatnonzero((looks.splits == s) & ~looks.blank) for s in ("train", name))
    if looks.labels.ndim == 2:
        return random.permutation(train)[:_SAMPLE], random.permutation(other)[:_SAMPLE]
    classes = np.unique(looks.labels)
    most = -(-_SAMPLE // len(classes))
    drawn: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for label in classes:
        inside = [random.permutation(rows[looks.labels[rows] == label]) for rows in (train, other)]
        count = min(most, *map(len, inside))
        for kept, rows in zip(drawn, inside, strict=True):
            kept.append(rows[:count])
    return np.concatenate(drawn[0]), np.concatenate(drawn[1])


def tell_apart(vectors: np.ndarray, belongs: np.ndarray) -> np.ndarray:
    """Returns, for each vector, a score that it belongs, by a classifier that never saw it.

    A classifier two-sample test (Lopez-Paz and Oquab 2017): linear discriminant analysis on the
    first principal components, fitted on one half and asked about the other.

    Args:
        vectors: float32 (n, channels).
        belongs: bool (n,).
    """
    centred = (vectors - vectors.mean(axis=0)).astype(np.float64)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    reduced = centred @ axes[:_COMPONENTS].T  # (n, components)
    half = np.random.default_rng(0).permutation(len(vectors)) % 2 == 0
    scores = np.empty(len(vectors))
    for asked in (half, ~half):
        scores[asked] = _discriminant(reduced[~asked], belongs[~asked], reduced[asked])
    return scores


def _discriminant(known: np.ndarray, belongs: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Fitted to `known`, standardised, so that the scores of both halves can be ranked together."""
    means = known[belongs].mean(axis=0), known[~belongs].mean(axis=0)
    inside = np.concatenate([known[belongs] - means[0], known[~belongs] - means[1]])
    spread = inside.T @ inside / len(inside)
    ridge = max(0.1 * np.trace(spread) / len(spread), 1e-12) * np.eye(len(spread))
    weights = np.linalg.solve(spread + ridge, means[0] - means[1])
    offset = (means[0] + means[1]) @ weights / 2
    return (asked @ weights - offset) / max(math.sqrt(weights @ spread @ weights), 1e-12)
