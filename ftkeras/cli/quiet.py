"""Imports TensorFlow without the lines that its C++ side writes while it loads."""

from __future__ import annotations

import importlib
import os

from ftkeras.console import kept_back
from ftkeras.imports import check_keras_settings, hidden
from ftkeras.timeline import stage

# Keras and TensorFlow import these where they are installed, for wrappers, plots and data frames
# that no verb has to do with. They take nearly as long as Keras and TensorFlow themselves.
_UNUSED = ("matplotlib", "pandas", "scipy", "sklearn")


@stage("import TensorFlow and Keras")
def import_tensorflow() -> None:
    """Imports TensorFlow; what it writes to standard error is shown only if that fails.

    On a machine without a GPU it reports several times that there is none, before any log level
    is heeded, and a person would read that as the command's own trouble.

    Raises:
        UserError: Keras is set to what ftkeras cannot work with.
    """
    check_keras_settings(os.environ)
    # Later reports of the same kind do heed the level; they come as ERROR.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with kept_back(2), hidden(*_UNUSED):
        importlib.import_module("keras")  # imports TensorFlow, and says more of the same
