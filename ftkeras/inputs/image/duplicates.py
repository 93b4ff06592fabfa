"""Duplicate images, exact or near, and copies with contradictory labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ftkeras.findings import Finding
from ftkeras.inputs.copies import (
    Pairs,
    Wording,
    distinct,
    exact_pairs,
    neighbours,
    report_copies,
)
from ftkeras.inputs.image.looks import Looks

_BITS, _BANDS = 64, 4
_HAMMING = 8  # bits of 64 in which the hashes of near-duplicates may differ
_NEIGHBOURS = 1999  # images that agree in a band and are compared, with each
_APART = 0.03  # 1 - correlation of thumbnails: the most for near-duplicates
_CLOSER = 8.0  # near-duplicates are this many times closer than neighbours usually are
_ASKED, _SAMPLE = 500, 2000  # thumbnails whose neighbours are found, and among how many
_COSINE = 0.9  # of the backbone's features, the least for near-duplicates
_WORDS = Wording(
    "images",
    "the pixels of another image",
    "nearly what another image shows",
    "one scene, person or day",
)


def find_duplicates(
    looks: Looks, class_names: Sequence[str], features: Callable[[np.ndarray], np.ndarray]
) -> list[Finding]:
    """Finds exact copies and near-duplicates, within splits, across them and across labels.

    Args:
        looks: Measurements of the images.
        class_names: Names of the classes.
        features: Rows (m,) -> a backbone's features (m, channels); called for candidates only.
    """
    exact = exact_pairs(looks, looks.contents)
    near = near_pairs(looks, features)
    return [
        *report_copies(looks, class_names, exact, _WORDS, exact=True),
        *report_copies(looks, class_names, near, _WORDS, exact=False),
    ]


def near_pairs(looks: Looks, features: Callable[[np.ndarray], np.ndarray]) -> Pairs:
    """Returns pairs of images that differ, but show the same: copied, resized, brightened.

    Candidates agree in most bits of a perceptual hash. They are near-duplicates if two conditions
    hold. Their thumbnails correlate far more than those of usual neighbours in this data set
    (garments on black all look alike, photos don't). And a backbone's features are similar, too.
    """
    rows = distinct(looks, looks.contents)
    if len(rows) < 2:
        return np.zeros((0, 2), np.int64)
    units = _unit(looks.thumbnails[rows].reshape(len(rows), -1).astype(np.float32))
    pairs = candidates(perceptual_hashes(looks.thumbnails[rows]))
    apart = 1 - np.einsum("ij,ij->i", units[pairs[:, 0]], units[pairs[:, 1]])
    pairs = pairs[apart <= min(_APART, _usual_distance(units) / _CLOSER)]
    if not len(pairs):
        return pairs
    asked, where = np.unique(pairs, return_inverse=True)
    vectors = features(rows[asked])
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    one, other = where.reshape(pairs.shape).T
    alike = np.einsum("ij,ij->i", vectors[one], vectors[other]) >= _COSINE
    pairs = rows[pairs]
    # A backbone's features of a photo and its grey copy differ; for these the thumbnails decide.
    alike |= looks.coloured[pairs[:, 0]] != looks.coloured[pairs[:, 1]]
    return pairs[alike]


def perceptual_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """Returns 64 bits per image: which of its low frequencies are above this data set's median.

    The DCT hash of Zauner 2010 ("Implementation and benchmarking of perceptual image hash
    functions"), except for the thresholds. With the median of each frequency over the data set,
    every bit is 1 for half of the images, even if all are similar.

    Args:
        thumbnails: uint8 (n, 32, 32).

    Returns:
        uint64 (n,).
    """
    size = thumbnails.shape[1]
    pixel = np.arange(size)
    basis = np.cos(np.pi * (2 * pixel[None] + 1) * np.arange(11)[:, None] / (2 * size))  # (11, 32)
    order = sorted(((i, j) for i in range(11) for j in range(11)), key=lambda ij: (sum(ij), ij))
    low = order[1 : _BITS + 1]  # without the mean, which brightness changes
    # Bands take every fourth frequency, so that each has low and less low ones.
    rows, columns = np.array([low[i] for b in range(_BANDS) for i in range(b, _BITS, _BANDS)]).T
    transformed = basis @ thumbnails.astype(np.float32) @ basis.T  # (n, 11, 11)
    values = _unit(transformed[:, rows, columns], center=False)  # removes contrast
    bits = (values > np.median(values, axis=0)).astype(np.uint8)
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint64)[:, 0]


def candidates(hashes: np.ndarray) -> Pairs:
    """Returns the pairs whose hashes differ in 8 bits or fewer, without comparing all with all.

    Multi-index hashing (Norouzi, Punjani and Fleet 2012): images are compared only if they agree in
    one of four bands of 16 bits. That finds every pair that differs in 3 bits or fewer, and most
    of the others; some are lost if thousands agree in a band.

    Args:
        hashes: uint64 (n,).
    """
    bands = hashes.view(np.uint16).reshape(len(hashes), _BANDS)
    matches: list[np.ndarray] = [np.zeros((0, 2), np.int64)]
    for band in bands.T:
        for pairs in neighbours(np.lexsort((hashes, band)), band, _NEIGHBOURS):
            bits = _popcount(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
            matches.append(np.sort(pairs[bits <= _HAMMING], axis=1))
    return np.unique(np.concatenate(matches), axis=0)


def _popcount(words: np.ndarray) -> np.ndarray:
    """How many bits are set in each uint64 (numpy has this from 2.0 on)."""
    pairs, nibbles, octets, ones = (
        np.uint64(int(digits * 8, 16)) for digits in ("55", "33", "0f", "01")
    )
    words = words - ((words >> np.uint64(1)) & pairs)
    words = (words & nibbles) + ((words >> np.uint64(2)) & nibbles)
    words = (words + (words >> np.uint64(4))) & octets
    return (words * ones) >> np.uint64(56)


def _usual_distance(units: np.ndarray) -> float:
    """Returns the distance to a thumbnail's fifth neighbour, in the densest tenth of a sample.

    The fifth, so that a few copies do not lower the usual distance.
    """
    sample = np.random.default_rng(0).permutation(len(units))[:_SAMPLE]
    if len(sample) < 20:
        return np.inf
    similar = units[sample[:_ASKED]] @ units[sample].T
    fifth = np.partition(similar, -6, axis=1)[:, -6]  # the first is the image itself
    return float(np.quantile(1 - fifth, 0.1))


def _unit(vectors: np.ndarray, center: bool = True) -> np.ndarray:
    if center:
        vectors = vectors - vectors.mean(axis=1, keepdims=True)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
