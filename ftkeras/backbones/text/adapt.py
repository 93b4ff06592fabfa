"""Fine-tuning a language model on texts without labels, before it learns a task.

Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification" (ULMFiT). The
rates fall by a factor of 2.6 from layer to layer, and follow a slanted triangle over the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from ftkeras.backbones.text.char_lstm import PREDICTED, language_model
from ftkeras.console import Progress, counted
from ftkeras.errors import UserError
from ftkeras.inputs.text.tokens import SEPARATOR, Tokens, tokens_in

BETWEEN_LAYERS = 2.6
FEWEST = 20  # texts
_CUT, _RATIO = 0.1, 32.0  # of the slanted triangle, as in the paper
_CLIP = 1.0  # the largest norm of the gradients
_NEAR = 16  # characters: the usual largest difference of lengths within a batch

Batch = tuple[np.ndarray, np.ndarray]


def adapt(
    model: keras.Model,
    texts: Sequence[str],
    *,
    epochs: int = 4,
    learning_rate: float = 1.6e-2,
    batch_size: int = 32,
    seed: int = 0,
) -> list[float]:
    """Trains the character LSTM to predict the next character of texts; changes its weights.

    All its layers train, also those that a task freezes. A tenth of the texts is held out.

    Args:
        model: The backbone's model, from `ftkeras.backbones.text.char_lstm`.
        texts: At least 20 texts, without labels. The held-out ones should be in no test set.
        epochs: How many passes over the texts.
        learning_rate: The peak rate of the layers on top; each layer below has 1 / 2.6 of it.
        batch_size: Texts per batch.
        seed: Decides which texts are held out, and the order of the others.

    Returns:
        Bits per character of the held-out texts: before, and after each epoch.

    Raises:
        UserError: There are too few texts, or the model has no vocabulary.

    Example:
        ```python
        backbone = load_text_backbone("char_lstm", train)
        adapt(backbone.model, texts, epochs=4)
        ```
    """
    ids = _read(model, texts)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(ids))
    held_out, kept = np.split(order, [len(ids) // 10])
    reader = language_model(model)
    train, measure, rates = _functions(reader)
    check = _batches([ids[i] for i in held_out], batch_size, np.random.default_rng(seed))

    def bits() -> float:
        sums = np.sum([[float(x) for x in measure(*batch)] for batch in check], axis=0)
        return float(sums[0] / sums[1] / np.log(2))

    history = [bits()]
    steps = epochs * -(-len(kept) // batch_size)
    progress = Progress("adapt to the texts", steps, "step")
    progress.say(f"bits per character on {len(held_out)} held-out texts: {history[0]:.2f}")
    try:
        for epoch in range(epochs):
            for batch in _batches([ids[i] for i in kept], batch_size, rng):
                rates(learning_rate * slanted_triangle(progress.done, steps))
                train(*batch)
                progress.advance()
            history.append(bits())
            progress.say(f"after epoch {epoch + 1}/{epochs}: {history[-1]:.2f}")
    finally:
        progress.close()
    return history


def slanted_triangle(step: int, steps: int) -> float:
    """Returns the rate of a step (from 0) as a share of the peak rate: a short rise, a long fall.

    Example:
        >>> [round(slanted_triangle(step, 20), 3) for step in (0, 1, 2, 11, 19)]
        [0.516, 1.0, 0.946, 0.462, 0.031]
    """
    rise = max(round(_CUT * steps), 1)
    share = (step + 1) / rise if step < rise else (steps - step - 1) / max(steps - rise, 1)
    return (1 + share * (_RATIO - 1)) / _RATIO


def _read(model: keras.Model, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the numbers of each text's characters, followed by the separator's."""
    tokens = tokens_in(model)
    if tokens is None or SEPARATOR not in tokens.vocabulary:
        raise UserError(
            f"adapt: the model {model.name!r} does not say how it reads texts. Adapt the backbone "
            "char_lstm."
        )
    ids = [found for text in texts if len(found := _ids(tokens, text)) > 2]
    if len(ids) < FEWEST:
        raise UserError(
            f"adapt: it has {counted(len(ids), 'text')} of two characters or more, "
            f"and at least {FEWEST} are needed."
        )
    return ids


def _ids(tokens: Tokens, text: str) -> np.ndarray:
    number = {token: at for at, token in enumerate(tokens.vocabulary)}
    found = [number.get(character, tokens.unknown) for character in text[: tokens.length]]
    return np.array([*found, number[SEPARATOR]], np.int32)


def _batches(ids: Sequence[np.ndarray], size: int, rng: np.random.Generator) -> list[Batch]:
    """Returns batches of (characters, next characters), int32 (batch, steps), in random order.

    Texts of similar length share a batch. Padding is 0.
    """
    order = rng.permutation(len(ids))
    length = np.array([len(ids[i]) // _NEAR for i in order])
    order = order[np.argsort(length, kind="stable")]
    batches = []
    for at in range(0, len(order), size):
        chosen = [ids[i] for i in order[at : at + size]]
        padded = np.zeros((len(chosen), max(map(len, chosen))), np.int32)
        for row, numbers in zip(padded, chosen, strict=True):
            row[: len(numbers)] = numbers
        batches.append((padded[:, :-1], padded[:, 1:]))
    return [batches[i] for i in rng.permutation(len(batches))]


def _functions(
    reader: keras.Model,
) -> tuple[
    Callable[..., None], Callable[..., tuple[tf.Tensor, tf.Tensor]], Callable[[float], None]
]:
    """Returns functions that train on a batch, measure one, and set the rate of the top layers."""
    groups = [reader.get_layer(name).weights for name in ("lstm_2", "lstm_1", "embedding")]
    groups.insert(0, reader.get_layer("attention").weights + reader.get_layer("output").weights)
    optimizers = [keras.optimizers.Adam() for _ in groups]
    for optimizer, group in zip(optimizers, groups, strict=True):
        optimizer.build(group)
    every = [variable for group in groups for variable in group]
    signature = [tf.TensorSpec((None, None), tf.int32)] * 2

    def nats(inputs: tf.Tensor, targets: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the summed loss of the steps whose next character is known, and their number."""
        logits = reader(inputs, training=training)
        real = tf.cast((targets > 0) & (targets < PREDICTED), tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            tf.minimum(targets, PREDICTED - 1), tf.cast(logits, tf.float32)
        )
        return tf.reduce_sum(losses * real), tf.reduce_sum(real)

    @tf.function(autograph=False, input_signature=signature)
    def train(inputs: tf.Tensor, targets: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            total, count = nats(inputs, targets, True)
            loss = total / tf.maximum(count, 1.0)
        gradients = tape.gradient(loss, [variable.value for variable in every])
        gradients, _ = tf.clip_by_global_norm(gradients, _CLIP)
        at = 0
        for optimizer, group in zip(optimizers, groups, strict=True):
            optimizer.apply(gradients[at : at + len(group)], group)
            at += len(group)

    @tf.function(autograph=False, input_signature=signature)
    def measure(inputs: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return nats(inputs, targets, False)

    def rates(top: float) -> None:
        for depth, optimizer in enumerate(optimizers):
            optimizer.learning_rate = top / BETWEEN_LAYERS**depth

    return train, measure, rates
