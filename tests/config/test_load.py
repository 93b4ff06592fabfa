"""Reading configs: overrides, types, and errors that name the field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import ftkeras
from ftkeras.config.load import (
    differences,
    dump_config,
    load_config,
    parse_config,
    parse_text,
)
from ftkeras.config.schema import Config
from ftkeras.config.schemas import json_schema
from ftkeras.config.template import commented_config
from ftkeras.errors import UserError
from ftkeras.inputs.text.config import TextConfig

MINIMAL = {
    "data": {"source": "folder", "path": "photos"},
    "backbone": {"name": "MobileNetV2"},
    "phases": [{"name": "head", "epochs": 1, "learning_rate": 1e-3}],
}
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def error_of(*overrides: str, tree: dict | None = None) -> str:
    with pytest.raises(UserError) as caught:
        parse_config(tree or MINIMAL, overrides, where="my.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_overrides_reach_into_lists_and_make_sections():
    config = parse_config(
        MINIMAL, ["phases[0].epochs=20", "head.dropout=0.5", "data.split.val=0.1"]
    )
    assert config.phases[0].epochs == 20
    assert config.head.dropout == 0.5
    assert config.data.split is not None
    assert config.data.split.val == 0.1


def test_an_override_leaves_its_input_alone():
    parse_config(MINIMAL, ["phases[0].epochs=20"])
    assert MINIMAL["phases"][0]["epochs"] == 1


def test_paths_are_whole(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    given = {
        "data.path": ("photos/../more", f"{tmp_path}/more"),
        "backbone.name": ("~/mine.keras", "/home/me/mine.keras"),
        "backbone.weights": ("mine.h5", f"{tmp_path}/mine.h5"),
    }
    config = parse_config(MINIMAL, [f"{name}={typed}" for name, (typed, _) in given.items()])
    found = (config.data.path, config.backbone.name, config.backbone.weights)
    assert found == tuple(whole for _, whole in given.values())
    as_they_are = ["data.path=gs://bucket/photos", "backbone.weights=none"]
    config = parse_config(MINIMAL, as_they_are)
    assert (config.data.path, config.backbone.weights) == ("gs://bucket/photos", "none")


def test_an_override_is_typed_by_the_schema():
    assert parse_config(MINIMAL, ["backbone.cut=2024"]).backbone.cut == "2024"
    assert parse_config(MINIMAL, ["phases[0].learning_rate=1e-4"]).phases[0].learning_rate == 1e-4
    assert parse_config(MINIMAL, ["phases[0].train=[head, norm]"]).phases[0].train == [
        "head",
        "norm",
    ]
    assert parse_config(MINIMAL, ["phases[0].train=all"]).phases[0].train == ["all"]


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "1E-3", "+1e-3", "0.001"])
def test_numbers_in_a_file_are_read_as_people_mean_them(tmp_path, text):
    file = tmp_path / "c.yaml"
    file.write_text(
        "data: {source: starter}\nbackbone: {name: VGG16}\n"
        f"phases: [{{name: a, epochs: 1, learning_rate: {text}}}]\n"
    )
    assert load_config(file).phases[0].learning_rate == 0.001


def test_off_is_a_word_and_false_is_not():
    assert parse_config(MINIMAL, ["trunk.mode=off"]).trunk.mode == "off"
    assert parse_config(MINIMAL, ["export.saved_model=false"]).export.saved_model is False


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("data.input.sise=9", ["data.input.sise: no such field", "Did you mean 'size'?"]),
        ("data.input.mix.mixp=1", ["data.input.mix.mixp: no such", "Did you mean 'mixup'?"]),
        ("data.input.resize=pda", ["data.input.resize", "Did you mean 'pad'?"]),
        ("data.input=3", ["data.input: expected a valid dictionary", "got 3"]),
        ("data.input={kind: [image]}", ["data.input.kind: expected a valid string"]),
        ("data.pth=x", ["--set: data.pth: no such field", "Did you mean 'path'?"]),
        ("epochs=3", ["epochs: no such field. Did you mean phases[0].epochs?"]),
        ("phases=3", ["phases: expected a valid dictionary, got 3"]),
        ("phase=1", ["phase: no such field", "Did you mean 'phases'?"]),
        ("phases[0].epochs=ten", ["phases[0].epochs: expected a valid integer, got 'ten'"]),
        ("phases[0].epochs=true", ["phases[0].epochs: expected a valid integer, got True"]),
        ("phases[0].epochs=0", ["phases[0].epochs", "greater than or equal to 1", "got 0"]),
        ("data.source=foldr", ["data: source 'foldr' is unknown", "Did you mean 'folder'?"]),
        ("optimizer.name=adamv", ["optimizer.name", "Did you mean 'adam"]),
        ("head.dropout=1.5", ["head.dropout", "less than 1", "got 1.5"]),
        ("phases=[]", ["phases", "at least 1"]),
        ("data=3", ["data", "got 3"]),
        ("phases[4].epochs=1", ["no entry [4]", "1 entry"]),
        ("nonsense", ["expected FIELD=VALUE"]),
        ("phases.strategy=full", ["phases is a list here", "such as phases[0].strategy."]),
        ("data.path.deeper=1", ["'deeper' is not inside a section"]),
    ],
)
def test_wrong_values_are_named_with_place_and_remedy(override, parts):
    message = error_of(override)
    for part in parts:
        assert part in message


def test_a_backbone_for_texts_implies_their_kind():
    tree = {**MINIMAL, "backbone": {"name": "lstm"}}
    config = parse_config(tree, ["data.input.length=32"])
    assert (config.data.input.kind, config.data.input.length) == ("text", 32)
    assert parse_text(dump_config(config)) == config
    assert parse_config(tree).data.input == TextConfig(kind="text")
    for override, part in {
        "data.input.kind=image": "lstm reads texts, and data.input.kind is image. Take",
        "data.input.size=96": "lstm reads texts, and data.input.size is for images. Take",
    }.items():
        assert f"backbone.name: {part} a backbone for images, or" in error_of(override, tree=tree)
    wrong = error_of("data.input.lenght=32", tree=tree)
    assert "data.input.lenght: no such field. Did you mean 'length'?" in wrong
    assert "data.input.augmentation is for images" in error_of("data.augmentation=none", tree=tree)
    assert "data.input.length: no such field" in error_of("data.input.length=32")


def test_several_mistakes_are_named():
    assert error_of("data.pth=x", "head.dropuot=1").endswith(" (Also wrong: head.dropuot.)")
    many = error_of(*(f"a{i}=1" for i in range(9)))
    assert many.endswith(" (Also wrong: a1, a2, a3, a4, a5, 3 more.)")


def test_a_phase_of_a_config_is_that_of_the_api():
    phase = {"name": "top", "until": {"metric": "val_accuracy"}, "train": "all", "warmup": None}
    config = parse_config({**MINIMAL, "phases": [*MINIMAL["phases"], phase]})
    until = ftkeras.Until("val_accuracy")
    assert config.phases[0] == ftkeras.Phase("head", 1, 1e-3)
    assert config.phases[1] == ftkeras.Phase("top", until=until, train=["all"])
    assert parse_text(dump_config(config)) == config


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 0},
        {"epochs": 2.0},
        {"epochs": 1, "steps": 3},
        {"epoch": 1},
        {"learning_rate": -1.0},
        {"learning_rate": True},
        {"train": 3},
        {"decay": "cosin"},
        {"rates": {"norm": 0}},
        {"until": {"patience": 0}},
        {"until": {"metrc": "val_loss"}},
    ],
    ids=str,
)
def test_a_phase_is_refused_in_the_same_words_in_configs_and_in_the_api(fields):
    with pytest.raises(UserError) as in_api:
        ftkeras.Phase(name="p", **fields)
    with pytest.raises(UserError) as in_config:
        parse_config({**MINIMAL, "phases": [{"name": "p", **fields}]})
    words = str(in_api.value).removeprefix("phase 'p': ").partition(" Fields here")[0]
    found = str(in_config.value).partition(" Fields here")[0]
    assert found in (f"config: phases[0].{words}", f"config: phases[0]: {words}")


def test_phase_names_must_differ():
    twice = {**MINIMAL, "phases": MINIMAL["phases"] * 2}
    assert "the name 'head' is given twice" in error_of(tree=twice)


def test_a_missing_source_lists_the_sources():
    assert "'source' is missing. Allowed: folder" in error_of(
        tree={**MINIMAL, "data": {"path": "x"}}
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [", "not valid YAML"),
        ("a:\n\tb: 1", "c.yaml: not valid YAML: line 2, column 1: tabs are not allowed, only sp"),
        ("- 1", "expected a mapping"),
        ("!!python/object/apply:os.system ['touch hacked']", "not valid YAML"),
        ("data: 2024-13-45", "got '2024-13-45'"),
    ],
)
def test_files_that_are_no_configs(tmp_path, monkeypatch, text, part):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(part)):
        load_config("c.yaml")
    assert not (tmp_path / "hacked").exists()


def test_binary_and_missing_files(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as a text file"):
        load_config(tmp_path / "c.yaml")
    with pytest.raises(UserError, match="no such config file"):
        load_config(tmp_path / "d.yaml")
    with pytest.raises(UserError, match="The folder configs is in the repository"):
        load_config("configs/none.yaml")


def test_a_dumped_config_reads_back_equal(tmp_path):
    config = parse_config(
        MINIMAL, ["data.input.augmentation=[{name: RandAugment, args: {factor: 0.5}}]"]
    )
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "c.yaml") == config


@pytest.mark.parametrize(
    "source",
    [
        {"source": "starter", "input": {"size": 96}},
        {"source": "folder", "path": "my photos/"},
        {"source": "manifest", "path": "my list.csv"},
    ],
    ids=lambda source: source["source"],
)
def test_the_written_config_has_every_field_and_reads_back(tmp_path, source):
    text = commented_config(source, backbone="MobileNetV2", weights=None)
    (tmp_path / "c.yaml").write_text(text)
    config = load_config(tmp_path / "c.yaml")
    assert config.data.source == source["source"]
    for name in ("label_smoothing", "clip_norm", "early_stopping", "batch_norm", "max_bad_files"):
        assert f"{name}:" in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_say_how_to_run_them(path):
    load_config(path)
    text = path.read_text()
    assert f"ftkeras train --config=configs/{path.name}" in text
    assert text.startswith("# yaml-language-server: $schema=schema.json")


def test_the_written_schema_is_that_of_the_code():
    schema = yaml.safe_load((CONFIGS[0].parent / "schema.json").read_text())
    assert schema == json_schema(), "run: python tools/make_schema.py"


def test_every_field_says_what_it_is():
    def undocumented(schema):
        for section in schema["$defs"].values():
            for name, field in section["properties"].items():
                if "description" not in field and name != "source":
                    yield f"{section['title']}.{name}"

    assert not list(undocumented(Config.model_json_schema()))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"age": "numbr"}, r"outputs.age: expected .* got 'numbr'. Did you mean 'number'\?$"),
        ({"age": {"kind": "numbr"}}, r"outputs.age.kind: expected .* Did you mean 'number'\?$"),
        ({"age": {"colum": "years"}}, r"outputs.age.colum: .*Did you mean 'column'"),
        ({"Age": "number"}, r"outputs.Age: String should match pattern"),
    ],
)
def test_errors_of_outputs_name_the_field(outputs, message):
    sections = {"data": {"source": "starter"}, "backbone": {"name": "MobileNetV2"}}
    with pytest.raises(UserError, match=message):
        parse_config({**sections, "phases": {"strategy": "auto"}, "outputs": outputs})


def test_values_that_differ_late_differ():
    """What people are shown is cut; what is compared is not."""
    cut = "a" * 80
    one, other = (parse_config(MINIMAL, [f"backbone.cut={cut}{end}"]) for end in ("b", "c"))
    assert len(differences(one, other)) == 1 and not differences(one, one)


@pytest.mark.parametrize(
    ("override", "blamed"),
    [
        ("phases[0].learning_rate=fast", "--set: phases[0].learning_rate: "),
        ("head={droput: 0.5}", "--set: head.droput: "),
        ("task=clasification", "--set: task: "),
    ],
)
def test_an_error_in_an_override_does_not_blame_the_file(override, blamed):
    assert error_of(override).startswith(blamed)
    assert error_of("seed=1", tree={**MINIMAL, "head": {"droput": 0.5}}).startswith("my.yaml: ")
