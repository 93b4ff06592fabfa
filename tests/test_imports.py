"""Imports point one way: from each station only to those before it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ftkeras"

# Stations of one rank do not import each other.
ROAD = (
    ("config",),
    ("data",),
    ("backbones",),
    ("model",),
    ("phases",),
    ("trunk",),
    ("training",),
    ("evaluation",),
    ("report", "export", "doctor"),
    ("runs",),
    ("tasks",),
    ("cli",),
)
RANK = {station: rank for rank, stations in enumerate(ROAD) for station in stations}
FOR_ALL = {"errors", "console", "imports", "keras_internals"}
STARTER_USERS = {"data", "backbones"}
# `ftkeras/__init__.py` names the public API and `__main__.py` starts the command line.
FRONT_DOORS = {"__init__", "__main__"}


def imported_modules(path: Path) -> Iterator[tuple[str, ...]]:
    """Yields each ftkeras module that a file imports, at its top or within a function."""
    package = ("ftkeras", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names]
        yield from (tuple(name.split(".")[1:]) for name in names if name.startswith("ftkeras."))


def fault(importer: tuple[str, ...], imported: tuple[str, ...]) -> str | None:
    """Returns why `importer` may not import `imported`, both relative to ftkeras; or None."""
    station, other = importer[0], imported[0]
    if station in FRONT_DOORS or other in FOR_ALL:
        return None
    if station in FOR_ALL:
        return "stands under everything and imports nothing"
    if other == "starter":
        return None if station in STARTER_USERS else "only data and backbones read the starter"
    if station == "starter":
        return None if other == "starter" else "imports nothing but errors"
    if station not in RANK or other not in RANK:
        return None if other == "__version__" else "is on no station of the road"
    if station == other == "tasks" and importer[1:2] not in {imported[1:2], ("__init__",)}:
        return "no task imports another"
    if station != other and RANK[other] >= RANK[station]:
        return "points against the road"
    return None


def test_every_import_points_one_way():
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        importer = path.relative_to(PACKAGE).with_suffix("").parts
        for imported in imported_modules(path):
            if why := fault(importer, imported):
                faults.append(f"{'/'.join(importer)}.py imports {'.'.join(imported)}: {why}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("phases.callback", "backbones.catalog", True),
        ("backbones.catalog", "phases.callback", False),
        ("tasks.classification", "report.page", True),
        ("training.fit", "tasks.classification", False),
        ("tasks.classification", "tasks.segmentation", False),
        ("tasks.__init__", "tasks.classification", True),
        ("report.page", "export.saved_model", False),
        ("data.sources.folder", "data.decode", True),
        ("data.sources.starter", "starter.archive_path", True),
        ("model.head", "starter.archive_path", False),
        ("config.load", "errors.UserError", True),
        ("errors", "config.load", False),
        ("helpers", "config.load", False),
        ("__init__", "tasks.classification", True),
    ],
)
def test_the_rule_itself(importer, imported, allowed):
    assert (fault(tuple(importer.split(".")), tuple(imported.split("."))) is None) == allowed


def test_relative_and_local_imports_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "model").mkdir()
    file = tmp_path / "model" / "head.py"
    file.write_text(
        "from ..tasks import x\ndef f():\n    import ftkeras.cli.main\n    from . import y"
    )
    assert set(imported_modules(file)) == {("tasks", "x"), ("cli", "main"), ("model", "y")}


@pytest.mark.parametrize("module", ["ftkeras", "ftkeras.cli.main", "ftkeras.config.load"])
def test_importing_costs_no_tensorflow(module):
    code = f"import {module}, sys; print([m for m in ('tensorflow', 'keras') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_command_line_imports_no_package_that_it_has_no_use_for():
    code = (
        "import sys\n"
        "from ftkeras.cli.quiet import import_tensorflow\n"
        "import_tensorflow()\n"
        "print([m for m in ('matplotlib', 'pandas', 'scipy', 'sklearn') if m in sys.modules])\n"
        "from sklearn.linear_model import LogisticRegression\n"  # which others may still have
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
