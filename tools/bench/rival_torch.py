"""PyTorch, fastai and Lightning on a folder of images: `peers.py` runs this with their interpreter.

    python tools/bench/rival_torch.py pytorch|fastai|scheduler FOLDER [--epochs 5] [--seed 0]

FOLDER has `photos/train|val|test/CLASS/` and what `rival_keras.py weights` writes. Each way decodes
the images once, keeps them in memory, validates after each epoch, and prints the test accuracy as
JSON.

`pytorch` is a plain loop in channels_last: the frozen layers run without gradients and with their
batch normalisation in inference; Adam trains a head, then the last four blocks too, at the rates of
`stock_keras.py`. `scheduler` is the same network in Lightning, with finetuning-scheduler's callback
for the two phases. `fastai` is `fine_tune` with its defaults.
"""

# mypy: ignore-errors

from __future__ import annotations

import argparse
import json
import random
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.models import mobilenet_v2

SIZE, CLASSES, BATCH, WIDTH = 96, 10, 32, 1280
HEAD_RATE, TOP_RATE = 3e-3, 3e-4
FIRST = 14  # of torchvision's modules, the first one of the last four blocks
Part = tuple[torch.Tensor, torch.Tensor]  # uint8 (n, height, width, 3), labels


def main() -> None:
    """Trains and prints what came of it."""
    ways = {
        "pytorch": (plain, ()),
        "fastai": (fastai, ("fastai",)),
        "scheduler": (scheduler, ("lightning", "finetuning-scheduler")),
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=ways)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=5, help="of each of the two phases")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)
    parts = {part: images(options.folder / "photos" / part) for part in ("train", "val", "test")}
    given = np.load(options.folder / "weights.npz")
    train, more = ways[options.way]
    model = train(body(given), parts, options)
    print(json.dumps({
        "accuracy": accuracy(model, parts["test"]),
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", *more)),
    }))  # fmt: skip


def body(given: np.lib.npyio.NpzFile) -> nn.Module:
    """Returns torchvision's MobileNetV2 with the weights, the padding and the epsilon of Keras."""
    number = sum(name.startswith("weight_") for name in given.files)
    rest = iter([given[f"weight_{each}"] for each in range(number)])
    features = mobilenet_v2(weights=None).features
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            kernel = next(rest)  # (h, w, in, out), of depthwise ones (h, w, channels, 1)
            order = (2, 3, 0, 1) if module.groups > 1 else (3, 2, 0, 1)
            module.weight.data = torch.tensor(kernel.transpose(order))
        elif isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
            parts = (module.weight, module.bias, module.running_mean, module.running_var)
            for part in parts:
                part.data = torch.tensor(next(rest))
    for parent in list(features.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and child.stride == (2, 2):
                child.padding = (0, 0)
                setattr(parent, name, nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), child))
    assert next(rest, None) is None
    features.eval()
    with torch.no_grad():
        maps = features(scaled(torch.tensor(given["pixels"])))
    apart = maps.mean(dim=(2, 3)).numpy() - given["features"]
    assert np.abs(apart).max() < 1e-3 * np.abs(given["features"]).max(), np.abs(apart).max()
    return features


def images(folder: Path) -> Part:
    """Returns the images of a folder and their labels."""
    files = sorted(folder.glob("*/*"))
    names = sorted({file.parent.name for file in files})
    size = (SIZE, SIZE)
    decoded = [Image.open(file).convert("RGB").resize(size, Image.BILINEAR) for file in files]
    labels = [names.index(file.parent.name) for file in files]
    return torch.tensor(np.stack([np.asarray(each) for each in decoded])), torch.tensor(labels)


def scaled(pixels: torch.Tensor) -> torch.Tensor:
    """Returns what the network takes, float (n, 3, height, width), in channels_last."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


@torch.no_grad()
def accuracy(model: nn.Module, part: Part) -> float:
    """Returns the share of right answers."""
    model.eval()
    pairs = zip(*(each.split(100) for each in part), strict=True)
    right = sum(int((model(scaled(x)).argmax(1) == y).sum()) for x, y in pairs)
    return right / len(part[1])


class Network(nn.Module):
    """A body with a new head. The body's batch normalisation stays in inference."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk.requires_grad_(False)
        self.dropout, self.head = nn.Dropout(0.2), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.trunk(x).mean(dim=(2, 3))))

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        self.trunk.eval()
        return self


def plain(trunk: nn.Module, parts: dict[str, Part], options: argparse.Namespace) -> nn.Module:
    """Trains by a loop of its own."""
    model = Network(trunk).to(memory_format=torch.channels_last)
    x, y = parts["train"]
    for rate, opened in ((HEAD_RATE, ()), (TOP_RATE, trunk[FIRST:])):
        for module in opened:
            module.requires_grad_(True)
        weights = [each for each in model.parameters() if each.requires_grad]
        optimizer = torch.optim.Adam(weights, rate, fused=True)
        for epoch in range(options.epochs):
            model.train()
            for rows in torch.randperm(len(y)).split(BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(scaled(x[rows])), y[rows]).backward()
                optimizer.step()
            print(f"epoch {epoch + 1}: val_accuracy {accuracy(model, parts['val']):.4f}")
    return model


def fastai(trunk: nn.Module, parts: dict[str, Part], options: argparse.Namespace) -> nn.Module:
    """Trains by `fine_tune`, with as many epochs frozen as not."""
    from fastai.vision.all import accuracy as right
    from rival_fastai import learner

    pairs = {
        part: list(zip(scaled(x).contiguous(), y, strict=True)) for part, (x, y) in parts.items()
    }
    made = learner(trunk, (pairs["train"], pairs["val"]), (WIDTH, CLASSES, BATCH), metrics=right)
    with made.no_bar():
        made.fine_tune(options.epochs, freeze_epochs=options.epochs)
    return made.model


def scheduler(trunk: nn.Module, parts: dict[str, Part], options: argparse.Namespace) -> nn.Module:
    """Trains by Lightning, which finetuning-scheduler tells what to unfreeze and when."""
    import lightning
    from finetuning_scheduler import FinetuningScheduler, FTSCheckpoint
    from torch.utils.data import DataLoader, TensorDataset

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Network(trunk).to(memory_format=torch.channels_last)

        def training_step(self, batch: Part, index: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.net(scaled(batch[0])), batch[1])

        def validation_step(self, batch: Part, index: int) -> None:
            right = self.net(scaled(batch[0])).argmax(1) == batch[1]
            self.log("val_accuracy", right.float().mean(), batch_size=len(right))

        def on_train_epoch_start(self) -> None:
            if self.current_epoch >= options.epochs:
                for group in self.optimizers().param_groups:  # the scheduler leaves the head's rate
                    group["lr"] = TOP_RATE

        def configure_optimizers(self) -> torch.optim.Optimizer:
            weights = [each for each in self.parameters() if each.requires_grad]
            return torch.optim.Adam(weights, HEAD_RATE)

    tops = [rf"net\.trunk\.{number}\..*" for number in range(FIRST, len(trunk))]
    schedule = {
        0: {"params": [r"net\.head\..*"], "max_transition_epoch": options.epochs},
        1: {"params": tops, "max_transition_epoch": 2 * options.epochs, "lr": TOP_RATE},
    }
    model = Module()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = lightning.Trainer(
            max_epochs=2 * options.epochs,
            accelerator="cpu",
            default_root_dir=scratch,
            enable_progress_bar=False,
            callbacks=[
                FinetuningScheduler(schedule, epoch_transitions_only=True, restore_best=False),
                FTSCheckpoint(monitor="val_accuracy", mode="max"),
            ],
        )
        loaders = [
            DataLoader(TensorDataset(*parts[part]), BATCH, shuffle=part == "train")
            for part in ("train", "val")
        ]
        trainer.fit(model, *loaders)
    return model.net


if __name__ == "__main__":
    main()
