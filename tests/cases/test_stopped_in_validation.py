"""Case 16: a run that is stopped while it validates."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import keras
import pytest

pytestmark = pytest.mark.slow
LONGER = ["--config=c.yaml", "--set=phases[0].epochs=2"]


def records(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("number", "status", "trunk"),
    [(signal.SIGINT, 130, "off"), (signal.SIGTERM, 75, "off"), (signal.SIGINT, 130, "on")],
    ids=["SIGINT", "SIGTERM", "SIGINT, stored trunk"],
)
def test_a_run_stopped_in_its_first_validation_resumes(
    place, ftkeras, monkeypatch, number, status, trunk
):
    """Source: docs/resume.md ("the resumed run does the validation again, not the epoch").

    `fit` calls `evaluate` for its validation: the signal comes as the first one begins.
    """
    arguments = [*LONGER, f"--set=trunk.mode='{trunk}'"]
    assert ftkeras("train", *arguments, "--out=whole").status == 0
    evaluate, stopped = keras.Model.evaluate, []

    def stop_and_evaluate(self, *args, **kwargs):
        if not stopped:
            stopped.append(True)
            signal.raise_signal(number)
        return evaluate(self, *args, **kwargs)

    # Should nothing listen, the signal must not end the tests.
    before = signal.signal(number, signal.default_int_handler)
    try:
        monkeypatch.setattr(keras.Model, "evaluate", stop_and_evaluate)
        assert ftkeras("train", *arguments, "--out=run").status == status
    finally:
        signal.signal(number, before)
    assert stopped

    resumed = ftkeras("train", "--out=run")
    assert resumed.status == 0, resumed.err
    assert json.loads(Path("run", "status.json").read_text())["state"] == "finished"
    assert [record["epoch"] for record in records(Path("run"))] == [0, 1]
    for record, whole in zip(records(Path("run")), records(Path("whole")), strict=True):
        assert record["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert record["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-5)
