"""`fine_tune` of fastai on arrays: `rivals.py` runs this with the interpreter that has fastai.

    python tools/bench/rival_fastai.py FOLDER

`FOLDER/in.npz` has the images, the weights of Keras's MobileNetV2 and features to compare with; the
predicted classes go to `FOLDER/out.npy`. The learner is what `vision_learner` builds: a body, a new
head with its defaults, two groups of parameters.
"""

# mypy: ignore-errors

from __future__ import annotations

import sys

import numpy as np
import torch
from fastai.vision.all import (
    CrossEntropyLossFlat,
    DataLoader,
    DataLoaders,
    Learner,
    apply_init,
    create_head,
    default_split,
    set_seed,
)
from torch import nn
from torchvision.models import mobilenet_v2


def body(weights: list[np.ndarray]) -> nn.Module:
    """Returns torchvision's MobileNetV2 with the weights, the padding and the epsilon of Keras."""
    features, rest = mobilenet_v2(weights=None).features, iter(weights)
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
    return features


def scaled(pixels: np.ndarray) -> torch.Tensor:
    """Returns what the network takes, float (n, 3, height, width)."""
    return torch.tensor(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)


def main() -> None:
    """Trains and writes the classes of the test images."""
    folder = sys.argv[1]
    given = np.load(f"{folder}/in.npz")
    torch.set_num_threads(1)
    set_seed(int(given["seed"]), reproducible=True)
    number = sum(name.startswith("weight_") for name in given.files)
    trunk = body([given[f"weight_{each}"] for each in range(number)])
    test, classes = scaled(given["test"]), int(given["y"].max()) + 1
    trunk.eval()
    with torch.no_grad():
        apart = trunk(test[:8]).mean(dim=(2, 3)).numpy() - given["features"]
    assert np.abs(apart).max() < 1e-4, np.abs(apart).max()
    head = create_head(given["features"].shape[1], classes)
    apply_init(head, nn.init.kaiming_normal_)
    pairs = list(zip(scaled(given["x"]), torch.tensor(given["y"].astype(np.int64)), strict=True))
    batch = int(given["batch"])
    loaders = DataLoaders(
        DataLoader(pairs, bs=batch, shuffle=True, drop_last=True),
        DataLoader(pairs[:batch], bs=batch),  # a validation that decides nothing
    )
    model = nn.Sequential(trunk, head)
    learner = Learner(loaders, model, loss_func=CrossEntropyLossFlat(), splitter=default_split)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(int(given["epochs"]))
    model.eval()
    with torch.no_grad():
        said = torch.cat([model(part).argmax(dim=1) for part in test.split(100)])
    np.save(f"{folder}/out.npy", said.numpy())


if __name__ == "__main__":
    main()
