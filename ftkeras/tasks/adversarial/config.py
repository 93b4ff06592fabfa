"""The sections of a config that only the task `adversarial` has."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from ftkeras.config.fields import Examples, NonNegativeFloat, PositiveFloat, PositiveInt, Section
from ftkeras.config.schema import Config


class JudgeSection(Section):
    """The attack that measures the finished model: projected gradient from a random start."""

    steps: PositiveInt = 20
    """Steps of the attack; each epoch's validation images are attacked with half as many."""
    budgets: list[PositiveFloat] = []
    """Budgets to measure, in pixel values; default: the one of the training."""
    examples: Examples | None = 500
    """How many examples of the split are attacked, drawn under the seed; null: all."""


class AdversarialSection(Section):
    """Which attack to train against."""

    method: Literal["fgsm", "fast", "pgd", "trades", "vectors", "virtual"] | None = None
    """For images: fgsm (Goodfellow et al. 2015), fast (FGSM from a random start: Wong et al.
    2020), pgd (Madry et al. 2018; default) or trades (Zhang et al. 2019). For texts: vectors
    (default) or virtual (Miyato et al. 2017)."""
    norm: Literal["linf", "l2"] = "linf"
    """linf bounds how far each value of a pixel moves, l2 the length of the whole change."""
    budget: PositiveFloat = 4.0
    """The bound, in pixel values of 0..255: 4 is what papers call 4/255."""
    steps: PositiveInt = 7
    """Steps of pgd and trades."""
    step: PositiveFloat | None = None
    """Length of a step, in pixel values. Default: the budget for fgsm, 1.25 of it for fast, and
    2.5 of it, divided by the steps, for pgd and trades."""
    rise: NonNegativeFloat = 5.0
    """Epochs in which the training's budget rises from 0 to its full value. Without that, a network
    that was never attacked may learn to answer one class for all."""
    beta: NonNegativeFloat = 6.0
    """Weight of trades' second loss, which measures how far answers move under attack."""
    judge: JudgeSection = JudgeSection()
    """How the finished model is attacked."""
    epsilon: PositiveFloat = 1.0
    """For vectors and virtual: length of the change of a whole text's word vectors, in standard
    deviations of these."""
    weight: NonNegativeFloat = 1.0
    """For vectors and virtual: weight of the loss of changed texts; that of texts has weight 1."""

    @property
    def changed(self) -> tuple[str, ...]:
        """The fields whose values differ from their defaults."""
        usual = type(self)()
        return tuple(n for n in type(self).model_fields if getattr(self, n) != getattr(usual, n))

    @model_validator(mode="after")
    def _within_range(self) -> AdversarialSection:
        if self.norm == "linf" and max(self.budget, *self.judge.budgets, 0.0) >= 255:
            raise ValueError("a linf budget of 255 or more allows any change at all")
        return self


class AdversarialConfig(Config):
    """A config of the task `adversarial`."""

    task: Literal["adversarial"]
    adversarial: AdversarialSection = AdversarialSection()
    """Which attack to train against."""
