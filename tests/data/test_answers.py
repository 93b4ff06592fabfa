"""What outputs are to answer, read from columns."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ftkeras.data.answers import Asked, Question, ask, groups_of
from ftkeras.data.dataset import Listing
from ftkeras.data.load import load_data
from ftkeras.data.order import balanced, make_weight
from ftkeras.errors import UserError
from ftkeras.outputs.any_of import AnyOf
from ftkeras.outputs.one_of import OneOf
from ftkeras.runs.build import batches


def found(**changes) -> Listing:
    columns = {
        "kind": np.array(["shoe", "bag", "", "shoe"], object),
        "tags": np.array(["red; old", "", ";", "red"], object),
        "price": np.array(["10", "30", "20", ""], object),
    }
    given = {
        "ids": ["a", "b", "c", "d"],
        "labels": [("x",), ("y",), ("x",), ("y",)],
        "parts": ["train"] * 4,
        "make_fetch": lambda indices: None,
        "columns": columns,
    }
    return Listing(**{**given, **changes})


ALL = [
    Question("kind", "kind"),
    Question("tags", "tags", "labels"),
    Question("price", "price", "number"),
    Question("group", "label", map={"x": "first", "y": "second"}),
]


def asked(questions, **changes) -> dict[str, Asked]:
    return {q.name: ask(found(**changes), q) for q in questions}


def test_an_empty_cell_is_an_answer_that_nobody_knows():
    kind, tags, price, group = asked(ALL).values()
    assert kind.output == OneOf(("bag", "shoe"))
    assert kind.answers.values.tolist() == [1, 0, -1, 1]
    assert kind.answers.known.tolist() == [True, True, False, True]
    assert tags.output == AnyOf(("old", "red"))
    assert tags.answers.values.tolist() == [[1, 1], [0, 0], [0, 0], [0, 1]]
    assert tags.answers.known.tolist() == [True, False, True, True]  # ";" is: none of them
    assert price.answers.known.tolist() == [True, True, True, False]
    assert group.output.class_names == ("first", "second")


def test_examples_are_grouped_by_all_that_is_known_so_that_splits_share_it():
    groups = groups_of(list(asked(ALL).values()))
    assert groups[0] == ("kind=shoe", "tags=red", "tags=old", "group=first")
    assert groups[2] == ("group=first",)
    assert groups_of(list(asked(ALL[:1]).values())) == [("shoe",), ("bag",), (), ("shoe",)]


def test_weights_make_the_mean_over_all_that_over_what_is_known():
    """Of every kind of output."""
    losses = np.array([1.0, 2.0, 4.0, 6.0])
    for name, mean in {"kind": 3.0, "tags": 11 / 3, "price": 7 / 3, "group": 13 / 4}.items():
        answers = asked(ALL)[name].answers
        assert np.mean(answers.weights * losses) == pytest.approx(mean)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question("kind", "kinds"), "kind: the data have no column 'kinds'. Did you mean"),
        (Question("grams", "weight", "number"), "unless data.weight_column names another"),
        (Question("size", "kind", "number"), "size: 'shoe' of a is not a number"),
        (Question("g", map={"x": "first"}), "g: the map has no entry for 'y'"),
        (Question("g", map={"x": "one", "y": "one"}), "g: there is one answer, 'one'"),
    ],
)
def test_what_cannot_be_asked(question, message):
    with pytest.raises(UserError, match=message):
        ask(found(), question)


@pytest.fixture
def manifest(tmp_path) -> str:
    rows = []
    for i in range(12):
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(tmp_path / f"{i}.png")
        kind = None if i == 3 else ("dark", "light")[i % 2]
        tags = [[], ["odd"], ["big"], ["odd", "big"]][i % 4]
        split = "train" if i < 8 else "val"
        rows.append(
            {"path": f"{i}.png", "split": split, "kind": kind, "tags": tags, "price": 10 + i}
            | {"same": 1, "grams": "" if i == 3 else 10 * i}
        )
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_batches_have_targets_and_weights_by_output(manifest):
    questions = [
        Question("kind", "kind"),
        Question("tags", "tags", "labels"),
        Question("price", "price", "number"),
    ]
    data = load_data("manifest", path=manifest, label_column=None, questions=questions)
    price = data.outputs["price"]
    assert (price.mean, price.scale) == (13.5, pytest.approx(np.std(np.arange(8))))
    [(images, targets, weights)] = batches(data.splits["train"], image_size=8, batch_size=8)
    assert images.shape == (8, 8, 8, 3)
    assert targets["kind"].numpy()[2:5].tolist() == [[1, 0], [0, 0], [1, 0]]
    assert targets["tags"].numpy()[:4].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert float(tf.reduce_mean(targets["price"])) == pytest.approx(0.0, abs=1e-6)
    assert weights["kind"].numpy()[3] == 0 and weights["kind"].numpy()[0] == pytest.approx(8 / 7)
    assert weights["tags"].numpy().tolist() == [1.0] * 8  # [] is an answer
    part = data.splits["train"].take(np.array([3, 1]))
    assert part.answers_to("kind").values.tolist() == [-1, 1]


@pytest.mark.parametrize("kind", ["classes", "labels", "number"])
def test_one_output_has_a_mask_too(manifest, kind):
    """Its batches have a tensor and weights instead of dicts of them."""
    question = Question("kind", "kind" if kind != "number" else "grams", kind)

    data = load_data("manifest", path=manifest, label_column=None, questions=[question])
    [(_, target, weights)] = batches(data.splits["train"], image_size=8, batch_size=8)
    assert target.shape == (8, 1 if kind == "number" else 2)
    assert weights.numpy()[3] == 0 and weights.numpy()[0] == pytest.approx(8 / 7)
    assert not target.numpy()[3].any()
    assert data.class_names == (() if kind == "number" else ("dark", "light"))
    assert data.splits["train"].labels.ndim == (1 if kind == "classes" else 2)


def test_class_weights_count_what_is_known(manifest):
    data = load_data(
        "manifest", path=manifest, label_column=None, questions=[Question("kind", "kind")]
    )
    train = data.splits["train"]
    weights = make_weight(train, "class_weights")(tf.range(8, dtype=tf.int64)).numpy()
    assert weights[3] == 0 and weights[1] > weights[0] > 0  # 3 light, 4 dark
    drawn = balanced(train, 0)(tf.range(8, dtype=tf.int64), tf.constant(0, tf.int64)).numpy()
    assert 3 not in drawn and sorted(train.labels[drawn]) == [0] * 4 + [1] * 4


def test_a_number_that_is_always_the_same_teaches_nothing(manifest):
    question = Question("one", "same", "number")
    with pytest.raises(UserError, match="outputs.one: it is 1 for every training example"):
        load_data("manifest", path=manifest, label_column=None, questions=[question])
