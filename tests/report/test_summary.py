"""What a run prints at its end."""

from __future__ import annotations

from ftkeras.phases.audit import AuditResult
from ftkeras.report.summary import end_lines


def test_the_end_of_a_run_names_phases_results_proof_and_places():
    records = [
        {
            "epoch": 0,
            "phase": "head",
            "loss": 1.0,
            "val_loss": 0.9,
            "val_accuracy": 0.5,
            "seconds": 2,
        },
        {
            "epoch": 1,
            "phase": "head",
            "loss": 0.8,
            "val_loss": 0.7,
            "val_accuracy": 0.6,
            "seconds": 3,
        },
        {
            "epoch": 2,
            "phase": "top",
            "loss": 0.5,
            "val_loss": 0.6,
            "val_accuracy": 0.7,
            "seconds": 70,
        },
    ]
    verdicts = {"head": AuditResult(260, 2, (), ()), "top": AuditResult(240, 20, (), ("a/bias",))}
    text = end_lines(
        "runs/x",
        records,
        "test accuracy 0.7500",
        verdicts,
        "best epoch 3",
        {"SavedModel": "runs/x/export/1", "report": None},
        100.0,
    )
    assert text.isascii()
    assert "head        2  0.7000    0.6000        0.8000  5.0 s" in text
    assert "top         1  0.6000    0.7000        0.5000  1 min 10 s" in text
    assert "test accuracy 0.7500\nbest epoch" in text
    assert "best epoch 3; 1 min 40 s in all" in text
    assert (
        "audit of head: 260 frozen variables unchanged to the bit, 2 trained ones moved\n" in text
    )
    assert "20 trained ones moved, 1 to train did not move" in text
    assert "SavedModel  runs/x/export/1\nrecord " in text
