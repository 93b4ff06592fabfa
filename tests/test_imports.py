"""The order of the house: which package may import which, and what belongs to one task alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ftkeras"

# A module imports only from packages above its own in this list, and from its own.
ORDER = (
    "version",
    "errors",
    "system_errors",
    "signals",
    "imports",
    "paths",
    "memory",
    "files",
    "state_file",
    "cache",
    "console",
    "timeline",
    "findings",
    "starter",
    "keras_internals",
    "config",
    "run",
    "graph",
    "inputs",
    "measures",
    "outputs",
    "data",
    "backbones",
    "model",
    "phases",
    "devices",
    "trunk",
    "training",
    "evaluation",
    "export",
    "report",
    "runs",
    "doctor",
    "tasks",
    "cli",
)
# `ftkeras/__init__.py` names the public API and `__main__.py` starts the command line.
FRONT_DOORS = ("", "__main__")

Imports = Mapping[str, set[str]]


def modules(package: Path) -> dict[str, Path]:
    """Returns the package's modules by their dotted name within it; "" is the package itself."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(package: Path) -> dict[str, set[str]]:
    """Returns which modules each module imports, at its top or within a function.

    Imports for type checkers alone are left out: they load nothing.
    """
    known = modules(package)
    return {name: set(_imported(name, path, known)) for name, path in known.items()}


def _imported(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    inside = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["ftkeras", *inside[: len(inside) - node.level + 1]] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names]
        for full in names:
            first, _, rest = full.partition(".")
            if first == "ftkeras":
                while rest and rest not in known:
                    rest = rest.rpartition(".")[0]
                yield rest


def against_the_order(imports: Imports) -> list[str]:
    """Returns each import that points down the list, or to what is not in it."""
    faults = []
    for module, imported in imports.items():
        package = module.partition(".")[0]
        if module in FRONT_DOORS:
            continue
        for other in sorted(imported):
            target = other.partition(".")[0]
            if package not in ORDER or target not in ORDER:
                faults.append(f"{module} imports {other or 'ftkeras'}: not in ORDER")
            elif ORDER.index(target) > ORDER.index(package):
                faults.append(f"{module} imports {other}: {target} comes after {package}")
    return faults


def cycles(imports: Imports) -> list[str]:
    """Returns modules that import one another, a line for each cycle."""
    found, done = [], set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        if module in way:
            found.append(" -> ".join([*way[way.index(module) :], module]))
        elif module not in done:
            for other in sorted(imports.get(module, ())):
                visit(other, (*way, module))
            done.add(module)

    for module in sorted(imports):
        visit(module, ())
    return found


def between_tasks(imports: Imports) -> list[str]:
    """Returns each import of one task by another."""
    return [
        f"{module} imports {other}"
        for module, imported in imports.items()
        for other in sorted(imported)
        if _task(module) and _task(other) and _task(module) != _task(other)
    ]


def belong_to_one_task(imports: Imports) -> list[str]:
    """Returns each shared module that exactly one task imports, and nothing else does."""
    users: dict[str, set[str]] = {}
    for module, imported in imports.items():
        for other in imported:
            if module not in FRONT_DOORS:
                users.setdefault(other, set()).add(_task(module) or module)
    return [
        f"only {user} imports {module}"
        for module, (user, *others) in sorted((m, sorted(u)) for m, u in users.items())
        if not others and user.startswith("tasks.") and not module.startswith("tasks")
    ]


def _task(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "tasks" and len(parts) > 1 else ""


_MAY_NAME_A_KIND = ("backbones", "cli", "runs.build")
_NO_KINDS = ([], ["base"], ["registry"], ["rows"], ["copies"])  # modules of `inputs` for all kinds


def name_a_kind(imports: Imports) -> list[str]:
    """Returns each import of a kind of input from outside of its folder."""
    faults = []
    for module, imported in imports.items():
        own = module.split(".")[:2]
        for other in sorted(imported):
            home = other.split(".")[:2]
            is_kind = home[0] == "inputs" and home[1:] not in _NO_KINDS
            if is_kind and home != own and not module.startswith(_MAY_NAME_A_KIND):
                faults.append(f"{module} imports {other}: ask the input instead")
    return faults


RULES = (against_the_order, cycles, between_tasks, belong_to_one_task, name_a_kind)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule):
    faults = rule(imports_of(PACKAGE))
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("rule", "module", "line"),
    [
        (against_the_order, "backbones/catalog.py", "from ftkeras.phases import callback"),
        (name_a_kind, "export/formats.py", "from ftkeras.inputs.image import decode"),
        (name_a_kind, "phases/callback.py", "from ftkeras.inputs.image.decode import cut"),
        (against_the_order, "errors.py", "import ftkeras.config.load"),
        (against_the_order, "training/fit.py", "def f():\n    from ..tasks import few_shot"),
        (against_the_order, "helpers.py", "from ftkeras.errors import UserError"),
        (cycles, "data/splits.py", "def f():\n    from ftkeras.data.load import load_data"),
        (cycles, "errors.py", "from ftkeras import UserError"),
        (between_tasks, "tasks/few_shot/task.py", "from ..multi_task.data import Question"),
        (between_tasks, "tasks/few_shot/task.py", "import ftkeras.tasks.multi_task.data"),
        (belong_to_one_task, "tasks/few_shot/task.py", "from ftkeras.model import probes"),
    ],
)
def test_a_broken_rule_is_found(tmp_path, rule, module, line):
    for name, content in {
        "__init__.py": "from ftkeras.errors import UserError",
        "errors.py": "",
        "config/load.py": "",
        "data/load.py": "from ftkeras.data.splits import divide",
        "data/splits.py": "",
        "inputs/image/decode.py": "",
        "model/probes.py": "",
        "phases/callback.py": "",
        "tasks/__init__.py": "",
        "tasks/few_shot/__init__.py": "",
        "tasks/multi_task/data.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert rule(imports_of(tmp_path)) == []
    (tmp_path / module).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / module).write_text(line)
    assert len(rule(imports_of(tmp_path))) == 1


def test_what_only_a_type_checker_imports_is_no_import(tmp_path):
    (tmp_path / "errors.py").write_text("if TYPE_CHECKING:\n    from ftkeras.cli import main")
    assert imports_of(tmp_path) == {"errors": set()}


@pytest.mark.parametrize(
    "module", ["ftkeras", "ftkeras.cli.main", "ftkeras.cli.train", "ftkeras.cli.evaluate"]
)
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
