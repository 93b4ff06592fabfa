"""The text part of the starter: a character language model, word vectors and labelled glosses.

PROVENANCE, in this folder, says where the files come from and under which licences.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

_FOLDER = Path(__file__).parent


def char_lstm() -> tuple[list[str], dict[str, np.ndarray]]:
    """Returns the character language model: its characters by index, and its weights.

    Index 0 is padding (an empty string). The last index, 464, is the sign `<s>` that stood before
    and after each text in training. The model has no sign for an unknown character.

    Returns:
        The 465 characters, and float32 arrays in the layout of Keras 3, named
        `embedding/embeddings`, `lstm_1/...`, `lstm_2/...`, `attention/kernel` and `output/...`.

    Example:
        >>> characters, arrays = char_lstm()
        >>> characters[1:5], arrays["lstm_1/kernel"].shape
        (['I', 't', "'", 's'], (100, 512))
    """
    arrays = _load("char_lstm_float16.npz")
    characters = [str(character) for character in arrays.pop("characters")]
    return characters, {name: value.astype(np.float32) for name, value in arrays.items()}


def word_vectors() -> tuple[list[str], np.ndarray]:
    """Returns the 20,000 most frequent words, the most frequent first, and GloVe's vectors.

    All words are in lower case; punctuation marks and numbers are words, too.

    Returns:
        The words, and float32 (20000, 50).

    Example:
        >>> words, vectors = word_vectors()
        >>> words[:3], vectors.shape
        (['the', ',', '.'], (20000, 50))
    """
    arrays = _load("glove_50d_20000.npz")
    words = arrays["words"].tobytes().decode("utf-8").split("\n")
    scale = arrays["scale"].astype(np.float32)
    return words, arrays["vectors"].astype(np.float32) * scale[:, None]  # (words, 50)


def glosses_path() -> Path:
    """Returns the zip with `glosses.csv`: definitions of nouns, each with its category and split.

    The columns are text, label and split. Of each of 24 categories (animal, food, ...) 67
    definitions are for training (`train`) and 33 for testing (`test`).
    """
    return _FOLDER / "glosses.zip"


def _load(name: str) -> dict[str, np.ndarray]:
    with np.load(_FOLDER / name, allow_pickle=False) as file:
        return {array: file[array] for array in file.files}
