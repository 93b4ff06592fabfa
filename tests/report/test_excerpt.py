"""Examples that are read: as pieces with colours, on the page and in `pictures.json`."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from ftkeras.config.load import parse_config
from ftkeras.data.load import load_data
from ftkeras.evaluation.predictions import Predictions, save_predictions
from ftkeras.inputs.text.input import TextInput
from ftkeras.inputs.text.tokens import SPECIAL, TokenIds, Tokens
from ftkeras.report.excerpt import excerpt, is_excerpt
from ftkeras.report.gallery import lacks_gallery, make_gallery
from ftkeras.report.page import run_page
from ftkeras.report.read import read_run
from ftkeras.run import Run

HOSTILE = "</p><script>alert(1)</script>\u202e\x00"


class Marks(HTMLParser):
    """Collects the marked pieces and their attributes."""

    def __init__(self, markup: str):
        super().__init__()
        self.marks: list[tuple[dict[str, str | None], str]] = []
        self.paragraphs: list[dict[str, str | None]] = []
        self.words = ""
        self._inside: dict[str, str | None] | None = None
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        if tag == "p":
            self.paragraphs.append(dict(attrs))
        self._inside = dict(attrs) if tag == "mark" else None

    def handle_data(self, data):
        self.words += data
        if self._inside is not None:
            self.marks.append((self._inside, data))
            self._inside = None


def test_colours_grow_with_the_weight_and_have_a_cue_besides():
    pieces = ["good", " ", "so", " ", "bad", " ", "film", "unread"]
    weights = [2.0, None, 0.5, None, -1.5, None, 0.01, None]
    read = Marks(excerpt({"pieces": pieces, "weights": weights}))
    assert read.words == "good so bad filmunread"
    assert read.paragraphs == [{"class": "excerpt", "dir": "auto"}]
    assert read.marks == [
        ({"class": "strong", "style": "--share:1.00", "title": "+2.00"}, "good"),
        ({"style": "--share:0.25", "title": "+0.50"}, "so"),
        ({"class": "against strong", "style": "--share:0.75", "title": "-1.50"}, "bad"),
    ]


@pytest.mark.parametrize("weights", [None, [], [None], [0.0]])
def test_without_weights_there_are_no_colours(weights):
    assert excerpt({"pieces": ["a"], "weights": weights}) == '<p class="excerpt" dir="auto">a</p>'


def test_a_piece_never_becomes_markup():
    read = Marks(excerpt({"pieces": [HOSTILE], "weights": [1.0]}))
    assert read.marks[0][1] == HOSTILE.replace("\u202e", "\ufffd").replace("\x00", "\ufffd")
    assert not is_excerpt({"image": "data:"}) and not is_excerpt({"pieces": "a"})


def page_of(make_run, card: dict[str, Any], **changes: Any) -> str:
    folder: Path = make_run(**changes)
    pictures = {"test": {f"photos/{i:04d}.jpg": card for i in range(60)}}
    (folder / "pictures.json").write_text(json.dumps(pictures))
    return run_page(read_run(str(folder)))


def test_both_sections_show_excerpts_and_say_once_what_colours_mean(make_run):
    card = {
        "pieces": [HOSTILE, " ", "\u0645\u0631\u062d\u0628\u0627"],
        "weights": [0.4, None, -1.0],
    }
    markup = page_of(make_run, card, names=("cat", "dog", "emu"), accuracy=0.6)
    sections = dict(re.findall(r'<section id="(\w+)".*?>(.*?)</section>', markup, re.DOTALL))
    for name in ("mistakes", "labels"):
        assert '<p class="excerpt" dir="auto">' in sections[name]
        assert "<img" not in sections[name] and "no picture" not in sections[name]
        assert 'class="cards small"' not in sections[name]  # words need more room
    assert "<script" not in markup
    assert "Sundararajan" in sections["mistakes"] and "Sundararajan" not in sections["labels"]
    assert "Grad-CAM" not in sections["mistakes"]


def test_a_model_that_cannot_weigh_words_is_said_to(make_run):
    assert "has no embedding of tokens" in page_of(make_run, {"pieces": ["a"]})


def test_drawn_examples_look_as_before(make_run):
    markup = run_page(read_run(str(make_run())))
    assert "Grad-CAM" in markup and 'class="cards small"' in markup
    assert 'class="excerpt"' not in markup


def test_a_gallery_of_texts_explains_mistakes_and_suspects(tmp_path):
    texts = ["good film", "bad film", "good good", "bad bad"] * 5
    np.savez(tmp_path / "t.npz", texts=np.array(texts), labels=np.array([1, 0, 1, 1] * 5))
    tokens = Tokens("words", (*SPECIAL, "good", "bad", "film"), 4)
    kind = TextInput(tokens)
    parts = {"val": None, "test": 0.5}
    data = load_data("arrays", path=str(tmp_path / "t.npz"), kind=kind, split=parts)
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    table = keras.layers.Embedding(6, 2)
    embedded = table(TokenIds(tokens.as_config(), name="tokens")(ids))
    table.set_weights([np.array([[0, 0]] * 3 + [[0, 3], [3, 0], [0, 0]], float)])
    model = keras.Model(ids, keras.ops.sum(embedded, axis=1))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 0\n")
    facts = {"class_names": ["0", "1"], "multi_label": False, "noun": "text", "nouns": "texts"}
    (folder / "data.json").write_text(json.dumps(facts))
    test = data.splits["test"]
    encoded = np.array([[t.count("bad") * 3, t.count("good") * 3] for t in told(test)], np.float32)
    save_predictions(
        Run(str(folder)), "test", Predictions(encoded, test.labels, np.array(test.ids))
    )
    run = read_run(str(folder))
    assert lacks_gallery(run, kind)
    gallery = make_gallery(run, model, data.splits, kind)
    wrong = [i for i, text in enumerate(told(test)) if text == "bad bad"]
    assert wrong and set(gallery["test"]) >= {test.ids[i] for i in wrong}
    card = gallery["test"][test.ids[wrong[0]]]
    assert card["pieces"] == ["bad", " ", "bad"]
    first, _, second = card["weights"]
    assert first == second > 0.3
    (folder / "pictures.json").write_text(json.dumps(gallery))
    assert not lacks_gallery(read_run(str(folder)), kind)


def told(split: Any) -> list[str]:
    return [split.fetch(np.int64(i)).numpy().decode() for i in range(len(split))]


@pytest.mark.slow
def test_a_run_on_texts_is_drawn(tmp_path, monkeypatch):
    from ftkeras.runs.train import train

    monkeypatch.setenv("FTKERAS_CACHE", str(tmp_path / "cache"))
    tree = {
        "data": {"source": "starter", "batch_size": 64},
        "backbone": {"name": "gru"},
        "phases": [{"name": "head", "train": ["head"], "epochs": 1, "learning_rate": 3e-3}],
        "export": {"saved_model": False},
    }
    train(parse_config(tree), str(tmp_path / "run"))
    markup = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert len(Marks(markup).marks) > 50
    assert json.loads((tmp_path / "run" / "data.json").read_text())["drawn"] is True
