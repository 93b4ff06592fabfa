"""From sections of a config to the objects they name; config objects stop here."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.backbones import Backbone, Block, load_backbone
from ftkeras.backbones.hub import is_hub
from ftkeras.config.data import DataSection, ManifestData
from ftkeras.config.schema import Config, StrategyConfig
from ftkeras.console import counted
from ftkeras.data import pipeline
from ftkeras.data.answers import Question
from ftkeras.data.dataset import Data, Split
from ftkeras.data.feed import Feed
from ftkeras.data.load import Expected, load_data
from ftkeras.data.order import Order
from ftkeras.data.reading import read_whole
from ftkeras.data.share import WHOLE, Share
from ftkeras.errors import UserError
from ftkeras.files import whole_path
from ftkeras.inputs.base import Input
from ftkeras.inputs.image.config import ImageConfig
from ftkeras.inputs.image.input import ImageInput
from ftkeras.inputs.registry import make_input
from ftkeras.inputs.text.config import TextConfig
from ftkeras.model.assemble import build_model
from ftkeras.model.lora import Adapters, add_lora, load_adapters
from ftkeras.model.surgery import (
    reinitialize,
    set_stochastic_depth,
    shrink_and_perturb,
    swap_activation_in,
)
from ftkeras.phases.phase import Phase, scale_rates
from ftkeras.phases.selectors import Weights, select
from ftkeras.phases.strategies import Expansion, Setting, expand
from ftkeras.run import Run
from ftkeras.timeline import stage
from ftkeras.training.callbacks.loggers import Loggers, flatten
from ftkeras.training.regularization import WeightPenalty

_NOT_LAYERS = {"bias_from_frequencies", "counts", "start"}  # fields of `head`


@stage("find and check the data")
def data(
    config: Config,
    *,
    expected: Expected = Expected(),  # noqa: B008 (it is frozen)
    of: DataSection | None = None,
    **changes: Any,
) -> Data:
    """Finds, checks and splits the examples of the config, or of another section of it.

    See `load_data`; `changes` are more arguments for it and override the section's fields.
    """
    section = config.data if of is None else of
    source = section.model_dump(exclude=set(DataSection.model_fields))
    seed, kind = source.pop("split_seed"), input_of(config)
    if kind.cells and not isinstance(section, ManifestData):
        source |= _text_features(section, kind)
    asked = [
        Question(name, output.column or name, output.kind, output.map)
        for name, output in config.asked.items()
    ]
    if asked and isinstance(section, ManifestData):
        several = section.label_columns or section.label_separator != ";" or section.multi_label
        if several or section.label_column != "label":
            raise UserError(
                "data: outputs name the columns with their answers; leave out label_column, "
                "label_columns, label_separator and multi_label."
            )
        source["label_column"] = None
    return load_data(
        **{**source, **changes},
        seed=config.seed if seed is None else seed,
        max_bad_files=section.max_bad_files,
        expected=expected,
        questions=asked,
        kind=kind,
    )


@stage("build the model")
def backbone(config: Config, data: Data) -> Backbone:
    """Loads the backbone and makes the changes of the config to it.

    Args:
        config: The config.
        data: Texts decide the vocabulary.
    """
    section, examples = config.backbone, config.data.input
    if isinstance(examples, TextConfig):
        loaded = _text_backbone(config, examples, data)
    elif section.recurrent is not None or section.adapt is not None:
        field = "adapt" if section.recurrent is None else "recurrent"
        raise UserError(f"backbone.{field}: this is for backbones of texts. Leave it out.")
    else:
        size = examples.size if isinstance(examples, ImageConfig) else None
        loaded = load_backbone(
            section.name, weights=section.weights, image_size=size, cut=section.cut
        )
    for old, new in section.activation.items():
        loaded, _ = swap_activation_in(loaded, old, new)
    if section.stochastic_depth is not None:
        loaded = set_stochastic_depth(loaded, section.stochastic_depth, config.seed)
    if section.shrink_and_perturb is not None:
        amounts = section.shrink_and_perturb.model_dump()
        shrink_and_perturb(loaded.blocks, seed=config.seed, **amounts)
    reinitialize(_new_blocks(config, loaded), config.seed)
    return loaded


def _text_backbone(config: Config, settings: TextConfig, data: Data) -> Backbone:
    # Imported here: images do not need them.
    from ftkeras.backbones.text.load import load_text_backbone
    from ftkeras.backbones.text.reading import Reading
    from ftkeras.backbones.text.recurrent import Shape

    section = config.backbone
    return load_text_backbone(
        section.name,
        data.splits["train"],
        weights=weights_name(config),
        reading=Reading(
            settings.tokens,
            settings.length,
            settings.words,
            settings.vocabulary,
            len(settings.columns or [0]),
        ),
        shape=None if section.recurrent is None else Shape(**section.recurrent.model_dump()),
        pooler=config.head.pooling == "pooler",
        seed=config.seed,
    )


def _text_features(section: DataSection, kind: Input) -> dict[str, str]:
    """Returns which features of records hold texts and labels, unless the config names others."""
    usual = {"image_feature": kind.cells[0], "label_feature": "label"}
    fields = type(section).model_fields
    return {
        name: value
        for name, value in usual.items()
        if name in fields and getattr(section, name) == fields[name].default
    }


def adapter(config: Config, on: Backbone, data: Data) -> Callable[[], list[float]] | None:
    """Returns what adapts a language model to the training texts, if the config sets it."""
    section = config.backbone.adapt
    if section is None:
        return None
    if config.backbone.name != "char_lstm":
        raise UserError("backbone.adapt: only char_lstm is a language model. Leave it out.")
    from ftkeras.backbones.text.adapt import adapt
    from ftkeras.backbones.text.vocabulary import texts_in

    texts = texts_in(data.splits["train"])
    if section.texts is not None:
        lines = read_whole(whole_path(section.texts)).getvalue().decode("utf-8-sig", "replace")
        texts += [line for line in lines.splitlines() if line.strip()]
    settings = section.model_dump(exclude={"texts"})
    return functools.partial(adapt, on.model, texts, seed=config.seed, **settings)


def adapters(config: Config, on: Backbone) -> Adapters | None:
    """Gives the backbone adapters if the config has a section `lora`."""
    section = config.lora
    if section is None:
        return None
    if config.backbone.adapt is not None:
        raise UserError(
            "lora: backbone.adapt trains the weights that adapters leave alone. Leave one out."
        )
    if section.adapters is not None:
        return load_adapters(section.adapters, on.model)
    return add_lora(
        on.model,
        rank=section.rank,
        alpha=section.alpha,
        targets=section.targets,
        seed=config.seed,
    )


def weights_name(config: Config) -> str:
    """Returns which weights the backbone has: texts have none of ImageNet."""
    weights, is_text = config.backbone.weights, isinstance(config.data.input, TextConfig)
    return "starter" if weights == "imagenet" and is_text else weights


def backbone_title(config: Config) -> str:
    """Returns the backbone's name with its weights, for people."""
    name, weights = config.backbone.name, weights_name(config)
    own = is_hub(name) and weights in ("imagenet", "starter")
    return f"{name} ({'its own weights' if own else weights})"


def make_layers_known(config: Config) -> None:
    """Imports the layers of this package that a saved model of such examples may have."""
    input_of(config)
    if isinstance(config.data.input, TextConfig):
        importlib.import_module("ftkeras.backbones.text.char_lstm")
        if is_hub(config.backbone.name):
            importlib.import_module("keras_hub")


@stage("build the model")
def model(config: Config, data: Data, on: Backbone) -> keras.Model:
    """Attaches the head for the only output."""
    [units] = [output.units for output in data.outputs.values()]
    [bias] = biases(config, data).values()
    return build_model(on, units, bias=bias, **head_options(config))


def head_options(config: Config) -> dict[str, Any]:
    """Returns how heads are made, whatever the outputs are; see `attach_head`."""
    options = config.head.model_dump(exclude=_NOT_LAYERS | {"hidden"})
    return {**options, "hidden": config.head.hidden, "seed": config.seed}


def biases(config: Config, data: Data) -> dict[str, np.ndarray | None]:
    """Returns by output the bias that the last layer starts from; None for zeros."""
    train, starts = data.splits["train"], {}
    for name, output in data.outputs.items():
        answers = train.answers_to(name)
        wanted = config.head.bias_from_frequencies
        starts[name] = output.bias(answers.values[answers.places]) if wanted else None
    return starts


def input_of(config: Config, model: keras.Model | None = None) -> Input:
    """Returns what an example is.

    Args:
        config: The config.
        model: The model that takes the examples; without one they are found and checked, but not
            prepared.
    """
    section = config.data.input
    settings = section.settings
    if isinstance(section, ImageConfig):
        settings["repeatable"] = config.training.deterministic
    return make_input(section.kind, settings, model)


def feed(
    config: Config,
    data: Data,
    model: keras.Model,
    share: Share = WHOLE,
    full: bool = False,
) -> Feed:
    """Sets up the batches for training and measuring; see `Feed` for `share` and `full`."""
    section, kind = config.data, input_of(config, model)
    augmentation: Any = kind.training_view
    if isinstance(section.input, ImageConfig):
        augmentation = section.input.augmentation
    listed = config.phases if isinstance(config.phases, list) else []
    varies = any(phase.augmentation is not None for phase in listed)
    if varies and not isinstance(augmentation, str):
        raise UserError(
            "phases: augmentation can be set by phase only if data.input.augmentation is a "
            "strength, not a list of layers."
        )
    return Feed(
        data,
        kind,
        batch_size=section.batch_size,
        seed=config.seed,
        cache=section.cache,
        view=augmentation if isinstance(augmentation, str) else "layers",
        varies=varies,
        balance=section.balance,
        share=share,
        full=full,
    )


def batches(
    split: Split,
    *,
    image_size: int,
    batch_size: int,
    training: bool = False,
    cache: str = "auto",
    **settings: Any,
) -> tf.data.Dataset:
    """Makes the batches of images that a run would train on, for your own training loop.

    Args:
        split: The examples.
        image_size: Side of the images, in pixels.
        batch_size: Examples per batch, over all devices.
        training: Whether to shuffle, augment, mix and balance; otherwise all examples come once,
            in order, and whole.
        cache: "memory", "auto" or "none"; see `Examples`.
        **settings: The fields of `ImageInput` (resize, layers, mixup, cutmix) and of `Order`
            (seed, shuffle, balance, epoch, start, length); `strength`, a name of an augmentation's
            strength or a variable with its index; and `drop_remainder` and `share`.

    Returns:
        Batches (images float32 (b, s, s, 3) 0..255, labels float32 (b, classes)); see
        `ftkeras.data.pipeline.batches`.
    """
    kind = ImageInput(image_size, **_taken(settings, ImageInput))
    order = {"shuffle": True, **_taken(settings, Order)}
    strength = settings.pop("strength", "none")
    views = ["layers"] if kind.layers else [strength]
    if isinstance(strength, tf.Variable):
        views, order["view"] = list(kind.views), strength
    if not training:
        views, order = ["none"], {**order, "shuffle": False, "balance": "none"}
    return pipeline.batches(
        split,
        pipeline.Examples(split, kind, views, cache),
        batch_size,
        Order(**order),
        mix=kind.mix if training and kind.mixes else None,
        **settings,
    )


def _taken(settings: dict[str, Any], kind: Any) -> dict[str, Any]:
    """Removes from settings those that are fields of a dataclass, and returns them."""
    names = {field.name for field in dataclasses.fields(kind)} & settings.keys()
    return {name: settings.pop(name) for name in names}


def phases(
    config: Config,
    weights: Weights,
    examples: int,
    relative_gradients: Callable[[], dict[str, float]],
    from_floor: bool,
) -> Expansion:
    """Returns the phases that are listed, or those of the strategy that is named; see `Setting`."""
    section = config.phases
    if not isinstance(section, StrategyConfig):
        return Expansion(tuple(section))
    setting = Setting(section, weights, examples, relative_gradients, from_floor)
    return expand(section.strategy, setting)


def scaled(config: Config, among: Sequence[Phase]) -> tuple[Sequence[Phase], Sequence[str]]:
    """Scales the learning rates to the images per update, by `optimizer.scale_rate`.

    Returns:
        The phases, and what was changed, in words.
    """
    section = config.optimizer
    if section.scale_rate == "none":
        return among, ()
    images = config.data.batch_size * section.accumulate
    ratio = images / section.base_batch_size
    factor = math.sqrt(ratio) if section.scale_rate == "sqrt" else ratio
    note = (
        f"learning rates times {factor:.4g}: {section.scale_rate} in {images} images per update "
        f"(base_batch_size {section.base_batch_size})"
    )
    return tuple(scale_rates(phase, factor) for phase in among), (note,)


def penalty(
    config: Config, weights: Weights, on: Backbone, among: Sequence[Phase]
) -> WeightPenalty | None:
    """Puts the regularisation on the weights that any phase trains."""
    section = config.regularization
    if not (section.l2 or section.l2_sp):
        return None
    selectors = [selector for phase in among for selector in phase.train or ()]
    return WeightPenalty(
        select(weights, selectors or ["head"]),
        l2=section.l2,
        l2_sp=section.l2_sp,
        new_blocks=[block.name for block in _new_blocks(config, on)],
    )


def loggers(config: Config, run: Run, is_chief: bool) -> Loggers:
    """Opens the loggers of the config and TensorBoard, if this worker is the chief."""
    settings = flatten(config.model_dump(mode="json"))
    return Loggers(run, config.training.loggers if is_chief else (), settings)


def _new_blocks(config: Config, on: Backbone) -> tuple[Block, ...]:
    count = config.backbone.reinitialize
    if count > len(on.blocks):
        raise UserError(
            f"backbone.reinitialize: {on.name} has {counted(len(on.blocks), 'block')}, "
            f"fewer than {count}."
        )
    return on.blocks[len(on.blocks) - count :]
