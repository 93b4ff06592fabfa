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
from rival_torch import body, scaled
from torch import nn


def learner(
    trunk: nn.Module, pairs: tuple[list, list], sizes: tuple[int, int, int], **more: object
) -> Learner:
    """Returns what `vision_learner` builds, for pairs to train and to validate on.

    `sizes` are the width of the features, the number of classes and the batch size.
    """
    width, classes, batch = sizes
    head = create_head(width, classes)
    apply_init(head, nn.init.kaiming_normal_)
    loaders = DataLoaders(
        DataLoader(pairs[0], bs=batch, shuffle=True, drop_last=True), DataLoader(pairs[1], bs=batch)
    )
    model, loss = nn.Sequential(trunk, head), CrossEntropyLossFlat()
    return Learner(loaders, model, loss_func=loss, splitter=default_split, **more)


def main() -> None:
    """Trains and writes the classes of the test images."""
    folder = sys.argv[1]
    given = np.load(f"{folder}/in.npz")
    torch.set_num_threads(1)
    set_seed(int(given["seed"]), reproducible=True)
    trunk, batch = body(given), int(given["batch"])
    test, classes = scaled(torch.tensor(given["test"])), int(given["y"].max()) + 1
    labels = torch.tensor(given["y"].astype(np.int64))
    pairs = list(zip(scaled(torch.tensor(given["x"])).contiguous(), labels, strict=True))
    sizes = (given["features"].shape[1], classes, batch)
    made = learner(trunk, (pairs, pairs[:batch]), sizes)  # a validation that decides nothing
    with made.no_bar(), made.no_logging():
        made.fine_tune(int(given["epochs"]))
    model = made.model.eval()
    with torch.no_grad():
        said = torch.cat([model(part).argmax(dim=1) for part in test.split(100)])
    np.save(f"{folder}/out.npy", said.numpy())


if __name__ == "__main__":
    main()
