"""The run folder: everything a run knew and made, written as it goes."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import sys
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from ftkeras.config.load import dump_config, parse_text
from ftkeras.config.schema import Config
from ftkeras.errors import UserError

gfile = tf.io.gfile


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

    @classmethod
    def create(cls, folder: str, config: Config, overwrite: bool = False) -> Run:
        """Makes the folder and writes the resolved config and the environment into it.

        Raises:
            UserError: See `check`.
        """
        run = cls(folder)
        run.check(overwrite)
        if overwrite and gfile.exists(folder):
            gfile.rmtree(folder)
        gfile.makedirs(run.path("checkpoints"))
        run.write_text("config.yaml", dump_config(config))
        run.write_json("environment.json", environment())
        run.set_state("running")
        return run

    @classmethod
    def open(cls, folder: str) -> Run:
        """Opens an existing run.

        Raises:
            UserError: There is no run.
        """
        run = cls(folder)
        if not gfile.exists(run.path("config.yaml")):
            raise UserError(f"{folder}: not a run folder (it has no config.yaml).")
        return run

    def check(self, overwrite: bool = False) -> None:
        """Raises UserError if a run cannot be created here; writes nothing that stays."""
        if gfile.exists(self.folder):
            if not gfile.isdir(self.folder):
                raise UserError(f"--out {self.folder}: is a file, not a folder.")
            holds_run = gfile.exists(self.path("config.yaml"))
            if holds_run and not overwrite:
                raise UserError(
                    f"--out {self.folder}: already holds a run. Choose another folder, or pass "
                    "--overwrite to replace it."
                )
            if not holds_run and gfile.listdir(self.folder):
                raise UserError(f"--out {self.folder}: is not empty and not a run. Choose another.")
        probe = self.folder.rstrip("/") + ".write-test"
        try:
            gfile.makedirs(probe)
            gfile.rmtree(probe)
        except (tf.errors.OpError, OSError) as error:
            reason = getattr(error, "message", None) or str(error)
            raise UserError(f"--out {self.folder}: cannot be written ({reason}).") from None

    @property
    def config(self) -> Config:
        """The resolved config that the run was made with."""
        return parse_text(self.read_text("config.yaml"), where=self.path("config.yaml"))

    def path(self, *parts: str) -> str:
        """Returns a path inside the folder."""
        return os.path.join(self.folder, *parts)

    def write_text(self, name: str, text: str) -> None:
        """Writes a file whole: readers see the old one or the new one, never half."""
        temporary = self.path(f".{name}.tmp")
        with gfile.GFile(temporary, "w") as file:
            file.write(text)
        gfile.rename(temporary, self.path(name), overwrite=True)

    def read_text(self, name: str) -> str:
        """Returns a file's text; UserError if the run has no such file."""
        if not gfile.exists(self.path(name)):
            raise UserError(f"{self.folder}: the run has no {name}; did it finish?")
        try:
            with gfile.GFile(self.path(name)) as file:
                return str(file.read())
        except (UnicodeDecodeError, tf.errors.OpError):
            raise UserError(f"{self.path(name)}: cannot be read as text.") from None

    def write_json(self, name: str, tree: Any) -> None:
        """Writes plain dicts, lists, strings and numbers as JSON."""
        self.write_text(name, json.dumps(tree, indent=1) + "\n")

    def read_json(self, name: str) -> Any:
        """Returns what `write_json` wrote."""
        try:
            return json.loads(self.read_text(name))
        except (ValueError, RecursionError):
            raise UserError(f"{self.path(name)}: is damaged; it is not JSON.") from None

    def log(self, record: dict[str, Any]) -> None:
        """Appends one line to `metrics.jsonl`."""
        with gfile.GFile(self.path("metrics.jsonl"), "a") as file:
            file.write(json.dumps(record) + "\n")

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Yields the records of `metrics.jsonl`; a last line that a crash cut short is left out."""
        *lines, rest = self.read_text("metrics.jsonl").split("\n")
        for line in lines:
            yield json.loads(line)

    def fail(self, reason: str) -> None:
        """Records a failure, as well as the disk lets it; raises nothing."""
        for folder in (self.folder, self.path("checkpoints")):
            with contextlib.suppress(Exception):  # half-written files may be what fills the disk
                for name in gfile.listdir(folder):
                    if "-new." in name or (name.startswith(".") and name.endswith(".tmp")):
                        gfile.remove(os.path.join(folder, name))
        with contextlib.suppress(Exception):
            self.set_state("failed", error=reason)

    def set_state(self, state: str, **facts: Any) -> None:
        """Records how the run stands: running, finished, interrupted or failed."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self.write_json("status.json", {"state": state, "time": now, **facts})


def environment() -> dict[str, Any]:
    """Returns what is worth knowing about the machine and its software."""
    import keras
    import numpy as np

    import ftkeras

    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "ftkeras": ftkeras.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "processors": os.cpu_count(),
        "devices": [device.name for device in tf.config.list_logical_devices()],
    }
