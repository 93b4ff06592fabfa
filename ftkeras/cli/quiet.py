"""Imports TensorFlow without the lines that its C++ code writes while it loads."""

from __future__ import annotations

import importlib
import os

from ftkeras.console import kept_back
from ftkeras.imports import check_keras_settings, hidden
from ftkeras.timeline import stage

# Keras and TensorFlow import these if they are installed, for wrappers, plots and data frames that
# no verb uses. They take nearly as long as Keras and TensorFlow themselves.
_UNUSED = ("matplotlib", "pandas", "scipy", "sklearn")


@stage("import TensorFlow and Keras")
def import_tensorflow() -> None:
    """Imports TensorFlow; what it writes to standard error is shown only if that fails.

    On a machine without a GPU it reports several times that there is none, before it reads any log
    level. Users would take that for an error of the command.

    Raises:
        UserError: Keras has a setting that ftkeras does not support.
    """
    check_keras_settings(os.environ)
    # Later reports of the same kind do obey the level; they are ERRORs.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with kept_back(2), hidden(*_UNUSED):
        importlib.import_module("keras")  # imports TensorFlow, and writes more such lines
