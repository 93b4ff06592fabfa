"""From a trained model to a folder that TF Serving takes as it is, and to other formats."""

from __future__ import annotations

from ftkeras.export.classifier import Classifier
from ftkeras.export.saved_model import export_saved_model

__all__ = ["Classifier", "export_saved_model"]
