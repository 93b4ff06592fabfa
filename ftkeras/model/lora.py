"""Adapters of low rank beside frozen weights (Hu et al. 2021, "LoRA").

A layer with an adapter uses W + alpha / rank * A @ B instead of its frozen weight W. A and B are
small, and train. One of them starts at zero, so that the model's outputs stay the same. Keras's
`enable_lora` makes the factors and adds their product. This module adds:

- A model that Keras saves with adapters has them merged into W. Loaded again, its adapters are zero
  and can never train. Here adapters are saved alone, with a checksum of the weights under them, and
  `merge_lora` returns a model without adapters.
- Keras starts the factors of all layers the same way. For an embedding, A starts at zero instead of
  B, as in the paper's own code: rows that no example uses stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.cache import digest
from ftkeras.errors import UserError, first_line
from ftkeras.files import read_arrays, write_arrays
from ftkeras.keras_internals import OwnVariable, own_variables, variables_inside

ATTENTION = ("query", "value", "query_dense", "value_dense", "q_proj", "v_proj")
"""The names of the layers that the target `attention` selects."""

_CAN = (
    "Dense, EinsumDense, Embedding, Conv1D, Conv2D and Conv3D, without groups and constraints, can"
)
_VERSION = 1  # of the file


# ------------------------------------------------------------------------ layers with adapters


def is_adapter(variable: keras.Variable, layer: keras.layers.Layer) -> bool:
    """Whether a weight is one of the two factors that `enable_lora` added to its layer."""
    return bool(getattr(layer, "lora_enabled", False)) and variable.name.startswith("lora_")


def is_base(variable: keras.Variable, layer: keras.layers.Layer) -> bool:
    """Whether a weight is the one to which the product of two such factors is added."""
    # Setting the layer's flag also sets the base's flag, so the flag alone is not enough.
    if not getattr(layer, "lora_enabled", False):
        return False
    return f"lora_{variable.name}_a" in {other.name for other in own_variables(layer)[0]}


def factors(layer: keras.layers.Layer) -> tuple[keras.Variable, keras.Variable]:
    """Returns A and B of a layer with an adapter."""
    a, b = (x for x in own_variables(layer)[0] if is_adapter(x, layer))
    return a, b


def merged_weight(base: keras.Variable, layer: keras.layers.Layer) -> np.ndarray:
    """Returns W + alpha / rank * A @ B in the type of W; Keras's `kernel` has that of the layer."""
    a, b = (_array(x) for x in factors(layer))
    return (_array(base) + (layer.lora_alpha / layer.lora_rank) * (a @ b)).astype(base.dtype)


@dataclass(frozen=True)
class Adapters:
    """The adapters that `add_lora` or `load_adapters` put into a backbone.

    Args:
        backbone: The model whose layers have them.
        rank: The rank of the matrix that is added to each weight.
        alpha: The added matrix is scaled by alpha / rank.
        targets: The requested layers.
        layers: The layers, from input to output.
        prints: A digest of each variable of the backbone before the adapters were added.

    Example:
        ```python
        backbone = ftkeras.load_backbone("MobileNetV2", weights="starter", image_size=96)
        model = ftkeras.build_model(backbone, classes=10)
        adapters = ftkeras.add_lora(backbone.model, rank=8)
        ...  # compile; fit with StagedUnfreezing and a phase that trains [head, lora]
        adapters.save("adapters.npz", model)
        ```
    """

    backbone: keras.Model
    rank: int
    alpha: float
    targets: tuple[str, ...]
    layers: tuple[keras.layers.Layer, ...]
    prints: tuple[str, ...]

    @property
    def checksum(self) -> str:
        """Identifies the base: a checksum of all weights of the backbone."""
        return digest(*self.prints)

    @property
    def size(self) -> int:
        """How many numbers the adapters hold."""
        return sum(int(np.prod(x.shape)) for layer in self.layers for x in factors(layer))

    def describe(self) -> str:
        """Returns a line that says what they are."""
        return (
            f"adapters of rank {self.rank} (alpha {self.alpha:g}) in {len(self.layers)} layers: "
            f"{self.size:,} numbers, on the base {self.checksum}"
        )

    def are_in(self, model: keras.Model) -> bool:
        """Whether a model contains these layer objects."""
        inside = {id(own.layer) for own in variables_inside(model)}
        return all(id(layer) in inside for layer in self.layers)

    def base_moved(self) -> bool:
        """Whether any weight under an adapter has changed."""
        return any(is_base(own.variable, own.layer) for _, own in self._changed())

    def save(self, path: str | os.PathLike[str], model: keras.Model | None = None) -> None:
        """Writes the adapters, without the base; `load_adapters` reads them.

        Other weights of the backbone that have changed (biases, normalisation) are written, too.

        Args:
            path: The .npz file; it holds no pickled objects.
            model: The model around the backbone, whose other weights (the head) are written, too.

        Raises:
            UserError: A weight under an adapter has changed, so that the adapters alone are not
                the model.
        """
        if self.base_moved():
            raise UserError(
                "adapters: the weights under them have been trained, too (selector base), so that "
                "the adapters alone are not the model. Save the whole model."
            )
        changed = self._changed()
        rest = [] if model is None else _around(model, self.backbone)
        arrays = {f"changed {index}": own.variable for index, own in changed}
        arrays |= {f"rest {index}": own.variable for index, own in enumerate(rest)}
        for index, layer in enumerate(self.layers):
            arrays |= dict(zip((f"a {index}", f"b {index}"), factors(layer), strict=True))
        about = {
            "version": _VERSION,
            "rank": self.rank,
            "alpha": self.alpha,
            "targets": self.targets,
            "base": self.checksum,
            "layers": [layer.path for layer in self.layers],
            "changed": [index for index, _ in changed],
            "rest": None if model is None else [own.path for own in rest],
        }
        values = {name: _array(variable) for name, variable in arrays.items()}
        write_arrays(path, {"about": np.array(json.dumps(about)), **values})

    def _changed(self) -> list[tuple[int, OwnVariable]]:
        """Returns the variables of the backbone that have changed, with their indices."""
        now = enumerate(_base(self.backbone))
        return [(i, own) for i, own in now if _print(own.variable) != self.prints[i]]


def add_lora(
    backbone: keras.Model,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    targets: str | Sequence[str] | None = None,
    seed: int = 0,
) -> Adapters:
    """Gives layers of a model adapters, in place; its outputs stay the same.

    Call it before `StagedUnfreezing` is made. Phases then train them by the selector `lora`.

    Args:
        backbone: A built model without its head: a new head trains whole.
        rank: The rank of what is added to each weight.
        alpha: What is added counts times alpha / rank.
        targets: attention (query and value of each attention), all, re:PATTERN (found in the path
            of a layer), the name or path of a layer, or several of these. Default: attention if
            the model has any, otherwise all.
        seed: Seed of the factors.

    Raises:
        UserError: A target matches no layer that can have an adapter, or there are adapters.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="hidden")])
        >>> add_lora(model, rank=2).size
        14
    """
    if rank < 1 or alpha <= 0:
        raise UserError(f"lora: rank and alpha must be above 0, got {rank} and {alpha:g}.")
    able = _able(backbone)
    if targets is None:
        targets = "attention" if _matching(able, "attention") else "all"
    wanted = (targets,) if isinstance(targets, str) else tuple(targets)
    chosen: set[str] = set()
    for target in wanted:
        chosen.update(found := _matching(able, target))
        if not found:
            raise UserError(f"lora.targets: {target!r} matches nothing. {_choices(backbone, able)}")
    prints = tuple(_print(own.variable) for own in _base(backbone))
    layers = tuple(layer for path, layer in able.items() if path in chosen)
    for index, layer in enumerate(layers):
        draw = random.Random(f"{seed}/{index}").randrange(2**31)
        starts = [keras.initializers.HeUniform(draw), keras.initializers.Zeros()]
        if isinstance(layer, keras.layers.Embedding):
            starts = [keras.initializers.Zeros(), keras.initializers.RandomNormal(0.0, 1.0, draw)]
        a, b = starts
        layer.enable_lora(rank, lora_alpha=alpha, a_initializer=a, b_initializer=b)
    return Adapters(backbone, rank, float(alpha), wanted, layers, prints)


def merge_lora(model: keras.Model) -> keras.Model:
    """Returns a model without adapters; its outputs are the same, except for rounding.

    A model without adapters is returned as it is; otherwise the result is a copy, not compiled.

    Args:
        model: A Functional or Sequential model, or one whose class Keras can serialise.

    Raises:
        UserError: The model cannot be copied.
    """
    inside = _walk(model)
    names = {own.layer.name for own in inside if is_adapter(own.variable, own.layer)}
    if not names:
        return model
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    try:
        copy = keras.saving.deserialize_keras_object(_without(config, names), safe_mode=False)
        fresh: dict[str, list[keras.Variable]] = {}
        for own in _walk(copy):
            fresh.setdefault(own.path, []).append(own.variable)
        for own in inside:
            if is_adapter(own.variable, own.layer):
                continue
            under = is_base(own.variable, own.layer)
            value = merged_weight(own.variable, own.layer) if under else _array(own.variable)
            fresh[own.path].pop(0).assign(value)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise UserError(
            f"merge_lora: {model.name} cannot be copied: {first_line(error)}"
        ) from error
    return copy


def load_adapters(
    path: str | os.PathLike[str], backbone: keras.Model, model: keras.Model | None = None
) -> Adapters:
    """Gives a backbone the adapters of a file, in place.

    Args:
        path: A file of `Adapters.save`; a run has it as `adapters.npz`.
        backbone: The same base: the model with the same weights, without adapters.
        model: The model around the backbone; its other weights come from the file, too.

    Raises:
        UserError: The file cannot be read, belongs to another base, or has another head.

    Example:
        ```python
        backbone = ftkeras.load_backbone("MobileNetV2", weights="starter", image_size=96)
        model = ftkeras.build_model(backbone, classes=10)
        ftkeras.load_adapters("runs/my/adapters.npz", backbone.model, model)
        ```
    """
    about, arrays = _read(path)
    here = digest(*(_print(own.variable) for own in _base(backbone)))
    if about["base"] != here:
        raise UserError(
            f"lora: {path} belongs to another base: its checksum is {about['base']}, that of this "
            "backbone is "
            f"{here}. Take the backbone, weights and cut that the adapters were trained on."
        )
    rest = [] if model is None else _around(model, backbone)
    if model is not None:
        stored = [arrays[f"rest {i}"].shape for i in range(len(about["rest"] or ()))]
        if stored != [tuple(own.variable.shape) for own in rest]:
            raise UserError(
                f"lora: {path} has another head ({_shapes(stored)}) than the model "
                f"({_shapes([own.variable.shape for own in rest])}). Leave the model out to load "
                "the adapters alone."
            )
    base = [own.variable for own in _base(backbone)]
    adapters = add_lora(
        backbone, rank=about["rank"], alpha=about["alpha"], targets=about["targets"]
    )
    for index, layer in enumerate(adapters.layers):
        for name, variable in zip("ab", factors(layer), strict=True):
            variable.assign(arrays[f"{name} {index}"])
    for index in about["changed"]:
        base[index].assign(arrays[f"changed {index}"])
    for index, own in enumerate(rest):
        own.variable.assign(arrays[f"rest {index}"])
    return adapters


# ------------------------------------------------------------------------------------- inside


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        arrays = read_arrays(path)
        about = json.loads(str(arrays.pop("about")))
        if about["version"] != _VERSION:
            raise UserError(f"lora: {path} was written by another version of ftkeras.")
        return about, arrays
    except tf.errors.OpError:
        raise UserError(f"lora: no file {os.fspath(path)!r} that can be read.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"lora: {path} is damaged, or not a file of adapters.") from error


def _able(backbone: keras.Model) -> dict[str, keras.layers.Layer]:
    """Returns the layers that can have an adapter, by path, from input to output."""
    able = {}
    for own in _walk(backbone):
        layer = own.layer
        if is_adapter(own.variable, layer):
            raise UserError(
                f"lora: layer {layer.name!r} has an adapter already. Call ftkeras.merge_lora first."
            )
        constrained = any(
            getattr(layer, f"{name}_constraint", None) for name in ("kernel", "embeddings")
        )
        plain = getattr(layer, "groups", 1) == 1 and not getattr(layer, "quantization_mode", None)
        if hasattr(layer, "enable_lora") and plain and not constrained:
            able[own.path.rpartition("/")[0]] = layer
    return able


def _matching(able: dict[str, keras.layers.Layer], target: str) -> list[str]:
    if target == "all":
        return list(able)
    if target == "attention":
        return [path for path, layer in able.items() if layer.name in ATTENTION]
    if target.startswith("re:"):
        try:
            pattern = re.compile(target[3:])
        except re.error as error:
            raise UserError(
                f"lora.targets: {target!r}: not a regular expression ({error})."
            ) from None
        return [path for path in able if pattern.search(path)]
    return [path for path, layer in able.items() if target in (path, layer.name)]


def _choices(backbone: keras.Model, able: dict[str, keras.layers.Layer]) -> str:
    if not able:
        return f"No layer of {backbone.name} can have an adapter; {_CAN}."
    names = list(able)
    shown = ", ".join(names if len(names) < 9 else [*names[:4], "...", *names[-4:]])
    return (
        f"Choices: attention, all, re:PATTERN, or the name of a layer. {len(names)} layers of "
        f"{backbone.name} can have an adapter: {shown}."
    )


def _walk(model: keras.Model) -> list[OwnVariable]:
    """Returns all variables of a model, from input to output, each once."""
    found: dict[int, OwnVariable] = {}
    for own in variables_inside(model, graph_order=True):
        found.setdefault(id(own.variable), own)
    return list(found.values())


def _base(backbone: keras.Model) -> list[OwnVariable]:
    return [own for own in _walk(backbone) if not is_adapter(own.variable, own.layer)]


def _around(model: keras.Model, backbone: keras.Model) -> list[OwnVariable]:
    inside = {id(own.variable) for own in _walk(backbone)}
    return [own for own in _walk(model) if id(own.variable) not in inside]


def _without(config: Any, names: set[str]) -> Any:
    """Returns a config in which the layers of these names have no adapters."""
    if isinstance(config, dict):
        own = config.get("name") in names and "lora_rank" in config
        dropped = ("lora_rank", "lora_alpha") if own else ()
        return {k: _without(v, names) for k, v in config.items() if k not in dropped}
    return [_without(part, names) for part in config] if isinstance(config, list) else config


def _array(variable: keras.Variable) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable.value))


def _print(variable: keras.Variable) -> str:
    value = _array(variable)
    content = f"{value.shape} {value.dtype}".encode() + value.tobytes()
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _shapes(shapes: Sequence[Any]) -> str:
    return ", ".join(str(tuple(shape)) for shape in shapes) or "none"
