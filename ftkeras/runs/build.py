"""From sections of a config to the objects they name; config objects stop here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from ftkeras.backbones import Backbone, Block, load_backbone
from ftkeras.config.data import DataSection
from ftkeras.config.schema import Config, StrategyConfig
from ftkeras.data.dataset import ImageData
from ftkeras.data.feed import Feed
from ftkeras.data.load import load_data
from ftkeras.data.share import WHOLE, Share
from ftkeras.errors import UserError
from ftkeras.inputs.image.augment_layers import layers_augment
from ftkeras.model.assemble import build_model
from ftkeras.model.head import Hidden, frequency_bias
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
from ftkeras.training.callbacks.loggers import Loggers, flatten
from ftkeras.training.optimizer import make_optimizer
from ftkeras.training.regularization import WeightPenalty
from ftkeras.trunk.writer import TrunkOptions


def images(
    config: Config,
    *,
    strict: bool = True,
    classes: Sequence[str] = (),
    of: DataSection | None = None,
    labelled: bool = True,
    **changes: Any,
) -> ImageData:
    """Finds, checks and splits the images that the config names, or another section of it does.

    See `load_data`; `changes` are more arguments for it, also in place of what the section says.
    """
    section = config.data if of is None else of
    source = section.model_dump(exclude=set(DataSection.model_fields))
    seed = source.pop("split_seed")
    return load_data(
        **{**source, **changes},
        seed=config.seed if seed is None else seed,
        max_bad_files=section.max_bad_files,
        strict=strict,
        classes=classes,
        labelled=labelled,
    )


def backbone(config: Config) -> Backbone:
    """Loads the backbone and makes the changes to it that the config asks for."""
    section = config.backbone
    loaded = load_backbone(
        section.name, weights=section.weights, image_size=config.data.image_size, cut=section.cut
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


def model(config: Config, data: ImageData, on: Backbone) -> keras.Model:
    """Attaches the head."""
    head = config.head.model_dump(exclude={"hidden", "bias_from_frequencies"})
    classes = len(data.class_names)
    if config.head.bias_from_frequencies:
        head["bias"] = frequency_bias(data.splits["train"].labels, classes, data.multi_label)
    hidden = [Hidden(**layer.model_dump()) for layer in config.head.hidden]
    return build_model(on, classes, hidden=hidden, seed=config.seed, **head)


def feed(
    config: Config, data: ImageData, image_size: int, share: Share = WHOLE, full: bool = False
) -> Feed:
    """Sets up the batches for training and measuring; see `Feed` for `share` and `full`."""
    section = config.data
    listed = config.phases if isinstance(config.phases, list) else []
    strengths = {phase.augmentation for phase in listed} - {None}
    layers, recipe = None, ""
    if not isinstance(section.augmentation, str):
        if strengths:
            raise UserError(
                "phases: augmentation can be set by phase only where data.augmentation is a "
                "strength, not a list of layers."
            )
        rows = [(row.name, row.args) for row in section.augmentation]
        layers = layers_augment(rows, image_size, repeatable=config.training.deterministic)
        recipe = f"seeded layers {rows!r}"
    return Feed(
        data,
        image_size=image_size,
        batch_size=section.batch_size,
        seed=config.seed,
        resize=section.resize,
        cache=section.cache,
        strength=section.augmentation if isinstance(section.augmentation, str) else "none",
        varies=bool(strengths),
        layers=layers,
        layers_recipe=recipe,
        options={"balance": section.balance, **section.mix.model_dump()},
        share=share,
        full=full,
    )


def phases(
    config: Config,
    weights: Weights,
    examples: int,
    relative_gradients: Callable[[], dict[str, float]],
) -> Expansion:
    """Returns the phases that are listed, or those of the strategy that is named."""
    section = config.phases
    if not isinstance(section, StrategyConfig):
        return Expansion(tuple(section))
    return expand(section.strategy, Setting(section, weights, examples, relative_gradients))


def scaled(config: Config, among: Sequence[Phase]) -> tuple[Sequence[Phase], Sequence[str]]:
    """Fits the learning rates to the images an update, if the config asks for it.

    Returns:
        The phases, and what was done to them, in words.
    """
    section = config.optimizer
    if section.scale_rate == "none":
        return among, ()
    images = config.data.batch_size * section.accumulate
    ratio = images / section.base_batch_size
    factor = math.sqrt(ratio) if section.scale_rate == "sqrt" else ratio
    note = (
        f"learning rates times {factor:.4g}: {section.scale_rate} in the {images} images an update "
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


def optimizer(
    config: Config, weights: Weights, regularization: WeightPenalty | None
) -> keras.optimizers.Optimizer:
    """Makes the one optimizer; weights that are pulled elsewhere don't decay."""
    return make_optimizer(
        config.optimizer.name,
        weights,
        learning_rate=1e-3,  # each phase sets its own
        spared=regularization.anchored if regularization else (),
        **config.optimizer.model_dump(exclude={"name", "scale_rate", "base_batch_size"}),
    )


def trunk(config: Config) -> TrunkOptions | None:
    """Returns how the trunk is stored, unless the config turns that off."""
    section = config.trunk
    if section.mode == "off":
        return None
    return TrunkOptions(
        always=section.mode == "on",
        precision=section.precision,
        dtype=section.dtype,
        views=section.views,
        silence=section.silence,
        memory_budget=None if section.memory_mb is None else section.memory_mb << 20,
        disk_budget=None if section.disk_mb is None else section.disk_mb << 20,
    )


def loggers(config: Config, run: Run, is_chief: bool) -> Loggers:
    """Opens the loggers that the config asks for, where this is the chief; TensorBoard always."""
    settings = flatten(config.model_dump(mode="json"))
    return Loggers(run, config.training.loggers if is_chief else (), settings)


def _new_blocks(config: Config, on: Backbone) -> tuple[Block, ...]:
    count = config.backbone.reinitialize
    if count > len(on.blocks):
        raise UserError(
            f"backbone.reinitialize: {on.name} has {len(on.blocks)} blocks, fewer than {count}."
        )
    return on.blocks[len(on.blocks) - count :]
