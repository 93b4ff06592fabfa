"""A small training through phases, which ends in seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import pytest

from ftkeras.data.feed import Feed
from ftkeras.inputs.image.input import ImageInput
from ftkeras.phases import Phase, make_plan, weights_of
from ftkeras.phases.checkpointing import check_checkpointing
from ftkeras.run import Run
from ftkeras.training.callbacks.averaging import AveragedWeights
from ftkeras.training.fit import fit
from ftkeras.training.resume.checkpoint import Checkpoints
from ftkeras.training.resume.phases import ResumableUnfreezing
from ftkeras.training.resume.saving import Guards

Training = Callable[..., tuple[dict[str, Any], Run]]


@pytest.fixture
def small_training(small_images) -> Training:
    """A function that trains a new model, or resumes from the folder.

    It returns all that came out, and the run.
    """

    def train(
        folder: Path,
        phases: Sequence[Phase],
        *,
        optimizer: keras.optimizers.Optimizer | None = None,
        accumulate: int | None = None,
        feed: dict[str, Any] | None = None,
        guards: Guards | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        checkpointing: bool = False,
    ) -> tuple[dict[str, Any], Run]:
        keras.utils.set_random_seed(0)
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        run = Run(str(folder))
        settings = {"batch_size": 8, **(feed or {"varies": True})}
        kind = ImageInput(8, layers=settings.pop("layers", None))
        batches = Feed(small_images, kind, view="layers" if kind.layers else "none", **settings)
        model = _small_model()
        adamw = keras.optimizers.AdamW(weight_decay=0.01, gradient_accumulation_steps=accumulate)
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        metrics = [keras.metrics.CategoricalAccuracy("accuracy"), keras.metrics.AUC(name="auc")]
        model.compile(optimizer or adamw, loss, weighted_metrics=metrics)
        weights, steps = weights_of(model), batches.steps_per_epoch
        if checkpointing:
            check_checkpointing(model, weights)
        plan = make_plan(model, weights, phases, steps_per_epoch=steps, checkpointing=checkpointing)
        unfreeze = ResumableUnfreezing(model, plan)
        average = AveragedWeights(model, 0.9)
        checkpoints = Checkpoints(model, run, "val_loss", average)
        fit(
            model,
            batches,
            unfreeze=unfreeze,
            checkpoints=checkpoints,
            guards=guards or Guards(),
            callbacks=callbacks,
        )
        last = [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]
        checkpoints.load_best(model)
        records = list(run.metrics())
        for record in records:
            del record["seconds"], record["peak_memory_mb"]
        return {
            "last": last,
            "best": model.get_weights(),
            "best epoch": checkpoints.best_epoch,
            "average": list(average.state().values()),
            "verdicts": unfreeze.verdicts,
            "rate scale": unfreeze.rate_scale,
            "records": records,
        }, run

    return train


def _small_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dropout(0.3, seed=1),
            keras.layers.Dense(2, name="logits"),
        ],
        name="small",
    )
