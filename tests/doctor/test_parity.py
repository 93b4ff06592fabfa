"""Twenty steps on one device, on replicas and on workers, each in processes of their own."""

from __future__ import annotations

import numpy as np
import pytest

from ftkeras.doctor import parity
from ftkeras.doctor.parity import CASES, TOLERANCE, Comparison, compare_replicas, format_rows
from ftkeras.errors import TrainingError


@pytest.mark.slow
def test_replicas_and_workers_train_as_one_device():
    # The last two cases have all that the others have. `test_replicas.py` has two replicas.
    rows = compare_replicas((1, 4), (2,), list(CASES)[-2:])
    assert [row.where for row in rows] == ["4 replicas", "2 workers"] * 2
    for row in rows:
        assert row.worst < TOLERANCE and row.metrics < TOLERANCE / 10, row


def test_the_table_names_what_differs():
    good, bad = (
        Comparison("a", "2 replicas", 0.0, 1e-7, 0.0, 0.0),
        Comparison("b", "2 workers", 1.0, 0, 0, np.nan),
    )
    assert "All train as one device does" in format_rows([good])
    assert "more than 1e-05: b on 2 workers." in format_rows([good, bad])


def test_a_process_that_fails_is_said():
    with pytest.raises(TrainingError, match="(?s)comparing 1 replicas: a process failed: .*KeyErr"):
        compare_replicas((1,), (), ["no such case"])


def test_the_worst_of_a_row_shows_what_is_not_a_number():
    one = {"loss": [1.0, 2.0], "gradient": [1.0], "metrics": [[4.0]], "weights": [1.0, -8.0]}
    other = {"loss": [1.0, 2.5], "gradient": [1.0], "metrics": [[4.0]], "weights": [1.5, -8.0]}
    row = parity._compare("case", "2 replicas", one, other)
    assert row == Comparison("case", "2 replicas", 0.25, 0.0, 0.0, 0.0625)
    assert row.worst == 0.25
    broken = parity._compare("case", "2 replicas", one, {**other, "weights": [np.nan, 0.0]})
    assert np.isnan(broken.worst)
