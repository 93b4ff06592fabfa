"""The kept answers, written and read."""

from __future__ import annotations

import numpy as np
import pytest

from ftkeras.errors import UserError
from ftkeras.evaluation.predictions import Predictions, load_predictions, save_predictions
from ftkeras.run import Run


@pytest.mark.parametrize("place", ["local", "ram"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_answers_come_back_as_they_were(place, multi_label, tmp_path):
    run = Run(str(tmp_path) if place == "local" else f"ram://answers-{multi_label}")
    labels = np.eye(3, dtype=np.float32) if multi_label else np.array([2, 0, 1], np.int32)
    logits = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    kept = Predictions(logits, labels, np.array(["cat/a.png", "chien/été.png", "x"], object))
    save_predictions(run, "val", kept)
    found = load_predictions(run, "val")
    np.testing.assert_array_equal(found.logits, logits)
    np.testing.assert_array_equal(found.labels, labels)
    assert (found.logits.dtype, found.labels.dtype) == (np.float32, labels.dtype)
    assert found.ids.tolist() == kept.ids.tolist() and found.ids.dtype.kind == "U"


def test_answers_that_were_never_kept_say_how_to_get_them(tmp_path):
    with pytest.raises(UserError, match=r"no predictions/test.npz. `ftkeras evaluate .*=test`"):
        load_predictions(Run(str(tmp_path)), "test")
