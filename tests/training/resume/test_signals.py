"""What Ctrl-C, SIGTERM and SIGUSR1 do, within the steps of a training and elsewhere."""

from __future__ import annotations

import signal

import pytest

from ftkeras.errors import Preempted
from ftkeras.training.resume.signals import Signals


def send(number: int) -> None:
    signal.raise_signal(number)  # to this thread: one to the process may come a moment late


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Preempted)]
)
def test_within_steps_a_stop_waits_for_the_step_and_a_second_does_not(number, raised, capsys):
    with Signals() as signals, signals.at_steps():
        signals.stop()  # nobody asked
        assert not signals.stop_asked
        send(number)
        assert signals.stop_asked
        with pytest.raises(raised) as stopped:
            signals.stop()
        assert stopped.type is raised
        with pytest.raises(raised):
            send(number)
    assert "stopping after this step" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Preempted)]
)
def test_elsewhere_a_stop_is_at_once(number, raised):
    with Signals(), pytest.raises(raised) as stopped:
        send(number)
    assert stopped.type is raised


def test_a_save_is_noted_and_handlers_are_given_back():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with Signals() as signals:
        send(signal.SIGUSR1)
        assert signals.save_asked and not signals.stop_asked
    assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
