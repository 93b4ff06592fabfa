"""Runs from a stored trunk: the same record as runs without one, and when there is none."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import ftkeras
from ftkeras.config.load import parse_config
from ftkeras.config.schema import CheckpointConfig, Config
from ftkeras.errors import Interrupted, UserError
from ftkeras.graph import GraphModel
from ftkeras.run import Run
from ftkeras.runs.assemble import Assembled, assemble
from ftkeras.runs.task import Task
from ftkeras.signals import Signals
from ftkeras.training.callbacks.averaging import AveragedWeights
from ftkeras.training.fit import fit
from ftkeras.training.resume.checkpoint import Checkpoints
from ftkeras.training.resume.saving import Guards
from ftkeras.training.segments import segments
from ftkeras.trunk import plan
from ftkeras.trunk.plan import TrunkForecast, format_trunk

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arrays(tmp_path_factory, tiny_backbone) -> str:
    """Images of noise in three classes; the backbone lies beside them."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("arrays") / "small.npz"
    labels = np.arange(60) % 3
    images = random.integers(0, 200, (60, 32, 32, 3), np.uint8) + (labels * 20)[:, None, None, None]
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    shutil.copy(tiny_backbone, path.with_name("tiny.keras"))
    return str(path)


def config(arrays: str, *overrides: str) -> Config:
    tree = {
        "data": {
            "source": "arrays",
            "path": arrays,
            "batch_size": 8,
            "input": {"augmentation": "none"},
        },
        "backbone": {"name": str(Path(arrays).with_name("tiny.keras"))},
        "head": {"dropout": 0.0},
        "phases": [
            {"name": "head", "epochs": 2, "learning_rate": 1e-3},
            {"name": "top", "train": ["head", "blocks[-1:]"], "epochs": 2, "learning_rate": 1e-4},
        ],
        "regularization": {"l2_sp": 1e-3},
        "training": {"average": {"decay": 0.9}},
        "export": {"saved_model": False},
        "report": False,
    }
    return parse_config(tree, ["data.input.size=64", *overrides])


def test_the_record_is_the_same_with_and_without_a_store(arrays, tmp_path, capsys):
    plain = list(ftkeras.train(config(arrays, "trunk.mode=off"), str(tmp_path / "plain")).metrics())
    capsys.readouterr()
    run = ftkeras.train(
        config(arrays, "trunk.mode=on", "trunk.precision=exact"), str(tmp_path / "stored")
    )
    said = capsys.readouterr().out
    assert said.count("trunk     train:") == 2  # once per phase
    # The images ran through the trunk once for both, and for what is measured.
    assert said.count("examples through TensorFlow, to the bit, for 1 more") == 3  # test, too
    assert said.count("stored already") == 2
    stored = list(run.metrics())
    assert [record["phase"] for record in stored] == ["head", "head", "top", "top"]
    for one, two in zip(plain, stored, strict=True):
        for name in ("loss", "val_loss", "accuracy", "val_accuracy", "learning_rate"):
            assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-4), name
    audit = run.read_json("plan.json")["audit"]
    assert not audit["head"]["drifted"]
    assert audit["top"]["trained"] > audit["head"]["trained"]

    expected = run.read_json("plan.json")["trunk"]
    assert [row["stored"] and row["exact"] for row in expected] == [True, True]
    assert [row["made_in"] for row in expected] == ["head", "head"]
    assert expected[0]["share"] > expected[1]["share"] > 0.5
    assert all(row["seconds"] > sum(r["seconds"] for r in stored[:2]) for row in expected[:1])
    assert "trunk of head: stored" in said
    assert "trunk of top: stored with that of head" in said


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("data.input.augmentation=light", "augmentation makes each epoch's images new"),
        ("data.input.mix.mixup=0.2", "mixing makes each epoch's images new"),
        ("phases[1]={name: top, steps: 3}", "a phase ends on steps"),
        ("optimizer.accumulate=7", "a phase ends within an epoch, with a whole update"),
        ("trunk={mode: on, memory_mb: 0, disk_mb: 0}", "are needed"),
        ("trunk={mode: on, views: 1, disk_mb: 9}", ""),
    ],
)
def test_where_it_cannot_be_stored_the_plan_says_why(arrays, override, reason):
    made = assemble(config(arrays, "trunk.mode=on", override))
    top = made.trunk.forecasts[1]
    assert reason in top.reason
    assert top.stored == (not reason)
    assert top.reason in format_trunk(made.trunk)


def test_the_plan_says_what_silence_approximates(arrays, tmp_path):
    images = keras.Input((64, 64, 3))
    x = keras.layers.Conv2D(4, 3, strides=4)(images)
    x = keras.layers.Conv2D(4, 3)(keras.layers.Dropout(0.3, name="drop")(x))
    keras.Model(images, x).save(tmp_path / "random.keras")
    random = f"backbone.name={tmp_path / 'random.keras'}"
    for backbone, silence, exact in (
        (random, "true", False),
        (random, "false", True),
        ("seed=0", "true", True),  # nothing in the tiny backbone is random
    ):
        made = assemble(config(arrays, "trunk.mode=on", f"trunk.silence={silence}", backbone))
        forecast = made.trunk.forecasts[0]
        assert (forecast.stored, forecast.exact) == (True, exact)
        said = "approximates: frozen layers run without dropout (drop); " in forecast.reason
        assert said is not exact
        assert ("stored, approximate" in format_trunk(made.trunk)) is not exact


def test_auto_stores_only_what_saves_time(arrays):
    # A real backbone: the tiny one's trunk costs too little to be worth storing.
    real = "backbone={name: MobileNetV2, weights: none}"
    few = assemble(config(arrays, real)).trunk.forecasts
    assert [forecast.stored for forecast in few] == [
        False,
        False,
    ]  # 60 images: not worth setting up
    assert few[0].reason == "it would save no time"
    many = "phases[0]={name: head, epochs: 100000, learning_rate: 1.0e-3}"
    made = assemble(config(arrays, real, many))
    head, _ = made.trunk.forecasts
    assert head.stored
    # What an epoch of no images would take is in both: iterators, validation, records.
    assert 0.05 < head.seconds_with / 100000 < 0.2
    fixed = 100000 * (plan.EPOCH + made.feed.steps_per_epoch * plan._STEP)
    assert head.seconds_with - fixed < (head.seconds_without - fixed) / 5


def test_the_forward_pass_is_timed_once_on_a_machine(arrays, cache, monkeypatch):
    """A second run of the same calls and sizes forecasts the same, and traces nothing for it."""
    first = assemble(config(arrays)).trunk.forecasts
    monkeypatch.setattr(plan, "outputs_function", None)
    assert assemble(config(arrays, "optimizer.weight_decay=0.1")).trunk.forecasts == first
    with pytest.raises(TypeError):
        assemble(config(arrays, "data.input.size=32"))


@pytest.mark.parametrize(
    ("overrides", "made_in"),
    [
        ((), ["head", "head", "head"]),
        (("phases[2].train=[head]",), ["head", "head", "rest"]),  # its trunk is no part of top's
        (("phases[1].augmentation=light",), ["head", "top", "top"]),
        (("phases[1].augmentation=light", "phases[2].augmentation=none"), ["head", "top", "head"]),
    ],
)
def test_images_run_for_several_phases_at_once_where_they_and_the_trunk_stay(
    arrays, overrides, made_in
):
    phases = [("head", "head"), ("top", "blocks[-1:]"), ("rest", "blocks[-2:]")]
    rows = ", ".join(
        f"{{name: {name}, train: [head, '{train}'], epochs: 1, learning_rate: 1.0e-3}}"
        for name, train in phases
    )
    options = ("trunk={mode: on, views: 1}", f"phases=[{rows}]", *overrides)
    trunk = assemble(config(arrays, *options)).trunk
    assert [forecast.made_in for forecast in trunk.forecasts] == made_in
    ahead = [[trunk.splits.index(split) for split in trunk.ahead(i)] for i in range(3)]
    names = ["head", "top", "rest"]
    assert ahead == [
        [i for i, name in enumerate(made_in) if name == names[first] and i != first]
        for first in range(3)
    ]


def test_without_a_store_training_is_one_fit(arrays):
    made = assemble(config(arrays))
    one, *more = segments(made.model, made.feed, made.unfreeze, made.trunk)
    assert (one.first_epoch, one.end_epoch, more) == (0, made.unfreeze.epochs, [])
    assert one.model is made.model


@pytest.mark.parametrize(("mode", "tests"), [("off", 2), ("on", 3)])
def test_a_phase_traces_only_what_it_changes(arrays, tmp_path, monkeypatch, mode, tests):
    """The second phase changes nothing, the third what the loss is, the fourth what trains."""
    rows = ", ".join(
        f"{{name: {name}, train: {train}, label_smoothing: {smoothing}, epochs: 2, "
        "learning_rate: 1.0e-3}"
        for name, train, smoothing in [
            ("first", "[head]", 0.0),
            ("same", "[head]", 0.0),
            ("smoothed", "[head]", 0.1),
            ("top", "[head, 'blocks[-1:]']", 0.1),
        ]
    )
    made = assemble(config(arrays, f"trunk.mode={mode}", f"phases=[{rows}]"))
    traced = dict.fromkeys(("train_step", "test_step"), 0)

    def count(name: str) -> None:
        step = getattr(keras.Model, name)

        def counted(self, data):
            traced[name] += 1
            return step(self, data)

        monkeypatch.setattr(keras.Model, name, counted)

    for name in traced:
        count(name)
    trained(made, tmp_path / "run")
    assert traced == {"train_step": 3, "test_step": tests}


def trained(
    made: Assembled,
    folder: Path,
    *callbacks: keras.callbacks.Callback,
    guards: Guards | None = None,
) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """Trains what was assembled; returns all weights, the last and the best, and the record."""
    run = Run(str(folder)) if folder.exists() else Run.create(str(folder), made.config)
    averaging = made.config.training.average
    average = AveragedWeights(made.model, averaging.decay) if averaging else None
    checkpoints = Checkpoints(made.model, run, "val_loss", average)
    fit(
        made.model,
        made.feed,
        unfreeze=made.unfreeze,
        checkpoints=checkpoints,
        trunk=made.trunk,
        guards=guards,
        callbacks=callbacks,
    )
    weights = [v.numpy() for v in (*made.model.variables, *made.model.optimizer.variables)]
    checkpoints.load_best(made.model)
    records = list(run.metrics())
    for record in records:
        del record["seconds"], record["peak_memory_mb"]
    return weights + made.model.get_weights(), records


class Watch(keras.callbacks.Callback):
    """Notes which model each `fit` trains, and does something after so many steps."""

    def __init__(self, steps: int = -1, method: str = "on_train_batch_end", act: Any = None):
        super().__init__()
        self.models: list[keras.Model] = []
        self._left, self._act = steps, act
        setattr(self, method, self._count)

    def on_train_begin(self, logs: Any = None) -> None:
        self.models.append(self.model)

    def _count(self, *_: Any, **__: Any) -> None:
        self._left -= 1
        if self._left == 0:
            self._act()


def test_the_tail_is_fitted_and_the_whole_model_stays_what_it_is(arrays, tmp_path):
    rows = ", ".join(
        f"{{name: {name}, train: [head], epochs: 1, augmentation: {how}, learning_rate: 1.0e-3}}"
        for name, how in [("first", "none"), ("moving", "light"), ("last", "none")]
    )
    made = assemble(config(arrays, "trunk.mode=on", f"phases=[{rows}]"))
    model, watch = made.model, Watch()
    attributes, spec = set(vars(model)), model.input_spec
    trained(made, tmp_path / "run", watch)
    assert [fitted is model for fitted in watch.models] == [False, True, False]
    for fitted in watch.models:
        assert fitted.optimizer is model.optimizer
        assert fitted.loss is model.loss
        assert fitted.distribute_strategy is model.distribute_strategy
        assert {id(v) for v in fitted.trainable_variables} == {
            id(v) for v in model.get_layer("logits").variables
        }
    assert "call" not in vars(model)
    assert set(vars(model)) - attributes <= {"history", "stop_evaluating"}  # of `fit`
    assert [a.shape for a in model.input_spec] == [a.shape for a in spec]
    saved = type(model).from_config(model.get_config())  # not compiled: weights alone
    saved.load_weights(tmp_path / "run/checkpoints/last.weights.h5")  # of trunk and tail


def test_a_run_that_is_stopped_in_stored_phases_ends_the_same(arrays, tmp_path):
    def train(name: str, *callbacks: Any, signals: Signals | None = None) -> Any:
        made = assemble(config(arrays, "data.input.size=32", "trunk.mode=on"))
        assert all(forecast.stored for forecast in made.trunk.forecasts)
        guards = Guards(CheckpointConfig(every_steps=2), signals=signals or Signals())
        return trained(made, tmp_path / name, *callbacks, guards=guards)

    def fail() -> None:
        raise InterruptedError

    whole, records = train("whole")
    assert [record["phase"] for record in records] == ["head", "head", "top", "top"]
    for steps in (3, 13):  # in the first epoch, and in the first of the second phase
        with pytest.raises(InterruptedError):
            train("parts", Watch(steps, act=fail))
    for number in (1, 2):  # in the validation of that epoch, and in it again
        stop = Watch(number, "on_test_batch_begin", lambda: signal.raise_signal(signal.SIGINT))
        with Signals() as signals, pytest.raises(Interrupted):
            train("parts", stop, signals=signals)
    resumed, resumed_records = train("parts")
    for one, two in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, two)
    assert resumed_records == records


class Doubling:
    """Doubles the loss of a model."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return 2 * super().compute_loss(*args, **kwargs)


class Doubled(Doubling, keras.Model): ...


class DoubledTail(Doubling, GraphModel): ...


class OwnLoss(Task):
    """A task whose model has its own loss, and which says nothing of a tail."""

    def model(self, *args: Any) -> keras.Model:
        plain = super().model(*args)
        return Doubled(plain.inputs, plain.outputs)


def test_a_model_with_its_own_loss_is_stored_only_if_its_task_says_how(arrays):
    assert assemble(config(arrays), OwnLoss()).trunk is None
    with pytest.raises(UserError, match="trunk.mode: on is impossible: .* its own compute_loss"):
        assemble(config(arrays, "trunk.mode=on"), OwnLoss())

    class WithTail(OwnLoss):
        def tail(self, model: keras.Model, graph: Any) -> keras.Model:
            return DoubledTail(graph, "tail", model)

    made = assemble(config(arrays, "trunk.mode=on"), WithTail())
    assert made.trunk.forecasts[0].stored
    split = made.trunk.splits[0]
    tails = [split.tail, made.trunk.make_tail(split.tail.graph)]
    tails[0].compile(loss=made.model.loss)
    zeros, labels = np.zeros((2, *split.frontier[0].shape), "float32"), np.eye(3)[:2]
    loss, twice = (t.evaluate(zeros, labels, verbose=0, return_dict=True)["loss"] for t in tails)
    assert twice == pytest.approx(2 * loss)


def test_views_are_what_training_augments_and_take_turns(arrays):
    made = assemble(config(arrays, "data.input.augmentation=light"))
    views, recipe = made.feed.views(2, None)
    first, second = (
        np.concatenate([b[0] for b in part]) for part in (views.take(6), views.skip(6))
    )
    labels = np.concatenate([batch[1] for batch in views.take(6)]).argmax(axis=-1)
    np.testing.assert_array_equal(labels, made.data.splits["train"].labels)  # in their own order
    assert np.abs(first - second).mean() > 1  # another view
    again = np.concatenate([batch[0] for batch in made.feed.views(1, None)[0]])
    np.testing.assert_array_equal(again, first)  # more views keep those that are there
    assert recipe != made.feed.views(3, None)[1] != made.feed.views(3, "strong")[1]


def test_augmented_and_mixed_runs_train_from_views_when_asked(arrays, tmp_path, capsys):
    mixed = ("data.input.augmentation=light", "data.input.mix={mixup: 0.2, cutmix: 1.0}")
    made = config(arrays, "trunk={mode: on, views: 2}", *mixed)
    run = ftkeras.train(made, str(tmp_path / "run"))
    head, top = (
        TrunkForecast(**{k: v for k, v in row.items() if k != "seconds"})
        for row in run.read_json("plan.json")["trunk"]
    )
    assert not head.stored  # its features are vectors, which CutMix cannot cut
    assert top.stored
    assert not top.exact
    assert "approximates: augmentation" in top.reason
    assert len(list(run.metrics())) == 4


def test_phases_that_end_on_a_metric_and_early_stopping_go_the_same_way(arrays, tmp_path):
    # With a rate of nearly nothing the loss stops improving at once.
    until = "{metric: val_loss, patience: 1, min_delta: 0.5, max_epochs: 9}"
    overrides = (
        f"phases[0]={{name: head, until: {until}, learning_rate: 1.0e-9}}",
        "phases[1]={name: top, epochs: 9, learning_rate: 1.0e-9, train: [head, 'blocks[-1:]']}",
        "training.early_stopping={metric: val_loss, patience: 4, min_delta: 0.5}",
    )
    lengths = []
    for mode in ("off", "on"):
        made = config(arrays, f"trunk={{mode: '{mode}'}}", *overrides)
        run = ftkeras.train(made, str(tmp_path / mode))
        lengths.append([record["phase"] for record in run.metrics()])
        assert set(run.read_json("plan.json")["audit"]) == {"head", "top"}
    assert lengths == [["head", "head", "top", "top", "top"]] * 2
