"""The floor of this task: linear maps between frozen features, fitted in a second.

Ridge regression from a picture's features to its text's is what anyone tries first, so each run
fits it and is compared with it. Training starts from the best of it and of regularised canonical
correlation (Hotelling 1936; Vinod 1976), as held-out pairs of the training split tell. Both are
projections of the two towers into one space, which is what the model's own are.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from ftkeras.console import Progress
from ftkeras.files import read_arrays, write_arrays
from ftkeras.run import Run
from ftkeras.tasks.alignment.retrieval import ranks, unit

FILE = "floor.npz"
MOST = 20_000  # texts that it is fitted on
_FOLDS = 4
_DIRECTIONS = 768  # of a side's features, those that vary most
_SCALES = (5.0, 10.0, 20.0, 40.0, 80.0)

Setting = tuple[float, ...]
"""A penalty of ridge regression; or one for each side, and the power of the correlations.

Penalties are relative to the mean variance of a channel.
"""
_RIDGE: list[Setting] = [(0.03,), (0.1,), (0.3,), (1.0,), (3.0,)]
_SETTINGS: list[Setting] = [
    *_RIDGE,
    *itertools.product((0.3, 1.0, 3.0), (0.1, 0.3, 1.0), (0.5, 1.0)),
]


@dataclass(frozen=True)
class Maps:
    """Affine maps of both sides' features into one space.

    Args:
        kernels: Of the pictures and of the texts, float (channels, units).
        biases: float (units,) each.
        name: How they were fitted, for people.
        score: Mean reciprocal rank of held-out pairs, both ways.
        scale: What cosines are best multiplied with.
    """

    kernels: tuple[np.ndarray, np.ndarray]
    biases: tuple[np.ndarray, np.ndarray]
    name: str
    score: float = 0.0
    scale: float = 1.0

    def __call__(self, features: np.ndarray, side: int) -> np.ndarray:
        """Returns unit vectors (n, units) of the features of pictures (0) or texts (1)."""
        return unit(features @ self.kernels[side] + self.biases[side])

    def padded(self, units: int) -> Maps:
        """Returns the same with as many units: the first, or filled up with zeros."""

        def fit(array: np.ndarray) -> np.ndarray:
            kept = array[..., :units]
            missing = [(0, 0)] * (kept.ndim - 1) + [(0, units - kept.shape[-1])]
            return np.pad(kept, missing).astype(np.float32)

        kernels, biases = (tuple(map(fit, pair)) for pair in (self.kernels, self.biases))
        return Maps(kernels, biases, self.name, self.score, self.scale)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Pairs:
    """Features of pictures with those of their texts.

    Args:
        pictures: float (n, channels).
        texts: float (m, channels).
        owners: The picture of each text, int (m,), rising.
        shares: What a text counts for among those of its picture, float (m,).
    """

    pictures: np.ndarray
    texts: np.ndarray
    owners: np.ndarray
    shares: np.ndarray

    def take(self, chosen: np.ndarray) -> Pairs:
        """Returns some of the pictures, with their texts."""
        place = np.full(len(self.pictures), -1)
        place[chosen] = np.arange(len(chosen))
        kept = place[self.owners] >= 0
        owners = place[self.owners[kept]]
        return Pairs(self.pictures[chosen], self.texts[kept], owners, self.shares[kept])


def fit(pairs: Pairs, units: int, seed: int) -> tuple[Maps, Maps]:
    """Returns ridge regression, and the best of it and canonical correlation to start from.

    Ridge regression predicts all of a text's features, however wide the space may be.

    Args:
        pairs: The training pairs.
        units: How wide the space may be.
        seed: Decides which pairs are held out.
    """
    pairs = pairs.take(_some(pairs, seed))
    count, reduced = len(pairs.pictures), Reduced(pairs)
    order = np.random.default_rng(seed).permutation(count)
    folds = _FOLDS if count >= 2 * _FOLDS else 0
    scores = np.zeros((max(folds, 1), len(_SETTINGS)))
    losses = np.zeros((max(folds, 1), len(_SETTINGS), len(_SCALES)))
    progress = Progress("fit the floor", folds, "fold")
    for fold in range(folds):
        out = np.sort(order[fold::folds])
        held, fitter = pairs.take(out), reduced.take(np.setdiff1d(order, out))
        first = np.searchsorted(held.owners, np.arange(len(out)))  # a text of each
        for place, setting in enumerate(_SETTINGS):
            maps = fitter.fit(setting, units if len(setting) > 1 else None)
            similar = maps(held.pictures, 0) @ maps(held.texts[first], 1).T
            found = np.concatenate([ranks(similar), ranks(similar.T)])
            scores[fold, place] = np.mean(1 / found)
            losses[fold, place] = _losses(similar)
        progress.advance()
    progress.close()
    means, scales = scores.mean(axis=0), losses.mean(axis=0).argmin(axis=1)
    whole = reduced.take(np.arange(count))

    def finished(place: int, width: int | None) -> Maps:
        score, scale = float(means[place]), _SCALES[scales[place]]
        return dataclasses.replace(whole.fit(_SETTINGS[place], width), score=score, scale=scale)

    return finished(int(means[: len(_RIDGE)].argmax()), None), finished(int(means.argmax()), units)


def _some(pairs: Pairs, seed: int) -> np.ndarray:
    count, texts = len(pairs.pictures), len(pairs.texts)
    most = int(MOST * count / max(texts, MOST))
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def _losses(similar: np.ndarray) -> np.ndarray:
    """Returns the softmax loss of pairs (n, n) at each of `_SCALES`."""
    losses = []
    for scale in _SCALES:
        both = [scale * similar, scale * similar.T]
        shifted = [x - x.max(axis=1, keepdims=True) for x in both]
        losses.append(np.mean([np.log(np.exp(x).sum(axis=1)) - np.diag(x) for x in shifted]))
    return np.array(losses)


class Reduced:
    """Pairs in the directions in which their features vary most; those of pictures standardised.

    Args:
        pairs: The pairs.
    """

    def __init__(self, pairs: Pairs):
        # Ridge regression predicts texts' features as they are.
        both = (pairs.pictures, True), (pairs.texts, False)
        self._ways = [_principal(each, scaled=scaled) for each, scaled in both]
        self._all = pairs

    def take(self, chosen: np.ndarray) -> Fitter:
        """Returns what fits maps to some of the pictures, with their texts."""
        part = self._all.take(chosen)
        x, y = (
            (each - mean) @ way
            for each, (mean, way) in zip((part.pictures, part.texts), self._ways, strict=True)
        )
        return Fitter(x, y, part.owners, part.shares, self._ways)


def _principal(features: np.ndarray, *, scaled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean of features, and (channels, directions) to multiply what is left with."""
    features = features.astype(np.float64)
    mean, own = features.mean(axis=0), features.std(axis=0)
    # As in `measures.linear`: what hardly varies here must not decide elsewhere.
    spread = np.sqrt(own**2 + np.square(own).mean())
    spread = np.where((spread > 0) & scaled, spread, 1.0)
    values, vectors = np.linalg.eigh(np.cov((features - mean) / spread, rowvar=False, bias=True))
    kept = vectors[:, ::-1][:, :_DIRECTIONS][:, values[::-1][:_DIRECTIONS] > 1e-9 * values[-1]]
    return mean, kept / spread[:, np.newaxis]


class Fitter:
    """Fits maps by any setting.

    Args:
        x: The pictures, float (n, directions).
        y: The texts, float (m, directions).
        owners: The picture of each text, int (m,).
        shares: What each text counts for, float (m,).
        ways: What led to both from features.
    """

    def __init__(
        self, x: np.ndarray, y: np.ndarray, owners: np.ndarray, shares: np.ndarray, ways: Any
    ):
        weights = shares[:, np.newaxis]  # (m, 1)
        total = float(weights.sum())
        x = x[owners]
        self._means = [(weights * each).sum(axis=0) / total for each in (x, y)]
        x, y = (each - mean for each, mean in zip((x, y), self._means, strict=True))
        self._spectra = [np.linalg.eigh(each.T @ (weights * each) / total) for each in (x, y)]
        (_, own), (_, other) = self._spectra
        self._together = own.T @ (x.T @ (weights * y) / total) @ other  # in their own directions
        self._ways = ways
        self._known: dict[tuple[float, ...], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def fit(self, setting: Setting, units: int | None) -> Maps:
        """Returns maps into a space of at most so many units; None: as many as are fitted."""
        (values, own), (other_values, other) = self._spectra
        penalised = np.maximum(values, 0) + setting[0] * values.sum() / len(self._ways[0][1])
        if len(setting) == 1:
            kernel = self._together / penalised[:, np.newaxis]
            turned = np.eye(len(other))
            if units is not None and len(other) > units:  # keep most of what is predicted
                turned = np.linalg.svd(kernel, full_matrices=False)[2].T[:, :units]
            kernels = own @ kernel @ turned, other @ turned
            name = f"ridge regression, penalty {setting[0]:g}"
        else:
            first, second, correlations = self._correlated(*setting[:2])
            strength = correlations[:units] ** setting[2]
            kernels = first[:, :units] * strength, second[:, :units] * strength
            name = f"canonical correlation, penalties {setting[0]:g} and {setting[1]:g}"
        both = [
            (way @ kernel, -(mean @ way + middle) @ kernel)
            for (mean, way), middle, kernel in zip(self._ways, self._means, kernels, strict=True)
        ]
        (first, one), (second, two) = both
        return Maps((first, second), (one, two), name)

    def _correlated(self, *penalties: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the directions of both sides that correlate most, and by how much."""
        if penalties not in self._known:
            roots = [
                (np.maximum(values, 0) + penalty * values.sum() / len(way)) ** -0.5
                for penalty, (values, _), (_, way) in zip(
                    penalties, self._spectra, self._ways, strict=True
                )
            ]
            whole = roots[0][:, np.newaxis] * self._together * roots[1]
            # A tenth of the time of a singular value decomposition; penalties keep it exact enough.
            squares, right = np.linalg.eigh(whole.T @ whole)
            right, correlations = right[:, ::-1], np.sqrt(np.maximum(squares[::-1], 1e-24))
            both = (whole @ right) / correlations, right
            first, second = (
                own @ (root[:, np.newaxis] * side)
                for (_, own), root, side in zip(self._spectra, roots, both, strict=True)
            )
            self._known[penalties] = first, second, correlations
        return self._known[penalties]


def save(run: Run, maps: Sequence[Maps]) -> None:
    """Writes `floor.npz` into a run: ridge regression, then what training starts from."""
    arrays: dict[str, np.ndarray] = {"names": np.array([each.name for each in maps], np.str_)}
    for i, each in enumerate(maps):
        for side in (0, 1):
            arrays[f"kernel {i} {side}"] = each.kernels[side].astype(np.float32)
            arrays[f"bias {i} {side}"] = each.biases[side].astype(np.float32)
        arrays[f"facts {i}"] = np.array([each.score, each.scale])
    write_arrays(run.path(FILE), arrays)


def load(run: Run) -> list[Maps]:
    """Returns what `save` wrote; nothing if it wrote nothing."""
    if not tf.io.gfile.exists(run.path(FILE)):
        return []
    arrays = read_arrays(run.path(FILE))
    return [
        Maps(
            (arrays[f"kernel {i} 0"], arrays[f"kernel {i} 1"]),
            (arrays[f"bias {i} 0"], arrays[f"bias {i} 1"]),
            str(name),
            *map(float, arrays[f"facts {i}"]),
        )
        for i, name in enumerate(arrays["names"])
    ]


def keep_embeddings(run: Run, split: str, both: Sequence[np.ndarray]) -> None:
    """Writes what ridge regression makes of a split's pictures and texts."""
    pictures, texts = (side.astype(np.float32) for side in both)
    tf.io.gfile.makedirs(run.path("predictions"))
    write_arrays(_kept(run, split), {"pictures": pictures, "texts": texts})


def load_embeddings(run: Run, split: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns what `keep_embeddings` wrote of a split, if it did."""
    if not tf.io.gfile.exists(_kept(run, split)):
        return None
    arrays = read_arrays(_kept(run, split))
    return arrays["pictures"], arrays["texts"]


def _kept(run: Run, split: str) -> str:
    return run.path("predictions", f"ridge-{split}.npz")
