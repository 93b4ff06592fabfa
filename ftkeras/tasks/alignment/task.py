"""Alignment: pictures and texts in one space, by two towers and a contrastive loss."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.backbones import Backbone
from ftkeras.backbones.hub import is_hub
from ftkeras.config.schema import Config, LossConfig
from ftkeras.data.dataset import Data
from ftkeras.data.feed import Feed
from ftkeras.data.share import WHOLE, Share
from ftkeras.errors import UserError
from ftkeras.evaluation.bars import Bar, measured, refuse_unknown
from ftkeras.evaluation.predict import Asked, FilePrediction, each_output, predict_outputs
from ftkeras.export.run import keep_certificate
from ftkeras.export.serving import model_name
from ftkeras.files import written_whole
from ftkeras.findings import Finding
from ftkeras.inputs.base import Input
from ftkeras.measures.metrics import softmax
from ftkeras.model.inference import with_kept_outputs
from ftkeras.model.lora import merge_lora
from ftkeras.outputs.kinds import SOURCE
from ftkeras.outputs.one_of import OneOf
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section
from ftkeras.run import Run
from ftkeras.runs import build
from ftkeras.runs.assemble import Assembled
from ftkeras.runs.monitor import check_monitors
from ftkeras.runs.task import Task
from ftkeras.tasks.alignment import floor, report
from ftkeras.tasks.alignment.config import AlignmentConfig, AlignmentSection, ClassesSection
from ftkeras.tasks.alignment.data import load_pairs, text_data
from ftkeras.tasks.alignment.doctor import examine
from ftkeras.tasks.alignment.export import TwoTowers, export_towers
from ftkeras.tasks.alignment.model import (
    PROJECTION,
    Contrastive,
    Meeting,
    Towers,
    batch_recall,
    build_towers,
    embeddings_of,
)
from ftkeras.tasks.alignment.pairs import Pair, PairFeed, PairSplit
from ftkeras.tasks.alignment.results import (
    check_words,
    encode_classes,
    format_retrieval,
    headline,
    zero_shot,
)
from ftkeras.tasks.alignment.retrieval import Embedded, gained, measure, unit
from ftkeras.tasks.alignment.stores import PairStore, pair_stores
from ftkeras.training.callbacks.averaging import AveragedWeights
from ftkeras.training.callbacks.measured import MeasuredMetrics
from ftkeras.training.segments import stores_of
from ftkeras.trunk.extract import GetStores
from ftkeras.trunk.store import FrontierStore

TOWER = "tower.keras"
"""The file in a run that `backbone.name` of another run may name, or the run itself."""
_WATCHED = ("val_recall_at_1", "val_recall_at_5", "val_recall_at_10", "val_map")


class Alignment(Task):
    """Trains two towers so that a picture and its texts are near one another."""

    by_nature = ("tiny classes", "no validation")
    page = "docs/alignment.md"
    first_use = "search {} 'a red fruit' FOLDER"

    def check(self, config: Config, data: Data) -> None:
        logged = [*self.logged(config, data), *(n.removeprefix("val_") for n in _WATCHED)]
        check_monitors(config, data, logged)

    def data(self, config: Config) -> Data:
        """Returns pictures with their texts."""
        config = _checked(config)
        _check_sections(config)
        return load_pairs(config, build.input_of(_of_texts(config)))

    def input(self, config: Config, model: keras.Model | None = None) -> Input:
        """Returns both kinds as one."""
        config = _checked(config)
        first, second = (
            None if model is None else model.get_layer(name) for name in _towers(config)
        )
        return Pair(build.input_of(config, first), build.input_of(_of_texts(config), second))

    def backbone(self, config: Config, data: Data) -> Backbone:
        config = _checked(config)
        texts = _of_texts(config)
        first, second = _towers(config)
        return Towers.of(
            {
                first: build.backbone(config, data),
                second: build.backbone(texts, text_data(data)),
            }
        )

    def make_layers_known(self, config: Config) -> None:
        config = _checked(config)
        build.make_layers_known(config)
        build.make_layers_known(_of_texts(config))

    def feed(
        self,
        config: Config,
        data: Data,
        model: keras.Model,
        share: Share = WHOLE,
        full: bool = False,
    ) -> Feed:
        if share.count > 1:
            raise UserError(
                "task alignment: it does not train on several workers yet. Run it on one, with all "
                "of its devices."
            )
        both = self.input(config, model)
        plain = build.feed(config, data, model.get_layer(both.nouns), share, full)
        fields = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain) if f.init}
        return PairFeed(**{**fields, "input": both})

    def model(self, config: Config, data: Data, backbone: Backbone) -> keras.Model:
        config = _checked(config)
        section = config.alignment
        assert isinstance(backbone, Towers)
        shared = {"hidden": config.head.hidden, "dropout": config.head.dropout}
        first, second = backbone.sides
        return build_towers(
            backbone,
            units=section.units,
            heads={
                first: {**shared, "pooling": config.head.pooling},
                second: {**shared, "pooling": section.pooling},
            },
            temperature=section.temperature,
            sigmoid=section.loss == "sigmoid",
            seed=config.seed,
        )

    def loss(self, config: Config, data: Data) -> Any:
        return Contrastive(_checked(config).alignment.loss)

    def metrics(self, config: Config, data: Data) -> Any:
        return [keras.metrics.MeanMetricWrapper(batch_recall, name="batch_recall")]

    def monitor(self, config: Config, data: Data) -> str:
        return "val_map" if "val" in data.splits else "loss"

    def why_complete(self, config: Config) -> str | None:
        return "the loss compares the pairs of a batch"

    def silences(self, config: Config) -> bool:
        return any(is_hub(one.backbone.name) for one in (config, _of_texts(_checked(config))))

    def stores(self, feed: Feed) -> GetStores:
        assert isinstance(feed, PairFeed)
        return functools.partial(pair_stores, feed)

    def measured(
        self, assembled: Assembled, average: AveragedWeights | None
    ) -> MeasuredMetrics | None:
        """Measures retrieval on the validation split, with the first text of each picture."""
        if "val" not in assembled.data.splits:
            return None

        def values(said: Any) -> dict[str, float]:
            results = measure(_validated(assembled.data, said), intervals=False)
            return {name: results[name.removeprefix("val_")] for name in _WATCHED}

        return MeasuredMetrics(
            assembled.model,
            assembled.model,
            lambda: assembled.feed.plain("val"),
            names=_WATCHED,
            measure=values,
            average=average,
        )

    def starts_from_floor(self, config: Config) -> bool:
        return config.head.start == "floor" and not config.head.hidden

    def start(self, assembled: Assembled, run: Run) -> bool:
        """Fits the floor and gives it to the projections, unless hidden layers are before them."""
        config = assembled.config
        maps = floor.load(run) or _fitted(assembled, run)
        if starts := self.starts_from_floor(config):
            _start_from(assembled.model, maps[1], _section(config).units)
        return starts

    def faults(self, data: Data, said: Any) -> tuple[str, np.ndarray] | None:
        found = _validated(data, said).both()
        missing = np.zeros(len(data.splits["val"]))
        for way in found:
            counts = np.bincount(way.pictures, minlength=len(missing))
            lacks = np.bincount(way.pictures, 1 - way.precision, minlength=len(missing))
            missing += 0.5 * lacks / np.maximum(counts, 1)
        return "mean average precision", missing

    def finish(self, assembled: Assembled, run: Run) -> keras.Model:
        """Keeps the picture tower as a model of its own: a backbone for later runs."""
        pictures, _ = _towers(_checked(assembled.config))
        with written_whole(run.path(TOWER)) as temporary:
            merge_lora(assembled.model.get_layer(pictures)).save(temporary)
        return assembled.model

    def final(self, model: keras.Model) -> keras.Model:
        plain = keras.Model(model.input, model.output, name=model.name)
        return with_kept_outputs(plain, model)

    def measure(self, model: keras.Model, feed: Feed, run: Run, split: str) -> dict[str, Any]:
        """Measures retrieval both ways, against ridge regression, and zero-shot classification."""
        config = _checked(run.config)
        assert isinstance(feed, PairFeed)
        examples = feed.data.splits[split]
        assert isinstance(examples, PairSplit)
        embedded = embed(model, feed, split)
        results = {"split": split, "nouns": feed.input.nouns, **measure(embedded)}
        if (other := _of_ridge(run, examples, split)) is not None:
            results["ridge"] = gained(embedded, other)
        run.write_json("task.json", report.gallery(feed, split, embedded))
        if config.alignment.classes is not None:
            results |= zero_shot(config.alignment.classes, model, feed, split, embedded)
            results["intervals"] |= results.pop("zero_shot_intervals")
        return results

    def check_labels(self, labels: Sequence[str]) -> None:
        if len({label.strip() for label in labels} - {""}) < max(2, len(labels)):
            raise UserError(
                "--labels: name two classes or more, each once, such as --labels='cat,dog,boat'."
            )

    def predict(
        self,
        run: Run,
        model: keras.Model,
        files: Sequence[Asked],
        top_k: int,
        labels: Sequence[str] = (),
    ) -> Iterator[FilePrediction]:
        """Yields which of the labels fits a picture best: words that nothing was trained on."""
        config, names = run.config, [label.strip() for label in labels]
        towers = _two_towers(config, model)
        picture, text = towers.pair.picture, towers.pair.text
        check_words(names, text, "--labels")
        classes = encode_classes(towers.tower(text), names, towers.templates, text)
        output = OneOf(tuple(names))
        batch_size = config.data.batch_size
        for path, error, said in each_output(towers.tower(picture), files, picture, batch_size):
            answers = {}
            if not error:
                logits = towers.scale * (unit(said[np.newaxis]) @ classes.T)
                answers = {SOURCE: output.answer(softmax(logits)[0], top_k, alone=True)}
            yield FilePrediction(path, {SOURCE: output}, answers, error)

    def export(
        self,
        run: Run,
        model: keras.Model,
        directory: str,
        formats: Sequence[str],
        samples: Any,
    ) -> dict[str, str]:
        if others := [name for name in formats if name != "saved_model"]:
            raise UserError(f"export: task alignment writes a SavedModel alone, not {others[0]}.")
        name = model_name(os.path.basename(run.folder.rstrip("/")))
        path = export_towers(_two_towers(run.config, model), directory, name)
        keep_certificate(run, "saved_model", path, "assets.extra")
        return {"saved_model": path}

    def check_bars(self, bars: Sequence[Bar], facts: Mapping[str, Any]) -> None:
        if not bars:
            return
        random = np.random.default_rng(0).normal(size=(4, 3))
        made_up = Embedded(unit(random), unit(random), np.arange(4), np.arange(4))
        known = measured(measure(made_up))
        names = ("zero_shot_accuracy", "zero_shot_accuracy.low", "zero_shot_accuracy.high")
        refuse_unknown(bars, {**known, **dict.fromkeys(names, 0.0)})

    def sections(self, facts: RunFacts) -> Sequence[Section]:
        return report.sections(facts)

    def findings(self, data: Data) -> Iterator[Finding]:
        return examine(data)

    def headline(self, evaluation: dict[str, Any]) -> str:
        return headline(evaluation)

    def format_results(self, evaluation: dict[str, Any]) -> str:
        return format_retrieval(evaluation)


TASK = Alignment()


def embed(model: keras.Model, feed: PairFeed, split: str) -> Embedded:
    """Returns the embeddings of a split's pictures, and of the texts that are queries."""
    examples = feed.data.splits[split]
    assert isinstance(examples, PairSplit) and isinstance(feed.input, Pair)
    both = [
        unit(
            predict_outputs(
                model.get_layer(name), feed.encoded(split, place), f"encode {name} of {split}"
            )[0]
        )
        for place, name in enumerate(feed.input.sides)
    ]
    return _embedded(examples, *both)


def _validated(data: Data, said: Any) -> Embedded:
    """Returns the embeddings of the validation pictures, each with its first text."""
    split = data.splits["val"]
    assert isinstance(split, PairSplit)
    pictures, texts = embeddings_of(np.asarray(said))
    return Embedded(pictures, texts, np.arange(len(split)), split.numbers[split.starts[:, 0]])


def _embedded(examples: PairSplit, pictures: np.ndarray, texts: np.ndarray) -> Embedded:
    asked = examples.queries
    return Embedded(pictures, texts[asked], examples.owners[asked], examples.numbers[asked])


def _of_ridge(run: Run, examples: PairSplit, split: str) -> Embedded | None:
    """Returns what ridge regression made of a split before training; None of training pairs."""
    both = floor.load_embeddings(run, split)
    return None if both is None else _embedded(examples, *both)


def _two_towers(config: Config, model: keras.Model) -> TwoTowers:
    pair, classes = TASK.input(config, model), _section(config).classes
    assert isinstance(pair, Pair)
    templates = (classes or ClassesSection(column="")).templates
    return TwoTowers(model, pair, tuple(templates))


# ------------------------------------------------------------------------------- sections


def _checked(config: Config) -> AlignmentConfig:
    assert isinstance(config, AlignmentConfig)
    return config


def _section(config: Config) -> AlignmentSection:
    return _checked(config).alignment


def _of_texts(config: AlignmentConfig) -> AlignmentConfig:
    """Returns the config as if the texts were its only input."""
    section = config.alignment
    data = config.data.model_copy(update={"input": section.input})
    head = config.head.model_copy(update={"pooling": section.pooling})
    return config.model_copy(update={"data": data, "backbone": section.backbone, "head": head})


def _towers(config: AlignmentConfig) -> tuple[str, str]:
    """Returns the names of the towers: what people call pictures and texts."""
    return build.input_of(config).nouns, build.input_of(_of_texts(config)).nouns


def _check_sections(config: AlignmentConfig) -> None:
    """Refuses what other tasks have and this one does not; UserError."""
    section = config.alignment
    texts, pictures = build.input_of(_of_texts(config)), build.input_of(config)
    faults = {
        "outputs": bool(config.outputs) and "pictures and texts have no outputs",
        "loss": config.loss != LossConfig() and "alignment.loss names the loss of pairs",
        "data.balance": config.data.balance != "none" and "pairs are of no class",
        "data.input.mix": pictures.mixes and "a blend of pictures has no text",
        "data.input.kind": bool(pictures.cells) and "the first input is read from files",
        "alignment.input.kind": not texts.cells and "the second input is read from a table's cells",
        "alignment.input.variation": texts.training_view != "none"
        and "the texts of a picture take turns instead",
        "alignment.input.column": _named(section) and "alignment.texts names the columns",
        "alignment.backbone.adapt": section.backbone.adapt is not None
        and "adapt the model in a run of texts, and name that",
        "trunk.views": config.trunk.views > 0
        and "what is frozen of pictures is not stored as "
        "they are augmented; the texts' tower still is",
        "export.formats": bool(config.export.formats) and "it writes a SavedModel alone",
    }
    for field, why in faults.items():
        if why:
            raise UserError(f"{field}: task alignment does not take it: {why}. Leave it out.")


def _named(section: AlignmentSection) -> bool:
    settings = section.input.settings
    return bool(settings.get("column") or settings.get("columns"))


# ------------------------------------------------------------------------------- the floor


def _features(assembled: Assembled, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns what both projections get of a split: float32 (n, channels), (texts, channels)."""
    feed, model = assembled.feed, assembled.model
    assert isinstance(feed, PairFeed) and isinstance(feed.input, Pair)
    features, stored = [], _stored(assembled, split)
    for place, name in enumerate(feed.input.sides):
        if name in stored:
            store = stored[name]
            rows = tf.range(store.layout.examples, dtype=tf.int64)
            features.append(store.gather(rows)[0].numpy())
            continue
        tower = model.get_layer(name)
        before = keras.Model(tower.input, _projection(tower).input)
        said = predict_outputs(before, feed.encoded(split, place), f"floor, {name} of {split}")
        features.append(said[0])
    first, second = features
    return first, second


def _stored(assembled: Assembled, split: str) -> Mapping[str, FrontierStore]:
    """Returns the first phase's stores of a split by tower, if they hold what projections get."""
    trunk = assembled.trunk
    forecast = trunk.forecasts[0] if trunk is not None and trunk.forecasts else None
    if trunk is None or forecast is None or not forecast.stored:
        return {}
    divided = trunk.splits[0]
    assert divided is not None
    steps = {step.operation.name for step in divided.tail.graph.steps}
    if steps - {"head_dropout", PROJECTION, "meeting"}:
        return {}
    if trunk.first_stores is None:
        parts = assembled.model, assembled.feed, assembled.unfreeze
        trunk.first_stores = stores_of(*parts, trunk, 0)
    store = (trunk.first_stores or {}).get(split)
    return store.stores if isinstance(store, PairStore) else {}


def _projection(tower: keras.Model) -> keras.layers.Dense:
    return tower.get_layer(PROJECTION)


def _fitted(assembled: Assembled, run: Run) -> list[floor.Maps]:
    """Fits the floor on the training pairs, keeps what it says of the other splits, prints it."""
    config, splits = assembled.config, assembled.data.splits
    train = splits["train"]
    assert isinstance(train, PairSplit)
    pairs = floor.Pairs(*_features(assembled, "train"), train.owners, train.shares)
    maps = list(floor.fit(pairs, _section(config).units, config.seed))
    for name in splits.keys() - {"train"}:
        said = [maps[0](part, side) for side, part in enumerate(_features(assembled, name))]
        floor.keep_embeddings(run, name, said)
    floor.save(run, maps)  # last: with it all is there
    print(f"floor     {maps[0].name}: held-out mean reciprocal rank {maps[0].score:.3f}")
    if maps[1].name != maps[0].name:
        print(f"start     {maps[1].name}: {maps[1].score:.3f}")
    return maps


def _start_from(model: keras.Model, maps: floor.Maps, units: int) -> None:
    padded = maps.padded(units)
    towers = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    for side, tower in enumerate(towers):
        _projection(tower).set_weights([padded.kernels[side], padded.biases[side]])
    meeting = next(layer for layer in model.layers if isinstance(layer, Meeting))
    meeting.set(maps.scale)
