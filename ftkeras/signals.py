"""Signals of a person or a scheduler to a running command: stop, or save now and continue."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ftkeras.errors import Interrupted, Preempted

_SAVE = getattr(signal, "SIGUSR1", None)  # Windows has none
_SOON = 0.05  # seconds


class Signals:
    """Listens while it is entered: Ctrl-C and SIGTERM stop the training, SIGUSR1 saves it.

    Within `at_steps` a signal is only noted, and the training loop stops between two steps, when
    everything can be saved. Elsewhere it stops at once, and so does a second signal anywhere.
    """

    def __init__(self) -> None:
        self.save_asked = False
        self._stop: type[Interrupted] | type[Preempted] | None = None
        self._waits = False
        self._before: dict[int, Any] = {}
        self._hook_before = sys.unraisablehook

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # no other may listen
            for number in (signal.SIGINT, signal.SIGTERM, _SAVE):
                if number is not None:
                    self._before[number] = signal.signal(number, self._hear)
            self._hook_before, sys.unraisablehook = sys.unraisablehook, self._send_again
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            sys.unraisablehook = self._hook_before
        self._before.clear()

    @contextmanager
    def at_steps(self) -> Iterator[None]:
        """Within it the training loop reads `stop_asked` after each step, saves, and calls `stop`.

        Raises:
            Interrupted, Preempted: (when it begins or ends) A signal to stop came, and was not
                raised yet.
        """
        self.stop()
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
        self.stop()

    @contextmanager
    def stop_over_errors(self) -> Iterator[None]:
        """Raises the stop instead of an error that follows one.

        Libraries turn a KeyboardInterrupt into other errors: a failed import, a cancelled
        operation, a child process that got the same Ctrl-C.
        """
        try:
            yield
        except Exception as error:
            if self._stop is not None:
                raise self._stop from error
            raise

    @property
    def stop_asked(self) -> bool:
        """Whether a signal to stop has come."""
        return self._stop is not None

    def stop(self) -> None:
        """Raises Interrupted, or Preempted for SIGTERM."""
        if self._stop is not None:
            raise self._stop

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if number == _SAVE:
            self.save_asked = True
            return
        again = self.stop_asked
        self._stop = Preempted if number == signal.SIGTERM else Interrupted
        if again or not self._waits:
            raise self._stop
        again_at_once = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
        with contextlib.suppress(RuntimeError, OSError, ValueError):  # it may be in use, or closed
            print(f"\nstopping after this step{again_at_once}", file=sys.stderr)

    def _send_again(self, lost: sys.UnraisableHookArgs) -> None:
        """Repeats a signal whose stop was raised within a destructor, in which Python drops it."""
        known = self._stop is not None and hasattr(signal, "pthread_kill")  # Windows has none
        if not known or not isinstance(lost.exc_value, KeyboardInterrupt):
            self._hook_before(lost)
            return
        number = signal.SIGTERM if self._stop is Preempted else signal.SIGINT
        self._stop = None
        main = threading.main_thread().ident or 0
        threading.Timer(_SOON, signal.pthread_kill, (main, number)).start()
