"""The built wheel holds what it must, and works from a folder that is not the repository."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    # Without the repository on the path, so that only what is installed can be imported.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    scratch = tmp_path_factory.mktemp("wheel")
    # Built from a copy: setuptools leaves build/ and *.egg-info beside the source.
    source = scratch / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "NOTICE", "README.md", "ftkeras"):
        run("cp", "-r", ROOT / name, source, cwd=scratch)
    run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation",
        "--wheel-dir", scratch, source, cwd=scratch,
    )  # fmt: skip
    [built] = scratch.glob("ftkeras-*.whl")
    return built


def test_the_wheel_holds_every_module_and_the_starter(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "ftkeras").rglob("*.py")}
    data = {"ftkeras/py.typed"} | {
        str(path.relative_to(ROOT))
        for path in (ROOT / "ftkeras" / "starter").iterdir()
        if path.suffix in (".npz", ".zip") or path.name == "PROVENANCE"
    }
    assert {Path(name).name for name in data if name.endswith(".zip")} == {
        "emoji.zip",
        "fashion_mnist.zip",
        "glosses.zip",
    }
    assert modules | data <= inside
    assert {Path(name).name for name in inside if ".dist-info/" in name} >= {"LICENSE", "NOTICE"}
    assert not any(name.startswith(("tests/", "tools/")) for name in inside)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of an environment with the wheel; its dependencies are this one's."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    bin_folder = folder / "bin"
    run(bin_folder / "python", "-m", "pip", "install", "--no-deps", wheel, cwd=folder)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    # Plain path lines put the other packages behind the wheel's, and process none of their .pth.
    (own / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return bin_folder


def test_the_installed_command_answers(installed, tmp_path):
    code = "import ftkeras; print(ftkeras.__file__)"
    module = Path(run(installed / "python", "-c", code, cwd=tmp_path).strip())
    assert module.is_relative_to(installed.parent)
    assert "train" in run(installed / "ftkeras", "--help", cwd=tmp_path)


CONFIG = """
data: {source: starter, input: {size: 32, augmentation: none}, batch_size: 100}
backbone: {name: MobileNetV2, weights: starter, cut: block_4_add}
phases: [{name: head, train: [head], epochs: 1, learning_rate: 1.0e-3}]
export: {saved_model: false}
"""


def test_the_installed_command_trains_on_the_starter(installed, tmp_path):
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    run(installed / "ftkeras", "train", "--config=tiny.yaml", "--out=run", cwd=tmp_path)
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") >= 1
