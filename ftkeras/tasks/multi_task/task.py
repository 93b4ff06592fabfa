"""Several outputs of one network, whose losses are weighed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras

from ftkeras.backbones import Backbone
from ftkeras.config.schema import Config
from ftkeras.data.dataset import Data
from ftkeras.devices.replicas import replica_class
from ftkeras.errors import UserError
from ftkeras.graph import Graph
from ftkeras.model.assemble import build_heads
from ftkeras.runs import build
from ftkeras.runs.task import Task
from ftkeras.tasks.multi_task.config import MultiTaskConfig, MultiTaskSection
from ftkeras.tasks.multi_task.weighting import (
    GradNormWeighed,
    UncertaintyWeighed,
    WeighedHeads,
    WeighedTail,
)


class MultiTask(Task):
    """Answers several questions about each example with one network."""

    def has_floor(self, config: Config) -> bool:
        """A linear model can do this task."""
        return True

    def check(self, config: Config, data: Data) -> None:
        if _section(config).weighting == "gradnorm" and len(data.outputs) < 2:
            raise UserError("multi_task.weighting: gradnorm balances two outputs or more.")
        super().check(config, data)

    def data(self, config: Config) -> Data:
        data = super().data(config)
        if not _section(config).heads:
            return data
        note = "multi_task.heads is now `outputs: {NAME: KIND, ...}`; docs/outputs.md shows it"
        return dataclasses.replace(data, notes=(*data.notes, note))

    def model(self, config: Config, data: Data, backbone: Backbone) -> keras.Model:
        if len(data.outputs) == 1:
            return super().model(config, data, backbone)
        return build_heads(
            backbone,
            {name: output.units for name, output in data.outputs.items()},
            biases=build.biases(config, data),
            make=_maker(config, data),
            **build.head_options(config),
        )

    def tail(self, model: keras.Model, graph: Graph) -> keras.Model:
        if isinstance(model, WeighedHeads):
            return replica_class(WeighedTail)(graph, model)
        return super().tail(model, graph)


TASK = MultiTask()


def _section(config: Config) -> MultiTaskSection:
    return config.multi_task if isinstance(config, MultiTaskConfig) else MultiTaskSection()


def _maker(config: Config, data: Data) -> Callable[..., keras.Model]:
    """Returns a function that makes the model with the config's weighting."""
    section = _section(config)
    weights = {name: asked.weight for name, asked in config.asked.items()}
    kind: type[WeighedHeads] = WeighedHeads
    more: dict[str, Any] = {}
    if section.weighting == "uncertainty":
        losses = {name: output.loss(config.loss) for name, output in data.outputs.items()}
        squared = [n for n, x in losses.items() if isinstance(x, keras.losses.MeanSquaredError)]
        kind, more = UncertaintyWeighed, {"squared": tuple(squared)}
    elif section.weighting == "gradnorm":
        kind, more = GradNormWeighed, {"alpha": section.alpha, "rate": section.weight_rate}
    return functools.partial(replica_class(kind), weights=weights, **more)
