"""Tiny folders as Hugging Face has them, with random weights, and what transformers makes of them.

`python folders.py` writes `features.json`; it needs torch and transformers (made with 2.14.1 and
5.24.0), which the tests do not.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from pathlib import Path

import numpy as np

WIDTH, DEEP, PATCH, SIZE = 16, 2, 8, 32
FEATURES = Path(__file__).with_name("features.json")
_PIXELS = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
_VIT = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "image_size": SIZE,
    "patch_size": PATCH,
    "num_channels": 3,
    "hidden_size": WIDTH,
    "num_hidden_layers": DEEP,
    "num_attention_heads": 2,
    "intermediate_size": 2 * WIDTH,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 0.02,  # not the usual one
    "qkv_bias": True,
}
_DINO = {
    **_VIT,
    "model_type": "dinov2_with_registers",
    "architectures": ["Dinov2WithRegistersModel"],
    "layer_norm_eps": 1e-6,  # the only one that keras-hub has
    "mlp_ratio": 2,
    "layerscale_value": 1.0,
    "drop_path_rate": 0.0,
    "use_swiglu_ffn": False,
    "num_register_tokens": 3,
}
CONFIGS = {"vit": _VIT, "dinov2": _DINO}
PREPROCESSORS = {
    "vit": {
        **_PIXELS,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"height": SIZE, "width": SIZE},
    },
    "dinov2": {
        **_PIXELS,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_center_crop": True,
        "size": {"shortest_edge": 40},
        "crop_size": {"height": SIZE, "width": SIZE},
    },
}


def images() -> np.ndarray:
    """Returns uint8 (2, SIZE, SIZE, 3)."""
    return np.random.default_rng(7).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)


def write(folder: Path, name: str) -> Path:
    """Writes config.json, preprocessor_config.json and model.safetensors."""
    from safetensors.numpy import save_file

    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSORS[name]))
    shapes = _shapes_of_vit() if name == "vit" else _shapes_of_dino()
    tensors = {key: _numbers(key, shape) for key, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _numbers(key: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.default_rng(zlib.crc32(key.encode()))
    is_scale = "norm" in key and key.endswith("weight") or "lambda" in key
    return (random.normal(0, 0.3, shape) + is_scale).astype(np.float32)


def _dense(key: str, units: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{key}.weight": (units, width), f"{key}.bias": (units,)}


def _norm(key: str) -> dict[str, tuple[int, ...]]:
    return {f"{key}.weight": (WIDTH,), f"{key}.bias": (WIDTH,)}


def _embeddings(prefix: str) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}cls_token": (1, 1, WIDTH),
        f"{prefix}position_embeddings": (1, (SIZE // PATCH) ** 2 + 1, WIDTH),
        f"{prefix}patch_embeddings.projection.weight": (WIDTH, 3, PATCH, PATCH),
        f"{prefix}patch_embeddings.projection.bias": (WIDTH,),
    }


def _attention(prefix: str) -> dict[str, tuple[int, ...]]:
    shapes = _dense(f"{prefix}.output.dense", WIDTH, WIDTH)
    for part in ("query", "key", "value"):
        shapes |= _dense(f"{prefix}.attention.{part}", WIDTH, WIDTH)
    return shapes


def _shapes_of_vit() -> dict[str, tuple[int, ...]]:
    shapes = _embeddings("vit.embeddings.") | _norm("vit.layernorm")
    shapes |= _dense("classifier", 2, WIDTH)
    for number in range(DEEP):
        layer = f"vit.encoder.layer.{number}"
        shapes |= _norm(f"{layer}.layernorm_before") | _norm(f"{layer}.layernorm_after")
        shapes |= _attention(f"{layer}.attention")
        shapes |= _dense(f"{layer}.intermediate.dense", 2 * WIDTH, WIDTH)
        shapes |= _dense(f"{layer}.output.dense", WIDTH, 2 * WIDTH)
    return shapes


def _shapes_of_dino() -> dict[str, tuple[int, ...]]:
    shapes = _embeddings("embeddings.") | _norm("layernorm")
    shapes |= {"embeddings.mask_token": (1, WIDTH), "embeddings.register_tokens": (1, 3, WIDTH)}
    for number in range(DEEP):
        layer = f"encoder.layer.{number}"
        shapes |= _norm(f"{layer}.norm1") | _norm(f"{layer}.norm2")
        shapes |= _attention(f"{layer}.attention")
        shapes |= _dense(f"{layer}.mlp.fc1", 2 * WIDTH, WIDTH)
        shapes |= _dense(f"{layer}.mlp.fc2", WIDTH, 2 * WIDTH)
        shapes |= {f"{layer}.layer_scale{i}.lambda1": (WIDTH,) for i in (1, 2)}
    return shapes


def _features(folder: Path, name: str) -> list[list[list[float]]]:
    import torch
    import transformers

    kinds = {"vit": "ViTForImageClassification", "dinov2": "Dinov2WithRegistersModel"}
    kind = getattr(transformers, kinds[name])
    model, info = kind.from_pretrained(write(folder, name), output_loading_info=True)
    assert not any(info[part] for part in ("missing_keys", "unexpected_keys")), info
    says = PREPROCESSORS[name]
    pixels = (images() / 255 - says["image_mean"]) / says["image_std"]
    pixels = torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.no_grad():
        return getattr(model, "vit", model).eval()(pixels).last_hidden_state.tolist()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        found = {name: _features(Path(scratch, name), name) for name in CONFIGS}
    rounded = {
        name: [[[round(x, 6) for x in step] for step in one] for one in rows]
        for name, rows in found.items()
    }
    FEATURES.write_text(json.dumps(rounded, separators=(",", ":")) + "\n")
