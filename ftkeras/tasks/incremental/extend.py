"""Extends a finished run by classes or images: a new run of task `incremental`."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ftkeras.config.data import DataSection
from ftkeras.config.load import parse_config
from ftkeras.config.moved import announce, move
from ftkeras.config.schema import Config
from ftkeras.errors import UserError
from ftkeras.inputs.registry import size_in
from ftkeras.run import Run
from ftkeras.runs.train import train


def extend(
    run: Run, data: Mapping[str, Any], out: str, overrides: Sequence[str] = (), **options: Any
) -> Run:
    """Adds classes or images to a finished run and returns the new one; the old one stays.

    Args:
        run: The finished run.
        data: A `data` section with the new images, for instance
            `{"source": "folder", "path": "more/"}`; the rest is as in the run.
        out: The new run's folder.
        overrides: Strings such as "incremental.memory=500"; see `ftkeras.load_config`.
        **options: See `ftkeras.train`.

    Raises:
        UserError: See `ftkeras.train`; or the run cannot be extended.

    Example:
        ```python
        more = {"source": "folder", "path": "more/"}
        ftkeras.extend(ftkeras.Run.open("runs/a"), more, "runs/b", ["incremental.memory=500"])
        ```
    """
    if out.rstrip("/") == run.folder.rstrip("/"):
        raise UserError(f"--out {out}: this is the run to extend, which is kept. Choose another.")
    own = type(run.config).model_fields.keys() - Config.model_fields.keys() - {"incremental"}
    if own:
        raise UserError(
            f"extend: {run.folder} is a run of the task {run.config.task}; only runs of the tasks "
            "classification and incremental can be extended."
        )
    size = size_in(run.read_json("data.json"))
    return train(extend_config(run.config, run.folder, size, data, overrides), out, **options)


def extend_config(
    base: Config, folder: str, size: int | None, data: Mapping[str, Any], overrides: Iterable[str]
) -> Config:
    """Returns the config that extends a finished run; other fields are as they were there.

    One field differs: if the classes of a first run were not balanced, they are now, by sampling.

    Args:
        base: The run's config.
        folder: The run's folder.
        size: `data.input.size` of the run; None if its kind has no size.
        data: A `data` section; fields that it leaves out are as in the base, except the source.
        overrides: See `load_config`.

    Raises:
        UserError: The result is not a config.
    """
    tree = base.model_dump(mode="json")
    shared = {name: tree["data"][name] for name in DataSection.model_fields}
    new = {"data": copy.deepcopy(dict(data))}
    announce(move(new, "extend"))
    kind = {**shared["input"], **({} if size is None else {"size": size})}
    own = new["data"].get("input") or {}
    if shared["balance"] == "none" and base.task != "incremental":
        shared["balance"] = "sampling"  # otherwise new images far outnumber remembered ones
    weights = {"weights": f"{folder.rstrip('/')}/model.keras"}
    changes = {"reinitialize": 0, "shrink_and_perturb": None}
    if tree["lora"] is not None:
        tree["lora"] = {**tree["lora"], "adapters": None}  # they belong to another base
    tree |= {
        "task": "incremental",
        "data": {
            **shared,
            **new["data"],
            "input": {**kind, **own} if isinstance(own, dict) else own,
        },
        "backbone": {**tree["backbone"], **weights, **changes},
        "incremental": {**tree.get("incremental", {}), "base": folder},
    }
    return parse_config(tree, overrides, where="extend")
