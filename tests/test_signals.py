"""What Ctrl-C, SIGTERM and SIGUSR1 do, within the steps of a training and elsewhere."""

from __future__ import annotations

import signal
import time

import pytest

from ftkeras.errors import Interrupted, Preempted
from ftkeras.signals import Signals


def send(number: int) -> None:
    signal.raise_signal(number)  # to this thread: one to the process may come a moment late


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Preempted)]
)
def test_within_steps_a_stop_waits_for_the_step_and_a_second_does_not(number, raised, capsys):
    with Signals() as signals:
        with pytest.raises(raised) as last, signals.at_steps():
            signals.stop()  # no signal came
            assert not signals.stop_asked
            send(number)
            assert signals.stop_asked
            with pytest.raises(raised) as stopped:
                signals.stop()
            with pytest.raises(raised):
                send(number)
        with pytest.raises(raised) as again, signals.at_steps():
            pytest.fail("no step may follow")
        assert {last.type, stopped.type, again.type} == {raised}
    assert "stopping after this step" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Preempted)]
)
def test_elsewhere_a_stop_is_at_once(number, raised):
    with Signals(), pytest.raises(raised) as stopped:
        send(number)
    assert stopped.type is raised


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Preempted)]
)
def test_an_error_that_a_library_makes_of_a_stop_is_the_stop(number, raised):
    with pytest.raises(ImportError), Signals() as signals, signals.stop_over_errors():
        raise ImportError("no signal came")
    with pytest.raises(raised) as stopped, Signals() as signals, signals.stop_over_errors():
        try:
            send(number)
        except KeyboardInterrupt:
            raise ImportError("the module cannot be imported") from None
    assert stopped.type is raised


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Preempted)]
)
def test_a_stop_that_a_destructor_swallows_comes_again(number, raised, capsys):
    class Dying:
        def __del__(self) -> None:
            send(number)

    with pytest.raises(raised) as stopped, Signals():
        Dying()  # Python drops what is raised there
        time.sleep(10)
    assert stopped.type is raised
    assert not capsys.readouterr().err


def test_a_signal_while_standard_error_is_in_use_is_still_heard(monkeypatch):
    class Busy:
        def write(self, _: str) -> None:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    monkeypatch.setattr("sys.stderr", Busy())
    with pytest.raises(Preempted), Signals() as signals, signals.at_steps():
        send(signal.SIGTERM)
        assert signals.stop_asked


def test_a_save_is_noted_and_handlers_are_given_back():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with Signals() as signals:
        send(signal.SIGUSR1)
        assert signals.save_asked and not signals.stop_asked
    assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
