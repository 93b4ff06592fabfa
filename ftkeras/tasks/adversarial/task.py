"""Models that keep their answers under small changes of the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from ftkeras.backbones import Backbone
from ftkeras.config.schema import Config
from ftkeras.data.dataset import Data
from ftkeras.data.feed import Feed
from ftkeras.devices.replicas import replica_class
from ftkeras.errors import UserError
from ftkeras.evaluation.robustness import sample
from ftkeras.keras_internals import flat_layers
from ftkeras.phases.callback import Logs
from ftkeras.report.axes import Axis
from ftkeras.report.chart import Curve, line_chart
from ftkeras.report.html import interval, missing, number, table, tag
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section, evaluate_command
from ftkeras.run import Run
from ftkeras.runs import build
from ftkeras.runs.monitor import check_monitors
from ftkeras.runs.task import Task, only_one_of
from ftkeras.tasks.adversarial.attack import Attack
from ftkeras.tasks.adversarial.config import AdversarialConfig, AdversarialSection
from ftkeras.tasks.adversarial.evaluation import (
    cross_entropies,
    measure_attacked,
    projected_gradient,
)
from ftkeras.tasks.adversarial.vectors import VectorsModel
from ftkeras.training.unweighted import Unweighted

_OF_VECTORS = ("vectors", "virtual")
# An attack uses batch norm's moving statistics, training uses those of the batch. With the momentum
# of many backbones, .999, the former are hundreds of steps behind: the attack misses the network.
_MOMENTUM = 0.9


class AdversarialModel(keras.Model):
    """A classifier that trains on attacked inputs, and validates on clean and attacked ones.

    During an attack, the network is in inference mode: dropout is off and statistics of batch
    normalisation neither move nor mix inputs. `robust_accuracy` is always of attacked inputs.
    `accuracy` and `loss` are of clean inputs in validation and with TRADES, otherwise of
    attacked ones.

    Args:
        inputs: Raw 0..255 RGB float32 (n, size, size, 3).
        outputs: Logits (n, classes).
        attack: Makes the inputs to train on.
        judge: Attacks the validation inputs.
        beta: Weight of TRADES' second loss; None trains on attacked inputs alone (Madry et al.
            2018).
        rise: Steps in which the training's budget rises to its full value (compare Cai et al. 2018,
            "Curriculum adversarial training").
        seed: Decides the attacks' random starts, with the optimizer's step.
    """

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        *,
        attack: Attack,
        judge: Attack,
        beta: float | None = None,
        rise: int = 0,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self._attack, self._judge, self._beta, self._seed = attack, judge, beta, seed
        self._rise = rise
        self._divergence = keras.losses.KLDivergence()
        accuracy = keras.metrics.CategoricalAccuracy(name="robust_accuracy")
        self._robust_accuracy = Unweighted(accuracy)

    def train_step(self, data: Any) -> Logs:
        """Attacks, then trains on the attacked inputs; TRADES trains on the clean ones, too."""
        inputs, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        now = tf.cast(tf.convert_to_tensor(self.optimizer.iterations), tf.int64)
        share = tf.minimum(1.0, tf.cast(now + 1, tf.float32) / max(self._rise, 1))
        losses, seed = self._what_to_raise(inputs, labels), now + (self._seed << 32)
        attacked = self._attack(losses, inputs, seed, share)
        if self._beta is not None:
            attacked = tf.concat([inputs, attacked], axis=0)  # (2b, size, size, 3)
        return super().train_step((attacked, labels, weights))

    def test_step(self, data: Any) -> Logs:
        """Measures clean and attacked inputs."""
        inputs, labels, weights = keras.utils.unpack_x_y_sample_weight(data)

        def losses(changed: tf.Tensor) -> tf.Tensor:
            return cross_entropies(labels, self(changed, training=False))

        both = tf.concat([inputs, self._judge(losses, inputs, self._seed)], axis=0)
        return super().test_step((both, labels, weights))

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Returns the loss of the first rows; TRADES adds how far the others are from them."""
        first, last = _halves(y, y_pred)
        loss = super().compute_loss(x, y, first, sample_weight, training)
        if training and self._beta is not None:
            clean, attacked = tf.nn.softmax(first), tf.nn.softmax(last)
            loss += self._beta * self._divergence(clean, attacked, sample_weight)
        return loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Logs:
        """Returns the metrics of the first rows, and the robust accuracy of the last."""
        first, last = _halves(y, y_pred)
        self._robust_accuracy.update_state(y, last, sample_weight)
        return dict(super().compute_metrics(x, y, first, sample_weight))

    def _what_to_raise(self, inputs: tf.Tensor, labels: tf.Tensor) -> Any:
        """Returns the function that an attack in training raises."""
        if self._beta is not None:  # the cross-entropy differs from the divergence by a constant
            logits = tf.cast(self(inputs, training=False), tf.float32)
            labels = tf.stop_gradient(tf.nn.softmax(logits))
        return lambda changed: cross_entropies(labels, self(changed, training=False))


def _halves(labels: Any, logits: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the logits of the first inputs and of the last, as many each as labels."""
    count = tf.shape(labels)[0]
    return logits[:count], logits[tf.shape(logits)[0] - count :]


def attack_of(section: AdversarialSection) -> Attack:
    """Returns the attack that a config trains with."""
    one = section.method in ("fgsm", "fast")
    steps = 1 if one else section.steps
    longest = {"fgsm": 1.0, "fast": 1.25}.get(section.method or "", 2.5) * section.budget
    return Attack(
        section.norm,
        section.budget,
        steps,
        section.step or longest / steps,
        section.method != "fgsm",
    )


def of_vectors(config: Config) -> bool:
    """Whether the attack changes vectors of tokens, not the values of the examples.

    Raises:
        UserError: The method does not fit the examples, or a field does not fit the method.
    """
    section, kind = _section(config), build.input_of(config)
    tokens = all(spec.dtype.is_integer for spec in kind.takes.values())
    if not tokens:
        kind.able("levels", "task adversarial", "the values from 0 to 255 that an attack changes")
    if section.method is not None and (section.method in _OF_VECTORS) != tokens:
        wanted = "vectors or virtual" if tokens else "fgsm, fast, pgd or trades"
        raise UserError(
            f"adversarial.method: {section.method} is not for {kind.nouns}. Take {wanted}."
        )
    for name in section.changed:
        if name != "method" and (name in ("epsilon", "weight")) != tokens:
            wanted = "epsilon and weight are" if tokens else "budget and others are"
            raise UserError(f"adversarial.{name}: this is not for {kind.nouns}; {wanted}. Drop it.")
    return tokens


class Adversarial(Task):
    """Trains against one attack and measures with another; texts are measured as usual."""

    def check(self, config: Config, data: Data) -> None:
        """Refuses outputs that are not one of several classes, and a method that does not fit."""
        only_one_of(data, "task adversarial")
        robust = [] if of_vectors(config) else ["robust_accuracy"]
        check_monitors(config, data, ["accuracy", *robust])

    def model(self, config: Config, data: Data, backbone: Backbone) -> keras.Model:
        """Attaches the head, and attacks before each step."""
        section = _section(config)
        plain = build.model(config, data, backbone)
        if of_vectors(config):
            return replica_class(VectorsModel)(
                plain.inputs,
                plain.outputs,
                epsilon=section.epsilon,
                weight=section.weight,
                virtual=section.method == "virtual",
                seed=config.seed,
                name=plain.name,
            )
        for layer in flat_layers(plain):
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = min(layer.momentum, _MOMENTUM)
        return replica_class(AdversarialModel)(
            plain.inputs,
            plain.outputs,
            attack=attack_of(section),
            # Not training's few large steps: a network that resists these may fail on small ones.
            judge=projected_gradient(
                section.norm, section.budget, max(section.judge.steps // 2, 1)
            ),
            beta=section.beta if section.method == "trades" else None,
            rise=round(section.rise * len(data.splits["train"]) / config.data.batch_size),
            seed=config.seed,
            name=plain.name,
        )

    def has_floor(self, config: Config) -> bool:
        """With vectors, the clean accuracy decides which weights are kept, as in classification."""
        return of_vectors(config)

    def monitor(self, config: Config, data: Data) -> str:
        """Returns the robust accuracy, which can fall while the clean one still rises."""
        if of_vectors(config):
            return super().monitor(config, data)
        return ("val_" if "val" in data.splits else "") + "robust_accuracy"

    def why_no_trunk(self, config: Config) -> str | None:
        """Attacks need gradients down to the pixels."""
        return "adversarial training changes the inputs at every step."

    def measure(self, model: keras.Model, feed: Feed, run: Run, split: str) -> dict[str, Any]:
        """Measures as usual, and under attack; `task.json` keeps the latter by split."""
        config = run.config
        section, measured = _section(config), super().measure(model, feed, run, split)
        if of_vectors(config):
            return measured
        budgets = section.judge.budgets or [section.budget]
        attacked = measure_attacked(
            model,
            sample(feed.data.splits[split], section.judge.examples, config.seed),
            feed.input,
            [projected_gradient(section.norm, budget, section.judge.steps) for budget in budgets],
            batch_size=config.data.batch_size,
            seed=config.seed,
        )
        before = run.read_json("task.json") if tf.io.gfile.exists(run.path("task.json")) else {}
        run.write_json("task.json", {**before, split: attacked})
        return measured

    def sections(self, facts: RunFacts) -> Sequence[Section]:
        """Returns the accuracy by budget."""
        title, results = "Under attack", facts.task.get(facts.split)
        if not results and facts.size is None:  # no client can send changed vectors
            return []
        if not results:
            sentence = "The model was not attacked yet;"
            return [Section("attacks", title, missing(sentence, evaluate_command(facts)))]
        clean, attacks = results["clean"], sorted(results["attacks"], key=lambda row: row["budget"])
        rows = [["none", *_shown(clean)]]
        rows += [[f"PGD-{a['steps']}, {a['norm']} {a['budget']:g}", *_shown(a)] for a in attacks]
        curve = Curve(
            "accuracy",
            [0.0, *(a["budget"] for a in attacks)],
            [clean["accuracy"], *(a["accuracy"] for a in attacks)],
        )
        budgets, accuracies = Axis("budget, pixel values"), Axis("accuracy")
        chart = line_chart([curve], title="Accuracy by budget", x=budgets, y=accuracies)
        lead = (
            f"Accuracy on {results['examples']:,} {facts.split} {facts.nouns}, as they are and "
            "changed by projected gradient ascent from a random start (Madry et al. 2018). The "
            "attack knows the model. A stronger attack may find more: these are upper bounds."
        )
        body = [
            table("Accuracy under attack", ["Attack", "Accuracy", "95% interval"], rows),
            tag("figure", chart),
        ]
        return [Section("attacks", title, body, lead)]


def _shown(result: dict[str, Any]) -> list[Any]:
    return [number(result["accuracy"], ".1%"), interval(result["interval"])]


def _section(config: Config) -> AdversarialSection:
    assert isinstance(config, AdversarialConfig)
    return config.adversarial


TASK = Adversarial()
