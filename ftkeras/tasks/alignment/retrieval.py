"""How well pictures and texts find one another: ranks, and what is measured of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftkeras.measures.bootstrap import bootstrap, interval, share_interval

AT = (1, 5, 10)
_BLOCK = 1024  # queries at a time


def unit(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors (n, units) of length 1."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12))


def ranks(similar: np.ndarray) -> np.ndarray:
    """Returns the rank of the i-th candidate for the i-th query, from 1, (n,); ties count fully."""
    own = np.diag(similar)[:, np.newaxis]
    return np.asarray((similar >= own).sum(axis=1))


@dataclass(frozen=True)
class Found:
    """What was found for each query.

    Args:
        first: The rank of the best candidate that fits, from 1, int (n,).
        precision: The average precision of the candidates that fit, float (n,).
        pictures: The picture that each query is, or is a text of, int (n,).
    """

    first: np.ndarray
    precision: np.ndarray
    pictures: np.ndarray

    def recall(self, k: int) -> np.ndarray:
        """Returns 1 for each query that finds one that fits among its k nearest, otherwise 0;
        (n,)."""
        return (self.first <= k).astype(np.float64)


def find(
    queries: np.ndarray, candidates: np.ndarray, fits: np.ndarray, pictures: np.ndarray
) -> Found:
    """Ranks all candidates for each query by the cosine of their embeddings.

    Equal candidates share the worst of their ranks: a model that answers all alike finds nothing.

    Args:
        queries: Unit vectors (n, units).
        candidates: Unit vectors (m, units).
        fits: Which candidates fit which queries, bool (n, m); each query has one or more.
        pictures: As `Found` keeps them.
    """
    first, precision = [], []
    for start in range(0, len(queries), _BLOCK):
        similar = queries[start : start + _BLOCK] @ candidates.T
        for row, right in zip(similar, fits[start : start + _BLOCK], strict=True):
            rising = np.sort(row)
            place = len(row) - np.searchsorted(rising, row[right])  # ties count as before
            place = np.sort(place)
            fit_rising = np.sort(row[right])
            hits = len(fit_rising) - np.searchsorted(fit_rising, fit_rising[::-1])
            first.append(place[0])
            precision.append(np.mean(hits / place))
    return Found(np.array(first), np.array(precision), pictures)


@dataclass(frozen=True)
class Embedded:
    """The embeddings of a split.

    Args:
        pictures: Unit vectors float32 (n, units).
        texts: Unit vectors float32 (m, units), of the texts that are queries.
        owners: The picture of each text, int (m,).
        numbers: Equal texts have one number, int (m,).
    """

    pictures: np.ndarray
    texts: np.ndarray
    owners: np.ndarray
    numbers: np.ndarray

    def both(self) -> tuple[Found, Found]:
        """Returns what is found for each picture among the texts, and for each text the other way.

        Texts that several pictures share are one text, for which all of them are right.
        """
        _, first, number = np.unique(self.numbers, return_index=True, return_inverse=True)
        fits = np.zeros((len(self.pictures), len(first)), bool)
        fits[self.owners, number] = True
        texts = self.texts[first]
        asking = np.flatnonzero(fits.any(axis=1))  # a picture may have no text that is a query
        return (
            find(self.pictures[asking], texts, fits[asking], asking),
            find(texts, self.pictures, fits.T, self.owners[first]),
        )


WAYS = ("picture_to_text", "text_to_picture")


def measure(embedded: Embedded, *, intervals: bool = True) -> dict[str, Any]:
    """Returns recall, median rank and mean average precision both ways, and `recall_at_K` of both.

    Args:
        embedded: The embeddings.
        intervals: Whether to add 95% intervals: Wilson's of a recall, by the bootstrap otherwise.
            That of the mean of both ways counts a picture once, because its ways are alike.
    """
    both = embedded.both()
    results: dict[str, Any] = {"examples": len(embedded.pictures), "texts": len(embedded.texts)}
    counts = (len(np.unique(embedded.numbers)), len(embedded.pictures))
    results["candidates"] = dict(zip(WAYS, counts, strict=True))
    for way, found in zip(WAYS, both, strict=True):
        results |= {f"{way}_recall_at_{k}": float(found.recall(k).mean()) for k in AT}
        results[f"{way}_median_rank"] = float(np.median(found.first))
        results[f"{way}_map"] = float(found.precision.mean())
    means = [*(f"recall_at_{k}" for k in AT), "map"]
    results |= {name: float(np.mean([results[f"{way}_{name}"] for way in WAYS])) for name in means}
    if not intervals:
        return results

    def drawn(counts: np.ndarray) -> list[float]:
        rows = [_values(found, counts[found.pictures]) for found in both]
        return [*rows[0], *rows[1], (rows[0][0] + rows[1][0]) / 2]

    names = [f"{way}_{name}" for way in WAYS for name in ("map", "median_rank")] + ["map"]
    columns = bootstrap(drawn, len(embedded.pictures)).T
    ends: dict[str, Any] = dict(zip(names, map(interval, columns), strict=True))
    asked = {f"{way}_": len(found.first) for way, found in zip(WAYS, both, strict=True)}
    for way, count in {**asked, "": min(asked.values())}.items():
        for name in (f"{way}recall_at_{k}" for k in AT):
            ends[name] = share_interval(results[name], count)
    return {**results, "intervals": ends}


def telling(evaluation: Mapping[str, Any], ways: Sequence[str] = WAYS) -> list[int]:
    """Returns the ranks whose recall is worth a line: among K candidates, recall at K is 1."""
    candidates = evaluation.get("candidates", {})  # a run of an earlier version has none
    most = max(candidates.get(way, max(AT) + 1) for way in ways)
    return [k for k in AT if k < max(most, 2)]


def _values(found: Found, weights: np.ndarray) -> list[float]:
    """Returns mean average precision and median rank of queries that count so often."""
    ranks_drawn = np.repeat(found.first, weights.astype(int)) if weights.any() else 0
    precision = weights @ found.precision / max(weights.sum(), 1.0)
    return [float(precision), float(np.median(ranks_drawn))]


def gained(model: Embedded, floor: Embedded) -> dict[str, Any]:
    """Returns how much better a model finds than its floor, with 95% intervals of pairs.

    A picture is drawn again with all that is found for it and its texts, by the model and the floor
    alike. Recalls are the mean of both ways.
    """
    pairs = list(zip(model.both(), floor.both(), strict=True))
    measured = measure(floor, intervals=False)
    results: dict[str, Any] = {}
    for k in AT:
        gains = [one.recall(k) - other.recall(k) for one, other in pairs]

        def drawn(counts: np.ndarray, gains: list[np.ndarray] = gains) -> list[float]:
            weights = [counts[one.pictures] for one, _ in pairs]
            return [
                np.mean([w @ g / max(w.sum(), 1.0) for w, g in zip(weights, gains, strict=True)])
            ]

        ends = interval(bootstrap(drawn, len(model.pictures))[:, 0]) or [0.0, 0.0]
        name = f"recall_at_{k}"
        results[name] = measured[name]
        results[f"{name}_difference"] = float(np.mean([each.mean() for each in gains]))
        results[f"{name}_difference_interval"] = ends
        results[f"{name}_noise"] = bool(ends[0] <= 0 <= ends[1])
    return results
