"""A run's model, measured on a split of the run's data."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from ftkeras.data.feed import Feed
from ftkeras.evaluation.calibration import fit_temperature
from ftkeras.evaluation.predict import predict_logits
from ftkeras.evaluation.predictions import Predictions, save_predictions
from ftkeras.evaluation.results import evaluate_predictions
from ftkeras.run import Run


def measure(model: keras.Model, feed: Feed, run: Run, split: str) -> dict[str, Any]:
    """Returns what `evaluation.json` holds; keeps the answers it rests on in `predictions/`.

    The temperature is fitted on the validation split, where there is one.

    Args:
        model: Takes raw 0..255 RGB float32 (n, size, size, 3), returns logits or scores
            (n, units).
        feed: The run's data.
        run: Where the answers are kept.
        split: What to measure the model on.
    """
    data = feed.data
    answers = {}
    for name in dict.fromkeys(name for name in ("val", split) if name in data.splits):
        logits, _ = predict_logits(model, feed.plain(name), f"evaluate {name}", data.multi_label)
        part = data.splits[name]
        answers[name] = Predictions(logits, part.labels, np.array(part.ids))
        save_predictions(run, name, answers[name])
    temperature, note = 1.0, "there is no validation split to fit a temperature on"
    if val := answers.get("val"):
        temperature = fit_temperature(val.labels, val.logits, data.multi_label)
        note = "fitted on the validation split"
    measured = evaluate_predictions(
        answers[split].labels,
        answers[split].logits,
        data.class_names,
        data.multi_label,
        temperature=temperature,
        columns=data.splits[split].columns,
    )
    return {"split": split, **measured, "temperature_note": note}
