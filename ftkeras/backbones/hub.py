"""Models of keras-hub: presets, and folders of keras-hub, Hugging Face and timm.

A model is always put into a local folder and checked there before Keras reads it. Nothing here
imports Keras or keras-hub before a model is loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkeras.backbones.catalog import no_backbone
from ftkeras.errors import UserError, did_you_mean, first_line
from ftkeras.imports import to_install

PREFIX = "keras_hub/"
_HUGGING_FACE = "hf://"
_READ = ("*.json", "*.safetensors", "*.h5", "*.txt", "*.model", "*.spm")  # never pickled weights
_WEIGHTS = ("*.safetensors", "*.weights.h5")

ARCHITECTURES = {
    **dict.fromkeys(
        [
            "albert",
            "bert",
            "distilbert",
            "esm",
            "gemma",
            "gemma2",
            "gemma3_text",
            "gpt2",
            "gpt_oss",
            "llama",
            "mistral",
            "mixtral",
            "qwen2",
            "qwen2_moe",
            "qwen3",
            "qwen3_moe",
            "roberta",
            "smollm3",
            "xlm-roberta",
        ],
        "text",
    ),
    **dict.fromkeys(
        ["deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "swin", "vit"], "image"
    ),
}
"""The architectures of Hugging Face that keras-hub converts (`model_type` in config.json), and
their kind of input. Those with two kinds, and those that generate texts, are left out."""


@dataclass(frozen=True)
class HubModel:
    """A model that keras-hub can load.

    Args:
        name: Its name in a config.
        folder: The folder of its files.
        config: The content of its config.json.
        kind: "text" or "image"; None if the files do not decide it.
    """

    name: str
    folder: str
    config: Mapping[str, Any]
    kind: str | None

    @property
    def is_converted(self) -> bool:
        """Whether the folder has Hugging Face's format, so that keras-hub converts the weights."""
        return "model_type" in self.config

    def json(self, file: str) -> dict[str, Any]:
        """Returns the content of a JSON file of the folder; {} if there is no such file.

        Raises:
            UserError: It cannot be read.
        """
        return _json(Path(self.folder, file), self.name)

    def load(self, part: Any, **options: Any) -> Any:
        """Returns a part of the model, made by `part.from_preset` from the folder.

        Args:
            part: A class of keras-hub with `from_preset`, such as `keras_hub.models.Backbone`.
            **options: More arguments of `from_preset`.

        Raises:
            UserError: keras-hub cannot load it.

        Example:
            ```python
            found = find("keras_hub/bert_base_en", "text")
            backbone = found.load(found.hub.models.Backbone)
            ```
        """
        try:
            return part.from_preset(self.folder, **options)
        except Exception as error:  # a damaged folder can fail anywhere, with any error
            if "no converter" in str(error):
                raise self._not_converted() from error
            raise UserError(
                f"backbone.name: keras-hub cannot load {self.name}: {type(error).__name__}, "
                f"{first_line(error)}"
            ) from error

    @property
    def hub(self) -> Any:
        """The package keras_hub.

        Raises:
            UserError: The extra is not installed.
        """
        return _imported("keras_hub", self.name)

    def _not_converted(self) -> UserError:
        known = [name for name, kind in ARCHITECTURES.items() if self.kind in (None, kind)]
        return UserError(
            f"backbone.name: {self.name} is of the architecture {self.config['model_type']!r}, "
            f"which keras-hub cannot convert; it can {', '.join(known)}."
        )


def is_hub(name: str) -> bool:
    """Whether a backbone's name is one of a preset, a handle, or a folder.

    Example:
        >>> is_hub("keras_hub/bert_base_en"), is_hub("ResNet50")
        (True, False)
    """
    if name.startswith((PREFIX, _HUGGING_FACE)):
        return True
    if name.endswith(".keras"):
        return False
    return "/" in name or Path(name, "config.json").is_file()  # not every folder named ResNet50


def kind_of(name: str) -> str | None:
    """Returns a model's kind of input, "text" or "image", without an import or a download.

    None if the name, or the folder's config.json, does not decide it.
    """
    if name.startswith(PREFIX):
        return _kind_of_preset(name[len(PREFIX) :])
    try:
        return None if "://" in name else _kind_in(Path(name), _json(Path(name, "config.json"), ""))
    except UserError:  # `find` reports it
        return None


def missing_packages(kind: str | None) -> str:
    """Returns in one line which package of the extra is not installed; "" if none is missing.

    Args:
        kind: The kind of the examples: texts need TensorFlow Text, too.
    """
    needed = ("keras_hub", "tensorflow_text") if kind == "text" else ("keras_hub",)
    gone = [package for package in needed if importlib.util.find_spec(package) is None]
    return _not_installed(" and ".join(gone)) if gone else ""


def find(name: str, kind: str) -> HubModel:
    """Returns the model of a name, after a check of its files; downloads it if needed.

    Args:
        name: `keras_hub/PRESET`, `hf://OWNER/MODEL`, or a folder, in keras-hub's format (from
            `save_to_preset`) or in Hugging Face's (config.json and safetensors).
        kind: The kind of the examples: "text" or "image".

    Raises:
        UserError: There is no such model, it is for another kind of example, its files cannot be
            used, its download failed, or the extra is not installed.
    """
    if name.startswith(PREFIX):
        _refuse_other(name, _kind_of_preset(name[len(PREFIX) :]), kind)
        folder = _download_preset(name)
    elif name.startswith(_HUGGING_FACE):
        folder = _download_repository(name)
    elif "://" in name or not Path(name).is_dir():
        raise no_backbone(name, kind)
    else:
        folder = Path(name)
    config = _json(folder / "config.json", name)
    if not config:
        raise UserError(
            f"backbone.name: {name} has no config.json. A folder is what save_to_preset of "
            "keras-hub writes, or save_pretrained of Hugging Face's transformers."
        )
    found = HubModel(name, str(folder), config, _kind_in(folder, config))
    _refuse_other(name, found.kind, kind)
    _check_weights(found)
    found.hub  # noqa: B018 - raises if it is not installed
    return found


def _refuse_other(name: str, found: str | None, kind: str) -> None:
    if found not in (None, kind):
        raise UserError(
            f"backbone.name: {name} reads {found}s, and data.input.kind is {kind}. Take a backbone "
            f"for {kind}s, or other data."
        )


def _check_weights(found: HubModel) -> None:
    """Refuses pickled weights, because they can run any code when they are loaded."""
    files = Path(found.folder)
    if any(file for pattern in _WEIGHTS for file in files.glob(pattern)):
        return
    pickled = next(
        (file.name for end in ("bin", "pt", "pth") for file in files.glob(f"*.{end}")), ""
    )
    if pickled:
        raise UserError(
            f"backbone.name: {found.name} holds its weights in {pickled}, a pickle, which could "
            "run code and is never loaded. Convert it where you trust it: "
            "AutoModel.from_pretrained(FOLDER).save_pretrained(NEW, safe_serialization=True)."
        )
    expected = "model.safetensors" if found.is_converted else "model.weights.h5"
    raise UserError(f"backbone.name: {found.name} holds no weights; {expected} is expected.")


def _kind_in(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Returns the kind of input of a folder's model, by its files."""
    if "model_type" in config:
        return ARCHITECTURES.get(str(config["model_type"]))
    if "architecture" in config:  # timm's format
        return "image"
    text, image = ((folder / f"{n}.json").is_file() for n in ("tokenizer", "image_converter"))
    return None if text == image else "text" if text else "image"


def _kind_of_preset(preset: str) -> str | None:
    """Returns a preset's kind of input, from the files of keras-hub: importing it takes seconds."""
    spec = importlib.util.find_spec("keras_hub")
    if spec is None or spec.origin is None:
        return None
    for file in Path(spec.origin).parent.glob("src/models/*/*_presets.py"):
        if f'"{preset}"' in file.read_text(encoding="utf-8"):
            text, image = (
                any(file.parent.glob(f"*_{part}.py")) for part in ("tokenizer", "image_converter")
            )
            return None if text == image else "text" if text else "image"
    return None


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"backbone.name: {path.name} of {name} cannot be read: {first_line(error)}."
        ) from None
    if not isinstance(tree, dict):
        raise UserError(f"backbone.name: {path.name} of {name} holds no settings.")
    return tree


def _not_installed(packages: str) -> str:
    return f"{packages}, not installed here. Run: {to_install('hub')}"


def _imported(package: str, name: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(f"backbone.name: {name} needs {_not_installed(str(error.name))}") from None


# ------------------------------------------------------------------------------- downloads


def _download_preset(name: str) -> Path:
    hub, preset = _imported("keras_hub", name), name[len(PREFIX) :]
    presets = hub.models.Backbone.presets
    if preset not in presets:
        raise UserError(
            f"backbone.name: keras-hub has no preset {preset!r}.{did_you_mean(preset, presets)} "
            "keras_hub.models.Backbone.presets lists them."
        )
    handle = presets[preset]["kaggle_handle"].removeprefix("kaggle://")
    try:
        return Path(_imported("kagglehub", name).model_download(handle))
    except Exception as error:  # each library that keras-hub calls has its own errors
        raise _not_downloaded(name, "kaggle.com", error) from error


def _download_repository(name: str) -> Path:
    hugging_face = _imported("huggingface_hub", name)
    try:
        folder = hugging_face.snapshot_download(
            name[len(_HUGGING_FACE) :], allow_patterns=[*_READ, "*/*.json"]
        )
    except Exception as error:
        raise _not_downloaded(name, "huggingface.co", error) from error
    return Path(folder)


def _not_downloaded(name: str, host: str, error: Exception) -> UserError:
    return UserError(
        f"backbone.name: {name} could not be downloaded from {host} ({type(error).__name__}: "
        f"{first_line(error)}). Check the connection and the name, or download it elsewhere and "
        "name its folder. ftkeras ships backbones for texts (gru and others), and MobileNetV2 "
        "with backbone.weights=starter."
    )
