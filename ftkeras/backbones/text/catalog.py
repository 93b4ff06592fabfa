"""The backbones for texts by name. Nothing here imports TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextEntry:
    """One backbone for texts.

    Args:
        name: Its name in configs.
        layer: The recurrent layer of Keras that it stacks: "LSTM" or "GRU".
        both_ways: Whether each layer reads the text from both ends.
        tokens: The tokens that it can read; the first is the default.
        pretrained: A description of the shipped weights.
        paper: The paper of the architecture.
    """

    name: str
    layer: str
    both_ways: bool
    tokens: tuple[str, ...]
    pretrained: str
    paper: str


_LSTM = "Hochreiter and Schmidhuber 1997, Long Short-Term Memory"
_GRU = "Cho et al. 2014, Learning Phrase Representations using RNN Encoder-Decoder"
_BOTH = "Schuster and Paliwal 1997, Bidirectional Recurrent Neural Networks"
_EITHER = ("words", "characters")
_VECTORS = "GloVe vectors of 20,000 words"

TEXT_CATALOG = {
    entry.name: entry
    for entry in (
        TextEntry("char_lstm", "LSTM", False, ("characters",), "the whole language model", _LSTM),
        TextEntry("lstm", "LSTM", False, _EITHER, _VECTORS, _LSTM),
        TextEntry("gru", "GRU", False, _EITHER, _VECTORS, _GRU),
        TextEntry("bilstm", "LSTM", True, _EITHER, _VECTORS, _BOTH),
        TextEntry("bigru", "GRU", True, _EITHER, _VECTORS, _BOTH),
    )
}

TEXT_HEADER = ("name", "layers", "reads", "shipped weights")


def describe_texts() -> list[tuple[object, ...]]:
    """Returns one row per backbone, in the order of `TEXT_HEADER`, for `ftkeras.console.table`."""
    return [
        (
            entry.name,
            f"{'bidirectional ' if entry.both_ways else ''}{entry.layer}",
            " or ".join(entry.tokens),
            entry.pretrained,
        )
        for entry in TEXT_CATALOG.values()
    ]
