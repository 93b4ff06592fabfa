"""What a TPU and XLA ask for, as far as a machine without them can tell."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.config.load import parse_config
from ftkeras.errors import UserError
from ftkeras.phases import Phase, StagedUnfreezing
from ftkeras.runs import build
from ftkeras.runs.assemble import assemble


@pytest.fixture(autouse=True)
def policy_put_back() -> Iterator[None]:
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory) -> str:
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("arrays") / "small.npz"
    np.savez(path, images=random.integers(0, 256, (30, 32, 32, 3), np.uint8), labels=[0, 1] * 15)
    return str(path)


def tree(path: str, backbone: str = "MobileNetV2", weights: str = "starter") -> dict:
    return {
        "data": {
            "source": "arrays",
            "path": path,
            "batch_size": 8,
            "split": {"val": 0.3, "test": 0.1},
            "input": {"size": 32, "augmentation": "strong", "mix": {"mixup": 0.2, "cutmix": 1.0}},
        },
        "backbone": {"name": backbone, "weights": weights},
        "head": {"dropout": 0.5},
        "phases": [
            {"name": "head", "epochs": 1, "learning_rate": 1e-3},
            {"name": "all", "train": ["all"], "epochs": 1, "batch_norm": "train"},
        ],
        "regularization": {"l2": 1e-4, "l2_sp": 1e-3},
        "optimizer": {"clip_norm": 1.0},
        "training": {"strategy": "cpu", "precision": "mixed_bfloat16"},
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "weights"), [("MobileNetV2", "starter"), ("EfficientNetV2B0", "none")]
)
def test_a_whole_train_step_becomes_one_xla_program(arrays, backbone, weights):
    assembled = assemble(parse_config(tree(arrays, backbone, weights), ()))
    model, unfreeze = assembled.model, assembled.unfreeze
    assert model.compute_dtype == "bfloat16"
    feed = build.feed(assembled.config, assembled.data, assembled.model, full=True)
    unfreeze.set_model(model)
    unfreeze.enter(1)  # everything trains, batch norm too
    batch = next(iter(feed.train()))
    step = tf.function(model.train_step, jit_compile=True)
    # TensorFlow's part of XLA: what a TPU cannot run, or whose shape is not fixed, is refused here.
    program = step.experimental_get_compiler_ir(batch)(stage="hlo")
    assert "convolution" in program
    assert "bf16[" in program


@pytest.mark.slow
def test_a_compiled_fit_trains_as_one_that_is_not():
    random = np.random.default_rng(0)
    inputs = random.normal(size=(16, 6)).astype("float32")
    labels = keras.utils.to_categorical(np.arange(16) % 2, 2)

    def losses(jit: bool) -> list[float]:
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(5, name="a"), keras.layers.Dense(2, name="head")]
        model = keras.Sequential([keras.Input((6,)), *layers])
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.AdamW(global_clipnorm=1.0), loss, jit_compile=jit)
        phases = [Phase("head", 1, 1e-2), Phase("all", 1, train=["all"])]
        unfreeze = StagedUnfreezing(model, phases)
        data = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(8, drop_remainder=True)
        history = model.fit(data, epochs=2, callbacks=[unfreeze], shuffle=False, verbose=0)
        return list(history.history["loss"])

    assert losses(True) == pytest.approx(losses(False), rel=1e-5)


def of_32_px() -> keras.Model:
    image = keras.Input((32, 32, 3))
    return keras.Model(image, image)


def test_full_batches_have_one_shape(arrays):
    config = parse_config(tree(arrays), ())
    data = build.data(config)
    feed = build.feed(config, data, of_32_px(), full=True)
    images, labels = feed.train().element_spec
    assert images.shape == (8, 32, 32, 3)
    assert labels.shape == (8, 2)
    assert feed.steps_per_epoch == len(data.splits["train"]) // 8 == int(feed.train().cardinality())
    with pytest.raises(UserError, match="this device wants full batches"):
        build.feed(parse_config(tree(arrays), ["data.batch_size=25"]), data, of_32_px(), full=True)


def test_no_python_runs_in_the_pipeline(arrays):
    config = parse_config(tree(arrays), ())
    feed = build.feed(config, build.data(config), of_32_px())
    for batches in (feed.train(), feed.plain("test")):
        graph = tf.compat.v1.GraphDef()
        variant = batches._variant_tensor
        serialized = tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=1)
        graph.ParseFromString(serialized.numpy())
        nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
        kinds = {node.op for node in nodes}
        assert "ParallelMapDatasetV2" in kinds  # the graph is there
        assert not {kind for kind in kinds if "PyFunc" in kind}
