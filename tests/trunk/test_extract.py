from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.backbones import load_backbone
from ftkeras.config.schema import TrunkConfig
from ftkeras.data import pipeline
from ftkeras.data.dataset import Split
from ftkeras.data.load import load_data
from ftkeras.data.order import Order
from ftkeras.graph import flatten
from ftkeras.model.assemble import build_model
from ftkeras.phases.callback import StagedUnfreezing
from ftkeras.phases.phase import Phase
from ftkeras.runs.build import batches
from ftkeras.trunk import engines
from ftkeras.trunk import writer as writers
from ftkeras.trunk.engines import best_precision, make_engine, relative_difference
from ftkeras.trunk.extract import Outlet, Part, Trunks, extract, get_stores
from ftkeras.trunk.key import graph_signature, stamp_examples, store_key
from ftkeras.trunk.split import is_within, split_model
from ftkeras.trunk.store import list_stores, stores_folder
from ftkeras.trunk.writer import plan_layout

layers = keras.layers
SIZE = 12


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FTKERAS_CACHE", str(tmp_path))


def two_way_model(trained=("logits",), seed=0):
    """A frozen stem with two outputs of different shapes that later layers read."""
    keras.utils.set_random_seed(seed)
    images = keras.Input((SIZE, SIZE, 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1.0)(images)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.Activation("silu")(layers.BatchNormalization(name="norm")(x))
    y = layers.Conv2D(4, 3, strides=2, padding="same", name="down")(x)
    z = layers.Conv2D(4, 3, padding="same", name="side")(x)
    x = layers.Concatenate()(
        [
            layers.GlobalAveragePooling2D()(layers.Conv2D(6, 1, name=f"top_{i}")(t))
            for i, t in enumerate((y, z))
        ]
    )
    model = keras.Model(images, layers.Dense(3, name="logits")(x))
    for layer in model.layers:
        layer.trainable = layer.name in trained
    return model


def examples(count=21, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    images = tf.constant(rng.integers(0, 255, (count, SIZE, SIZE, 3), dtype=np.uint8))
    labels = rng.integers(0, classes, count).astype(np.int32)
    return Split(
        "train",
        [f"{i}.png" for i in range(count)],
        labels,
        classes,
        lambda i: images[i],
    )


def batches_of(store, split, batch_size, training=False, **options):
    order = Order(shuffle=training, **options)
    return pipeline.batches(split, store.read(split), batch_size, order)


def images_of(split, size=8):
    data = batches(split, image_size=SIZE, batch_size=size, cache="none")
    return data.map(lambda images, *_: images)


# ------------------------------------------------------------------------------- engines


def run_all(engine, data):
    return [np.concatenate(parts) for parts in zip(*engine(data), strict=True)]


@pytest.mark.parametrize("name", ["tensorflow", "openvino"])
def test_engines_give_the_trunks_output_in_order(name):
    if name == "openvino":
        pytest.importorskip("openvino")
    split = split_model(two_way_model(("top_0", "top_1", "logits")))
    assert [spec.shape for spec in split.frontier] == [(12, 12, 4), (6, 6, 4)]
    data = images_of(examples())
    sample = next(iter(data))
    run, line = make_engine(split.trunk, sample, batch_size=8, engine=name)
    assert line.lower().startswith(name)
    assert "(OpenVINO" not in line
    found = run_all(run, data)
    expected = [np.concatenate(p) for p in zip(*map(split.trunk, data), strict=True)]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_replicas_share_the_batches_and_keep_the_order(two_replicas):
    with two_replicas.scope():
        model = two_way_model(("top_0", "top_1", "logits"))
    split = split_model(model)
    data = images_of(examples(21), size=5)  # 3 and 2 per replica, and 1 and 0 at the end
    run, line = make_engine(split.trunk, next(iter(data)), batch_size=5, strategy=two_replicas)
    assert line == "TensorFlow"
    expected = [np.concatenate(p) for p in zip(*map(split.trunk, data), strict=True)]
    for a, b in zip(run_all(run, data), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_openvino_that_is_wrong_is_not_used(monkeypatch):
    pytest.importorskip("openvino")
    split = split_model(two_way_model())
    sample = next(iter(images_of(examples())))
    right = engines.openvino_engine

    def slightly_off(*args, **kwargs):
        run = right(*args, **kwargs)
        return lambda data: ([x * 1.01 for x in frontier] for frontier in run(data))

    monkeypatch.setattr(engines, "openvino_engine", slightly_off)
    run, line = make_engine(split.trunk, sample, batch_size=8)
    assert line.startswith("TensorFlow (OpenVINO is off by ")
    np.testing.assert_allclose(run_all(run, [sample])[0], split.trunk(sample), rtol=1e-4, atol=1e-6)


def test_what_openvino_cannot_run_tensorflow_does():
    pytest.importorskip("openvino")
    images = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(2, 3, trainable=False, name="frozen")(images)
    x = layers.Lambda(lambda x: tf.math.digamma(tf.abs(x) + 1.0), output_shape=(10, 10, 2))(x)
    model = keras.Model(images, layers.Dense(2)(layers.Flatten()(x)))
    split = split_model(model)
    assert split.frontier[0].shape == (200,)
    sample = next(iter(images_of(examples())))
    run, line = make_engine(split.trunk, sample, batch_size=8)
    assert line.startswith("TensorFlow (OpenVINO: ")
    assert "\n" not in line
    np.testing.assert_allclose(run_all(run, [sample])[0], split.trunk(sample), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("found", "norm", "off"),
    [
        ([4.0, 3.0], np.inf, 0.0),
        ([4.0, 3.4], np.inf, 0.1),
        ([4.0, 3.5], 2, 0.1),
        ([4.0], np.inf, np.inf),
        ([np.nan, 3.0], np.inf, np.nan),
        ([np.nan, 3.0], 2, np.nan),
    ],
)
def test_difference_is_relative_to_what_is_expected(found, norm, off):
    value = relative_difference(np.array(found, "f4"), np.array([4.0, 3.0], "f4"), norm)
    np.testing.assert_allclose(value, off, rtol=1e-5)


@pytest.mark.slow
def test_the_starter_runs_in_the_precision_that_is_asked_for():
    """In bfloat16, if the CPU has it, MobileNetV2 is as far off as that precision makes it."""
    pytest.importorskip("openvino")
    backbone = load_backbone("MobileNetV2", weights="starter", image_size=96)
    backbone.model.trainable = False
    split = split_model(build_model(backbone, 10))
    images = load_data("starter").splits["test"]
    sample = next(iter(batches(images, image_size=96, batch_size=8)))[0]
    expected = split.trunk(sample).numpy()
    for asked in ("float32", "bfloat16"):
        precision = best_precision(asked)
        norm, limit = (2, 0.25) if precision == "bfloat16" else (np.inf, 1e-4)
        run, line = make_engine(split.trunk, sample, batch_size=8, precision=precision)
        assert line.startswith(f"OpenVINO in {precision} (differs from TensorFlow by ")
        assert relative_difference(run_all(run, [sample])[0], expected, norm) < limit


def test_openvino_tells_nobody(tmp_path):
    pytest.importorskip("openvino")
    script = (
        "import sys\n"
        "import tensorflow as tf\n"
        "from ftkeras.trunk.engines import import_openvino\n"
        "run = tf.function(lambda x: x + 1.0, input_signature=[tf.TensorSpec((2, 3))])\n"
        "import_openvino().convert_model(run.get_concrete_function().graph)\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("CI", None)  # there it would be silent by itself
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert not (tmp_path / "intel").exists()  # where it would keep an id of this machine


LISTENS_AFTERWARDS = """
import gc, signal
import keras
from ftkeras.trunk.engines import openvino_engine
from ftkeras.trunk.split import split_model

inputs = keras.Input((8, 8, 3))
x = keras.layers.Conv2D(4, 3, trainable=False)(inputs)
trunk = split_model(keras.Model(inputs, keras.layers.Dense(2)(x))).trunk
first = openvino_engine(trunk, batch_size=2, precision="float32")
second = openvino_engine(trunk, batch_size=2, precision="float32")
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("heard"))
signal.raise_signal(signal.SIGINT)
"""


def test_signals_are_heard_after_openvino():
    """Two cores, one after the other's end, end the process at its next signal, on some CPUs."""
    pytest.importorskip("openvino")
    script = [sys.executable, "-c", LISTENS_AFTERWARDS]
    done = subprocess.run(script, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def test_bfloat16_only_where_the_cpu_has_it(monkeypatch):
    monkeypatch.setattr(engines, "_capabilities", lambda: ["FP32", "BF16"])
    assert [best_precision(p) for p in ("bfloat16", "float32")] == ["bfloat16", "float32"]
    monkeypatch.setattr(engines, "_capabilities", lambda: ["FP32"])
    assert best_precision("bfloat16") == "float32"


# --------------------------------------------------------------------------------- store


@pytest.mark.parametrize("key", [None, "k"])
def test_extraction_stores_each_example_once(key):
    split = split_model(two_way_model(("top_0", "top_1", "logits")))
    data, lines = examples(), []
    layout = plan_layout(split.frontier, examples=len(data))
    trunks = Trunks([split], batch_size=8, engine="tensorflow")
    part = Part(data, lambda: images_of(data), "plain")
    store = extract(trunks, part, [Outlet(layout, key)], report=lines.append)
    for frontier, labels in batches_of(store, data, batch_size=4, training=True, seed=3, epoch=2):
        assert [tuple(x.shape[1:]) for x in frontier] == [(12, 12, 4), (6, 6, 4)]
        assert labels.shape[1] == 3
    order = batches(data, image_size=SIZE, batch_size=4, training=True, seed=3, epoch=2)
    stored = batches_of(store, data, batch_size=4, training=True, seed=3, epoch=2)
    for (images, labels), (frontier, same) in zip(order, stored, strict=True):
        np.testing.assert_array_equal(labels, same)
        for a, b in zip(frontier, split.trunk(images), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert lines == ["trunk     21 examples through TensorFlow"]


def get(model, data, **options):
    lines = []
    split = split_model(model)
    images = batches(data, image_size=SIZE, batch_size=32, cache="none")
    part = Part(data, lambda: images, options.pop("recipe", "plain"))
    options = TrunkConfig(**options)
    stores = get_stores(split, [part], options, engine="tensorflow", report=lines.append)
    return stores and stores[0], lines


def test_another_run_finds_the_store_and_a_change_makes_a_new_one():
    data = examples()
    _, lines = get(two_way_model(), data)
    assert len(lines) == 2
    keras.backend.clear_session()
    same = two_way_model()  # built again
    same.get_layer("logits").kernel.assign_add(keras.ops.ones((12, 3)))  # another head
    assert "stored already" in get(same, data)[1][0]
    changed = two_way_model()
    changed.get_layer("norm").moving_mean.assign_add(np.full(8, 1e-3, "float32"))
    for model, split, options in [
        (changed, data, {}),
        (two_way_model(), examples(seed=1), {}),
        (two_way_model(), examples(20), {}),
        (two_way_model(), data, {"dtype": "float16"}),
        (two_way_model(), data, {"recipe": "padded"}),
    ]:
        before = len(list_stores())
        assert "stored already" not in get(model, split, **options)[1][0]
        assert len(list_stores()) == before + 1


@pytest.mark.parametrize("name", ["tensorflow", "openvino"])
def test_one_pass_over_the_images_makes_what_later_phases_need(name):
    if name == "openvino":
        pytest.importorskip("openvino")
    model = two_way_model()
    graph = flatten(model)
    head = split_model(model, graph=graph)
    model.get_layer("top_0").trainable = model.get_layer("top_1").trainable = True
    top = split_model(model, graph=graph)
    assert is_within(top, head)
    assert not is_within(head, top)
    data, seen = examples(), []
    images = images_of(data).map(lambda x: (tf.py_function(count(seen), [x], tf.float32), 0))
    images = images.map(lambda x, y: (tf.ensure_shape(x, (None, SIZE, SIZE, 3)), y))
    parts = [Part(data, lambda: images, "")]
    options = {"batch_size": 8, "engine": name, "report": lambda line: None}
    assert get_stores(head, parts, ahead=[top], **options)
    passed = len(seen)
    [store] = get_stores(top, parts, **options)  # is there already
    assert len(seen) == passed
    [again] = get_stores(head, parts, ahead=[top], **options)
    assert len(seen) == passed
    for (frontier, _), batch in zip(
        batches_of(store, data, batch_size=8), images_of(data), strict=True
    ):
        for a, b in zip(frontier, top.trunk(batch), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for (found, _), batch in zip(
        batches_of(again, data, batch_size=8), images_of(data), strict=True
    ):
        np.testing.assert_allclose(found, head.trunk(batch), rtol=1e-4, atol=1e-5)


def count(seen):
    def note(images):
        seen.append(len(images))
        return images

    return note


def test_what_lies_ahead_is_left_out_where_it_would_not_fit_on_disk(monkeypatch):
    model = two_way_model()
    graph = flatten(model)
    head = split_model(model, graph=graph)
    model.get_layer("top_0").trainable = model.get_layer("top_1").trainable = True
    top = split_model(model, graph=graph)
    data, lines = examples(), []
    images = batches(data, image_size=SIZE, batch_size=8, cache="none")
    size = 21 * 12 * 4  # the head's, in bytes; a fifth of what is free may be taken
    usage = shutil.disk_usage(".")._replace(free=5 * (size + 1))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    parts, options = (
        [Part(data, lambda: images, "")],
        {"engine": "tensorflow", "report": lines.append},
    )
    get_stores(head, parts, ahead=[top], **options)
    assert len(list_stores()) == 1
    assert lines[-1] == "trunk     21 examples through TensorFlow"


def test_no_room():
    store, lines = get(two_way_model(), examples(), memory_mb=0, disk_mb=0)
    assert store is None
    assert "nothing is stored" in lines[0]
    store, _ = get(two_way_model(), examples(), disk_mb=0)
    assert store.folder is None
    assert list_stores() == []


def test_a_disk_that_fails_costs_the_store_and_not_the_run(monkeypatch):
    def full(self, arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writers._DiskWriter, "append", full)
    store, lines = get(two_way_model(), examples())
    assert store is None
    assert lines[-1].endswith("nothing is stored: [Errno 28] No space left on device")
    assert list(stores_folder().iterdir()) == []


def test_exact_is_what_the_model_computes_to_the_bit():
    split = split_model(two_way_model(("top_0", "top_1", "logits")))
    sample = next(iter(images_of(examples())))
    run, line = make_engine(split.trunk, sample, batch_size=8, precision=best_precision("exact"))
    assert line == "TensorFlow, to the bit"
    expected = tf.function(lambda x: split.trunk(x, training=True))(sample)
    for a, b in zip(run_all(run, [sample]), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_too_large_for_a_graph_stay_variables(monkeypatch):
    split = split_model(two_way_model())
    sample = next(iter(images_of(examples())))
    run, _ = make_engine(split.trunk, sample, batch_size=8, engine="tensorflow")
    monkeypatch.setattr(engines, "_LARGEST_FROZEN", 10)
    same, _ = make_engine(split.trunk, sample, batch_size=8, engine="tensorflow")
    np.testing.assert_allclose(run_all(run, [sample])[0], run_all(same, [sample])[0], atol=1e-5)


def test_the_signature_follows_the_computation_and_not_the_names():
    def graph(kernel=3, rate=0.0, name=None, flip=-1, dtype=None):
        images = keras.Input((SIZE, SIZE, 3))
        x = keras.ops.flip(images, axis=flip)
        x = layers.Dropout(rate, name=name)(
            layers.Conv2D(2, kernel, padding="same", dtype=dtype)(x)
        )
        return split_model(_freeze(keras.Model(images, layers.Dense(2)(x)))).trunk.graph

    base = graph_signature(graph())
    assert graph_signature(graph(name="other")) == base
    for change in ({"kernel": 5}, {"flip": 1}, {"dtype": "mixed_bfloat16"}, {"rate": 0.1}):
        assert graph_signature(graph(**change)) != base


def _freeze(model):
    for layer in model.layers[:-1]:
        layer.trainable = False
    return model


def test_examples_are_known_by_their_files_or_by_their_pixels(tmp_path):
    data = examples(2)
    for key in data.ids:
        (tmp_path / key).write_bytes(b"x")
    on_disk = dataclasses.replace(data, files=[str(tmp_path / key) for key in data.ids])
    by_file = stamp_examples(on_disk)
    assert stamp_examples(on_disk) == by_file
    (tmp_path / "1.png").write_bytes(b"xy")
    assert stamp_examples(on_disk) != by_file
    by_pixel = stamp_examples(data)
    assert stamp_examples(examples(2, seed=1)) != by_pixel
    assert len({by_file, by_pixel}) == 2


def test_keys_differ_by_everything_that_is_given():
    split = split_model(two_way_model())
    base = {"examples": "a", "recipe": "1 px, crop"}
    changes = [
        {},
        {"examples": "b"},
        {"dtype": "float16"},
        {"precision": "bfloat16"},
        {"recipe": "1 px, crop; two views"},
    ]
    assert len({store_key(split, **{**base, **change}) for change in changes}) == len(changes)


# ---------------------------------------------------------------- a run on stored trunks


def train(stored, strategy=None):
    """Two phases with one optimizer; with `stored`, the first is fed from a store."""
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        model = two_way_model()
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        decay = 0.01 if strategy.num_replicas_in_sync == 1 else None
        optimizer = keras.optimizers.Adam(0.01, weight_decay=decay)
        model.compile(optimizer, loss, weighted_metrics=["accuracy"])
    data, epoch = examples(40), tf.Variable(0, dtype=tf.int64)
    phases = [
        Phase("head", train=["head"], epochs=3, learning_rate=0.01),
        Phase("top", train=["head", "blocks[-2:]"], epochs=2, learning_rate=0.003, layer_decay=0.5),
    ]
    unfreeze = StagedUnfreezing(model, phases)
    unfreeze.prepare()
    unfreeze.set_flags(0)
    count = keras.callbacks.LambdaCallback(on_epoch_begin=lambda n, logs: epoch.assign(n))
    shared = {"batch_size": 8, "training": True, "seed": 5, "epoch": epoch}
    losses = []

    def fit(fitted, train_data, val_data, start, end):
        history = fitted.fit(
            train_data,
            validation_data=val_data,
            initial_epoch=start,
            epochs=end,
            callbacks=[count, unfreeze],
            shuffle=False,
            verbose=0,
        )
        losses.extend(history.history["loss"] + history.history["val_loss"])

    images = batches(data, image_size=SIZE, **shared), batches(data, image_size=SIZE, batch_size=8)
    if not stored:
        fit(model, *images, 0, 3)
    else:
        with strategy.scope():
            split = split_model(model)
            split.tail.compile(model.optimizer, loss, weighted_metrics=["accuracy"])
        parts, how = [Part(data, lambda: images[1], "plain")], TrunkConfig(precision="exact")
        [store] = get_stores(split, parts, how, strategy=strategy, report=lambda line: None)
        both = batches_of(store, data, **shared), batches_of(store, data, batch_size=8)
        fit(split.tail, *both, 0, 3)
    fit(model, *images, 3, 5)
    assert all(not verdict.drifted for verdict in unfreeze.verdicts.values())
    return losses, [variable.numpy() for variable in model.variables]


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_run_fed_from_a_store_has_the_losses_and_weights_of_one_that_is_not(
    replicas, two_replicas
):
    strategy = two_replicas if replicas == 2 else None
    (losses, weights), (expected, others) = train(True, strategy), train(False, strategy)
    assert len(losses) == 10
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for a, b in zip(weights, others, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
