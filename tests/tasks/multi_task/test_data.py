"""What several heads are to answer, read from columns."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ftkeras.data.dataset import Listing
from ftkeras.data.load import load_data
from ftkeras.data.order import make_weight
from ftkeras.errors import UserError
from ftkeras.runs.build import batches
from ftkeras.tasks.multi_task.data import Question, standardised, with_targets


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


def test_an_empty_cell_is_an_answer_that_nobody_knows():
    targets = with_targets(found(), ALL).targets
    assert targets["kind"].class_names == ("bag", "shoe")
    assert targets["kind"].values.tolist() == [1, 0, -1, 1]
    assert targets["kind"].known.tolist() == [True, True, False, True]
    assert targets["tags"].class_names == ("old", "red")
    assert targets["tags"].values.tolist() == [[1, 1], [0, 0], [0, 0], [0, 1]]
    assert targets["tags"].known.tolist() == [True, False, True, True]  # ";" is: none of them
    assert targets["price"].known.tolist() == [True, True, True, False]
    assert targets["group"].class_names == ("first", "second")


def test_labels_become_all_that_is_known_so_that_splits_share_it():
    changed = with_targets(found(), ALL)
    assert changed.multi_label and "kind" not in changed.columns
    assert changed.labels[0] == ("kind=shoe", "tags=red", "tags=old", "group=first")
    assert changed.labels[2] == ("group=first",)


def test_weights_make_the_mean_over_all_that_over_what_is_known():
    target = with_targets(found(), ALL).targets["kind"]
    losses = np.array([1.0, 2.0, 100.0, 6.0])
    assert np.mean(target.weights * losses) == pytest.approx(3.0)


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
        with_targets(found(), [question])


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
        )
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_batches_have_targets_and_weights_by_head(manifest):
    questions = [
        Question("kind", "kind"),
        Question("tags", "tags", "labels"),
        Question("price", "price", "number"),
    ]
    data = standardised(
        load_data(
            "manifest",
            path=manifest,
            label_column=None,
            prepare=lambda found: with_targets(found, questions),
        )
    )
    price = next(head for head in data.heads if head.name == "price")
    assert (price.mean, price.scale) == (13.5, pytest.approx(np.std(np.arange(8))))
    [(images, targets, weights)] = batches(data.splits["train"], image_size=8, batch_size=8)
    assert images.shape == (8, 8, 8, 3)
    assert targets["kind"].numpy()[2:5].tolist() == [[1, 0], [0, 0], [1, 0]]
    assert targets["tags"].numpy()[:4].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert float(tf.reduce_mean(targets["price"])) == pytest.approx(0.0, abs=1e-6)
    assert weights["kind"].numpy()[3] == 0 and weights["kind"].numpy()[0] == pytest.approx(8 / 7)
    assert weights["tags"].numpy().tolist() == [1.0] * 8  # [] is an answer
    part = data.splits["train"].take(np.array([3, 1]))
    assert part.targets["kind"].values.tolist() == [-1, 1]


def test_class_weights_count_for_every_head(manifest):
    data = load_data(
        "manifest",
        path=manifest,
        label_column=None,
        prepare=lambda found: with_targets(found, [Question("kind", "kind")]),
    )
    weigh = make_weight(data.splits["train"], "class_weights")
    weights = weigh(tf.range(8, dtype=tf.int64))["kind"].numpy()
    assert weights[3] == 0 and weights[1] > weights[0] > 0  # 3 light, 4 dark


def test_a_number_that_is_always_the_same_teaches_nothing(manifest):
    question = Question("one", "split_of", "number")

    def same(found: Listing) -> Listing:
        found.columns["split_of"] = np.array(["1"] * 12, object)
        return with_targets(found, [question])

    with pytest.raises(UserError, match="'one' is 1 for every training image"):
        standardised(load_data("manifest", path=manifest, label_column=None, prepare=same))
