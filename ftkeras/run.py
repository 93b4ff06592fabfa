"""The run folder: everything a run knew and made, written as it goes."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import re
import shlex
import sys
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from ftkeras.config.load import differences, dump_config, parse_text
from ftkeras.config.schema import Config
from ftkeras.errors import UserError
from ftkeras.files import is_half_written, write_whole
from ftkeras.version import __version__

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

gfile = tf.io.gfile

_LOCK = ".lock"
_MADE_AT_ONCE = {
    _LOCK, "bad_files.csv", "checkpoints", "config.yaml", "data.json", "environment.json",
    "events.jsonl", "floor.json", "floor.npz", "logs", "plan.json", "splits.csv", "status.json",
}  # fmt: skip


class Run:
    """A run's folder; paths may be local or remote (`gs://`, `ram://`).

    Example:
        ```python
        run = Run.open("runs/quickstart")
        run.config.backbone.name, run.read_json("evaluation.json")["accuracy"]
        ```
    """

    def __init__(self, folder: str):
        self.folder = folder
        self._changes: tuple[str, ...] = ()

    @classmethod
    def create(cls, folder: str, config: Config, overwrite: bool = False) -> Run:
        """Makes the folder and writes the resolved config and the environment into it.

        Raises:
            UserError: See `check`.
        """
        run = cls(folder)
        run.check(overwrite)
        run._clear()
        gfile.makedirs(folder)
        run.write_text("config.yaml", dump_config(config))  # from now on the folder is a run
        run.begin()
        return run

    def begin(self, config: Config | None = None) -> None:
        """Records that a process trains here, and makes what every run has.

        Also for a run that resumes: the process before may have been killed too early to make it.

        Args:
            config: The run's config, if its data have moved since it began.
        """
        if config is not None and differences(self.config, config):
            self.write_text("config.yaml", dump_config(config))
        if not gfile.exists(self.path("environment.json")):
            self.write_json("environment.json", environment())
        gfile.makedirs(self.path("checkpoints"))
        for parts in ((), ("checkpoints",), ("predictions",)):
            for half in gfile.glob(self.path(*parts, ".*")):
                if is_half_written(os.path.basename(half)):
                    gfile.remove(half)
        self.set_state("running")

    @classmethod
    def open(cls, folder: str, changes: Sequence[str] = ()) -> Run:
        """Opens an existing run.

        Args:
            folder: Its folder.
            changes: `["data.path=PATH"]` if its data have moved; what is on disk stays.

        Raises:
            UserError: There is no run, or something else should change.
        """
        for change in changes:
            if not change.startswith("data.path="):
                raise UserError(f"--set {change}: of a run only data.path may change.")
        run = cls(folder)
        run._changes = tuple(changes)
        if not gfile.exists(run.path("config.yaml")):
            raise UserError(f"{folder}: not a run folder (it has no config.yaml).")
        return run

    def changed(self, changes: Sequence[str]) -> Config | None:
        """Returns the config of the run that is there with some changes; None without any.

        Args:
            changes: As `--set` takes them. `resumes` decides which of them a run takes.
        """
        if not changes or not gfile.exists(self.path("config.yaml")):
            return None
        self._changes = tuple(changes)
        config = self.config
        self._changes = ()
        return config

    def check(self, overwrite: bool = False) -> None:
        """Raises UserError if a run cannot be created here; writes nothing that stays."""
        if gfile.exists(self.folder):
            if not gfile.isdir(self.folder):
                raise UserError(f"--out {self.folder}: is a file, not a folder.")
            holds_run = gfile.exists(self.path("config.yaml"))
            if holds_run and not overwrite:
                finished = ", which is finished" if self.state() == "finished" else ""
                raise UserError(
                    f"--out {self.folder}: already holds a run{finished}. Choose another folder, "
                    "or replace it with --overwrite (in Python, overwrite=True)."
                )
            names = set(gfile.listdir(self.folder)) - {_LOCK}
            if not holds_run and not all(map(is_half_written, names)):  # of a killed process
                raise UserError(f"--out {self.folder}: is not empty and not a run. Choose another.")
        self._probe()

    def resumes(self, config: Config | None, overwrite: bool = False) -> bool:
        """Returns whether training resumes the run that is there, or starts one.

        Args:
            config: What to do; None stands for the config of the run that is there.
            overwrite: Whether a run that is there would be replaced.

        Raises:
            UserError: Neither can be; writes nothing that stays.
        """
        if not gfile.exists(self.path("config.yaml")):
            if config is None:
                raise UserError(
                    f"--config is missing, and --out {self.folder} holds no run to resume. "
                    "`ftkeras init my.yaml` writes a config."
                )
            self.check()
            return False
        if overwrite or self.state() == "finished":
            self.check(overwrite)
            return False
        changes = differences(self.config, config) if config is not None else []
        # Data may have moved; whether they are the same ones is looked at before training resumes.
        free = ("data.path", *self.config.after_training)
        changes = [c for c in changes if not re.match(rf"({'|'.join(free)})\b", c)]
        if changes and not self._stopped_early():
            folder = shlex.quote(self.folder)
            raise UserError(
                f"--out {self.folder}: the run there has another config: {'; '.join(changes)}. "
                f"`ftkeras train --out={folder}` resumes with its own; {', '.join(free)} may "
                "change. Otherwise choose another folder, or start again with --overwrite (in "
                "Python, overwrite=True)."
            )
        self._probe()
        return not changes

    def _stopped_early(self) -> bool:
        """Whether a run that stopped holds nothing that took long to make."""
        if self.state() in (None, "running"):
            return False
        names = {name.rstrip("/") for name in gfile.listdir(self.folder)} - _MADE_AT_ONCE
        return not names and not gfile.glob(self.path("checkpoints", "*"))

    def state(self) -> str | None:
        """Returns what `set_state` recorded last, or None."""
        if not gfile.exists(self.path("status.json")):
            return None
        return str(self.read_json("status.json")["state"])

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes of this machine from training in the folder meanwhile.

        Raises:
            UserError: One does.
        """
        if fcntl is None or "://" in self.folder:
            yield
            return
        gfile.makedirs(self.folder)
        with open(self.path(_LOCK), "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"--out {self.folder}: another process is training there just now."
                ) from None
            except OSError:
                pass  # a file system without locks
            yield

    def _clear(self) -> None:
        """Removes all but the lock; the folder is a run to the last, should we be killed."""
        if not gfile.exists(self.folder):
            return
        names = [name.rstrip("/") for name in gfile.listdir(self.folder)]
        last = ("config.yaml", _LOCK)
        for name in ("status.json", *(n for n in names if n not in last), "config.yaml"):
            path = self.path(name)
            if gfile.exists(path):
                (gfile.rmtree if gfile.isdir(path) else gfile.remove)(path)

    def _probe(self) -> None:
        # Beside the outermost folder that is missing, so that none of its parents stays.
        missing = self.folder.rstrip("/")
        while "://" not in missing and (parent := os.path.dirname(missing)):
            if gfile.exists(parent):
                break
            missing = parent
        # A name of its own: several workers may look at once.
        probe = f"{missing}.write-test-{uuid.uuid4().hex[:8]}"
        try:
            gfile.makedirs(probe)
            gfile.rmtree(probe)
        except (tf.errors.OpError, OSError) as error:
            reason = getattr(error, "message", None) or str(error)
            raise UserError(f"--out {self.folder}: cannot be written ({reason}).") from None

    @property
    def config(self) -> Config:
        """The resolved config that the run was made with, with the changes of `open`."""
        where = self.path("config.yaml")
        return parse_text(self.read_text("config.yaml"), self._changes, where, is_saved=True)

    def path(self, *parts: str) -> str:
        """Returns a path inside the folder."""
        return os.path.join(self.folder, *parts)

    def write_text(self, name: str, text: str) -> None:
        """Writes a file whole: readers see the old one or the new one, never half."""
        write_whole(self.path(name), text)

    def read_text(self, name: str) -> str:
        """Returns a file's text; UserError if the run has no such file."""
        if not gfile.exists(self.path(name)):
            raise self.lacks(name)
        try:
            with gfile.GFile(self.path(name)) as file:
                return str(file.read())
        except (UnicodeDecodeError, tf.errors.OpError):
            raise UserError(f"{self.path(name)}: cannot be read as text.") from None

    def lacks(self, name: str) -> UserError:
        """Returns an error about a file that is missing: whether the run ended, and what to do."""
        folder = shlex.quote(self.folder)
        status = self.read_json("status.json") if self.state() else {}
        state = status.get("state", "not finished")
        again = f"`ftkeras train --out={folder}` resumes it."
        if state == "finished":
            why, again = "is finished", "The file was removed."
            if name == "evaluation.json":
                why, again = "was not measured", f"`ftkeras evaluate {folder}` does that."
        elif state == "running":
            why = "is training, or was killed"
        elif error := str(status.get("error", ""))[:300]:
            why = f"{state} ({error})"
        else:
            why = f"was {state}" if status else f"is {state}"
        return UserError(f"{self.folder}: there is no {name}: the run {why}. {again}")

    def write_json(self, name: str, tree: Any) -> None:
        """Writes plain dicts, lists, strings and numbers as JSON."""
        self.write_text(name, json.dumps(tree, indent=1) + "\n")

    def read_json(self, name: str) -> Any:
        """Returns what `write_json` wrote."""
        text = self.read_text(name)
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise UserError(f"{self.path(name)}: is damaged; it is not JSON.") from None

    def log(self, record: dict[str, Any]) -> None:
        """Appends one line to `metrics.jsonl`."""
        with gfile.GFile(self.path("metrics.jsonl"), "a") as file:
            file.write(json.dumps(record) + "\n")

    def keep_records(self, count: int) -> None:
        """Leaves the first `count` lines of `metrics.jsonl`."""
        if gfile.exists(self.path("metrics.jsonl")):
            lines = self.read_text("metrics.jsonl").splitlines(keepends=True)
            if len(lines) > count:
                self.write_text("metrics.jsonl", "".join(lines[:count]))

    def event(self, name: str, **facts: Any) -> None:
        """Appends an event to `events.jsonl`: the run resumed, or returned to a checkpoint."""
        with gfile.GFile(self.path("events.jsonl"), "a") as file:
            file.write(json.dumps({"event": name, "time": _now(), **facts}) + "\n")

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Yields the records of `metrics.jsonl`; a last line that a crash cut short is left out."""
        *lines, rest = self.read_text("metrics.jsonl").split("\n")
        for line in lines:
            yield json.loads(line)

    def fail(self, reason: str) -> None:
        """Records a failure, as well as the disk lets it; raises nothing."""
        with contextlib.suppress(Exception):
            self.set_state("failed", error=reason)

    def set_state(self, state: str, **facts: Any) -> None:
        """Records how the run stands: running, finished, interrupted, preempted or failed."""
        self.write_json("status.json", {"state": state, "time": _now(), **facts})


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def environment() -> dict[str, Any]:
    """Returns what is worth knowing about the machine and its software."""
    import keras
    import numpy as np

    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "ftkeras": __version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "processors": os.cpu_count(),
        "devices": [device.name for device in tf.config.list_logical_devices()],
    }
