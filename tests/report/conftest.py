"""Run folders as training leaves them, made without training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ftkeras.evaluation.predictions import Predictions, save_predictions
from ftkeras.measures.results import evaluate_predictions
from ftkeras.run import Run

PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///ywAAAAAAQABAAACAUwAOw=="  # one dark pixel
CORRUPTIONS = ("gaussian_noise", "motion_blur", "fog")

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path) -> MakeRun:
    """Returns a function that writes a run's folder."""

    def make(
        name: str = "run", names: Sequence[str] = ("cat", "dog"), *, examples: int = 60,
        multi_label: bool = False, seed: int = 0, accuracy: float = 0.8, whole: bool = True,
    ) -> Path:  # fmt: skip
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(_config(seed)))
        write = _writer(folder)
        write("environment.json", {"command": ["ftkeras", "train", "--out=it's"], "python": "3"})
        write("status.json", {"state": "finished", "time": "2026-01-02T03:04:05+00:00"})
        facts = {"class_names": list(names), "multi_label": multi_label, "image_size": 64}
        write("data.json", {**facts, "examples": {"train": 10, "test": examples}, "notes": []})
        if not whole:
            return folder
        write("plan.json", _plan())
        lines = [json.dumps(record) for record in _records()]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        run = Run(str(folder))
        labels, logits = _answers(len(names), examples, multi_label, seed, accuracy)
        ids = np.array([f"photos/{i:04d}.jpg" for i in range(examples)])
        save_predictions(run, "test", Predictions(logits, labels, ids))
        measured = evaluate_predictions(labels, logits, names, temperature=1.3, resamples=20)
        write("evaluation.json", {"split": "test", **measured})
        levels = {name: [0.7, 0.6, 0.5, 0.4, 0.3] for name in CORRUPTIONS}
        checks = {
            "tolerance": 1e-4, "max_difference": {"images": 2e-6, "serving_default": 3e-6},
            "latency_ms": {"serving_default": {"1": 7.5, "32": 99.25}}, "size_bytes": 4_000_000,
        }  # fmt: skip
        write("certificate.json", {"saved_model": {"limits": "No WebP.", "saved_model": checks}})
        write(
            "robustness.json",
            {"examples": 50, "split": "test", "clean": 0.8, "mean_corruption_accuracy": 0.5,
             "corruptions": levels, "shifts": {"darker": 0.75}},
        )  # fmt: skip
        shown = {str(key): {"image": PIXEL, "overlay": PIXEL, "cells": [2, 2]} for key in ids}
        write("pictures.json", {"test": shown})
        return folder

    return make


def _writer(folder: Path) -> Callable[[str, Any], None]:
    def write(name: str, tree: Any) -> None:
        (folder / name).write_text(json.dumps(tree))

    return write


def _config(seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "data": {"source": "folder", "path": "photos/", "input": {"resize": "crop"}},
        "backbone": {"name": "MobileNetV2", "weights": "starter"},
        "phases": [{"name": "head", "epochs": 2, "learning_rate": 1e-3}],
    }


def _plan() -> dict[str, Any]:
    def block(name: str, trained: int, rate: float) -> dict[str, Any]:
        return {"name": name, "parameters": 100, "trained": trained, "tensors": 2,
                "batch_norm": "inference", "peak_rate": rate}  # fmt: skip

    def phase(name: str, trained: int, rate: float) -> dict[str, Any]:
        blocks = [block("stem", 0, 0.0), block("block_1", 0, 0.0), block("block_2", trained, rate),
                  block("head", 100, rate)]  # fmt: skip
        return {"name": name, "train": ["head"], "length": "2 epochs", "batch_norm": "frozen",
                "steps": 20, "first_rate": rate, "peak_rate": rate, "last_rate": 0.0,
                "rates": [rate, rate / 2, 0.0], "parameters": 100 + trained,
                "activation_bytes": 1000, "blocks": blocks}  # fmt: skip

    held = {"frozen": 260, "trained": 2, "drifted": [], "unmoved": []}
    moved = {"frozen": 240, "trained": 8, "drifted": [], "unmoved": ["block_2/bias"]}
    return {
        "parameters": 400, "steps_per_epoch": 10, "optimizer_bytes": 800, "warnings": ["Mind it."],
        "phases": [phase("head", 0, 1e-3), phase("top", 90, 1e-4)], "best_epoch": 3,
        "trunk": [{"phase": "head", "stored": True, "reason": "it pays", "bytes": 2_500_000,
                   "seconds_without": 90.0, "seconds_with": 9.0, "seconds": 12.0}],
        "audit": {"head": held, "top": moved},
    }  # fmt: skip


def _records() -> list[dict[str, Any]]:
    return [
        {"epoch": epoch, "phase": "head" if epoch < 2 else "top", "loss": 1.0 / (epoch + 1),
         "val_loss": 1.2 / (epoch + 1), "accuracy": 0.5 + epoch / 10, "val_accuracy": 0.5,
         "learning_rate": 1e-4, "seconds": 2.0 + epoch, "peak_memory_mb": 900.0 + epoch}
        for epoch in range(4)
    ]  # fmt: skip


def _answers(
    classes: int, examples: int, multi_label: bool, seed: int, accuracy: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels, and logits that are right about as often as `accuracy` says."""
    random = np.random.default_rng(seed)
    if multi_label:
        labels = (random.uniform(size=(examples, classes)) < 0.5).astype(np.float32)
        wrong = random.uniform(size=labels.shape) > accuracy
        logits = np.where(wrong, -1.0, 1.0) * (2 * labels - 1) * 3
    else:
        labels = (np.arange(examples) % classes).astype(np.int32)
        wrong = random.uniform(size=examples) > accuracy
        answers = np.where(wrong, (labels + 1) % classes, labels)
        logits = 4.0 * np.eye(classes)[answers]
    noise = random.normal(size=(examples, classes))
    return labels, (logits + noise).astype(np.float32)
