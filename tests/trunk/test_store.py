from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from ftkeras.cache import prune
from ftkeras.config.schema import TrunkConfig
from ftkeras.data import pipeline
from ftkeras.data.dataset import Split
from ftkeras.data.order import Order
from ftkeras.data.share import WHOLE, Share
from ftkeras.runs.build import batches
from ftkeras.trunk import store as stores
from ftkeras.trunk import writer as writers
from ftkeras.trunk.split import Spec
from ftkeras.trunk.store import Layout, list_stores, open_store
from ftkeras.trunk.writer import (
    choose_placement,
    estimate_bytes,
    make_writer,
    plan_layout,
)

SPECS = (Spec((2, 3), "float32"), Spec((4,), "float32"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FTKERAS_CACHE", str(tmp_path))
    return tmp_path / "trunk"


def rows(count, specs=SPECS):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(count, *spec.shape)).astype("float32") for spec in specs]


def batches_of(store, split, batch_size, training=False, share=WHOLE, **options):
    drop = options.pop("drop_remainder", False)
    read, order = store.read(split, share), Order(shuffle=training, **options)
    if not training:
        order = dataclasses.replace(order, balance="none")
    return pipeline.batches(split, read, batch_size, order, drop_remainder=drop, share=share)


def write(layout, arrays, key=None, batch=3):
    writer = make_writer(layout, key, "a test")
    for start in range(0, layout.rows, batch):
        writer.append([array[start : start + batch] for array in arrays])
    return writer.finish()


def examples(count, weights=None):
    """Images whose pixels say which example they are of."""
    images = tf.constant(
        np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3)), tf.uint8
    )
    labels = (np.arange(count) % 3).astype(np.int32)
    return Split(
        "train",
        [str(i) for i in range(count)],
        labels,
        3,
        lambda i: images[i],
        weights,
    )


# ------------------------------------------------------------------------------ content


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("shard_rows", [100, 4, 1])
def test_any_rows_come_back_in_any_order(key, shard_rows):
    arrays = rows(11)
    store = write(Layout(SPECS, 11, 1, "float32", shard_rows), arrays, key)
    wanted = [10, 0, 4, 3, 3, 7]
    for found, array in zip(store.gather(tf.constant(wanted, tf.int64)), arrays, strict=True):
        np.testing.assert_array_equal(found, array[wanted])


@pytest.mark.parametrize(("dtype", "off"), [("float16", 1e-3), ("bfloat16", 1e-2)])
def test_half_the_bytes_come_back_as_float32(dtype, off, cache):
    arrays = rows(5)
    store = write(plan_layout(SPECS, examples=5, dtype=dtype), arrays, "k")
    for found, array in zip(store.gather(tf.range(5, dtype=tf.int64)), arrays, strict=True):
        assert found.dtype == tf.float32
        np.testing.assert_allclose(found, array, rtol=off)
        assert np.any(found != array)
    assert sum(f.stat().st_size for f in (cache / "k").glob("*.bin")) == 5 * (6 + 4) * 2


def test_what_float16_cannot_hold_becomes_its_largest_number():
    spec = (Spec((2,), "float32"),)
    store = write(plan_layout(spec, examples=1, dtype="float16"), [np.array([[1e6, -1e9]], "f4")])
    assert store.gather(tf.constant([0], tf.int64))[0].numpy().tolist() == [[65504.0, -65504.0]]


def test_whole_numbers_and_half_precision_stay_what_they_are():
    specs = (Spec((2,), "int32"), Spec((2,), "float16"))
    assert estimate_bytes(specs, 10, "float32") == 10 * (8 + 4)
    arrays = [np.array([[70000, 1]], "int32"), np.array([[0.1, 2]], "float16")]
    found = write(plan_layout(specs, examples=1, dtype="float16"), arrays).gather(
        tf.constant([0], tf.int64)
    )
    for value, array in zip(found, arrays, strict=True):
        assert value.dtype == array.dtype
        np.testing.assert_array_equal(value, array)


# -------------------------------------------------------------------------- the pipeline


@pytest.mark.parametrize("balance", ["none", "class_weights", "sampling"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_batches_hold_the_examples_of_the_image_pipeline(balance, training, weighted):
    split = examples(11, np.linspace(1, 2, 11, dtype=np.float32) if weighted else None)
    layout = Layout((Spec((1,), "float32"),), 11, 1, "float32", 4)
    store = write(layout, [np.arange(11, dtype="float32")[:, None]])
    epoch, start = tf.Variable(0, dtype=tf.int64), tf.Variable(0, dtype=tf.int64)
    options = {"batch_size": 4, "training": training, "seed": 7, "balance": balance}
    options |= {"epoch": epoch, "start": start}
    ours = batches_of(store, split, **options)
    theirs = batches(split, image_size=4, **options)
    assert int(ours.cardinality()) == int(theirs.cardinality()) == 3
    seen = []
    for now, first in ((0, 0), (1, 0), (5, 4)):
        epoch.assign(now)
        start.assign(first)
        for (frontier, *mine), (images, *other) in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(frontier[:, 0], images[:, 0, 0, 0])
            for a, b in zip(mine, other, strict=True):
                np.testing.assert_array_equal(a, b)
        seen.append([int(i) for frontier, *_ in ours for i in frontier[:, 0]])
    assert [len(numbers) for numbers in seen] == [11, 11, 7]
    assert (seen[0] == seen[1]) == (not training)


def test_a_fixed_start_and_dropped_remainder_shorten_the_epoch():
    store = write(Layout((Spec((1,), "float32"),), 11, 1, "float32", 4), [np.zeros((11, 1), "f4")])
    data = batches_of(store, examples(11), batch_size=4, start=1, drop_remainder=True)
    assert int(data.cardinality()) == len(list(data)) == 2
    with pytest.raises(ValueError, match="has 11 examples, the split has 5"):
        batches_of(store, examples(5), batch_size=4)


def test_views_alternate_with_the_epochs():
    layout = Layout((Spec((1,), "float32"),), 3, 2, "float32", 100)
    store = write(layout, [np.array([[0], [1], [2], [10], [11], [12]], "float32")])
    for epoch, expected in ((0, [0, 1, 2]), (1, [10, 11, 12]), (2, [0, 1, 2])):
        (batch,) = batches_of(store, examples(3), batch_size=3, epoch=epoch)
        assert batch[0][:, 0].numpy().tolist() == expected


# --------------------------------------------------------------------------------- disk


def test_a_second_opening_finds_what_was_written():
    arrays = rows(9)
    write(Layout(SPECS, 9, 1, "float32", 4), arrays, "k")
    found = open_store("k").gather(tf.range(9, dtype=tf.int64))
    np.testing.assert_array_equal(found[0], arrays[0])
    np.testing.assert_array_equal(found[1], arrays[1])
    assert open_store("another") is None


def flip_a_bit(folder):
    path = folder / "tensor-1-00001.bin"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip_a_bit, "tensor-1-00001.bin is damaged"),
        (lambda f: os.truncate(f / "tensor-0-00000.bin", 5), "missing or incomplete"),
        (lambda f: (f / "tensor-0-00002.bin").unlink(), "missing or incomplete"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest"),
        (lambda f: (f / "manifest.json").write_text("[1]"), "manifest"),
        (lambda f: (f / "manifest.json").write_text('{"version": 1}'), "manifest"),
        (lambda f: (f / "manifest.json").unlink(), "manifest"),
    ],
)
def test_a_damaged_store_is_thrown_away_and_can_be_made_again(cache, damage, said):
    layout, arrays = Layout(SPECS, 9, 1, "float32", 4), rows(9)
    write(layout, arrays, "k")
    damage(cache / "k")
    lines = []
    assert open_store("k", lines.append) is None
    assert said in lines[0]
    assert list(cache.iterdir()) == []
    write(layout, arrays, "k")
    np.testing.assert_array_equal(
        open_store("k").gather(tf.constant([8], tf.int64))[1], arrays[1][8:]
    )


def test_a_manifest_of_another_version_is_not_read(cache):
    write(Layout(SPECS, 9, 1, "float32", 4), rows(9), "k")
    path = cache / "k" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 1}))
    assert open_store("k") is None


def test_an_unfinished_store_is_not_there(cache):
    layout, arrays = Layout(SPECS, 9, 1, "float32", 4), rows(9)
    writer = make_writer(layout, "k")
    writer.append([array[:8] for array in arrays])
    assert open_store("k") is None
    assert list_stores() == []
    with pytest.raises(ValueError, match="only 8 of 9 rows"):
        writer.finish()
    with pytest.raises(ValueError, match="more rows than the store's 9"):
        writer.append(arrays)
    with pytest.raises(ValueError, match="expected"):
        writer.append([array[:1, :1] for array in arrays])
    writer.close()
    assert list(cache.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_makes_is_not(cache):
    layout = Layout(SPECS, 9, 1, "float32", 4)
    code = (
        "import os, signal\n"
        "from ftkeras.trunk.split import Spec\n"
        "from ftkeras.trunk.writer import Layout, make_writer\n"
        "make_writer(Layout((Spec((1,), 'float32'),), 9, 1, 'float32', 4), 'k')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    assert len(list(cache.glob(".building-*"))) == 1
    living = make_writer(layout, "k")
    assert list(cache.glob(".building-*")) == [living._folder]
    abandoned = cache / ".building-another-host-1-x"
    abandoned.mkdir()
    make_writer(layout, "k").close()
    assert living._folder.exists() and abandoned.exists()
    os.utime(abandoned, (0, 0))
    make_writer(layout, "k").close()
    assert living._folder.exists() and not abandoned.exists()


def test_of_two_that_make_the_same_store_the_later_takes_the_first(cache):
    layout, arrays = Layout(SPECS, 9, 1, "float32", 4), rows(9)
    first, second = make_writer(layout, "k"), make_writer(layout, "k")
    for writer in (first, second):
        writer.append(arrays)
    kept = first.finish()
    inode = (cache / "k" / "tensor-0-00000.bin").stat().st_ino
    found = second.finish().gather(tf.constant([2], tf.int64))
    np.testing.assert_array_equal(found[0], arrays[0][[2]])
    assert (cache / "k" / "tensor-0-00000.bin").stat().st_ino == inode
    assert [path.name for path in cache.iterdir()] == ["k"]
    prune(list_stores(), max_bytes=0)  # a process that reads it can finish
    np.testing.assert_array_equal(kept.gather(tf.constant([8], tf.int64))[0], arrays[0][[8]])


def test_stores_are_listed_and_pruned_by_when_they_were_last_used(cache):
    layout, arrays = Layout(SPECS, 9, 1, "float32", 100), rows(9)
    for age, key in enumerate(["new", "middle", "old"]):
        write(layout, arrays, key)
        stamp = time.time() - 1000 * (age + 1)
        os.utime(cache / key / "manifest.json", (stamp, stamp))
    (cache / "broken").mkdir()
    (cache / "broken" / "manifest.json").write_text("{}")
    assert [s.key for s in list_stores()] == ["new", "middle", "old", "broken"]
    assert list_stores()[0].about == "a test"
    assert list_stores()[0].bytes > 9 * (6 + 4) * 4
    open_store("old")
    assert list_stores()[0].key == "old"
    assert [s.key for s in prune(list_stores(), older_than=1500)] == ["middle", "broken"]
    assert [s.key for s in prune(list_stores(), max_bytes=list_stores()[0].bytes)] == ["new"]
    assert [s.key for s in list_stores()] == ["old"]
    assert sorted(p.name for p in cache.iterdir()) == ["old"]


# ------------------------------------------------------------------------------- budgets


def test_size_is_known_before():
    assert estimate_bytes([Spec((7, 7, 320), "float32")], 1000, "float32") == 7 * 7 * 320 * 4000
    assert estimate_bytes(SPECS, 10, "bfloat16") == 10 * 10 * 2


@pytest.mark.parametrize(
    ("memory", "disk", "where"),
    [(100, 100, "disk"), (100, 99, "memory"), (99, 99, "none"), (99, 100, "disk")],
)
def test_placement_keeps_within_its_budgets(memory, disk, where):
    placement = choose_placement(100 << 20, TrunkConfig(memory_mb=memory, disk_mb=disk))
    assert placement.where == where
    assert "\n" not in placement.reason


def test_default_budgets_are_a_fifth_of_the_disk_and_half_of_the_memory(monkeypatch):
    monkeypatch.setattr(writers, "available_memory", lambda: 2000)
    free = writers.shutil.disk_usage(stores.stores_folder())._replace(free=500)
    monkeypatch.setattr(writers.shutil, "disk_usage", lambda _: free)
    wheres = [choose_placement(needed, TrunkConfig()).where for needed in (100, 101, 1000, 1001)]
    assert wheres == ["disk", "memory", "memory", "none"]


def test_shards_are_of_a_size_that_is_easy_to_handle():
    layout = plan_layout([Spec((1 << 20,), "float32")], examples=200)
    assert layout.shard_rows == 64
    assert layout.shards == [64, 64, 64, 8]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("workers", "batch_size"), [(3, 4), (4, 3)])
def test_shares_are_the_batches_together(training, workers, batch_size):
    """With batches of 3 for 4 workers, one of them always has stored none of a batch."""
    arrays, split = rows(11, SPECS[:1]), examples(11)
    shared = {"batch_size": batch_size, "training": training, "seed": 3, "epoch": 1}
    whole = write(Layout(SPECS[:1], 11, 1, "float32", 100), arrays)
    parts = []
    for index in range(workers):
        own = arrays[0][index::workers]
        store = write(Layout(SPECS[:1], len(own), 1, "float32", 100), [own])
        part = batches_of(store, split, share=Share(index, workers, 2 * workers), **shared)
        assert int(part.cardinality()) == -(-11 // batch_size)
        parts.append(list(part.as_numpy_iterator()))
    expected = list(batches_of(whole, split, **shared).as_numpy_iterator())
    for batch, *found in zip(expected, *parts, strict=True):
        count, losses = len(batch[0]), batch[0][:, 0, 0]
        shares = []
        for frontier, _, (weights, real, examples_) in found:
            assert len(frontier) % 2 == 0 and len(frontier) > 0
            assert examples_.sum() == pytest.approx(count / workers)
            assert set(weights[real == 0]) <= {0.0}
            shares.append(np.mean(frontier[:, 0, 0] * weights))
        assert np.mean(shares) == pytest.approx(np.mean(losses), rel=1e-6)
        frontier, labels = (
            np.concatenate([part[at][part[2].real == 1] for part in found]) for at in (0, 1)
        )
        by_example, ours = (np.argsort(numbers[:, 0, 0]) for numbers in (batch[0], frontier))
        np.testing.assert_array_equal(frontier[ours], batch[0][by_example])
        np.testing.assert_array_equal(labels[ours], batch[1][by_example])
