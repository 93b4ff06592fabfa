"""The shipped character language model, as a backbone and as a language model.

The weights are textgenrnn's. Its author trained it to predict the next character after windows of
40 characters. Short texts were padded in front, and the LSTMs read the padding. So they learned to
count steps. Here they start in their state after that padding, and predict well for about 20
characters. Measured on 150 definitions of WordNet, in bits per character:

| how texts are read                         | bits |
|--------------------------------------------|------|
| in windows of 40, as in training           |  2.4 |
| from the start, characters 1 to 20         |  2.5 |
| from the start, characters 21 to 40        |  3.5 |
| from the start, characters 41 to 60        |  5.5 |
| from the start, characters after these     |  6.2 |
| from the start, LSTMs that start at zero   | 16.6 |

Fine-tuning removes the counting: after `ftkeras.backbones.text.adapt` on 1,448 definitions (42 s
on 2 cores), held-out definitions take 2.2 bits, read from the start.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from ftkeras.backbones.backbone import Backbone, Block
from ftkeras.backbones.text.recurrent import IDS
from ftkeras.inputs.text.tokens import SEPARATOR, UNKNOWN
from ftkeras.starter import text as starter

UNITS = 128
WINDOW = 40  # characters that textgenrnn reads; shorter texts were padded in front
PREDICTED = 465  # the characters that the language model predicts, without `UNKNOWN`

_EMBEDDING = "embedding"
_LSTMS = ("lstm_1", "lstm_2")
_LSTM_WEIGHTS = ("kernel", "recurrent_kernel", "bias")


def characters() -> list[str]:
    """Returns the model's vocabulary: padding first, the separator and `[UNK]` last.

    The separator was put around each text in training.

    Example:
        >>> characters()[1:5], characters()[-2:]
        (['I', 't', "'", 's'], ['[SEP]', '[UNK]'])
    """
    known, _ = starter.char_lstm()
    return [*known[:-1], SEPARATOR, UNKNOWN]


def load(tokens: keras.layers.Layer, *, pretrained: bool = True) -> Backbone:
    """Returns the character LSTM as a backbone.

    Args:
        tokens: The first layer, a `TokenIds` with `characters()`.
        pretrained: Whether it has the shipped weights; otherwise they are random.
    """
    model = build(tokens)
    if pretrained:
        load_weights_into(model)
    blocks = tuple(Block(name, (model.get_layer(name),)) for name in (_EMBEDDING, *_LSTMS))
    return Backbone("char_lstm", model, "none", 0, 0, blocks)


def build(tokens: keras.layers.Layer) -> keras.Model:
    """Returns the network from numbers of characters to features, with random weights.

    Features are the embedding and the outputs of both LSTMs, concatenated, (batch, steps, 356).
    Padding is masked, so it does not change a text's features.
    """
    inputs = keras.Input((None,), dtype="int32", name=IDS)
    table = keras.layers.Embedding(len(characters()), 100, mask_zero=True, name=_EMBEDDING)
    outputs = [table(tokens(inputs))]  # (batch, steps, 100)
    for name in _LSTMS:
        outputs.append(StartedLSTM(UNITS, return_sequences=True, name=name)(outputs[-1]))
    features = keras.layers.Concatenate(name="features")(outputs)
    return keras.Model(inputs, features, name="char_lstm")


def load_weights_into(model: keras.Model) -> None:
    """Sets the shipped weights of the embedding and of both LSTMs.

    An unknown character has the vector of padding, as in textgenrnn. The LSTMs start in their state
    after a window's padding.
    """
    _, arrays = starter.char_lstm()
    table = arrays["embedding/embeddings"]
    model.get_layer(_EMBEDDING).set_weights([np.concatenate([table, table[:1]])])
    x = np.repeat(table[:1], WINDOW - 1, axis=0)  # (steps, channels)
    for name in _LSTMS:
        layer = model.get_layer(name)
        values = {weight: arrays[f"{name}/{weight}"] for weight in _LSTM_WEIGHTS}
        x, values["start_hidden"], values["start_cell"] = _run(x, *values.values())
        for variable in layer.weights:
            variable.assign(values[variable.name])


def _run(
    x: np.ndarray, kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the outputs of an LSTM that starts at zero for one sequence, and its last state.

    Args:
        x: (steps, channels).
        kernel: (channels, 4 * units); the gates are input, forget, cell and output.
        recurrent: (units, 4 * units).
        bias: (4 * units,).
    """
    hidden = cell = np.zeros(len(recurrent), np.float32)
    outputs = []
    for step in x:
        into, keep, new, out = np.split(step @ kernel + hidden @ recurrent + bias, 4)
        cell = _sigmoid(keep) * cell + _sigmoid(into) * np.tanh(new)
        hidden = _sigmoid(out) * np.tanh(cell)
        outputs.append(hidden)
    return np.stack(outputs), hidden, cell


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def language_model(backbone: keras.Model) -> keras.Model:
    """Returns a model that predicts, at each step, the next character.

    It shares the backbone's layers. The layers on top, `attention` and `output`, have the shipped
    weights.

    Args:
        backbone: What `build` returns.

    Returns:
        From the backbone's input to logits (batch, steps, 465): each step's depend on the steps so
        far. `[UNK]` is never predicted.
    """
    _, arrays = starter.char_lstm()
    attention = CausalAttention(name="attention")
    output = keras.layers.Dense(PREDICTED, name="output")
    logits = output(attention(backbone.output))
    attention.set_weights([arrays["attention/kernel"]])
    output.set_weights([arrays["output/kernel"], arrays["output/bias"]])
    return keras.Model(backbone.input, logits, name="char_language_model")


@keras.saving.register_keras_serializable(package="ftkeras")
class StartedLSTM(keras.layers.LSTM):
    """An LSTM whose first state is a weight instead of zero.

    The arguments are those of `keras.layers.LSTM`.
    """

    is_steady = True
    """Frozen and without dropout it always returns the same, so a trunk may contain it. A trace
    does not show that: TensorFlow's loops count as operations with side effects."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.start_hidden = self.add_weight(
            shape=(self.units,), initializer="zeros", name="start_hidden"
        )
        self.start_cell = self.add_weight(
            shape=(self.units,), initializer="zeros", name="start_cell"
        )

    def get_initial_state(self, batch_size: Any) -> list[Any]:
        shape = (batch_size, self.units)
        return [ops.broadcast_to(start, shape) for start in (self.start_hidden, self.start_cell)]


@keras.saving.register_keras_serializable(package="ftkeras")
class CausalAttention(keras.layers.Layer):
    """At each step, a weighted average of the steps so far.

    A step's weight is the exponential of its score, which is linear in its features. textgenrnn
    averages over a whole window to predict the next character (the layer is that of Felbo et al.
    2017, "DeepMoji"). Averages over the steps so far let all steps of a text predict at once.
    Masked steps have no weight.

    Call arguments:
        inputs: (batch, steps, channels).
        mask: bool (batch, steps), true for real steps.

    Returns:
        (batch, steps, channels).
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.kernel = self.add_weight(
            shape=(input_shape[-1], 1), initializer="glorot_uniform", name="kernel"
        )

    def call(self, inputs: Any, mask: Any = None) -> Any:
        scores = ops.matmul(inputs, self.kernel)  # (batch, steps, 1)
        scores = ops.swapaxes(ops.cast(scores, "float32"), 1, 2)  # (batch, 1, steps)
        step = ops.arange(ops.shape(inputs)[1])
        readable = step[None, :] <= step[:, None]  # (steps, steps): row t reads columns up to t
        readable = readable[None]
        if mask is not None:
            readable = ops.logical_and(readable, ops.cast(mask, "bool")[:, None, :])
        # One softmax per step instead of running sums: a late high score would round the sums of
        # earlier steps to zero.
        weights = ops.softmax(ops.where(readable, scores, -1e9), axis=-1)
        return ops.matmul(ops.cast(weights, inputs.dtype), inputs)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape
