"""The timeline of a command: rows that add up, and a trace that a viewer reads."""

import json
import threading
import time

import pytest

from ftkeras import timeline
from ftkeras.timeline import recorded, recording, stage


def test_time_counts_for_the_innermost_stage_and_the_rows_add_up():
    with recording() as line:
        with stage("outer"):
            time.sleep(0.02)
            with stage("inner"):
                time.sleep(0.2)
        with stage("inner"):
            sum(range(3_000_000))
        rows = {name: (clock, cpu) for name, clock, cpu in line.rows()}
    assert list(rows) == ["start of Python", "outer", "inner", "everything else"]
    assert rows["outer"][0] < 0.2 <= rows["inner"][0]
    assert rows["inner"][1] > 0
    assert sum(clock for clock, _ in rows.values()) == pytest.approx(line.now(), abs=0.2)


def test_the_first_row_is_what_python_took_before_the_recording():
    with recording() as line:
        assert line.now() > 0  # this process is older than the recording
        name, thread, begin, end = line.spans[0]
    assert (name, thread, begin) == ("start of Python", threading.get_ident(), 0.0)
    assert end == pytest.approx(line.rows()[0][1], abs=0.1)


def test_a_stage_in_another_thread_is_a_span_but_no_row():
    @stage("aside")
    def work():
        time.sleep(0.01)

    with recording() as line:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert [name for name, *_ in line.spans] == ["start of Python", "aside"]
    assert line.spans[1][1] != threading.get_ident()
    assert "aside" not in [name for name, *_ in line.rows()]


def test_a_stage_that_raises_ends():
    with recording() as line:
        with pytest.raises(KeyError), stage("fails"):
            raise KeyError
        with stage("next"):
            pass
    assert [name for name, *_ in line.spans] == ["start of Python", "fails", "next"]
    assert recorded() is None


def test_the_trace_nests_and_counts_cores(tmp_path):
    with recording() as line, stage("outer"), stage("inner"):
        time.sleep(3 * timeline._SAMPLE_SECONDS)
    line.write(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    spans = {event["name"]: event for event in events if event["ph"] == "X"}
    outer, inner = spans["outer"], spans["inner"]
    assert outer["ts"] <= inner["ts"]
    assert inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + 1
    assert all(event["args"]["cores"] >= 0 for event in events if event["ph"] == "C")
    assert any(event["ph"] == "C" for event in events)


def test_without_a_recording_a_stage_does_nothing():
    with stage("unseen"):
        assert recorded() is None
