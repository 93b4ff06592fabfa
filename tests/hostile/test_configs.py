"""Configs and overrides that no person would write by hand: refused in one line, and soon."""

from __future__ import annotations

import os

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ftkeras.config.load import dump_config, load_config, parse_config, parse_text
from ftkeras.config.schema import Config
from ftkeras.errors import UserError

BASE = """\
data: {source: folder, path: photos}
backbone: {name: VGG16}
phases: [{name: a, epochs: 1, learning_rate: 1e-3}]
"""


def outcome(text: str, *overrides: str) -> Config | str:
    """The config, or the one line of the refusal; anything else fails the test."""
    try:
        return parse_text(text, overrides)
    except UserError as error:
        assert len(str(error)) < 1000
        return str(error)


def nested(lines: int, form: str) -> str:
    """Aliases of aliases: each line stands for nine times what the line before does."""
    names = "abcdefghijklmnop"
    text = "a: &a {k: 1}\n"
    for before, name in zip(names, names[1 : lines + 1], strict=False):
        text += f"{name}: &{name} {form.format(', '.join([f'*{before}'] * 9))}\n"
    return text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (nested(12, "[{}]"), "at most 100000 values"),
        (nested(12, "{{<<: [{}]}}"), "at most 100000 values"),
        ("a: &a [*a]", "contains itself"),
        ("a: &a {b: {c: *a}}", "contains itself"),
        ("a: " + "[" * 60 + "]" * 60, "50 levels"),
        ("[" * 50_000, "nested too deeply"),
        ("seed: 1\nseed: 2\n", "line 2: the key 'seed' is given twice"),
        ("\tseed: 1", "not valid YAML"),
        ("a: !!timestamp x", "not valid YAML"),
        ("a: !!bool x", "not valid YAML"),
        ("a: !!int ''", "not valid YAML"),
        ("!!python/object/apply:os.system ['touch hacked']", "not valid YAML"),
        ("!!python/name:os.system", "not valid YAML"),
        ("", "expected a mapping"),
        ("[1, 2]", "expected a mapping"),
        ("---\na: 1\n---\nb: 2\n", "not valid YAML"),
        (BASE + "seed: " + "9" * 5000, "not valid YAML"),
        (BASE.replace("1e-3", ".inf"), "finite"),
        (BASE.replace("1e-3", ".nan"), "finite"),
        (BASE.replace("epochs: 1", "epochs: 1" + "0" * 30), "less than or equal"),
        (BASE.replace("photos", '"a\\0b"'), "null character"),
    ],
)
def test_what_no_config_holds(tmp_path, monkeypatch, text, part):
    monkeypatch.chdir(tmp_path)
    found = outcome(text)
    assert isinstance(found, str) and part in found
    assert not (tmp_path / "hacked").exists()


def test_files_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "large.yaml").write_text("#" * (1 << 19))
    (tmp_path / "mark.yaml").write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    for path, part in [
        (tmp_path / "pipe.yaml", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "large.yaml", "larger than 256 KiB"),
        ("a\0b", "cannot be read"),
        ("x" * 5000, "cannot be read"),
    ]:
        with pytest.raises(UserError, match=part):
            load_config(path)
    assert load_config(tmp_path / "mark.yaml").seed == 0


# Strings that YAML, or some reader of it, takes for something else.
WORDS = st.sampled_from(
    ["1e-3", "off", "yes", "12:30", "2024-01-01", "0x1F", "1_000", "=", "<<", "~", "null", "true"]
    + ["1.", ".5", "+1e3", "-0", "'", '"', "[", "#", "- a", "a: b", "\x85", "\u2028", " x ", ""]
)
TEXTS = WORDS | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@settings(max_examples=100, deadline=None)
@given(path=TEXTS, name=TEXTS, epochs=st.integers(1, 10**9), rate=st.floats(1e-300, 1e6))
def test_what_is_written_down_reads_back_equal(path, name, epochs, rate):
    config = parse_config(
        {
            "data": {"source": "folder", "path": path},
            "backbone": {"name": name},
            "phases": [{"name": name, "epochs": epochs, "learning_rate": rate}],
        }
    )
    assert parse_text(dump_config(config)) == config


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=8,
)
PLACES = st.sampled_from(
    [("seed",), ("data",), ("data", "path"), ("data", "split"), ("backbone",), ("phases",)]
    + [("phases", 0), ("phases", 0, "train"), ("phases", 0, "learning_rate"), ("head", "hidden")]
    + [
        ("optimizer", "name"),
        ("data", "augmentation"),
        ("data", "input"),
        ("training",),
        ("loss", "gamma"),
    ]
)


def check_round_trip(found: Config | str) -> None:
    """What was accepted can be written down and means the same when it is read again."""
    if isinstance(found, Config):
        assert parse_text(dump_config(found)) == found


@settings(max_examples=150, deadline=None)
@given(place=PLACES, value=TREES)
def test_any_value_at_any_place(place, value):
    tree = yaml.safe_load(BASE)
    tree |= {"head": {}, "optimizer": {}, "loss": {}}
    holder = tree
    for part in place[:-1]:
        holder = holder[part]
    holder[place[-1]] = value
    check_round_trip(outcome(yaml.safe_dump(tree)))


@settings(max_examples=150, deadline=None)
@given(
    field=st.sampled_from(["seed", "data.path", "phases[0].train", "phases[0]", "head.hidden", "x"])
    | st.text(max_size=30),
    value=WORDS | st.text(max_size=60),
)
def test_any_override(field, value):
    check_round_trip(outcome(BASE, f"{field}={value}"))
    check_round_trip(outcome(BASE, field))
