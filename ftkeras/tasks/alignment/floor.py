"""The floor of this task: linear maps between frozen features, fitted in a second.

Ridge regression from a picture's features to its text's is what anyone tries first, so each run
fits it and is compared with it. Training starts from the best of it and of regularised canonical
correlation (Hotelling 1936; Vinod 1976), as held-out pairs of the training split tell. Both are
projections of the two towers into one space, which is what the model's own are.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from ftkeras.console import Progress
from ftkeras.files import write_whole
from ftkeras.run import Run
from ftkeras.tasks.alignment.retrieval import ranks, unit

FILE = "floor.npz"
MOST = 20_000  # texts that it is fitted on
_FOLDS = 4
_RIDGE = (0.03, 0.1, 0.3, 1.0, 3.0)  # penalties, times the mean variance of a feature
_CANONICAL = tuple(itertools.product((0.1, 0.3, 1.0, 3.0), (0.1, 0.3, 1.0), (0.5, 1.0)))
_SCALES = (5.0, 10.0, 20.0, 40.0, 80.0)


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
    """

    pictures: np.ndarray
    texts: np.ndarray
    owners: np.ndarray

    def take(self, chosen: np.ndarray) -> Pairs:
        """Returns some of the pictures, with their texts."""
        place = np.full(len(self.pictures), -1)
        place[chosen] = np.arange(len(chosen))
        kept = place[self.owners] >= 0
        return Pairs(self.pictures[chosen], self.texts[kept], place[self.owners[kept]])


def fit(pairs: Pairs, units: int, seed: int) -> tuple[Maps, Maps]:
    """Returns ridge regression, and the best of it and canonical correlation to start from.

    Args:
        pairs: The training pairs.
        units: How wide the space may be.
        seed: Decides which pairs are held out.
    """
    pairs = pairs.take(_some(pairs, seed))
    progress = Progress("floor, penalties", _FOLDS)
    scores: dict[tuple[float, ...], list[float]] = {}
    scales: dict[tuple[float, ...], list[np.ndarray]] = {}
    order = np.random.default_rng(seed).permutation(len(pairs.pictures))
    for fold in range(_FOLDS if len(order) >= 2 * _FOLDS else 0):
        out = np.sort(order[fold::_FOLDS])
        held, rest = pairs.take(out), pairs.take(np.setdiff1d(order, out))
        first = np.searchsorted(held.owners, np.arange(len(out)))  # a text of each
        for setting, maps in _candidates(rest, units):
            similar = maps(held.pictures, 0) @ maps(held.texts[first], 1).T
            found = np.concatenate([ranks(similar), ranks(similar.T)])
            scores.setdefault(setting, []).append(float(np.mean(1 / found)))
            scales.setdefault(setting, []).append(_losses(similar))
        progress.advance()
    progress.close()
    settings = [setting for setting, _ in _settings()]
    means = {s: float(np.mean(scores[s])) if s in scores else 0.0 for s in settings}
    best_ridge = max((s for s in settings if len(s) == 1), key=means.__getitem__)
    best = max(settings, key=means.__getitem__)
    fitted = {s: m for s, m in _candidates(pairs, units, {best_ridge, best})}

    def finished(setting: tuple[float, ...]) -> Maps:
        maps, scale = fitted[setting], _SCALES[2]
        if setting in scales:
            scale = _SCALES[int(np.mean(scales[setting], axis=0).argmin())]
        return Maps(maps.kernels, maps.biases, maps.name, means[setting], scale)

    return finished(best_ridge), finished(best)


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


def _settings() -> Iterator[tuple[tuple[float, ...], str]]:
    for penalty in _RIDGE:
        yield (penalty,), f"ridge regression, penalty {penalty:g}"
    for one, other, power in _CANONICAL:
        yield (one, other, power), f"canonical correlation, penalties {one:g} and {other:g}"


def _candidates(
    pairs: Pairs, units: int, wanted: set[tuple[float, ...]] | None = None
) -> Iterator[tuple[tuple[float, ...], Maps]]:
    """Yields each setting with what is fitted by it; a picture's texts count as one together."""
    counts = np.bincount(pairs.owners, minlength=len(pairs.pictures))
    weights = (1.0 / counts[pairs.owners])[:, np.newaxis]  # (m, 1)
    total = float(weights.sum())
    pictures = pairs.pictures.astype(np.float64)
    mean = pictures.mean(axis=0)
    own = pictures.std(axis=0)
    spread = np.sqrt(own**2 + np.square(own).mean())
    spread = np.where(spread > 0, spread, 1.0)
    x = ((pictures - mean) / spread)[pairs.owners]
    texts = pairs.texts.astype(np.float64)
    text_mean = (weights * texts).sum(axis=0) / total
    y = texts - text_mean
    xx, yy, xy = (
        a.T @ (weights * b) / total for a, b in ((x, x), (y, y), (x, y))
    )  # (p, p), (q, q), (p, q)
    spectrum_x, spectrum_y = np.linalg.eigh(xx), np.linalg.eigh(yy)
    for setting, name in _settings():
        if wanted is not None and setting not in wanted:
            continue
        if len(setting) == 1:
            inverse = _power(spectrum_x, setting[0], -1.0)
            kernels = inverse @ xy, np.eye(xy.shape[1])
            if xy.shape[1] > units:  # keep most of what is predicted
                left = np.linalg.svd(kernels[0].T @ xx @ kernels[0])[0][:, :units]
                kernels = kernels[0] @ left, left
        else:
            root_x = _power(spectrum_x, setting[0], -0.5)
            root_y = _power(spectrum_y, setting[1], -0.5)
            u, s, v = np.linalg.svd(root_x @ xy @ root_y, full_matrices=False)
            strength = s[:units] ** setting[2]
            kernels = root_x @ u[:, :units] * strength, root_y @ v.T[:, :units] * strength
        kernel = kernels[0] / spread[:, np.newaxis]
        yield setting, Maps((kernel, kernels[1]), (-mean @ kernel, -text_mean @ kernels[1]), name)


def _power(spectrum: tuple[np.ndarray, np.ndarray], penalty: float, power: float) -> np.ndarray:
    """Returns a power of a covariance with a penalty, relative to its mean, added."""
    values, vectors = spectrum
    penalised = np.maximum(values, 0.0) + penalty * max(float(values.mean()), 1e-12)
    return np.asarray((vectors * penalised**power) @ vectors.T)


def save(run: Run, maps: Sequence[Maps]) -> None:
    """Writes `floor.npz` into a run: ridge regression, then what training starts from."""
    arrays: dict[str, np.ndarray] = {"names": np.array([each.name for each in maps], np.str_)}
    for i, each in enumerate(maps):
        for side in (0, 1):
            arrays[f"kernel {i} {side}"] = each.kernels[side].astype(np.float32)
            arrays[f"bias {i} {side}"] = each.biases[side].astype(np.float32)
        arrays[f"facts {i}"] = np.array([each.score, each.scale])
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_whole(run.path(FILE), buffer.getvalue())


def load(run: Run) -> list[Maps]:
    """Returns what `save` wrote; nothing if it wrote nothing."""
    if not tf.io.gfile.exists(run.path(FILE)):
        return []
    with tf.io.gfile.GFile(run.path(FILE), "rb") as file:
        arrays = np.load(io.BytesIO(file.read()), allow_pickle=False)
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
    buffer = io.BytesIO()
    np.savez(buffer, pictures=both[0].astype(np.float32), texts=both[1].astype(np.float32))
    tf.io.gfile.makedirs(run.path("predictions"))
    write_whole(_kept(run, split), buffer.getvalue())


def load_embeddings(run: Run, split: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns what `keep_embeddings` wrote of a split, if it did."""
    if not tf.io.gfile.exists(_kept(run, split)):
        return None
    with tf.io.gfile.GFile(_kept(run, split), "rb") as file:
        arrays = np.load(io.BytesIO(file.read()), allow_pickle=False)
    return arrays["pictures"], arrays["texts"]


def _kept(run: Run, split: str) -> str:
    return run.path("predictions", f"ridge-{split}.npz")
