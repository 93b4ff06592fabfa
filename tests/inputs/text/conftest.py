"""Small data sets of texts, looked at as the doctor does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftkeras.data.load import load_data
from ftkeras.doctor.look import look_at
from ftkeras.inputs.text.input import TextInput
from ftkeras.inputs.text.looks import Looks

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "re", "so", "ti") for b in "bdfgklmnprst"]


@pytest.fixture(autouse=True)
def own_cache(cache: Path) -> None:
    """No test sees what another has cached."""


@pytest.fixture(scope="session")
def sentence() -> Callable[..., str]:
    """Makes a text of random words; another seed gives quite another one."""

    def make(seed: int, words: int = 24) -> str:
        return " ".join(np.random.default_rng(seed).choice(WORDS, words))

    return make


@pytest.fixture
def look(tmp_path) -> Callable[..., tuple[Looks, Sequence[str]]]:
    """Looks at texts: returns what is seen, and the names of the classes."""

    def make(
        texts: Sequence[Any],
        labels: Sequence[str],
        splits: Sequence[str] | None = None,
        kind: TextInput | None = None,
    ) -> tuple[Looks, Sequence[str]]:
        splits = splits or ["train"] * len(texts)
        lines = [f'"{t}",{label},{s}' for t, label, s in zip(texts, labels, splits, strict=True)]
        table = tmp_path / "texts.csv"
        table.write_text("\n".join(["text,label,split", *lines]), encoding="utf-8")
        kind = kind or TextInput()
        parts = {"val": None, "test": "test" if "test" in splits else None}
        several = any(";" in label for label in labels)
        data = load_data("manifest", path=str(table), kind=kind, split=parts, multi_label=several)
        return look_at(data, kind), data.class_names

    return make
