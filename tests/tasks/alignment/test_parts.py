"""Losses, texts in turns, the floor and what is measured: by hand, or against another's code."""

from __future__ import annotations

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score

from ftkeras.data.pipeline import At
from ftkeras.devices.replicas import replicated
from ftkeras.devices.workers import share_of, spread
from ftkeras.tasks.alignment import floor
from ftkeras.tasks.alignment.model import Contrastive, Meeting, batch_recall
from ftkeras.tasks.alignment.pairs import PairSplit, Turns
from ftkeras.tasks.alignment.report import _retrieval
from ftkeras.tasks.alignment.results import format_retrieval
from ftkeras.tasks.alignment.retrieval import WAYS, Embedded, gained, measure, telling, unit


def said(count: int = 6, units: int = 4, scale: float = 7.0, bias: float = -1.5) -> np.ndarray:
    random = np.random.default_rng(0)
    both = [unit(random.normal(size=(count, units))) for _ in range(2)]
    return np.column_stack([*both, np.full(count, scale), np.full(count, bias)]).astype(np.float32)


def targets(count: int = 6) -> np.ndarray:
    """Each picture has a text of its own and one that it shares with no other."""
    return np.array([[i, i, 100 + i] for i in range(count)], np.float32)


def test_softmax_is_clips_loss():
    logits = 7.0 * said()[:, :4] @ said()[:, 4:8].T
    both = [np.log(np.exp(x).sum(axis=1)) - np.diag(x) for x in (logits, logits.T)]
    found = Contrastive("softmax").call(targets(), said())
    np.testing.assert_allclose(found, (both[0] + both[1]) / 2, rtol=1e-5)


def test_sigmoid_is_siglips_loss():
    logits = 7.0 * said()[:, :4] @ said()[:, 4:8].T - 1.5
    signs = 2 * np.eye(6) - 1
    expected = np.log1p(np.exp(-signs * logits)).sum(axis=1)
    np.testing.assert_allclose(Contrastive("sigmoid").call(targets(), said()), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_text_that_fits_another_picture_counts_as_neither(kind):
    shared = targets()
    shared[1, 2] = 0.0  # the second picture has the first one's text, too
    loss, far = Contrastive(kind), said()
    far[1, :4] = far[0, 4:8]  # which is the nearest to it, and yet no mistake
    logits = 7.0 * far[:, :4] @ far[:, 4:8].T - (1.5 if kind == "sigmoid" else 0.0)
    kept = np.ones((6, 6), bool)
    kept[1, 0] = False
    if kind == "sigmoid":
        expected = (kept * np.log1p(np.exp(-(2 * np.eye(6) - 1) * logits))).sum(axis=1)
    else:
        masked = np.where(kept, logits, -np.inf)
        both = [np.log(np.exp(x).sum(axis=1)) - np.diag(x) for x in (masked, masked.T)]
        expected = (both[0] + both[1]) / 2
    np.testing.assert_allclose(loss.call(shared, far), expected, rtol=1e-5)
    assert batch_recall(tf.constant(shared), tf.constant(far)).numpy()[1] == 1.0


def towers() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = {name: keras.Input((5,), name=name) for name in ("a", "b")}
    both = [keras.layers.Dense(3, name=f"to_{name}")(x) for name, x in inputs.items()]
    model = replicated(keras.Model(inputs, Meeting(5.0, -2.0, name="meeting")(both)))
    return model


def steps(model: keras.Model, kind: str) -> list[np.ndarray]:
    """Two steps on batches of 8, and the loss that they log."""
    random = np.random.default_rng(1)
    inputs = {name: random.normal(size=(16, 5)).astype("float32") for name in ("a", "b")}
    numbers = np.array([[i % 12, i % 12, 50 + i] for i in range(16)], np.float32)
    model.compile(keras.optimizers.SGD(0.5), Contrastive(kind), jit_compile=False)
    data = tf.data.Dataset.from_tensor_slices((inputs, numbers)).batch(8)
    strategy = model.distribute_strategy
    batches = spread(share_of(data, strategy), strategy)
    history = model.fit(batches, epochs=1, shuffle=False, verbose=0).history
    return [np.array(history["loss"]), *model.get_weights()]


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_two_replicas_see_all_pairs_of_a_batch(kind, two_replicas):
    alone = steps(towers(), kind)
    with two_replicas.scope():
        both = steps(towers(), kind)
    for one, two in zip(alone, both, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------- which text it is


def pairs() -> PairSplit:
    """The first picture has three texts in one column and one in the other; the second has two."""
    return PairSplit(
        name="train",
        ids=["one", "two"],
        labels=np.zeros((2, 0), np.float32),
        classes=0,
        fetch=lambda index: index,
        numbers=np.array([5, 6, 7, 8, 5, 9]),
        starts=np.array([[0, 3], [4, 4]]),
        lengths=np.array([[3, 1], [2, 2]]),
        queries=np.array([True, True, True, False, True, True]),
        owners=np.array([0, 0, 0, 0, 1, 1]),
    )


def chosen(turns: Turns, epoch: int) -> list[int]:
    at = At(0, tf.constant(epoch, tf.int64), tf.range(2, dtype=tf.int64), tf.constant(0))
    return [int(text) for text in turns.chosen(tf.range(2, dtype=tf.int64), at)]


def test_columns_and_texts_take_turns():
    turns = Turns(pairs(), seed=3, turns=True)
    first, second = zip(*(chosen(turns, epoch) for epoch in range(8)), strict=True)
    ways = {frozenset(first[::2]), frozenset(first[1::2])}
    assert ways == {frozenset({0, 1, 2}), frozenset({3})}
    assert set(second) == {4, 5}
    assert [chosen(Turns(pairs(), 3, turns=True), e) for e in range(8)] == list(
        map(list, zip(first, second, strict=True))
    )
    assert chosen(Turns(pairs(), seed=3, turns=False), 4) == [0, 4]


def test_a_text_counts_in_the_floor_as_often_as_training_takes_it():
    taken = np.bincount(
        np.ravel([chosen(Turns(pairs(), 3, turns=True), epoch) for epoch in range(12)]), minlength=6
    )
    np.testing.assert_allclose(pairs().shares, taken / 12)
    np.testing.assert_allclose(pairs().shares, [1 / 6, 1 / 6, 1 / 6, 1 / 2, 1 / 2, 1 / 2])


def test_a_target_tells_which_text_and_all_that_fit():
    turns = Turns(pairs(), seed=3, turns=False)
    at = At(0, tf.constant(0, tf.int64), tf.constant(1, tf.int64), tf.constant(0))
    assert turns.target(tf.constant(1, tf.int64), at).numpy().tolist() == [5, 5, 9, -1, -1]


# ------------------------------------------------------------------------- what is measured


def embedded(count: int = 40, seed: int = 0) -> Embedded:
    random = np.random.default_rng(seed)
    pictures = random.normal(size=(count, 8))
    owners = np.sort(np.concatenate([np.arange(count), random.integers(0, count, 20)]))
    texts = pictures[owners] + random.normal(size=(len(owners), 8))
    numbers = np.arange(len(owners))
    numbers[-1] = numbers[0]  # one text fits the first and the last picture
    texts[-1] = texts[0]
    return Embedded(unit(pictures), unit(texts), owners, numbers)


def test_retrieval_is_what_scikit_learn_measures():
    data, results = embedded(), measure(embedded(), intervals=False)
    _, first, number = np.unique(data.numbers, return_index=True, return_inverse=True)
    fits = np.zeros((40, len(first)), bool)
    fits[data.owners, number] = True
    similar = data.pictures @ data.texts[first].T
    for way, right, scores in (
        ("picture_to_text", fits, similar),
        ("text_to_picture", fits.T, similar.T),
    ):
        precision = [average_precision_score(r, s) for r, s in zip(right, scores, strict=True)]
        assert results[f"{way}_map"] == pytest.approx(np.mean(precision))
        order = np.argsort(-scores, axis=1)
        sorted_right = np.take_along_axis(right, order, axis=1)
        for k in (1, 5, 10):
            hits = sorted_right[:, :k].any(axis=1).mean()
            assert results[f"{way}_recall_at_{k}"] == pytest.approx(hits)
        ranks = sorted_right.argmax(axis=1) + 1
        assert results[f"{way}_median_rank"] == np.median(ranks)


def test_a_model_that_answers_all_alike_finds_nothing():
    same = np.tile(unit(np.ones((1, 4))), (30, 1))
    results = measure(Embedded(same, same, np.arange(30), np.arange(30)), intervals=False)
    assert (results["recall_at_10"], results["text_to_picture_median_rank"]) == (0.0, 30.0)


def test_one_interval_of_a_recall_and_no_line_for_one_that_is_certain():
    pictures = np.eye(4, dtype=np.float32)
    results = {"split": "test", "nouns": "images", **measure(Embedded(
        pictures, pictures, np.arange(4), np.arange(4)
    ))}  # fmt: skip
    ends = results["intervals"]
    assert ends["recall_at_1"] == pytest.approx([0.5101, 1.0], abs=1e-4)  # Wilson's of 4 of 4
    assert ends["recall_at_1"] == ends["picture_to_text_recall_at_1"]
    shown = format_retrieval(results)
    assert "recall@1 1.000 (0.510 to 1.000), 4 images" in shown
    assert "recall at 5" not in shown and "recall@5 and @10: there are only 4 candidates" in shown
    drawn = str(_retrieval(results, SimpleNamespace(nouns="images")).body)
    assert "recall at 1" in drawn and "0.510 to 1.000" in drawn and "recall at 5" not in drawn
    twice = Embedded(pictures[:2], pictures, np.array([0, 0, 1, 1]), np.arange(4))
    assert [telling(measure(twice), [way]) for way in WAYS] == [[1], [1]]
    assert telling({}) == [1, 5, 10]


def test_intervals_hold_what_is_measured_and_shrink():
    few, many = (measure(embedded(count)) for count in (20, 200))
    for results in (few, many):
        for name, (low, high) in results["intervals"].items():
            assert low <= results[name] <= high, name
    widths = [np.subtract(*r["intervals"]["map"][::-1]) for r in (few, many)]
    assert widths[1] < widths[0]


def test_a_gain_is_of_pairs():
    data = embedded(200)
    worse = Embedded(data.pictures, data.texts[::-1], data.owners, data.numbers)
    results = gained(data, worse)
    low, high = results["recall_at_10_difference_interval"]
    assert 0 < low <= results["recall_at_10_difference"] <= high
    assert not results["recall_at_10_noise"] and gained(data, data)["recall_at_1_noise"]


# ------------------------------------------------------------------------- the floor


def features(count: int = 120, units: int = 10) -> floor.Pairs:
    """Pictures and texts that show the same things, each with a noise of its own."""
    random = np.random.default_rng(0)
    hidden = random.normal(size=(count, 4))
    sides = [
        hidden @ random.normal(size=(4, units)) + 0.3 * random.normal(size=(count, units))
        for _ in range(2)
    ]
    return floor.Pairs(sides[0], sides[1], np.arange(count), np.ones(count))


def test_the_floor_is_scikit_learns_ridge_regression():
    data = features()
    fitter = floor.Reduced(data).take(np.arange(120))
    maps = fitter.fit((0.5,), None)
    own = data.pictures.std(axis=0)
    spread = np.sqrt(own**2 + np.square(own).mean())
    scaled = (data.pictures - data.pictures.mean(axis=0)) / spread
    penalty = 0.5 * scaled.var(axis=0).mean() * 120
    predicted = Ridge(alpha=penalty).fit(scaled, data.texts).predict(scaled)
    centre = data.texts.mean(axis=0)
    cosines = np.sum(unit(predicted - centre) * unit(data.texts - centre), axis=1)
    np.testing.assert_allclose(
        np.sum(maps(data.pictures, 0) * maps(data.texts, 1), axis=1), cosines, atol=1e-6
    )


def test_canonical_correlations_are_scikit_learns():
    data = features()
    maps = floor.Reduced(data).take(np.arange(120)).fit((1e-9, 1e-9, 0.0), 3)
    sides = [
        side @ kernel + bias
        for side, kernel, bias in zip(
            (data.pictures, data.texts), maps.kernels, maps.biases, strict=True
        )
    ]
    theirs = CCA(n_components=3, max_iter=5000).fit_transform(data.pictures, data.texts)
    for place in range(3):
        own, other = (
            np.corrcoef(one[:, place], two[:, place])[0, 1] for one, two in (sides, theirs)
        )
        assert own == pytest.approx(other, abs=1e-3)


def test_what_held_out_pairs_choose_finds_them():
    data = features()
    ridge, start = floor.fit(data.take(np.arange(80)), 6, seed=0)
    held = data.take(np.arange(80, 120))
    similar = start(held.pictures, 0) @ start(held.texts, 1).T
    assert np.mean(similar.argmax(axis=1) == np.arange(40)) > 0.5
    assert start.score >= ridge.score > 0.3
    assert start.kernels[0].shape[1] <= 6 and start.padded(9).kernels[1].shape == (10, 9)
