from __future__ import annotations

import builtins

import numpy as np
import pytest
import tensorflow as tf

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.data.load import load_data
from ftkeras.data.sources import tfds as source
from ftkeras.errors import UserError
from ftkeras.inputs.image.decode import whole
from ftkeras.inputs.image.input import ImageInput

IMAGES = ImageInput()

tfds = pytest.importorskip("tensorflow_datasets")
pytestmark = pytest.mark.filterwarnings("ignore")  # TFDS and what it imports warn of their own


def prepare(data_dir, features, examples: dict[str, list[dict]]) -> None:
    """Writes a small data set as TFDS does."""

    class TinySet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {name: enumerate(rows) for name, rows in examples.items()}

        def _generate_examples(self):
            raise NotImplementedError

    tfds.disable_progress_bar()
    TinySet(data_dir=str(data_dir)).download_and_prepare()


@pytest.fixture
def tiny(tmp_path, photo):
    """20 train and 4 test images of cats and dogs; a picture's height is 10 + its number."""

    def rows(count: int) -> list[dict]:
        return [
            {"image": photo(10 + i, 12, seed=i), "label": ("cat", "dog")[i % 2]}
            for i in range(count)
        ]

    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["dog", "cat"]),
    }
    prepare(tmp_path, features, {"train": rows(20), "test": rows(4)})
    return {"name": "tiny_set", "data_dir": str(tmp_path), "download": False}


def sizes(data) -> dict[str, int]:
    return {name: len(split) for name, split in data.splits.items()}


def test_images_and_labels_are_those_of_tfds(tiny, photo):
    data = load_data("tfds", split={"val": None, "test": None}, **tiny)
    assert data.class_names == ("dog", "cat")
    split = data.splits["train"]
    for i in range(len(split)):
        pixels = whole(split.fetch(tf.constant(i, tf.int64))).numpy()
        number = pixels.shape[0] - 10
        np.testing.assert_array_equal(pixels, photo(10 + number, 12, seed=number))
        assert data.class_names[split.labels[i]] == ("cat", "dog")[number % 2]


def test_its_own_splits_and_validation_from_train(tiny):
    assert sizes(load_data("tfds", **tiny)) == {"train": 17, "val": 3, "test": 4}


def test_split_strings(tiny):
    strings = {"train": "train[:60%]", "val": "train[60%:90%]", "test": "train[90%:]"}
    data = load_data("tfds", split=strings, **tiny)
    assert sizes(data) == {"train": 12, "val": 6, "test": 2}
    assert data.splits["train"].ids[0].endswith(":0") and data.splits["val"].ids[0].endswith(":12")


def test_val_cut_from_a_train_that_is_not_cut(tiny):
    data = load_data("tfds", split={"val": "train[80%:]", "test": None}, **tiny)
    assert sizes(data) == {"train": 16, "val": 4}
    assert not set(data.splits["train"].ids) & set(data.splits["val"].ids)


def test_several_labels(tmp_path, photo):
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=["a", "b"])),
    }
    rows = [{"image": photo(8, 8), "tags": tags} for tags in (["a"], ["a", "b"], [], ["b"])]
    prepare(tmp_path, features, {"train": rows})
    found = source.find(
        kind=IMAGES, name="tiny_set", data_dir=str(tmp_path), parts={}, label_feature="tags"
    )
    assert found.label_kind == "labels"
    assert sorted(found.labels) == [(), ("a",), ("a", "b"), ("b",)]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"val": "trian[:10%]"}, r"split.val: TFDS does not understand 'trian\[:10%\]'"),
        ({"train": "train", "val": "train[:10%]"}, "share examples"),
        ({"val": "train[:10%]", "test": "train[5%:20%]"}, "share examples"),
    ],
)
def test_split_strings_that_do_not_work(tiny, parts, message):
    with pytest.raises(UserError, match=message):
        source.find(kind=IMAGES, parts=parts, **tiny)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"label_feature": "lable"}, "no feature 'lable'. Did you mean 'label'"),
        ({"image_feature": "label"}, "holds no images"),
        ({"name": "tiny_sett"}, "TFDS knows no data set 'tiny_sett'"),
        ({"name": "cifar10"}, "is not under .* Check the network"),
    ],
)
def test_settings_that_do_not_work(tiny, changed, message):
    with pytest.raises(UserError, match=message):
        source.find(kind=IMAGES, parts={}, **{**tiny, **changed})


def test_a_failed_download_says_what_to_do(tiny, monkeypatch):
    def fail(self, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(UserError, match="'cifar10': no route to host. Check the network, or run"):
        source.find(kind=IMAGES, parts={}, **{**tiny, "name": "cifar10", "download": True})


def test_without_tfds_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("tensorflow_datasets"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="pip install tensorflow-datasets"):
        source.find(kind=IMAGES, name="x", parts={})


def test_a_run_trains_on_its_texts(text_tree, tmp_path):
    features = {
        "text": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=["fruit", "car"]),
    }
    rows = [
        {"text": ("red apple pie", "blue car road")[i % 2] + f" {i}", "label": i % 2}
        for i in range(40)
    ]
    prepare(tmp_path, features, {"train": rows[:32], "test": [*rows[32:], {**rows[0], "text": ""}]})
    source = {"source": "tfds", "name": "tiny_set", "data_dir": str(tmp_path), "batch_size": 8}
    phases = [{"name": "all", "train": ["all"], "epochs": 3, "learning_rate": 3e-2}]
    tree = {**text_tree, "data": source, "phases": phases}
    run = ftkeras.train(parse_config(tree), str(tmp_path / "run"))
    assert run.read_json("data.json")["class_names"] == ["fruit", "car"]
    assert run.read_json("data.json")["examples"] == {"train": 28, "val": 4, "test": 8}
    assert run.read_text("bad_files.csv").count("empty") == 1
    assert run.read_json("evaluation.json")["accuracy"] == 1.0  # two words tell the class
