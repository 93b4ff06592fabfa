"""Texts through every verb, from tables, folders of files, arrays and records."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import ftkeras
from ftkeras.cli import main as cli
from ftkeras.config.load import parse_config
from ftkeras.errors import UserError
from ftkeras.evaluation.predictions import load_predictions
from ftkeras.inputs.base import PLAIN
from ftkeras.inputs.text.tokens import Tokens
from ftkeras.report.summary import start_lines
from ftkeras.run import Run
from ftkeras.runs import build
from ftkeras.runs.finished import evaluate
from ftkeras.runs.train import train

GOOD = ("fine", "great", "lovely", "wonderful")
BAD = ("dull", "awful", "boring", "poor")
NAMES = {"good": GOOD, "bad": BAD}


def rows(count: int = 60) -> list[dict[str, str]]:
    """Sentences with one telling word; every third is for testing."""
    random = np.random.default_rng(0)
    made = []
    for i in range(count):
        label = ("good", "bad")[i % 2]
        words = ["the", "film", "was", *random.choice(["so", "very", "quite"], i % 5)]
        words.insert(random.integers(len(words)), random.choice(NAMES[label]))
        split = ("train", "train", "test")[i // 2 % 3]
        made.append({"review": " ".join(words), "label": label, "split": split})
    return made


def words_of(tokens: Tokens, text: tf.Tensor) -> list[str]:
    return [tokens.vocabulary[number] for number in tokens.ids(text).numpy()]


def write_table(path: Path, table: list[dict[str, str]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    return str(path)


def tree_of(data: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "data": {"batch_size": 8, **data},
        "backbone": {"name": "lstm", "weights": "none", "recurrent": {"units": 8, "embedding": 8}},
        "phases": [
            {"name": "top", "train": ["head", "blocks[-1:]"], "epochs": 2, "learning_rate": 0.02},
            {"name": "all", "train": ["all"], "epochs": 6, "learning_rate": 0.02},
        ],
        **more,
    }


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    return write_table(tmp_path_factory.mktemp("texts") / "reviews.csv", rows())


@pytest.fixture(scope="module")
def run(table, tmp_path_factory) -> Run:
    """A finished run on a table, its layers of two phases."""
    data = {"source": "manifest", "path": table, "input": {"kind": "text", "column": "review"}}
    config = parse_config(tree_of({**data, "split": {"val": 0.2, "test": "test"}}))
    return train(config, str(tmp_path_factory.mktemp("runs") / "reviews"))


def test_a_run_on_a_table_learns_and_is_measured(run):
    evaluation = evaluate(run)
    assert evaluation["examples"] == 20 and evaluation["accuracy"] > 0.9
    counts = evaluation["counts"]  # a word tells the class
    assert counts["accuracy"] > 0.9
    assert counts["difference"] == pytest.approx(evaluation["accuracy"] - counts["accuracy"])
    facts = run.read_json("data.json")
    assert facts["input"] == "text" and facts["tokens"] == "words" and facts["noun"] == "text"
    answers = list(csv.DictReader(io.StringIO(Path(run.path("answers.csv")).read_text())))
    assert len(answers) == 20 and "reviews.csv:" in str(answers[0])
    page = Path(run.path("report.html")).read_text()
    assert "test texts" in page and "for up to" not in page
    assert "(logistic regression without a network)" in page


def test_copies_of_training_texts_are_told_and_measured_apart(run, table):
    seen = {row["review"]: row["split"] for row in reversed(rows())}  # the first of each
    trained = {text for text, split in seen.items() if split == "train"}
    copied = [row["review"] in trained for row in rows() if row["split"] == "test"]
    assert 0 < sum(copied) < 20
    facts = run.read_json("data.json")
    assert facts["copies"]["test"] == sum(copied)
    assert sum("test texts are exact copies of texts in train" in n for n in facts["notes"]) == 1
    kept = load_predictions(run, "test")
    wrong = kept.logits.argmax(1) != kept.labels
    others = run.read_json("evaluation.json")["without_copies"]
    assert (others["copies"], others["examples"]) == (sum(copied), 20 - sum(copied))
    assert others["accuracy"] == pytest.approx(1 - wrong[~np.array(copied)].mean())
    page = Path(run.path("report.html")).read_text()
    assert f"{sum(copied)} of 20 test texts are exact copies of texts in train" in page
    assert f"without them accuracy {others['accuracy']:.4f}" in page
    assert "took no part" not in page


def test_predict_takes_tables_files_and_lines(run, tmp_path, monkeypatch, capsys):
    path = write_table(
        tmp_path / "new.csv", [{"review": "a great film", "id": "1"}, {"review": "", "id": "2"}]
    )
    (tmp_path / "one.txt").write_text("so dull and awful")
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    out = tmp_path / "out.csv"
    files = [path, str(tmp_path / "one.txt"), str(tmp_path / "bad.txt")]
    assert cli.main(["predict", run.folder, *files, f"--out={out}"]) == 0
    found = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [(row["file"].rpartition("/")[2], row["class"], row["error"]) for row in found] == [
        ("new.csv:2", "good", ""),
        ("new.csv:3", "", "empty"),
        ("one.txt", "bad", ""),
        ("bad.txt", "", "not UTF-8 text"),
    ]
    given = io.TextIOWrapper(io.BytesIO(b"a lovely film\n\nso boring\r\n"))
    monkeypatch.setattr("sys.stdin", given)
    capsys.readouterr()
    assert cli.main(["predict", run.folder, "-", "--top_k=1"]) == 0
    shown = capsys.readouterr()
    assert [line.split(",")[:2] for line in shown.out.splitlines()[1:]] == [
        ["line 1", "good"],
        ["line 2", ""],
        ["line 3", "bad"],
    ]
    assert "2 texts answered, 1 could not be read" in shown.err
    assert "does not know" not in shown.err
    (tmp_path / ".hidden").write_text("x")
    assert cli.main(["predict", run.folder, str(tmp_path)]) == 0
    assert (
        "2 of 4 files are left out, such as new.csv: in a folder only .txt files are read. Name a "
        "table itself."
    ) in capsys.readouterr().err
    lines = b"Zorp! the grumf zorp\nthe lovely zorp film\nblurb\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert cli.main(["predict", run.folder, "-"]) == 0
    assert (
        "the model does not know 'zorp', 'grumf' of line 1, nor half of the words of 1 more text: "
        "such words say nothing\n3 texts answered\n"
    ) in capsys.readouterr().err
    assert cli.main(["predict", run.folder, "a fine film"]) == 2
    assert "or a text per line: `echo" in capsys.readouterr().err
    (tmp_path / "other.csv").write_text("text\nfine\n")
    assert cli.main(["predict", run.folder, str(tmp_path / "other.csv")]) == 2
    assert "no column 'review'" in capsys.readouterr().err


def test_a_run_answers_in_code(run):
    loaded = ftkeras.load_run(run.folder)
    good, nothing, bad = loaded.answer(["A WONDERFUL film!", " ", b"so poor"])
    assert (good.best[0][0], bad.best[0][0]) == ("good", "bad")
    assert nothing.error == "empty" and good.file == "[0]"


def test_the_export_takes_strings_and_numbers(run):
    certificate = run.read_json("certificate.json")["saved_model"]
    off = certificate["saved_model"]["max_difference"]
    assert set(off) >= {"serving_default", "examples", "token_ids", "features"}
    assert max(off.values()) < 1e-4
    signatures = tf.saved_model.load(certificate["path"]).signatures
    texts = ["the film was great", "the film was dull", "", "x" * 10]
    served = signatures["serving_default"](text=tf.constant(texts))
    assert served["error"].numpy().tolist() == [b"", b"", b"empty", b""]
    rows = ftkeras.load_run(run.folder).answer(texts)
    for i in (0, 1, 3):
        assert served["scores"].numpy()[i, 0] == pytest.approx(rows[i].best[0][1], abs=1e-5)
    kind = build.input_of(run.config, ftkeras.load_model(run))
    tree = kind.read(tf.constant(texts[0]), PLAIN, tf.zeros(2, tf.int32))
    assert set(tree) == {"token_ids", "term_ids", "term_weights"}  # the run answers by both
    by_numbers = signatures["token_ids"](**{name: x[tf.newaxis] for name, x in tree.items()})
    assert by_numbers["scores"].numpy()[0] == pytest.approx(served["scores"].numpy()[0], abs=1e-5)
    client = Path(certificate["path"]).parent / "serving" / "grpc_client.py"
    assert 'RAW = "text"' in client.read_text()


def folder_of_files(path: Path) -> dict[str, Any]:
    for i, row in enumerate(rows(24)):
        (path / row["label"]).mkdir(exist_ok=True)
        (path / row["label"] / f"{i}.txt").write_text(row["review"], encoding="utf-8-sig")
    (path / "good" / "utf16.txt").write_text("fine", encoding="utf-16")
    return {"source": "folder", "path": str(path), "max_bad_files": 0.1}


def arrays(path: Path) -> dict[str, Any]:
    made = rows(24)
    texts = np.array([row["review"] for row in made])
    labels = np.array([row["label"] == "good" for row in made]).astype(int)
    np.savez(path / "texts.npz", texts=texts, labels=labels)
    return {"source": "arrays", "path": str(path / "texts.npz")}


def records(path: Path) -> dict[str, Any]:
    def of_bytes(value: str) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))

    with tf.io.TFRecordWriter(str(path / "train-00000-of-00001.tfrecord")) as file:
        for row in rows(24):
            feature = {"text": of_bytes(row["review"]), "label": of_bytes(row["label"])}
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            file.write(example.SerializeToString())
    return {"source": "tfrecord", "path": str(path)}


@pytest.mark.parametrize("make", [folder_of_files, arrays, records])
def test_other_sources_give_the_same_texts(make, tmp_path):
    section = {**make(tmp_path), "input": {"kind": "text"}, "split": {"val": None, "test": None}}
    config = parse_config(tree_of(section))
    data = build.data(config)
    split = data.splits["train"]
    kind = build.input_of(config, build.backbone(config, data).model)
    found = {
        " ".join(words_of(kind.tokens, split.fetch(tf.constant(i)))) for i in range(len(split))
    }
    assert len(split) == 24
    assert len(data.bad_files) == (make is folder_of_files)
    assert any("the film was" in text for text in found)
    assert not any("\ufeff" in text for text in kind.tokens.vocabulary)


def test_two_columns_are_one_text_of_two_parts(tmp_path):
    made = [
        {"question": f"is {a} more than {b}", "answer": ("yes", "no")[a < b], "label": str(a > b)}
        for a in range(6)
        for b in range(6)
    ]
    path = write_table(tmp_path / "pairs.csv", made)
    section = {
        "source": "manifest",
        "path": path,
        "input": {"kind": "text", "columns": ["question", "answer"], "length": 9},
    }
    config = parse_config(tree_of(section))
    data = build.data(config)
    tokens = build.input_of(config, build.backbone(config, data).model).tokens
    text = data.splits["train"].fetch(tf.constant(0))
    words = words_of(tokens, text)
    assert words[0] == "is" and words[-2] == "[SEP]" and words[-1] in ("yes", "no")
    assert tokens.parts == 2 and len(words) == 6  # four words of five, and the answer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.input.column=reveiw", r"no column 'reveiw'. Did you mean 'review'"),
        ("data.input.columns=[review]", "column and columns exclude each other"),
        ("data.input.lenght=5", "Did you mean 'length'"),
        ("backbone.name=bilsm", "Did you mean 'bilstm'"),
        ("backbone.adapt={}", "only char_lstm is a language model"),
        ("backbone.weights=vectors.txt", "no such file"),
        ("data.input.tokens=characters", ""),
    ],
)
def test_what_cannot_work_gets_one_line(table, change, message):
    data = {"source": "manifest", "path": table, "input": {"kind": "text", "column": "review"}}

    def build_all() -> None:
        config = parse_config(tree_of(data), [change])
        found = build.data(config)
        on = build.backbone(config, found)
        build.adapter(config, on, found)

    if message:
        with pytest.raises(UserError, match=message):
            build_all()
    else:
        build_all()


def test_words_without_a_vector_are_noted(tmp_path):
    (tmp_path / "vectors.txt").write_text("the 0.1 0.2\nfilm 0.3 0.4\n")
    path = write_table(tmp_path / "reviews.csv", rows())
    data = {"source": "manifest", "path": path, "input": {"kind": "text", "column": "review"}}

    def notes(weights: str) -> str:
        config = parse_config(
            tree_of(data), ["backbone={name: lstm}", f"backbone.weights={weights}"]
        )
        model = build.backbone(config, build.data(config)).model
        return " ".join(build.input_of(config, model).notes)

    # "the" and "film" have one: of six words, on average.
    assert "67% of the words in the training texts have no word vector" in notes(
        str(tmp_path / "vectors.txt")
    )
    assert "vector" not in notes("starter") and "vector" not in notes("none")


@pytest.mark.parametrize("source", ["manifest", "folder"])
def test_data_of_another_kind_are_named(source, tmp_path):
    path = write_table(tmp_path / "reviews.csv", rows())
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "1.txt").write_text("fine")
    with pytest.raises(UserError, match=r"data\.input.*text"):
        ftkeras.load_data(source, path=path if source == "manifest" else str(tmp_path))


def test_lines_that_are_left_out_are_no_files(tmp_path):
    table = [*rows(), {"review": "", "label": "good", "split": ""}]
    path = write_table(tmp_path / "reviews.csv", table)
    data = {"source": "manifest", "path": path, "input": {"kind": "text", "column": "review"}}
    found = build.data(parse_config(tree_of(data)))
    assert "1 line left out: 1 x empty (reviews.csv:62)" in start_lines(found, "", "", [])
