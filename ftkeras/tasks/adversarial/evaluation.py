"""How many of a model's answers stay right under attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.console import Progress
from ftkeras.data.dataset import Split
from ftkeras.data.pipeline import plain
from ftkeras.inputs.base import Input
from ftkeras.measures.bootstrap import share_interval
from ftkeras.outputs.ending import ending_of
from ftkeras.tasks.adversarial.attack import Attack


def cross_entropies(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the cross-entropy of each example, (b,).

    Args:
        labels: The right answers, float (b, classes).
        logits: (b, classes); they may be in half precision.
    """
    labels, logits = tf.cast(labels, tf.float32), tf.cast(logits, tf.float32)
    return tf.nn.softmax_cross_entropy_with_logits(labels, logits)


def projected_gradient(norm: str, budget: float, steps: int) -> Attack:
    """Returns the attack that models are measured with: PGD whose steps sum to 2.5 budgets."""
    return Attack(norm, budget, steps, 2.5 * budget / steps)


def measure_attacked(
    model: keras.Model,
    split: Split,
    kind: Input,
    attacks: Sequence[Attack],
    *,
    batch_size: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns the accuracy on a split, clean and under each attack.

    An attack knows the model and the right labels. It succeeds if the answer to its last change
    is wrong.

    Args:
        model: Takes raw 0..255 RGB float32 (n, size, size, 3), returns logits or scores
            (n, units).
        split: Examples with one label each.
        kind: Their kind of input.
        attacks: The attacks.
        batch_size: Examples per step.
        seed: Decides the attacks' random starts.
    """
    judges = [_answers(model, None, seed), *(_answers(model, attack, seed) for attack in attacks)]
    right: list[list[np.ndarray]] = [[] for _ in judges]
    progress = Progress("attack", len(split), kind.noun, kind.nouns)
    try:
        for examples, labels, *_ in plain(split, kind, batch_size):
            for judge, results in zip(judges, right, strict=True):
                results.append(judge(examples, labels).numpy())
            progress.advance(len(examples))
    finally:
        progress.close()
    clean, *attacked = (_accuracy(np.concatenate(parts)) for parts in right)
    return {
        "examples": len(split),
        "clean": clean,
        "attacks": [
            {"norm": a.norm, "budget": a.budget, "steps": a.steps, "step": a.step, **results}
            for a, results in zip(attacks, attacked, strict=True)
        ],
    }


def _answers(model: keras.Model, attack: Attack | None, seed: int) -> Any:
    """Returns a graph from examples and labels to whether each answer is right, bool (b,)."""
    ending = ending_of(model)
    batch = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    targets = tf.TensorSpec((None, ending.classes), tf.float32)

    def logits_of(examples: tf.Tensor) -> tf.Tensor:
        return ending.logits(model(examples, training=False))

    @tf.function(input_signature=[batch, targets], autograph=False)
    def answers(examples: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        if attack is not None:
            examples = attack(
                lambda changed: cross_entropies(labels, logits_of(changed)),
                examples,
                seed,
            )
        return tf.argmax(logits_of(examples), axis=-1) == tf.argmax(labels, axis=-1)

    return answers


def _accuracy(right: np.ndarray) -> dict[str, Any]:
    share = float(right.mean())
    return {"accuracy": share, "interval": share_interval(share, len(right))}
