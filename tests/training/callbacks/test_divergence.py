"""Trouble in the numbers, really injected: a run goes back, and says what to look at."""

from __future__ import annotations

import json
import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.config.schema import CheckpointConfig, TroubleConfig
from ftkeras.errors import TrainingError
from ftkeras.phases import Phase, StagedUnfreezing
from ftkeras.run import Run
from ftkeras.training.callbacks.divergence import Divergence, DivergenceWatch
from ftkeras.training.resume.saving import Guards, SavedTraining

PHASES = [Phase("head", 2, 1e-2, decay="constant"), Phase("all", 1, train=["all"])]


def watched(
    losses: list[float], explosion: float | None = 10.0, from_floor: bool = False
) -> int | None:
    """Shows a watch an epoch of step losses, as Keras does; returns the step that it stops at."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    watch = DivergenceWatch(StagedUnfreezing(model, [Phase("a", 1, 0.1)]), explosion, from_floor)
    watch.on_epoch_begin(0)
    means = np.cumsum(losses) / np.arange(1, len(losses) + 1)
    for step, mean in enumerate(means):
        try:
            watch.on_train_batch_end(step, {"loss": float(mean)})
        except Divergence:
            return step
    return None


def test_a_loss_that_is_not_finite_is_trouble_at_once():
    assert watched([1.0, 0.9, math.nan]) == 2
    assert watched([math.inf]) == 0


def test_a_loss_explodes_when_the_latest_steps_together_do():
    usual = [2.0] * 10 + [0.5] * 40
    assert watched(usual + [25.0] * 10) == 52  # the third of the five latest is their median
    assert watched(usual + [25.0] * 10, explosion=None) is None
    assert watched(usual + [500.0] + [0.5] * 20) is None  # one odd batch


def test_a_loss_below_ten_times_the_first_is_no_explosion_however_low_it_was():
    assert watched([2.0] * 10 + [0.001] * 40 + [1.5] * 40) is None


def test_what_was_learned_to_the_last_digit_may_rise_a_little():
    assert watched([0.0] * 20 + [1.5e-5] * 20) is None
    assert watched([0.0] * 20 + [0.5] * 20) == 22


def test_a_head_from_the_floor_begins_near_zero_and_may_rise_more():
    assert watched([0.03] * 20 + [2.5] * 20) == 22
    assert watched([0.03] * 20 + [2.5] * 20, from_floor=True) is None
    assert watched([0.0] * 20 + [3.5] * 20, from_floor=True) == 22


class Spoil(keras.callbacks.Callback):
    """Writes NaN to a weight after some step of the run, so many times."""

    def __init__(self, step: int, times: int):
        super().__init__()
        self.step, self.times = step, times
        self.seen = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen += 1
        if self.seen >= self.step and self.times:
            self.times -= 1
            variable = self.model.get_layer("logits").bias
            variable.assign(variable * math.nan)


def rollbacks(run: Run) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in run.read_text("events.jsonl").splitlines()]
    return [event for event in events if event["event"] == "rollback"]


@pytest.mark.slow
def test_a_run_goes_back_with_a_smaller_rate_and_ends_well(small_training, tmp_path, capsys):
    spoil = Spoil(step=8, times=1)
    saving = CheckpointConfig(every_steps=7)
    whole, run = small_training(tmp_path, PHASES, callbacks=[spoil], guards=Guards(saving))
    (event,) = rollbacks(run)
    assert "the loss is nan" in event["reason"]
    assert (event["epoch"], event["to_epoch"], event["to_batches"]) == (1, 1, 2)
    assert whole["rate scale"] == event["rate_scale"] == 0.5
    assert [record["epoch"] for record in whole["records"]] == [0, 1, 2]
    assert [record["learning_rate"] for record in whole["records"]] == pytest.approx(
        [0.01, 0.005, 0.005]
    )
    assert all(np.isfinite(array).all() for array in whole["last"])
    assert "going back to epoch 2, step 3, with rates times 0.5" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_killed_right_after_it_went_back_resumes_with_the_metrics_of_then(
    small_training, tmp_path, monkeypatch
):
    saving, spoil = CheckpointConfig(every_steps=7), Spoil(step=8, times=1)
    whole, _ = small_training(tmp_path / "whole", PHASES, callbacks=[spoil], guards=Guards(saving))
    go_back = SavedTraining.go_back

    def go_back_and_die(self: SavedTraining, *args: Any) -> None:
        go_back(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SavedTraining, "go_back", go_back_and_die)
        spoil = Spoil(step=8, times=1)
        small_training(tmp_path / "parts", PHASES, callbacks=[spoil], guards=Guards(saving))
    resumed, run = small_training(tmp_path / "parts", PHASES, guards=Guards(saving))
    assert resumed["records"] == whole["records"]
    assert len(rollbacks(run)) == 1


@pytest.mark.slow
def test_a_checkpoint_that_leads_to_trouble_again_is_left_for_the_one_before(
    small_training, tmp_path
):
    guards = Guards(every_epoch=True)
    _, run = small_training(tmp_path, PHASES, callbacks=[Spoil(step=8, times=2)], guards=guards)
    first, second = rollbacks(run)
    assert (first["to_epoch"], second["to_epoch"]) == (1, 0)
    assert second["rate_scale"] == 0.25


@pytest.mark.slow
def test_a_batch_of_nan_pixels_stops_the_run_and_is_named(small_training, small_images, tmp_path):
    bad = small_images.splits["train"].fetch(tf.constant(7, tf.int64))

    def spoiled(image: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        same = tf.reduce_all(image == tf.cast(bad, tf.float32))
        return tf.where(same, math.nan, image)

    with pytest.raises(TrainingError, match="the loss is nan, also after going back 2") as error:
        small_training(tmp_path, PHASES, feed={"layers": spoiled, "batch_size": 3})
    assert "It is the same step each time: look at its examples (" in str(error.value)
    assert small_images.splits["train"].ids[7] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_an_enormous_rate_stops_the_run(small_training, tmp_path):
    phases = [Phase("all", 3, 1e6, train=["all"], batch_norm="train")]
    optimizer = keras.optimizers.SGD()
    trouble = TroubleConfig(retries=1)
    with pytest.raises(TrainingError, match="Look at|look at"):
        small_training(tmp_path, phases, optimizer=optimizer, guards=Guards(trouble=trouble))
    assert len(rollbacks(Run(str(tmp_path)))) == 1
