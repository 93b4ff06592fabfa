"""Measures what a training step takes beside weights and optimizer, against the plan's forecast.

    python tools/bench/step_memory.py [--only=bert,vit]

Each row is one process, with random weights, on the CPU. Three steps on small batches come first,
so that the step is traced. Then free memory is returned, and one step takes the whole batch. The
measured figure is how much the process grows at most in that step. It needs Linux.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

WORDS = 5000
_FIRST = ("token_embedding", "position_embedding", "segment_embedding", "embeddings_layer_norm")
ROWS: list[dict[str, Any]] = [
    # Layers, width, heads; then length or side in pixels, and batch.
    {"model": "bert", "size": [4, 256, 4], "length": 128, "batch": 64},
    {"model": "bert", "size": [4, 256, 4], "length": 128, "batch": 64, "checkpointing": True},
    {"model": "bert", "size": [2, 128, 4], "length": 512, "batch": 48},
    {"model": "bert", "size": [8, 128, 2], "length": 64, "batch": 128},
    {"model": "bert", "size": [8, 128, 2], "length": 64, "batch": 128, "checkpointing": True},
    {"model": "bert", "size": [4, 256, 4], "length": 128, "batch": 128, "train": ["blocks[-1:]"]},
    {"model": "bert", "size": [4, 256, 4], "length": 128, "batch": 64, "train": ["lora"]},
    {"model": "vit", "size": [4, 192, 3], "length": 224, "batch": 64},
    {"model": "vit", "size": [4, 192, 3], "length": 224, "batch": 64, "checkpointing": True},
    {"model": "MobileNetV2", "length": 96, "batch": 64},
    {"model": "MobileNetV2", "length": 96, "batch": 64, "checkpointing": True},
    {"model": "ResNet50", "length": 96, "batch": 96},
    {"model": "ResNet50", "length": 96, "batch": 96, "checkpointing": True},
]


def main() -> None:
    """Runs a process for each row and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="names of models, separated by commas")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(**json.loads(options.child))))
        return
    from ftkeras.console import table

    wanted = options.only.split(",") if options.only else [row["model"] for row in ROWS]
    rows = []
    for row in [row for row in ROWS if row["model"] in wanted]:
        command = [sys.executable, __file__, "--child", json.dumps(row)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        forecast, measured = found["forecast"] / 1e6, found["measured"] / 1e6
        name = " ".join(
            [row["model"], *("x".join(map(str, row[x])) for x in ("size",) if x in row)]
        )
        rows.append(
            (
                name,
                str(row["length"]),
                str(row["batch"]),
                ", ".join(row.get("train", ["all"])),
                "yes" if row.get("checkpointing") else "no",
                f"{forecast:.0f}",
                f"{measured:.0f}",
                f"{forecast / measured:.2f}",
                f"{found['seconds']:.1f}",
            )
        )
        print(*rows[-1], file=sys.stderr)
    header = ("model", "length", "batch", "trains", "checkpointing")
    print(table(rows, (*header, "forecast MB", "measured MB", "ratio", "s")))


def measure(
    model: str,
    length: int,
    batch: int,
    size: Any = None,
    train: Any = ("all",),
    checkpointing: bool = False,
) -> dict[str, float]:
    """Returns what one step takes, by the plan and in truth, in bytes."""
    import keras
    import numpy as np

    from ftkeras.model.lora import add_lora
    from ftkeras.phases import Phase, StagedUnfreezing, make_plan, weights_of
    from ftkeras.phases.checkpointing import checkpointed

    built, blocks, inputs = make(model, size, length)
    if "lora" in train:
        add_lora(keras.Model(built.input, built.layers[-1].input), rank=8)
    labels = lambda count: np.random.default_rng(0).integers(0, 2, count)  # noqa: E731
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    built.compile(keras.optimizers.AdamW(1e-4), loss)
    phase = Phase("one", 1, 1e-4, train=["head", *train], batch_norm="train")
    plan = make_plan(
        built,
        weights_of(built, blocks),
        [phase],
        steps_per_epoch=100,
        batch_size=batch,
        length=length,
        checkpointing=checkpointing,
    )
    unfreeze = StagedUnfreezing(built, plan, audit=False)
    unfreeze.set_model(built)
    unfreeze.enter(0)
    with checkpointed(built, plan):
        for count in (1, 2, 3):
            built.train_on_batch(inputs(count), labels(count))
        given = inputs(batch), labels(batch)
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = held("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forgets the highest so far
        start = time.monotonic()
        built.train_on_batch(*given)
        seconds = time.monotonic() - start
    measured = held("VmHWM") - before
    return {"forecast": plan.largest.step_bytes, "measured": measured, "seconds": seconds}


def make(model: str, size: Any, length: int) -> tuple[Any, Any, Any]:
    """Returns a model with a new head, its blocks, and what gives inputs for some examples."""
    import keras
    import keras_hub
    import numpy as np

    from ftkeras.backbones import Block, load_backbone

    random = np.random.default_rng(0)
    if model == "bert":
        layers, width, heads = size
        encoder = keras_hub.models.BertBackbone(WORDS, layers, heads, width, 4 * width)
        features = encoder.output["sequence_output"]
        layers = encoder.transformer_layers

        def inputs(count: int) -> Any:
            ones = {x.name: np.ones((count, length), "int32") for x in encoder.inputs}
            return ones | {"token_ids": random.integers(0, WORDS, (count, length), "int32")}

    else:
        inputs = lambda count: random.random((count, length, length, 3), "float32")  # noqa: E731
        if model != "vit":
            loaded = load_backbone(model, weights="none", image_size=length)
            pooled = keras.layers.GlobalAveragePooling2D()(loaded.model.output)
            logits = keras.layers.Dense(2, name="logits")(pooled)
            return keras.Model(loaded.model.input, logits), loaded.blocks, inputs
        depth, width, heads = size
        encoder = keras_hub.models.ViTBackbone(
            (length, length, 3), 16, depth, heads, width, 4 * width
        )
        features, layers = encoder.output, encoder.get_layer("vit_encoder").encoder_layers
    pooled = keras.layers.GlobalAveragePooling1D()(features)
    built = keras.Model(encoder.input, keras.layers.Dense(2, name="logits")(pooled))
    first = [layer for layer in encoder.layers if layer.weights and layer not in layers]
    first = [layer for layer in first if layer.name in ("vit_patching_and_embedding", *_FIRST)]
    blocks = [Block("embeddings", tuple(first)), *(Block(x.name, (x,)) for x in layers)]
    return built, blocks, inputs


def held(name: str) -> int:
    """Returns a figure of the process's memory in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


if __name__ == "__main__":
    main()
