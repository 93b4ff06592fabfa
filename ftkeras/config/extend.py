"""Makes the config that extends a finished run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ftkeras.config.data import DataSection
from ftkeras.config.load import parse_config
from ftkeras.config.schema import Config


def extend_config(
    base: Config, folder: str, image_size: int, data: Mapping[str, Any], overrides: Iterable[str]
) -> Config:
    """Returns the config that extends a finished run; what is not said is as it was there.

    Only the classes of a first run, where they were not balanced, are from now on, by sampling.

    Args:
        base: The run's config.
        folder: The run's folder.
        image_size: The side of its images, in pixels.
        data: A `data` section; what it leaves out is as in the base, but for its source.
        overrides: See `load_config`.

    Raises:
        UserError: The result is not a config.
    """
    tree = base.model_dump(mode="json")
    shared = {name: tree["data"][name] for name in DataSection.model_fields}
    if shared["balance"] == "none" and base.task != "incremental":
        shared["balance"] = "sampling"  # else a few remembered images stand against all new ones
    weights = {"weights": f"{folder.rstrip('/')}/model.keras"}
    changes = {"reinitialize": 0, "shrink_and_perturb": None}
    tree |= {
        "task": "incremental",
        "data": {**shared, "image_size": image_size, **data},
        "backbone": {**tree["backbone"], **weights, **changes},
        "incremental": {**tree.get("incremental", {}), "base": folder},
    }
    return parse_config(tree, overrides, where="extend")
