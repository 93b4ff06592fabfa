"""Training once more on train and val together, with the length that validation chose."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from ftkeras.config.schema import Config
from ftkeras.console import counted
from ftkeras.data.dataset import Data, joined
from ftkeras.errors import UserError
from ftkeras.evaluation.floor import predictions_name
from ftkeras.evaluation.predictions import load_predictions, save_predictions
from ftkeras.evaluation.refit import FILE
from ftkeras.phases.blend import Blender, weights_of_model
from ftkeras.phases.phase import Phase, Until, improves
from ftkeras.run import Run
from ftkeras.runs.assemble import Assembled, bind
from ftkeras.runs.finished import final_split
from ftkeras.runs.floor import find_floor, start_from
from ftkeras.timeline import stage
from ftkeras.training.resume.checkpoint import States
from ftkeras.training.resume.saving import Guards

FOLDER = "refit"
"""In a run: the record and the checkpoints of the second training."""


class StopAfter(keras.callbacks.Callback):
    """Ends training after a number of epochs, whatever the phases are."""

    def __init__(self, epochs: int):
        super().__init__()
        self._epochs = epochs

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch + 1 >= self._epochs:
            self.model.stop_training = True


def check_refit(assembled: Assembled) -> None:
    """Raises UserError if the config wants a second training that is impossible."""
    if not assembled.config.training.refit:
        return
    missing = {"val", "test"} - assembled.data.splits.keys()
    why = ""
    if not assembled.task.has_floor(assembled.config):
        why = f"task {assembled.config.task} cannot train once more."
    elif assembled.feed.share.count > 1:
        why = "several workers train. Train with one."
    elif missing:
        why = (
            "it trains on the validation split and measures on the test split; the data have "
            f"no {' and no '.join(sorted(missing))} split. Add one (data.split), or drop refit."
        )
    if why:
        raise UserError(f"training.refit: {why}")


@stage("train once more")
def refit(
    assembled: Assembled, run: Run, begin: Sequence[np.ndarray], share: float, guards: Guards
) -> None:
    """Trains once more on training and validation data, and leaves the weights in the model.

    The phases, the number of epochs up to the best one, and the share of the fine-tuned weights are
    those that were chosen. The floor is fitted on all these data, too. A run that stops here
    resumes here.

    Args:
        assembled: The run's parts; the model has the weights that were chosen.
        run: Takes `refit.json`, and the folder `refit/`.
        begin: The weights that the model was built with, as `weights_of_model` returns them.
        share: How much of the fine-tuned weights is kept: 0 is the floor, 1 is all.
        guards: They save the state of the training.
    """
    temperatures = _temperatures(assembled, run)
    phases, best = _as_trained(assembled, run)
    model, config = assembled.model, _config(assembled.config, phases)
    for variable, value in zip(model.weights, begin, strict=True):
        variable.assign(value)
    built = dataclasses.replace(assembled.built, config=config)
    again = bind(built, _together(assembled.data))
    examples = len(again.data.splits["train"])
    epochs = 0 if share == 0 else max(1, round(best * again.unfreeze.epochs))
    what = counted(epochs, "epoch") if epochs else "the floor"
    print(f"refit     {what} on {examples} {again.feed.input.nouns}: train and val together")
    own = _own_run(run, config)
    floor = find_floor(again, own, final_split(again.data))
    if floor is not None and config.head.start == "floor":
        start_from(floor, model)
    start = weights_of_model(model)
    if epochs:
        guards = dataclasses.replace(guards, training="the second training")
        checkpoints = again.fit(own, guards, [StopAfter(epochs)], keeps_last=True)
        checkpoints.load_best(model)
        if share < 1:
            blender = Blender(model, [start, weights_of_model(model)], again.feed.plain("train"))
            blender.put([1 - share, share])
    if floor is not None:
        _keep_floor(again, own, run)
    own.set_state("finished")
    run.write_json(
        FILE,
        {"examples": examples, "epochs": epochs, "share": share, "temperatures": temperatures},
    )


def remove_states(run: Run) -> None:
    """Removes what an unfinished second training would resume from."""
    States(Run(run.path(FOLDER))).remove()


def _temperatures(assembled: Assembled, run: Run) -> dict[str, float]:
    """Returns by output the temperature of the model that has not seen the validation split."""
    task = assembled.task
    measured = task.measure(task.final(assembled.model), assembled.feed, run, "val")
    parts: Mapping[str, Any] = measured.get("heads") or dict.fromkeys(
        assembled.data.outputs, measured
    )
    return {name: part["temperature"] for name, part in parts.items() if "temperature" in part}


def _as_trained(assembled: Assembled, run: Run) -> tuple[list[Phase], float]:
    """Returns the phases with fixed lengths, and the share of their epochs up to the best one."""
    records, best = list(run.metrics()), run.read_json("plan.json")["best_epoch"] + 1
    planned, phases, passed = assembled.unfreeze.epochs, [], 0
    for phase in (part.phase for part in assembled.plan.phases):
        own = [record for record in records if record["phase"] == phase.name]
        if phase.until is not None and own:
            # The next phase continued from its best epoch; the later epochs were dropped.
            length = _best_of(own, phase.until)
            phase = dataclasses.replace(phase, until=None, epochs=length)
            passed += sum(record["epoch"] < best for record in own[length:])
            planned -= len(own) - length
        phases.append(phase)
    return phases, (best - passed) / planned


def _best_of(records: Sequence[Mapping[str, Any]], until: Until) -> int:
    """Returns the number of the best epoch of a phase, from 1."""
    best = 0
    for index, record in enumerate(records):
        least = until.min_delta
        if improves(until.metric, record[until.metric], records[best][until.metric], least):
            best = index
    return best + 1


def _config(config: Config, phases: Sequence[Phase]) -> Config:
    """Returns a config of these phases, already scaled, that watches no metric of validation."""
    training = config.training.model_copy(update={"monitor": None, "early_stopping": None})
    optimizer = config.optimizer.model_copy(update={"scale_rate": "none"})
    changes = {"phases": list(phases), "training": training, "optimizer": optimizer}
    return config.model_copy(update=changes)


def _together(data: Data) -> Data:
    splits = {name: split for name, split in data.splits.items() if name != "val"}
    splits["train"] = joined(data.splits["train"], data.splits["val"])
    return dataclasses.replace(data, splits=splits)


def _own_run(run: Run, config: Config) -> Run:
    own = Run(run.path(FOLDER))
    if own.state() is None:
        return Run.create(own.folder, config, overwrite=True)
    own.begin()
    return own


def _keep_floor(again: Assembled, own: Run, run: Run) -> None:
    """Gives the run the answers of the floor that was fitted on as many examples as the model."""
    split, alone = final_split(again.data), len(again.data.outputs) == 1
    for output in again.data.outputs:
        name = predictions_name(split, None if alone else output)
        save_predictions(run, name, load_predictions(own, name))
