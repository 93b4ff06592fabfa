"""The config that extends a run: what it takes over, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest

from ftkeras.config.load import dump_config, load_data_section, parse_config, parse_text
from ftkeras.errors import UserError
from ftkeras.inputs.image.config import ImageConfig
from ftkeras.tasks.incremental.config import IncrementalConfig
from ftkeras.tasks.incremental.extend import extend_config

FIRST: dict[str, Any] = {
    "data": {"source": "folder", "path": "old/", "batch_size": 8, "input": {"resize": "pad"}},
    "backbone": {"name": "MobileNetV2", "weights": "starter", "reinitialize": 2},
    "phases": [{"name": "head", "train": ["head"], "epochs": 3, "learning_rate": 1e-3}],
}
NEW = {"source": "arrays", "path": "/new.npz"}


def extend(tree: dict[str, Any], *overrides: str) -> IncrementalConfig:
    config = extend_config(parse_config(tree), "/runs/a", 96, NEW, overrides)
    assert isinstance(config, IncrementalConfig)
    return config


def test_what_is_not_said_is_as_it_was():
    config = extend(FIRST, "incremental.memory=500", "data.batch_size=4")
    assert (config.data.source, config.data.path) == ("arrays", "/new.npz")
    assert config.data.batch_size == 4
    assert config.data.input == ImageConfig(resize="pad", size=96)
    assert config.backbone.weights == "/runs/a/model.keras"
    assert config.backbone.reinitialize == 0  # it would undo what was learned
    assert config.phases == parse_config(FIRST).phases
    assert (config.incremental.base, config.incremental.memory) == ("/runs/a", 500)
    assert parse_text(dump_config(config)) == config


def test_a_first_extension_is_balanced_and_a_next_one_is_as_the_one_before():
    config = extend(FIRST, "incremental.ewc=3")
    assert config.data.balance == "sampling"
    weighted = {**FIRST, "data": {**FIRST["data"], "balance": "class_weights"}}
    assert extend(weighted).data.balance == "class_weights"
    not_balanced = config.model_copy(
        update={"data": config.data.model_copy(update={"balance": "none"})}
    )
    following = extend_config(not_balanced, "/runs/b", 96, NEW, [])
    assert following.data.balance == "none"
    assert (following.incremental.base, following.incremental.ewc) == ("/runs/b", 3)


def test_the_data_section_of_a_file(tmp_path):
    (tmp_path / "c.yaml").write_text("data: {source: folder, path: more/}\nnonsense: 1\n")
    assert load_data_section(tmp_path / "c.yaml") == {"source": "folder", "path": "more/"}
    (tmp_path / "d.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="has no data section"):
        load_data_section(tmp_path / "d.yaml")


def test_the_new_section_changes_single_settings_of_the_input(capsys):
    base = parse_config(FIRST)
    for section in ({"input": {"augmentation": "none"}}, {"augmentation": "none"}):
        found = extend_config(base, "/runs/a", 96, {**NEW, **section}, ["data.resize=squash"])
        assert found.data.input == ImageConfig(size=96, resize="squash", augmentation="none")
    assert "data.augmentation is now data.input.augmentation" in capsys.readouterr().err
    with pytest.raises(UserError, match="data.input: expected a valid dictionary"):
        extend_config(base, "/runs/a", 96, {**NEW, "input": 3}, [])


def test_a_base_must_be_named():
    with pytest.raises(UserError, match="incremental: is missing"):
        parse_config({**FIRST, "task": "incremental"})
