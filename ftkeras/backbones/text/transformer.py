"""Transformers of keras-hub as backbones for texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.backbones.backbone import Backbone, Block
from ftkeras.backbones.blocks import layer_blocks, leaf_layers
from ftkeras.backbones.hub import HubModel, find
from ftkeras.backbones.text.reading import Reading
from ftkeras.backbones.text.vocabulary import places_in
from ftkeras.data.dataset import Split
from ftkeras.errors import UserError
from ftkeras.inputs.text.pieces import IDS, MASK, SEGMENTS, PieceIds, Pieces, read_tokenizer
from ftkeras.inputs.text.tokens import choose_length
from ftkeras.keras_internals import flat_layers

_MOST = 512  # pieces of a text that are read, unless a config sets the length
_TANH_GELU = "keras_hub>gelu_approximate"
_ACTIVATIONS = {  # Hugging Face's names
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), _TANH_GELU),
}


def load(
    name: str,
    train: Split,
    *,
    pretrained: bool = True,
    reading: Reading = Reading(),  # noqa: B008 (it is frozen)
    pooler: bool = False,
) -> Backbone:
    """Returns a Transformer from numbers of pieces of words to features (batch, steps, channels).

    Blocks are the embeddings, then each layer.

    Args:
        name: See `ftkeras.backbones.hub.find`.
        train: The training texts: they decide the length.
        pretrained: Whether it keeps its weights; otherwise they are random.
        reading: How texts are read.
        pooler: Whether features are its pooler's output for the first token, (batch, channels).

    Raises:
        UserError: There is no such model, keras-hub cannot load it, or a setting does not fit it.

    Example:
        ```python
        backbone = load("models/all-MiniLM-L6-v2", data.splits["train"])
        ```
    """
    for field in ("tokens", "vocabulary"):
        if getattr(reading, field) not in ("auto", None):
            raise UserError(f"data.input.{field}: {name} has its own tokenizer. Leave it out.")
    found = find(name, "text")
    backbone = found.load(found.hub.models.Backbone, load_weights=pretrained)
    takes = tuple(x.name for x in backbone.inputs)
    if not {IDS, MASK} <= set(takes) <= {IDS, MASK, SEGMENTS}:
        raise UserError(
            f"backbone.name: {name} takes {', '.join(takes)}; a backbone for texts takes {IDS} and "
            f"{MASK}, as models that read only texts do."
        )
    if found.is_converted:
        _as_converted(backbone, found)
    pieces = _fitted(_pieces(backbone, found, takes), backbone, found, reading, train)
    inner = keras.Model(backbone.input, _output(backbone, name, pooler), name=backbone.name)
    inputs = {x: keras.Input((None,), dtype="int32", name=x) for x in takes}
    named = PieceIds(pieces.as_config(), name="tokens")(inputs[IDS])
    model = keras.Model(inputs, inner({**inputs, IDS: named}), name=backbone.name)
    return Backbone(name, model, "none", 0, 0, _blocks(inner, backbone))


def _output(backbone: Any, name: str, pooler: bool) -> Any:
    outputs = backbone.output if isinstance(backbone.output, dict) else {}
    if not pooler:
        return outputs.get("sequence_output", backbone.output)
    if "pooled_output" not in outputs:
        raise UserError(f"head.pooling: {name} has no pooler. Take mean, first, last or attention.")
    return outputs["pooled_output"]


def _blocks(model: keras.Model, backbone: Any) -> tuple[Block, ...]:
    """Returns the embeddings, then each layer; layers after the last one belong to it."""
    repeated = keras.tree.flatten(getattr(backbone, "transformer_layers", []))
    if not repeated:
        return layer_blocks(model)
    members: dict[str, list[keras.layers.Layer]] = {}
    current = "embeddings"
    for layer in leaf_layers(model):
        if layer in repeated:
            current = f"layer_{repeated.index(layer)}"
        if layer.weights:
            members.setdefault(current, []).append(layer)
    return tuple(Block(name, tuple(layers)) for name, layers in members.items())


# ------------------------------------------------------------- what the conversion leaves out


def _as_converted(backbone: Any, found: HubModel) -> None:
    """Applies the settings of Hugging Face's config that keras-hub's converters ignore.

    BERT has the exact GELU there, but in keras-hub an approximation by tanh, which is off by 2e-4.
    """
    config = found.config
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(
            f"backbone.name: {found.name} has positions of the kind "
            f"{config['position_embedding_type']!r}; keras-hub converts only absolute ones."
        )
    named = str(config.get("hidden_act") or config.get("activation") or "")
    wanted = _activation(_ACTIVATIONS.get(named, named)) if named else None
    gelus = (_activation("gelu"), _activation(_TANH_GELU))
    for layer in flat_layers(backbone):
        if wanted is not None and getattr(layer, "activation", None) in gelus:
            layer.activation = wanted
        for own in ("epsilon", "layer_norm_epsilon"):
            if hasattr(layer, own) and "layer_norm_eps" in config:
                setattr(layer, own, float(config["layer_norm_eps"]))


def _activation(name: str) -> Callable[..., Any]:
    registered = keras.saving.get_registered_object(name)
    return registered if registered is not None else keras.activations.get(name)


# ------------------------------------------------------------------------------ the tokenizer


def _pieces(backbone: Any, found: HubModel, takes: tuple[str, ...]) -> Pieces:
    """Returns the model's vocabulary; the length of texts is not known yet."""
    options, cleans, lowers = {}, _has_word_pieces(found), False
    if cleans:
        # keras-hub differs for its own models: for example, it turns a German sharp s into "ss" and
        # keeps accents.
        settings = found.json("tokenizer_config.json")
        lowers = bool(settings.get("do_lower_case", True))
        strips = settings.get("strip_accents")
        options = {
            "strip_accents": lowers if strips is None else bool(strips),
            "split_on_cjk": bool(settings.get("tokenize_chinese_chars", True)),
        }
    tokenizer = found.load(found.hub.tokenizers.Tokenizer, **options)
    described, assets = read_tokenizer(tokenizer)
    if lowers:
        described["config"]["lowercase"] = False  # done earlier, and not by case folding
    start, between, end = _around(tokenizer, backbone, found.hub)
    return Pieces(described, assets, takes, start, between, end, cleans=cleans, lowers=lowers)


def _has_word_pieces(found: HubModel) -> bool:
    """Whether a folder in Hugging Face's format has the tokenizer of BERT."""
    is_bert = found.config.get("model_type") in ("bert", "distilbert")
    return is_bert and Path(found.folder, "vocab.txt").is_file()


def _around(
    tokenizer: Any, backbone: Any, hub: Any
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Returns the numbers before a text, between its parts and after it.

    They are those of keras-hub's classifiers on such a backbone. A model that generates texts has
    none of these: its start token comes first, and a new line separates parts.
    """
    base = hub.models.TextClassifierPreprocessor
    kinds = [kind for kind in vars(hub.models).values() if isinstance(kind, type)]
    for kind in kinds:
        if issubclass(kind, base) and getattr(kind, "backbone_cls", None) is type(backbone):
            preprocessor = kind(tokenizer)
            preprocessor.build(None)
            packer = preprocessor.packer
            return tuple(packer.start_value), tuple(packer.sep_value), tuple(packer.end_value)
    start, end = (getattr(tokenizer, f"{x}_token_id", None) for x in ("start", "end"))
    line = tuple(np.array(tokenizer("\n")).tolist())
    return () if start in (None, end) else (int(start),), line, ()


def _fitted(
    pieces: Pieces, backbone: Any, found: HubModel, reading: Reading, train: Split
) -> Pieces:
    """Returns the vocabulary with a length that the training texts decide."""
    most = getattr(backbone, "max_sequence_length", None)
    if reading.length is not None and most is not None and reading.length > most:
        raise UserError(
            f"data.input.length: {found.name} reads {most} word pieces at most, but "
            f"{reading.length} are set."
        )
    own = found.json("sentence_bert_config.json").get("max_seq_length")
    pieces = dataclasses.replace(pieces, parts=reading.parts)
    texts = tf.data.Dataset.from_tensor_slices(places_in(train)).map(train.fetch)
    counted = texts.map(pieces.count, num_parallel_calls=tf.data.AUTOTUNE)
    counts = list(counted.as_numpy_iterator())
    length = reading.length or choose_length(counts, min(own or _MOST, most or _MOST))
    longer = float(np.mean(np.array(counts) > length)) if counts else 0.0
    return dataclasses.replace(pieces, length=length, longer=longer)
