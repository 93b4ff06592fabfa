"""The whole doctor on texts: the starter's, which are clean, and some with every fault planted."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftkeras.cli.main import main
from ftkeras.config.load import parse_config
from ftkeras.doctor import examine
from ftkeras.doctor.embed import make_embedding
from ftkeras.doctor.look import look_at
from ftkeras.doctor.splits import check_shift
from ftkeras.inputs.text.input import TextInput

TREE: dict[str, Any] = {
    "data": {"source": "starter", "batch_size": 32},
    "backbone": {"name": "lstm"},
    "phases": [{"name": "head", "train": ["head"], "epochs": 9, "learning_rate": 1e-3}],
}
FOODS = ["bread", "cheese", "apple", "soup", "butter", "rice", "fish", "salad", "sugar", "meat"]
PLACES = ["city", "river", "island", "capital", "coast", "mountain", "village", "port", "harbor"]
COMMON = ["the", "of", "and", "to", "in", "that", "was", "with", "for", "from", "his", "its", "her"]
COMMON += ["large", "small", "old", "new"]


@pytest.fixture(autouse=True)
def own_cache(cache: Path) -> None:
    """No test sees what another has cached."""


def sentences(count: int, words: list[str], seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice([*words, *COMMON], 16)) for _ in range(count)]


def rows(times: int = 1) -> list[list[str]]:
    """Clean texts of two classes in three splits."""
    made = []
    for number, (split, count) in enumerate({"train": 60, "val": 30, "test": 30}.items()):
        for label, words in {"dish": FOODS, "site": PLACES}.items():
            texts = sentences(times * count, words, 10 * number + len(words[0]))
            made += [[text, label, split] for text in texts]
    return made


def write(path: Path, made: list[list[str]]) -> str:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label", "split"], *made])
    return str(path)


def tree_of(path: str, **changes: Any) -> dict[str, Any]:
    data = {"source": "manifest", "path": path, "input": {"kind": "text", **changes}}
    return {**TREE, "data": {**data, "batch_size": 8}}


@pytest.mark.slow
def test_the_starter_gives_no_alarm():
    diagnosis = examine(parse_config(TREE))
    assert [f for f in diagnosis.findings if f.severity != "note"] == []
    assert {f.check for f in diagnosis.findings} <= {"data"}  # that some are cut
    assert "texts/s" in diagnosis.facts["a step"]
    assert "preprocessing" not in diagnosis.facts


@pytest.mark.slow
def test_clean_texts_give_no_alarm(tmp_path):
    diagnosis = examine(parse_config(tree_of(write(tmp_path / "t.csv", rows()))))
    assert [f for f in diagnosis.findings if f.severity != "note"] == []
    assert diagnosis.exit_status == 0


@pytest.mark.slow
def test_every_planted_fault_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = rows()
    by_split = {name: [i for i, row in enumerate(made) if row[2] == name]
                for name in ("train", "val", "test")}  # fmt: skip
    train, test = by_split["train"], by_split["test"]
    for i in train[10:20]:
        made[i][0] = "\u043a\u043e\u0442 \u0438 \u043f\u0451\u0441 " * 4 + str(i)
    for i in test:
        made[i][0] += " zq zw zr zs zt" * 3
    for row in made:
        row[0] += " sites" if row[1] == "site" else " via dishwiki"
    made[train[5]][0] = "!!!"
    made[train[6]][0] = "what"
    made[train[1]][0] = made[train[0]][0].upper()
    made[train[70]][0] = made[train[2]][0]  # the other class
    made[test[3]][0] = made[train[3]][0]
    made[test[4]][0] = made[train[4]][0] + " indeed"
    write(tmp_path / "t.csv", made)
    Path("c.yaml").write_text(json.dumps(tree_of("t.csv", length=24)))
    assert main(["doctor", "--config=c.yaml", "--out=all.csv", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    found = {finding["check"]: finding["severity"] for finding in printed["findings"]}
    assert {name: found.get(name) for name in PLANTED} == PLANTED


PLANTED = {
    "duplicates": "warning",
    "duplicates across splits": "error",
    "near-duplicates across splits": "warning",
    "contradictory labels": "warning",
    "mixed scripts": "note",
    "texts without words": "warning",
    "very short texts": "warning",
    "class names in texts": "warning",
    "telling words": "warning",
    "truncated texts": "warning",
    "unknown tokens": "warning",
}


def shift(tmp_path: Path, made: list[list[str]]) -> list[str]:
    from ftkeras.data.load import load_data

    kind = TextInput()
    path = write(tmp_path / "t.csv", made)
    data = load_data("manifest", path=path, kind=kind, split={"val": "val", "test": "test"})
    looks = look_at(data, kind)
    features = make_embedding(data, kind, looks)
    assert features(np.arange(3)).shape == (3, 55)
    return [f.message for f in check_shift(data, kind, looks, features)]


def test_texts_of_another_source_are_a_shift(tmp_path):
    made = rows(times=3)
    assert shift(tmp_path, made) == []
    for row in made:
        if row[2] == "test":
            row[0] = " ".join(
                word + ("!" if i % 3 else "") for i, word in enumerate(row[0].split())
            )
    [message] = shift(tmp_path, made)
    assert "texts of test are of another kind" in message
    assert "word vectors and habits of writing tells" in message


def test_texts_without_any_known_word_are_no_shift_and_no_error(tmp_path):
    made = [["\u043a\u043e\u0442 " * 9, *row[1:]] for row in rows()]
    assert shift(tmp_path, made) == []
