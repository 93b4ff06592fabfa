"""Writes the SavedModel that TF Serving takes as it is.

`ftkeras.export.signatures` defines what it answers; a client needs no other file and no
preprocessing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftkeras.console import Progress
from ftkeras.export.certificate import FreshProcess, certify_saved_model
from ftkeras.export.classifier import Served
from ftkeras.export.publish import new_version, write_json
from ftkeras.export.questions import questions_of
from ftkeras.export.serving import clients_of, write_serving_files, write_warmup
from ftkeras.export.signatures import archive_of


def export_saved_model(
    servable: Served,
    directory: str | os.PathLike[str],
    *,
    name: str = "model",
    static_batch: int | None = None,
    golden: Mapping[str, Any] | None = None,
) -> str:
    """Writes a model as the next version under `directory`, after proving that it answers alike.

    A version appears whole or not at all: it is written beside its place, checked in a fresh
    process, and only then moved there. TF Serving can watch the directory meanwhile. Its
    `assets.extra` holds `certificate.json`, `ftkeras.json` (classes and versions) and warm-up
    requests; `serving/`, beside the versions, holds the server's own files and two clients.

    Args:
        servable: The model, its labels, and how its answers are meant.
        directory: Where versions 1, 2, ... are; local or remote (gs://).
        name: What the server calls the model.
        static_batch: Adds `images_static`, for this batch size.
        golden: Raw examples, by name, on which the export must agree with the model; left out,
            those of the kind (`golden_images()`). None of them skips the check.

    Returns:
        The version's folder.

    Raises:
        UserError: The directory cannot be written.
        TrainingError: The written model answers differently.

    Example:
        >>> export_saved_model(Classifier(model, class_names=["cat", "dog"]), "run/export")
        'run/export/1'
    """
    if golden is None:
        golden = questions_of(servable.input).golden
    progress = Progress("export SavedModel", 3, "part")
    try:
        with (
            new_version(directory) as (folder, target),
            FreshProcess(servable.input) if golden else contextlib.nullcontext() as fresh,
        ):
            archive = archive_of(servable, static_batch)
            progress.advance()
            archive.write_out(folder)
            extra = Path(folder, "assets.extra")  # which servers leave alone
            extra.mkdir()
            write_json(extra / "ftkeras.json", servable.card())
            write_warmup(extra, servable, name)
            progress.advance(note="checking in a fresh process")
            if golden:
                certificate = certify_saved_model(folder, servable, golden, fresh)
                write_json(extra / "certificate.json", certificate)
            progress.advance()
        kind = servable.input
        clients = clients_of(kind.wire.raw)
        write_serving_files(directory, name, clients, kind.serving_packages)
    finally:
        progress.close()
    return target
