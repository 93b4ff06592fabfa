"""From sections of a config to the objects they name; config objects stop here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from ftkeras.backbones import Backbone, Block, load_backbone
from ftkeras.config.data import DataSection
from ftkeras.config.schema import Config, PhaseConfig, StrategyConfig
from ftkeras.data.augment_layers import layers_augment
from ftkeras.data.dataset import ImageData
from ftkeras.data.feed import Feed
from ftkeras.data.load import load_data
from ftkeras.data.share import WHOLE, Share
from ftkeras.errors import UserError
from ftkeras.model.assemble import build_model
from ftkeras.model.head import Hidden, frequency_bias
from ftkeras.model.surgery import (
    reinitialize,
    set_stochastic_depth,
    shrink_and_perturb,
    swap_activation_in,
)
from ftkeras.phases.phase import Phase, Until, scale_rates
from ftkeras.phases.selectors import Weights, select
from ftkeras.phases.strategies import Expansion, Setting, expand
from ftkeras.run import Run
from ftkeras.training.callbacks.averaging import AveragedWeights
from ftkeras.training.callbacks.divergence import DivergencePolicy
from ftkeras.training.callbacks.early_stopping import EarlyStopping
from ftkeras.training.callbacks.loggers import Loggers, flatten
from ftkeras.training.optimizer import make_optimizer
from ftkeras.training.regularization import WeightPenalty
from ftkeras.training.resume.saving import SavingOptions
from ftkeras.trunk.plan import TrunkOptions


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
    given = config.backbone
    found = load_backbone(
        given.name, weights=given.weights, image_size=config.data.image_size, cut=given.cut
    )
    for old, new in given.activation.items():
        found, _ = swap_activation_in(found, old, new)
    if given.stochastic_depth is not None:
        found = set_stochastic_depth(found, given.stochastic_depth, config.seed)
    if given.shrink_and_perturb is not None:
        amounts = given.shrink_and_perturb.model_dump()
        shrink_and_perturb(found.blocks, seed=config.seed, **amounts)
    reinitialize(_new_blocks(config, found), config.seed)
    return found


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
    given = config.data
    listed = config.phases if isinstance(config.phases, list) else []
    strengths = {phase.augmentation for phase in listed} - {None}
    layers, recipe = None, ""
    if not isinstance(given.augmentation, str):
        if strengths:
            raise UserError(
                "phases: augmentation can be set by phase only where data.augmentation is a "
                "strength, not a list of layers."
            )
        rows = [(row.name, row.args) for row in given.augmentation]
        layers, recipe = layers_augment(rows, image_size), repr(rows)
    return Feed(
        data,
        image_size=image_size,
        batch_size=given.batch_size,
        seed=config.seed,
        resize=given.resize,
        cache=given.cache,
        strength=given.augmentation if isinstance(given.augmentation, str) else "none",
        varies=bool(strengths),
        layers=layers,
        layers_recipe=recipe,
        options={"balance": given.balance, **given.mix.model_dump()},
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
    given = config.phases
    if not isinstance(given, StrategyConfig):
        return Expansion(tuple(_phase(phase) for phase in given))
    setting = Setting(
        epochs=given.epochs,
        head_rate=given.learning_rate,
        fine_rate=given.fine_rate,
        last_n=given.last_n,
        weights=weights,
        examples=examples,
        relative_gradients=relative_gradients,
    )
    return expand(given.strategy, setting)


def scaled(config: Config, among: Sequence[Phase]) -> tuple[Sequence[Phase], Sequence[str]]:
    """Fits the learning rates to the images an update, if the config asks for it.

    Returns:
        The phases, and what was done to them, in words.
    """
    given = config.optimizer
    if given.scale_rate == "none":
        return among, ()
    images = config.data.batch_size * given.accumulate
    ratio = images / given.base_batch_size
    factor = math.sqrt(ratio) if given.scale_rate == "sqrt" else ratio
    note = (
        f"learning rates times {factor:.4g}: {given.scale_rate} in the {images} images an update "
        f"(base_batch_size {given.base_batch_size})"
    )
    return tuple(scale_rates(phase, factor) for phase in among), (note,)


def penalty(
    config: Config, weights: Weights, on: Backbone, among: Sequence[Phase]
) -> WeightPenalty | None:
    """Puts the regularisation on the weights that any phase trains."""
    given = config.regularization
    if not (given.l2 or given.l2_sp):
        return None
    selectors = [selector for phase in among for selector in phase.train or ()]
    return WeightPenalty(
        select(weights, selectors or ["head"]),
        l2=given.l2,
        l2_sp=given.l2_sp,
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


def average(config: Config, of: keras.Model) -> AveragedWeights | None:
    """Makes the moving average of the weights, if the config asks for one."""
    given = config.training.average
    return None if given is None else AveragedWeights(of, given.decay)


def early_stopping(config: Config) -> EarlyStopping | None:
    """Makes what ends training early, if the config asks for it."""
    given = config.training.early_stopping
    return None if given is None else EarlyStopping(**given.model_dump())


def saving(config: Config) -> SavingOptions:
    """Returns when to save."""
    return SavingOptions(**config.training.checkpoint.model_dump())


def trouble(config: Config) -> DivergencePolicy:
    """Returns what to do about trouble in the numbers."""
    return DivergencePolicy(**config.training.trouble.model_dump())


def trunk(config: Config) -> TrunkOptions | None:
    """Returns how the trunk is stored, unless the config turns that off."""
    given = config.trunk
    if given.mode == "off":
        return None
    return TrunkOptions(
        always=given.mode == "on",
        precision=given.precision,
        dtype=given.dtype,
        views=given.views,
        silence=given.silence,
        memory_budget=None if given.memory_mb is None else given.memory_mb << 20,
        disk_budget=None if given.disk_mb is None else given.disk_mb << 20,
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


def _phase(phase: PhaseConfig) -> Phase:
    until = None if phase.until is None else Until(**phase.until.model_dump())
    return Phase(**{**phase.model_dump(), "until": until})
