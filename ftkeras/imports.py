"""Imports of other packages: what they read first, and what they would bring along."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ftkeras.errors import UserError

PACKAGES = {
    "tfds": ("tensorflow-datasets", "importlib_resources"),
    "cv": ("keras-cv",),
    "hub": ("keras-hub", "tensorflow-text", "safetensors"),
    "openvino": ("openvino",),
    "litert": ("ai-edge-litert",),
    "onnx": ("onnxruntime", "tf2onnx"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "robustness": ("imagecorruptions-imaug",),
}
"""The packages of each extra in setup.cfg that a message may ask for."""
_NEEDED = {"floatx": "float32", "image_data_format": "channels_last"}  # of Keras's own file


def to_install(extra: str) -> str:
    """Returns the command that installs the packages of an extra.

    It names the packages themselves: ftkeras is on no package index.

    Example:
        >>> to_install("onnx")
        'pip install onnxruntime tf2onnx'
    """
    return f"pip install {' '.join(PACKAGES[extra])}"


def check_keras_settings(environment: Mapping[str, str]) -> None:
    """Raises UserError if Keras is set to what ftkeras cannot work with; before it is imported.

    Imported with such settings, Keras fails in its own words, or models fail much later. The
    backend that Keras's file names does not matter: a verb sets KERAS_BACKEND unless it is set.

    Args:
        environment: The environment's variables.
    """
    backend = environment.get("KERAS_BACKEND") or "tensorflow"
    if backend != "tensorflow":
        raise UserError(
            f"KERAS_BACKEND is {backend}, and ftkeras needs the TensorFlow backend of Keras: "
            "unset KERAS_BACKEND, or set it to tensorflow."
        )
    file = Path(environment.get("KERAS_HOME") or "~/.keras").expanduser() / "keras.json"
    settings = {}
    with contextlib.suppress(OSError, ValueError):  # Keras ignores these, too
        settings = json.loads(file.read_text())
    for name, needed in _NEEDED.items():
        if isinstance(settings, dict) and settings.get(name, needed) != needed:
            raise UserError(
                f"Keras's {name} is {settings[name]!r}, and ftkeras needs {needed}: change it in "
                f"{file}."
            )


@contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """Within this block, packages that were not imported before seem not to be installed.

    For optional imports of other packages that ftkeras does not use.

    Args:
        packages: Their names; afterwards they can be imported as usual.

    Example:
        >>> with hidden("sqlite3"):
        ...     import sqlite3
        Traceback (most recent call last):
        ModuleNotFoundError: import of sqlite3 halted; None in sys.modules
    """
    names = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]  # None: an ImportError
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def import_beside(module: str) -> None:
    """Imports a module in a thread, for use later; its own import then takes no time.

    If that fails, the later import raises the error.

    Args:
        module: Its name.

    Example:
        >>> import_beside("sklearn.linear_model")
    """

    def work() -> None:
        with contextlib.suppress(Exception):
            importlib.import_module(module)

    threading.Thread(target=work, name=f"import {module}").start()
