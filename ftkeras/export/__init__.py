"""From a trained model to a folder that TF Serving takes as it is."""

from __future__ import annotations

from ftkeras.export.certificate import check_saved_model, golden_images
from ftkeras.export.saved_model import export_saved_model

__all__ = ["check_saved_model", "export_saved_model", "golden_images"]
