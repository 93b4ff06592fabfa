from __future__ import annotations

import subprocess
import sys

import keras
import pytest

from ftkeras import console
from ftkeras.backbones import catalog
from ftkeras.errors import UserError


def test_lists_exactly_what_the_installed_keras_has():
    builders = {name for name in dir(keras.applications) if name[0].isupper()}
    assert set(catalog.CATALOG) == builders


@pytest.mark.parametrize("name", catalog.CATALOG)
def test_smallest_size_is_where_keras_draws_the_line(name):
    too_small = catalog.find(name).family.smallest_size - 1
    with pytest.raises(ValueError, match="at least"):
        getattr(keras.applications, name)(
            include_top=False, weights=None, input_shape=(too_small, too_small, 3)
        )


def test_unknown_name_offers_the_nearest():
    with pytest.raises(UserError, match="no backbone 'EficientnetV2B0'.*'EfficientNetV2B0'"):
        catalog.find("EficientnetV2B0")


def test_describe_fills_a_table():
    lines = console.table(catalog.describe(), catalog.HEADER).splitlines()
    assert len(lines) == 2 + len(catalog.CATALOG)
    row = next(line for line in lines if line.startswith("Xception"))
    assert row.split() == ["Xception", "20.9", "299", "71", "14", "tf"]


def test_reading_the_catalog_does_not_import_tensorflow():
    code = (
        "import sys; from ftkeras import backbones; backbones.find('VGG16'); backbones.describe(); "
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
