from __future__ import annotations

import keras
import numpy as np
import pytest

from ftkeras.doctor import machine


def test_this_machine_and_its_versions_are_fine():
    facts = machine.machine_facts()
    assert {"software", "devices", "memory", "disk", "OpenVINO"} == set(facts)
    assert keras.__version__ in facts["software"]
    assert not [f for f in machine.check_machine() if f.severity == "error"]


@pytest.mark.parametrize(
    ("versions", "fault"),
    [
        ({"numpy": (2, 1), "keras": (3, 15), "tensorflow": (2, 17)}, "cannot use NumPy 2"),
        ({"numpy": (1, 26), "keras": (3, 5), "tensorflow": (2, 15)}, "cannot use Keras 3"),
        ({"numpy": (2, 1), "keras": (3, 9), "tensorflow": (2, 21)}, "keras 3.9: Keras before 3.12"),
    ],
)
def test_versions_that_do_not_work_together(versions, fault):
    (found,) = machine.check_versions(versions)
    assert found.severity == "error"
    assert fault in found.message


def test_settings_of_keras():
    assert machine.check_settings({}) == []
    (found,) = machine.check_settings({"TF_USE_LEGACY_KERAS": "1"})
    assert found.severity == "warning"


def test_little_room_is_a_warning(monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: 100 << 20)
    monkeypatch.setattr(machine, "_disks", lambda: {"/data": 10 << 20})
    found = [f.check for f in machine.check_machine() if f.severity == "warning"]
    assert found[-2:] == ["memory", "disk"]


def test_a_step_is_timed_and_trains_what_is_trainable_now():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.layers[0].trainable = False
    before = model.get_weights()
    assert machine.seconds_a_step(model, (np.ones((4, 3)), np.zeros((4, 1)))) > 0
    after = model.get_weights()
    np.testing.assert_array_equal(before[0], after[0])
    assert not np.array_equal(before[2], after[2])
