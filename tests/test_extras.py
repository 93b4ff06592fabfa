"""What messages ask to install is what the extras of setup.cfg hold."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from ftkeras.imports import PACKAGES, to_install

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
