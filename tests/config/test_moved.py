"""Configs of version 0.1, whose images are described in `data` itself, are read as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftkeras.config.load import dump_config, parse_config, parse_text
from ftkeras.config.moved import move, new_location
from ftkeras.errors import UserError
from ftkeras.inputs.image.config import AugmentationLayer, ImageConfig, MixConfig
from ftkeras.run import Run

ROOT = Path(__file__).parents[2]
FINISHED = ROOT / "tests" / "runs" / "version_0_1" / "run"
REST: dict[str, Any] = {
    "backbone": {"name": "MobileNetV2", "weights": "starter"},
    "phases": [{"name": "head", "epochs": 1, "learning_rate": 1e-3}],
}
OLD = """\
data:
  source: folder
  path: photos/
  image_size: 96
  resize: pad
  augmentation:
    - {name: RandomFlip}
  mix: {mixup: 0.2}
  batch_size: 8
backbone: {name: MobileNetV2}
phases: [{name: head, epochs: 1, learning_rate: 1e-3, augmentation: light}]
"""


def config(data: dict[str, Any], *overrides: str) -> Any:
    return parse_config({**REST, "data": {"source": "starter", **data}}, overrides, "my.yaml")


def test_a_config_with_old_names_is_read_with_one_line_of_the_new_ones(capsys):
    found = parse_text(OLD)
    assert found.data.input == ImageConfig(
        size=96,
        resize="pad",
        augmentation=[AugmentationLayer(name="RandomFlip")],
        mix=MixConfig(mixup=0.2),
    )
    assert found.data.batch_size == 8 and found.phases[0].augmentation == "light"
    assert capsys.readouterr().err == (
        "config: data.image_size is now data.input.size, data.resize is now data.input.resize, "
        "data.augmentation is now data.input.augmentation, data.mix is now data.input.mix\n"
    )
    assert parse_text(dump_config(found)) == found
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("data", "overrides", "size", "lines"),
    [
        ({}, ["data.image_size=64"], 64, 1),
        ({"image_size": 96}, ["data.image_size=64"], 64, 1),
        ({"image_size": 96}, ["data.input.size=64"], 64, 1),
        ({"input": {"size": 96}}, ["data.image_size=64"], 64, 1),
        ({"input": None, "image_size": None}, [], None, 1),
        ({}, ["data={source: starter, image_size: 64}", "data.resize=crop"], 64, 1),
        ({"input": {"size": 96}}, ["data.input.size=64"], 64, 0),
        ({}, [], None, 0),
    ],
    ids=str,
)
def test_overrides_may_have_old_names(data, overrides, size, lines, capsys):
    assert config(data, *overrides).data.input == ImageConfig(size=size)
    assert len(capsys.readouterr().err.splitlines()) == lines


def test_an_override_reaches_into_a_field_that_moved():
    found = config({"mix": {"cutmix": 1.0}}, "data.mix.mixup=0.2")
    assert found.data.input.mix == MixConfig(mixup=0.2, cutmix=1.0)
    with pytest.raises(UserError, match="data.input.size: expected a valid integer, got 'ten'"):
        config({}, "data.image_size=ten")


@pytest.mark.parametrize(
    ("data", "overrides", "message"),
    [
        (
            {"input": {"resize": "pad"}, "resize": "crop"},
            [],
            "my.yaml: data.resize is now data.input.resize; the config has both",
        ),
        (
            {},
            ["data.image_size=1", "data.input.size=2"],
            "--set: data.image_size and data.input.size are the same field",
        ),
        ({"input": 3, "image_size": 4}, [], "data.input: expected a valid dictionary.*got 3"),
    ],
    ids=["file", "overrides", "no section"],
)
def test_both_names_of_a_field_are_an_error(data, overrides, message):
    with pytest.raises(UserError, match=message):
        config(data, *overrides)


def test_what_a_finished_run_saved_is_read_without_a_line(capsys):
    found = Run.open(str(FINISHED)).config
    assert found.data.input == ImageConfig(size=16, augmentation="none")
    assert capsys.readouterr() == ("", "")


def test_the_target_of_a_domain_adaptation_moved_as_well():
    tree = {
        **REST,
        "task": "domain_adaptation",
        "data": {"source": "folder", "path": "a", "image_size": 64},
        "domain_adaptation": {"target": {"source": "folder", "path": "b", "image_size": None}},
    }
    found: Any = parse_config(tree)
    assert found.data.input.size == 64
    assert found.domain_adaptation.target.input == ImageConfig()


def test_other_fields_of_these_names_stay():
    for location in [("phases", 0, "augmentation"), ("data",), ("resize",), ("data", "path")]:
        assert new_location(location) == location
    tree: Any = {"phases": [{"augmentation": "light"}], "data": ["mix"], "domain_adaptation": 3}
    assert move(tree) == [] and tree["data"] == ["mix"]


def test_the_schema_has_the_new_names_by_kind():
    schema = json.loads((ROOT / "configs" / "schema.json").read_text())["$defs"]
    assert (
        not {"image_size", "resize", "augmentation", "mix"}
        & schema["FolderData"]["properties"].keys()
    )
    kinds = [schema[kind["$ref"].rpartition("/")[2]]["properties"] for kind in
             schema["FolderData"]["properties"]["input"]["oneOf"]]  # fmt: skip
    names = [kind["kind"].get("const") for kind in kinds]
    assert names[0] == "image" and names.count(None) == 1  # None: those from outside
    assert {"size", "resize", "augmentation", "mix"} < kinds[0].keys()
    # Of two sections at most one may fit, or editors would refuse both.
    assert set(kinds[names.index(None)]["kind"]["not"]["enum"]) == set(names) - {None}
