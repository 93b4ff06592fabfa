"""Adapting a language model to the texts of a task, before it learns the task."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from ftkeras.errors import UserError
from ftkeras.files import read_arrays, write_arrays
from ftkeras.run import Run
from ftkeras.runs import build
from ftkeras.runs.assemble import Assembled
from ftkeras.timeline import stage

FILE = "adapted.npz"


@stage("adapt the language model")
def adapt_backbone(assembled: Assembled, run: Run) -> None:
    """Adapts the backbone if the config sets `backbone.adapt`; a run that resumes loads what it
    adapted.

    Writes `adapted.npz` (the backbone's weights) and `adaptation.json` (bits per character of
    held-out texts before and after each epoch) into the run.

    Raises:
        UserError: The backbone is no language model, there are several devices, or too few texts.
    """
    adapter = build.adapter(assembled.config, assembled.backbone, assembled.data)
    if adapter is None:
        return
    if assembled.devices.replicas > 1:
        raise UserError("backbone.adapt: a language model is adapted on one device alone.")
    model = assembled.backbone.model
    if tf.io.gfile.exists(run.path(FILE)):
        _load(model, run)
    else:
        history = _adapted(adapter)
        run.write_json("adaptation.json", {"bits_per_character": history})
        values = map(keras.ops.convert_to_numpy, model.weights)
        write_arrays(run.path(FILE), {f"arr_{i}": value for i, value in enumerate(values)})
    if assembled.penalty is not None:
        assembled.penalty.anchor_again()  # L2-SP pulls to where the task begins


def _adapted(adapter: Callable[[], list[float]]) -> list[float]:
    history = adapter()
    print(
        f"adapted   the language model to the training texts: {history[0]:.2f} bits per character "
        f"of held-out ones before, {history[-1]:.2f} after"
    )
    return history


def _load(model: keras.Model, run: Run) -> None:
    arrays = read_arrays(run.path(FILE))
    model.set_weights([arrays[f"arr_{i}"] for i in range(len(model.weights))])
