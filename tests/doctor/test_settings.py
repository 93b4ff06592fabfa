from __future__ import annotations

from types import SimpleNamespace

import keras
import pytest

from ftkeras.doctor import settings
from ftkeras.doctor.examine import _model_findings
from ftkeras.inputs.image.input import ImageInput
from ftkeras.phases import Phase, make_plan, weights_of
from ftkeras.phases.phase import resolve_phases

FINE = {
    "optimizer": "adamw",
    "weights": "imagenet",
    "precision": "float32",
    "on_gpu": False,
    "batch_size": 32,
    "accumulate": 1,
    "examples": 1000,
    "validated": True,
    "kind": ImageInput(),
}
TWO = (
    Phase("head", train=["head"], epochs=3, learning_rate=1e-3),
    Phase("top", train=["head", "blocks[-1:]"], epochs=3, learning_rate=1e-4),
)


def head(rate: float) -> Phase:
    return Phase("head", train=["head"], epochs=9, learning_rate=rate)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    layers = keras.layers
    stack = [
        keras.Input((8, 8, 3)),
        layers.Conv2D(4, 3, name="first"),
        layers.BatchNormalization(name="norm"),
        layers.Conv2D(4, 3, name="second"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2, name="logits"),
    ]
    return keras.Sequential(stack)


def found(model, phases=TWO, steps: int = 30, **changed) -> list[str]:
    given = settings.Settings(**{**FINE, **changed})
    plan = make_plan(
        model, weights_of(model), phases, steps_per_epoch=steps, batch_size=given.batch_size
    )
    return [
        f"{f.check}: {f.message}"
        for f in settings.check_config(given, plan, resolve_phases(phases))
    ]


def test_a_sound_config_gives_nothing(model):
    assert found(model) == []


def test_a_head_that_starts_from_the_floor_may_stay_near_it(model):
    assert not any("random" in line for line in found(model, (head(1e-6),), from_floor=True))


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"optimizer": "lion", "phases": (head(5e-3),)}, "above 0.003 usually make lion diverge"),
        ({"optimizer": "sgd", "phases": (head(0.5),)}, "make sgd diverge on 32 images per update"),
        ({"phases": (head(1e-6),)}, "the new head stays nearly as random"),
        ({"batch_size": 64, "examples": 40, "steps": 60}, "batch of 64 is more than the 40"),
        ({"steps": 4, "batch_size": 256}, "batch size: An epoch has 4 steps"),
        ({"steps": 1}, "batch size: An epoch has 1 step."),
        ({"steps": 1, "phases": (head(1e-6),)}, "In 9 steps of phase 'head' adamw can move"),
        ({"steps": 4}, "All phases together have 24 steps"),
        ({"weights": "none"}, "random backbone"),
        ({"precision": "mixed_float16"}, "slower than float32 on a CPU"),
        ({"validated": False}, "no validation"),
        ({"phases": (Phase("h", 9, 1e-3, train=["all"]),)}, "plan: Phase 'h' trains pretrained"),
    ],
)  # fmt: skip
def test_each_contradiction_is_named(model, changed, part):
    assert any(part in line for line in found(model, **changed)), found(model, **changed)


def test_who_compares_within_a_batch_is_not_told_to_make_it_smaller(model):
    for compares in (False, True):
        given = settings.Settings(**FINE, compares=compares)
        plan = make_plan(model, weights_of(model), TWO, steps_per_epoch=4, batch_size=32)
        remedies = [f.remedy for f in settings.check_config(given, plan, resolve_phases(TWO))]
        assert any("more epochs" in remedy for remedy in remedies)
        assert any("batch_size" in remedy for remedy in remedies) is not compares


def test_sgd_takes_rates_that_others_do_not(model):
    phases = (Phase("head", train=["head"], epochs=3, learning_rate=0.1),)
    assert found(model, phases, optimizer="sgd") == []
    assert found(model, phases)[0].startswith("learning rate")


def test_batch_norm_and_accumulation(model):
    phases = (TWO[0], Phase("all", 3, 1e-4, train=["all"], batch_norm="train"))
    assert found(model, phases) == []
    assert found(model, phases, accumulate=4)[0].startswith("batch norm: Gradients are accumulated")


def test_too_little_memory(model, monkeypatch):
    monkeypatch.setattr(settings, "available_memory", lambda: 1000)
    assert found(model)[0].startswith("memory: A step needs")


def test_a_note_sends_to_the_page_that_knows_it():
    kind = SimpleNamespace(ability=lambda name: None, notes=["of the input"])
    assembled = SimpleNamespace(
        feed=SimpleNamespace(input=kind),
        data=SimpleNamespace(notes=["9 texts of 3 pictures"]),
        task=SimpleNamespace(page="docs/alignment.md"),
        notes=["9 texts of 3 pictures", "of the input", "batches are full"],
    )
    found = list(_model_findings(assembled, {}))
    assert [finding.remedy for finding in found] == [
        "Continue if it is meant; docs/alignment.md has more.",
        "Change data.input, or continue if it is meant.",
        "Change what it names in the config, or continue if it is meant.",
    ]
