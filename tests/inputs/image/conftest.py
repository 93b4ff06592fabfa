"""A cache folder for each test: checks of files and rendered copies are kept there."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(cache: Path) -> None:
    """No test sees what another has cached."""
