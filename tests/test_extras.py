"""Other packages: what messages ask to install, and imports beside other work."""

from __future__ import annotations

import configparser
import re
import sys
import threading
from pathlib import Path

import pytest

from ftkeras.imports import PACKAGES, import_beside, to_install

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("extra", PACKAGES)
def test_a_command_names_the_packages_of_the_extra(extra):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.extras_require"][extra].splitlines()
    names = [re.split("[<>=;]", line)[0] for line in lines if line and not line.startswith("#")]
    assert to_install(extra) == f"pip install {' '.join(names)}"


def test_nobody_is_sent_to_a_package_index_for_ftkeras():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "configs").iterdir()]
    for page in [*pages, *(ROOT / "ftkeras").rglob("*.py")]:
        assert "ftkeras[" not in page.read_text(encoding="utf-8"), page


def test_a_package_is_imported_beside_other_work_and_its_error_waits(tmp_path, monkeypatch):
    (tmp_path / "beside_a.py").write_text("import threading\nwho = threading.current_thread()\n")
    (tmp_path / "beside_b.py").write_text("raise ValueError('mine')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("beside_a", "beside_b"):
        import_beside(name)
    for thread in threading.enumerate():
        if thread.name.startswith("import beside_"):
            thread.join()
    assert sys.modules.pop("beside_a").who.name == "import beside_a"
    with pytest.raises(ValueError, match="mine"):
        __import__("beside_b")
