"""From a config to everything that it names, built and bound together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras

from ftkeras.backbones import Backbone
from ftkeras.config.schema import LAST_EPOCH, Config
from ftkeras.console import counted
from ftkeras.data.dataset import Data
from ftkeras.data.feed import Feed
from ftkeras.devices.replicas import own_steps, replicated
from ftkeras.devices.strategy import Devices, choose_devices, choose_jit, prepare
from ftkeras.devices.workers import worker_share
from ftkeras.errors import UserError
from ftkeras.files import write_out
from ftkeras.graph import Graph
from ftkeras.model.lora import Adapters
from ftkeras.phases import Phase, Plan, make_plan, weights_of
from ftkeras.phases.checkpointing import check_checkpointing, checkpointed
from ftkeras.phases.selectors import Weights
from ftkeras.phases.strategies import relative_gradients
from ftkeras.report.axes import Axis
from ftkeras.report.chart import Curve, line_chart
from ftkeras.report.summary import start_lines
from ftkeras.run import Run
from ftkeras.runs import batch_size, build
from ftkeras.runs.optimizer import make_optimizer
from ftkeras.runs.padding import full_batches, why_full
from ftkeras.runs.task import Task, task_of
from ftkeras.timeline import stage
from ftkeras.training.callbacks.averaging import AveragedWeights
from ftkeras.training.callbacks.loggers import check_installed
from ftkeras.training.fit import fit
from ftkeras.training.lr_find import RangeTest, find_learning_rate
from ftkeras.training.regularization import WeightPenalty
from ftkeras.training.resume.checkpoint import Checkpoints
from ftkeras.training.resume.phases import ResumableUnfreezing
from ftkeras.training.resume.saving import Guards
from ftkeras.training.unweighted import Unweighted
from ftkeras.trunk.answers import StoredAnswers
from ftkeras.trunk.plan import TrunkPlan, plan_trunk


@dataclasses.dataclass(frozen=True)
class Built:
    """What is built once, whatever examples it is trained on."""

    task: Task
    config: Config
    backbone: Backbone
    adapters: Adapters | None
    model: keras.Model
    weights: Weights
    devices: Devices
    precision: str
    jit: bool


@dataclasses.dataclass(frozen=True)
class Assembled:
    """Everything that a config names, built and bound together; nothing is written yet."""

    built: Built
    task: Task
    config: Config
    data: Data
    feed: Feed
    backbone: Backbone
    model: keras.Model
    penalty: WeightPenalty | None
    unfreeze: ResumableUnfreezing
    phases: Sequence[Phase]
    trunk: TrunkPlan | None
    devices: Devices
    device: str
    notes: Sequence[str]
    callbacks: Sequence[keras.callbacks.Callback] = ()
    """The task's own callbacks: `Task.finish` may read what they recorded."""
    adapters: Adapters | None = None
    """Those that the backbone has."""

    @property
    def plan(self) -> Plan:
        """What each phase does."""
        return self.unfreeze.plan

    def fit(
        self,
        run: Run,
        guards: Guards,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        *,
        keeps_last: bool = False,
    ) -> Checkpoints:
        """Trains through all phases; returns the best epoch and its weights.

        Args:
            run: Takes metrics, checkpoints and TensorBoard logs.
            guards: They save the state of the training.
            callbacks: More than the task's own.
            keeps_last: Whether the last epoch counts as the best.
        """
        named = self.config.training.monitor or self.task.monitor(self.config, self.data)
        monitor = None if keeps_last or named == LAST_EPOCH else named
        averaging = self.config.training.average
        average = AveragedWeights(self.model, averaging.decay) if averaging else None
        checkpoints = Checkpoints(self.model, run, monitor, average)
        penalty = [] if self.penalty is None else [self.penalty]
        fit(
            self.model,
            self.feed,
            unfreeze=self.unfreeze,
            checkpoints=checkpoints,
            trunk=self.trunk,
            guards=guards,
            callbacks=[*callbacks, *penalty, *self.callbacks],
            measured=self.task.measured(self, average),
        )
        return checkpoints

    def describe(self) -> str:
        """Returns the lines that are printed before training starts."""
        backbone = (
            f"{build.backbone_title(self.config)} {self.feed.input.title}, "
            f"{counted(len(self.backbone.blocks), 'block')}"
        )
        return start_lines(self.data, backbone, self.device, self.notes)


@stage("plan")
def assemble(config: Config, task: Task | None = None) -> Assembled:
    """Loads the data, builds and compiles the model, and resolves the phases against both.

    Args:
        config: What to build.
        task: The task; None: the one that the config names.

    Raises:
        UserError: Something the config names cannot work.
    """
    task, training = task or task_of(config), config.training
    check_installed(training.loggers)
    devices = choose_devices(training.strategy)
    precision = prepare(config.seed, training.precision, training.deterministic, devices.kind)
    jit = choose_jit(training.jit, devices, training.deterministic)
    data = task.data(config)
    task.check(config, data)
    with devices.strategy.scope():
        backbone = task.backbone(config, data)
        model = replicated(task.model(config, data, backbone))
        adapters = build.adapters(config, backbone)
        weights = weights_of(model, backbone.blocks)
    return bind(
        Built(task, config, backbone, adapters, model, weights, devices, precision, jit), data
    )


def bind(built: Built, data: Data) -> Assembled:
    """Compiles what is built, with a new optimizer, and resolves the phases against the data."""
    task, config, model, weights = built.task, built.config, built.model, built.weights
    backbone, adapters, devices = built.backbone, built.adapters, built.devices
    with devices.strategy.scope():
        share = worker_share(devices.strategy)
        full = devices.kind == "tpu"
        feed = task.feed(config, data, model, share, full)
        loss = task.loss(config, data)
        expansion = build.phases(
            config,
            weights,
            len(data.splits["train"]),
            lambda: relative_gradients(model, weights, feed.plain("train").take(8), _in_one(loss)),
            _starts_from_floor(built, feed),
        )
        phases, scaling = build.scaled(config, expansion.phases)
        padding: Sequence[str] = ()
        if why := task.why_complete(config) or why_full(model, weights, phases):
            feed, sentence = full_batches(feed, why, devices.replicas)
            padding = (sentence,)
        penalty = build.penalty(config, weights, backbone, phases)
        spared = penalty.anchored if penalty else ()  # the penalty pulls them to their first values
        optimizer = make_optimizer(config.optimizer, weights, spared=spared)
        metrics = _metrics(task, config, data)
        model.compile(optimizer, loss=loss, weighted_metrics=metrics, jit_compile=built.jit)
    unfreeze = _unfreezing(built, phases, feed)
    trunk = _trunk(task, config, data, model, feed, unfreeze)
    if trunk is not None:
        feed = dataclasses.replace(feed, answers=StoredAnswers(model, feed, trunk))
    tight = batch_size.warn(unfreeze.plan, feed)
    low_rank = [adapters.describe()] if adapters else []
    more = (*low_rank, *expansion.reasons, *scaling, *padding, *filter(None, [tight]))
    assembled = Assembled(
        built,
        task,
        config,
        data,
        feed,
        backbone,
        model,
        penalty,
        unfreeze,
        phases=expansion.phases,
        trunk=trunk,
        devices=devices,
        device=devices.describe(feed.batch_size, built.precision, built.jit),
        notes=(*data.notes, *feed.input.notes, *more),
        adapters=adapters,
    )
    return dataclasses.replace(assembled, callbacks=tuple(task.callbacks(assembled)))


def _starts_from_floor(built: Built, feed: Feed) -> bool:
    """Whether the head starts from a linear model; several workers fit none."""
    return built.task.starts_from_floor(built.config) and feed.share.count == 1


def _unfreezing(built: Built, phases: Sequence[Phase], feed: Feed) -> ResumableUnfreezing:
    """Returns the callback of the plan, as it stands before the first phase."""
    recalibrates = any(phase.batch_norm == "recalibrate" for phase in phases)
    checkpointing = built.config.training.gradient_checkpointing
    if checkpointing:
        check_checkpointing(built.model, built.weights)
    unfreeze = ResumableUnfreezing(
        built.model,
        make_plan(
            built.model,
            built.weights,
            phases,
            steps_per_epoch=feed.steps_per_epoch,
            batch_size=feed.batch_size,
            length=feed.input.sizes[-1] if feed.input.sizes else None,
            checkpointing=checkpointing,
            fragile=built.config.backbone.weights != "none" and not _starts_from_floor(built, feed),
        ),
        blocks=built.backbone.blocks,
        recalibrate_on=feed.plain("train") if recalibrates else None,
        report=print,
    )
    unfreeze.prepare()
    unfreeze.set_flags(0)
    return unfreeze


def _trunk(
    task: Task,
    config: Config,
    data: Data,
    model: keras.Model,
    feed: Feed,
    unfreeze: ResumableUnfreezing,
) -> TrunkPlan | None:
    """Plans what is stored, unless the config turns that off or the task cannot have it."""

    def make_tail(graph: Graph) -> keras.Model:
        tail = task.tail(model, graph)
        tail.compile(
            model.optimizer,
            loss=model.loss,
            # New metrics: Keras resets those that a model has not used yet too late.
            weighted_metrics=_metrics(task, config, data),
            jit_compile=model.jit_compile,
            auto_scale_loss=False,  # the model's optimizer does that already
        )
        return tail

    if config.trunk.mode == "off":
        return None
    if why_not := task.why_no_trunk(config) or _why_no_tail(task, model):
        if config.trunk.mode == "on":
            raise UserError(f"trunk.mode: on is impossible: {why_not} Use auto or off.")
        return None
    options = config.trunk
    if options.silence is None:  # each layer of a Transformer has dropout
        options = options.model_copy(update={"silence": task.silences(config)})
    plan = plan_trunk(model, feed, unfreeze, options, make_tail)
    plan.get_stores = task.stores(feed)
    return plan


def _why_no_tail(task: Task, model: keras.Model) -> str | None:
    """Returns why no part of the model can be fitted alone: it would train differently."""
    own = own_steps(model)
    if own and type(task).tail is Task.tail:
        return f"the model's class has its own {own[0]}, and its task has no `tail` with the same."
    return None


def _metrics(task: Task, config: Config, data: Data) -> Any:
    return keras.tree.map_structure(Unweighted, task.metrics(config, data))


def _in_one(loss: Any) -> Callable[[Any, Any], Any]:
    """Returns the sum of several heads' losses as one; a loss stays as it is."""
    if not isinstance(loss, dict):
        return loss
    return lambda y, y_pred: sum(one(y[head], y_pred[head]) for head, one in loss.items())


def lr_find(config: Config, out: str, *, low: float, high: float, steps: int) -> RangeTest:
    """Runs the learning-rate range test on the first phase and writes a plot of it.

    Args:
        config: The config whose first phase is tried.
        out: The SVG file to write.
        low: The first rate.
        high: The last rate.
        steps: How many steps at most.

    Raises:
        UserError: The config cannot work, or `out` cannot be written.
    """
    assembled = assemble(config)
    assembled.unfreeze.set_model(assembled.model)
    assembled.unfreeze.enter(0)
    with checkpointed(assembled.model, assembled.plan):
        result = find_learning_rate(
            assembled.model, assembled.feed.train(), low=low, high=high, steps=steps
        )
    title = f"Learning-rate range test, phase {assembled.phases[0].name}"
    chart = line_chart(
        [Curve("loss", result.rates, result.losses)],
        title=title,
        x=Axis("learning rate", log=True),
        y=Axis("training loss, smoothed"),
        mark=result.suggestion,
        standalone=True,
    )
    write_out(out, chart)
    return result
