"""A batch that will not fit is named before training, with what would."""

from __future__ import annotations

import re

from ftkeras.config.load import parse_config
from ftkeras.runs import batch_size
from ftkeras.runs.assemble import assemble
from ftkeras.runs.train import train


def config(text_tree, folder, batch: int, checkpointing: bool):
    phase = {"name": "all", "train": ["all"], "epochs": 1, "learning_rate": 1e-3}
    return parse_config(
        {
            **text_tree,
            "data": {**text_tree["data"], "batch_size": batch, "input": {"kind": "text"}},
            "backbone": {"name": str(folder)},
            "head": {"start": "random"},
            "phases": [phase],
            "training": {"gradient_checkpointing": checkpointing},
        }
    )


def test_transformers_are_warned_of_and_the_advice_fits(
    text_tree, keras_hub_folder, monkeypatch, tmp_path
):
    plain = assemble(config(text_tree, keras_hub_folder, 32, False))
    free = plain.plan.largest.step_bytes - 1
    monkeypatch.setattr(batch_size, "available_memory", lambda: free)
    told = batch_size.warn(plain.plan, plain.feed)
    advice = re.search(r"data.batch_size is 32; .* --set data.batch_size=(\d+) ", told)
    assert advice is not None and told in assemble(plain.config).describe()
    assert "--set training.gradient_checkpointing=true" in told
    less = assemble(config(text_tree, keras_hub_folder, int(advice[1]), False))
    assert not batch_size.warn(less.plan, less.feed)
    again = config(text_tree, keras_hub_folder, 32, True)
    saving = assemble(again)
    assert saving.plan.largest.step_bytes < free and not batch_size.warn(saving.plan, saving.feed)
    train(again, str(tmp_path / "run"))
