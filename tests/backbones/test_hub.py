"""Names of models of keras-hub: which there are, and what is refused before anything is loaded."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest

from ftkeras.backbones import load_backbone
from ftkeras.backbones.catalog import no_backbone
from ftkeras.backbones.hub import find, is_hub, kind_of
from ftkeras.backbones.text.load import load_text_backbone
from ftkeras.config.load import parse_config
from ftkeras.data.dataset import Split
from ftkeras.data.reading import from_array
from ftkeras.errors import UserError


def test_a_name_or_a_folder_says_what_it_reads(keras_hub_folder, hugging_face_folder, tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')  # timm's form
    kinds = {
        "keras_hub/bert_base_en": "text",
        "keras_hub/resnet_50_imagenet": "image",
        "keras_hub/clip_vit_base_patch16": None,  # both
        "hf://owner/model": None,
        str(keras_hub_folder): "text",
        str(hugging_face_folder): "text",
        str(tmp_path): "image",
    }
    assert {name: kind_of(name) for name in kinds} == kinds
    assert all(map(is_hub, kinds)) and not is_hub("ResNet50") and not is_hub("a/model.keras")


def test_a_config_needs_no_kind(keras_hub_folder, monkeypatch):
    monkeypatch.chdir(keras_hub_folder.parent)
    tree = {"data": {"source": "starter"}, "phases": {"strategy": "full"}}
    config = parse_config({**tree, "backbone": {"name": keras_hub_folder.name}})
    assert config.backbone.name == str(keras_hub_folder) and config.data.input.kind == "text"
    named = parse_config({**tree, "backbone": {"name": "keras_hub/bert_base_en"}})
    assert named.backbone.name == "keras_hub/bert_base_en" and named.data.input.kind == "text"


@pytest.fixture
def folder(hugging_face_folder, tmp_path):
    """Makes a copy of the folder with files replaced; None removes one."""

    def make(**files):
        copy = shutil.copytree(hugging_face_folder, tmp_path / "copy")
        for name, content in files.items():
            path = copy / name.replace("__", ".")
            path.unlink() if content is None else path.write_text(content)
        return str(copy)

    return make


def test_folders_that_cannot_be_used(folder, hugging_face_folder, tmp_path):
    pickled = folder(model__safetensors=None, pytorch_model__bin="x")
    with pytest.raises(UserError, match="pytorch_model.bin, a pickle.*safe_serialization=True"):
        find(pickled, "text")
    (tmp_path / "copy" / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="holds no weights; model.safetensors is expected"):
        find(pickled, "text")
    (tmp_path / "copy" / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json of .* cannot be read"):
        find(pickled, "text")
    (tmp_path / "copy" / "config.json").unlink()
    with pytest.raises(UserError, match="has no config.json"):
        find(pickled, "text")
    with pytest.raises(UserError, match="there is no folder '/nowhere/model'.*hf://OWNER/NAME"):
        find("/nowhere/model", "text")
    with pytest.raises(UserError, match="reads texts, and data.input.kind is image"):
        find(str(hugging_face_folder), "image")


def test_an_architecture_that_keras_hub_cannot_convert(folder):
    found = find(folder(config__json='{"model_type": "mamba"}'), "text")
    with pytest.raises(UserError, match="architecture 'mamba', which .*cannot convert; .*bert"):
        found.load(found.hub.models.Backbone)


def test_a_folder_whose_weights_do_not_fit(folder, hugging_face_folder):
    config = json.loads((hugging_face_folder / "config.json").read_text())
    found = find(folder(config__json=json.dumps({**config, "hidden_size": 16})), "text")
    with pytest.raises(UserError, match="keras-hub cannot load"):
        found.load(found.hub.models.Backbone)


def test_presets_are_downloaded_or_the_error_is_clear(keras_hub_folder, monkeypatch):
    import kagglehub

    asked = []

    def download(handle):
        asked.append(handle)
        return str(keras_hub_folder)

    monkeypatch.setattr(kagglehub, "model_download", download)
    assert find("keras_hub/bert_base_en", "text").folder == str(keras_hub_folder)
    assert asked[0].startswith("keras/bert/keras/bert_base_en/")

    def offline(handle):
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setattr(kagglehub, "model_download", offline)
    with pytest.raises(UserError, match="bert_base_en could not be downloaded .*no route to host"):
        find("keras_hub/bert_base_en", "text")
    with pytest.raises(UserError, match="no preset 'bert_base_e'. Did you mean"):
        find("keras_hub/bert_base_e", "text")


def test_the_extra_is_asked_for(keras_hub_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(
        UserError, match="keras_hub, not installed here. Run: pip install keras-hub"
    ):
        find(str(keras_hub_folder), "text")


@pytest.mark.parametrize("name", ["bert-base-uncased", "models/not-there"])
@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_name_that_is_no_backbone_gets_one_message(name, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = Split(
        "train", ["a"], np.zeros(1, np.int32), 1, from_array(np.array([b"a"]))(np.arange(1))
    )
    with pytest.raises(UserError) as caught:
        load_text_backbone(name, made) if kind == "text" else load_backbone(name)
    message = str(caught.value)
    wrong = f"no folder '{name}'" if "/" in name else f"no backbone '{name}' for {kind}s"
    ways = ("`ftkeras backbones`", "keras_hub/PRESET", "hf://OWNER/NAME", "config.json", ".keras")
    assert all(part in message for part in (wrong, *ways))
    assert ("bigru" in message) == (kind == "text")
    assert str(no_backbone(name, kind)) == message  # which `init` raises
