"""What the config's adjustments do to a whole run."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import ftkeras
from ftkeras.backbones import Backbone
from ftkeras.config.load import parse_config
from ftkeras.config.schema import Config
from ftkeras.errors import UserError
from ftkeras.runs import build
from ftkeras.runs.assemble import assemble

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arrays(tmp_path_factory) -> str:
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("arrays") / "small.npz"
    images = random.integers(0, 256, (40, 32, 32, 3), np.uint8)
    np.savez(path, images=images, labels=np.arange(40) % 2)
    return str(path)


def config(path: str, *overrides: str) -> Config:
    tree = {
        "data": {"source": "arrays", "path": path, "input": {"size": 32, "augmentation": "none"}},
        "backbone": {"name": "MobileNetV2", "weights": "starter"},
        "phases": [
            {"name": "top", "train": ["head", "blocks[-1:]"], "epochs": 2, "learning_rate": 1e-3}
        ],
    }
    return parse_config(tree, overrides)


def backbone(path: str, *overrides: str) -> Backbone:
    found = config(path, *overrides)
    return build.backbone(found, build.data(found))


def kernels(backbone: Backbone) -> dict[str, np.ndarray]:
    return {
        f"{block.name}/{layer.name}": layer.get_weights()[0]
        for block in backbone.blocks
        for layer in block.layers
        if not isinstance(layer, keras.layers.BatchNormalization)
    }


def test_the_last_blocks_start_fresh_and_the_others_do_not(arrays):
    plain = kernels(backbone(arrays))
    fresh = kernels(backbone(arrays, "backbone.reinitialize=2"))
    changed = {name.split("/")[0] for name in plain if not np.array_equal(plain[name], fresh[name])}
    assert changed == {"block_15", "block_16"}
    with pytest.raises(UserError, match="has 18 blocks, fewer than 30"):
        backbone(arrays, "backbone.reinitialize=30")


def test_the_split_may_have_a_seed_of_its_own(arrays):
    def tested(*overrides: str) -> list[str]:
        return list(build.data(config(arrays, *overrides)).splits["test"].ids)

    assert tested("seed=1") != tested("seed=2")
    assert tested("seed=1", "data.split_seed=2") == tested("seed=2")


def test_shrink_and_perturb_is_a_sum(arrays):
    plain = kernels(backbone(arrays))
    only = "backbone.shrink_and_perturb={shrink: 0.5, perturb: 0}"
    for name, kernel in kernels(backbone(arrays, only)).items():
        np.testing.assert_allclose(kernel, 0.5 * plain[name], rtol=1e-6)


def test_activations_are_swapped_with_the_weights_kept(arrays):
    plain = backbone(arrays)
    swapped = backbone(arrays, "backbone.activation={relu6: swish}")
    for name, kernel in kernels(swapped).items():
        np.testing.assert_array_equal(kernel, kernels(plain)[name])
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32")
    assert not np.allclose(plain.model(image), swapped.model(image))
    with pytest.raises(UserError, match="gelu"):
        backbone(arrays, "backbone.activation={gelu: swish}")


def test_stochastic_depth_is_for_backbones_that_have_it(arrays):
    with pytest.raises(UserError, match="stochastic_depth"):
        changes = ["name=VGG16", "weights=none", "stochastic_depth=0.2"]
        backbone(arrays, *(f"backbone.{change}" for change in changes))


def test_penalised_and_averaged_weights_go_through_a_run(arrays, tmp_path):
    overrides = [
        "regularization={l2: 1e-3, l2_sp: 1e-2}",
        "training.average={decay: 0.9}",
    ]
    always = ["export.saved_model=false", "training.end=trained"]
    run = ftkeras.train(config(arrays, *overrides, *always), str(tmp_path / "run"))
    plain = ftkeras.train(config(arrays, *always), str(tmp_path / "plain"))
    losses, bare = ([r["loss"] for r in some.metrics()] for some in (run, plain))
    assert losses[0] > bare[0]  # the penalty on the new head is in the training loss
    best = keras.models.load_model(run.path("model.keras"), compile=False)
    last = keras.models.load_model(plain.path("model.keras"), compile=False)
    assert not np.allclose(best.get_weights()[-2], last.get_weights()[-2])


def test_a_strategy_runs(arrays, tmp_path):
    overrides = ["phases={strategy: surgical, epochs: 2}", "export.saved_model=false"]
    run = ftkeras.train(config(arrays, *overrides), str(tmp_path / "run"))
    plan = run.read_json("plan.json")
    assert [phase["name"] for phase in plan["phases"]] == ["head", "surgical"]
    assert len(plan["phases"][1]["train"]) == 4


def test_strength_by_phase_needs_a_strength(arrays):
    listed = config(
        arrays, "data.input.augmentation=[{name: RandomFlip}]", "phases[0].augmentation=light"
    )
    with pytest.raises(UserError, match="is a strength, not a list"):
        assemble(listed)


@pytest.mark.filterwarnings("ignore")  # keras-cv and what it imports warn of their own
def test_layers_without_a_seed_are_noted_and_never_deterministic(arrays):
    pytest.importorskip("keras_cv")
    layers = "data.input.augmentation=[{name: keras_cv/GridMask}, {name: RandAugment}]"
    assembled = assemble(config(arrays, layers))
    lines = assembled.describe().splitlines()
    (note,) = (line for line in lines if "takes no seed" in line)
    assert "keras_cv/GridMask takes no seed" in note
    strict = config(arrays, layers, "training.deterministic=true")
    with pytest.raises(UserError, match="GridMask takes no seed, so training cannot be determ"):
        build.feed(strict, assembled.data, assembled.model)
