"""What libraries write to standard error themselves: known remarks are left out, the rest comes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

from ftkeras.cli.main import run as run_command
from ftkeras.cli.remarks import OF_TENSORFLOW, ON_IMAGES, SHOW, Sieve

if not hasattr(os, "fork"):
    pytest.skip("remarks are left out by a process that is forked", allow_module_level=True)

REMARK = b"Corrupt JPEG data: 18 extraneous bytes before marker 0xc4\n"
NOTE = f"note      1 remark of libraries on images left out; {SHOW}=1 shows it\n"
LOGGED = b"I0000 00:00:1796071711.263058    4029 port.cc:153] oneDNN custom operations are on.\n"
CRASH = b"F0000 00:00:1796070587.048103 19902 tensor.cc:9] Check failed: 1 == 2\n"

RUN = """
import os, signal, subprocess, sys
import ftkeras.cli.main as command

REMARK = {remark!r}

def c(text):  # as C and C++ code does it
    os.write(2, text)

def main(arguments):
{lines}
    return 0

command.main = main
command.run([])
"""


def start(lines: str, flags=(), env=None, **options) -> subprocess.Popen[str]:
    """Starts the command line; in place of a verb it runs these lines."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    others = {k: v for k, v in os.environ.items() if k not in (SHOW, "TF_CPP_MIN_LOG_LEVEL")}
    options = {"text": True, "env": others | (env or {}), **pipes, **options}
    return subprocess.Popen([sys.executable, *flags, "-c", code_of(lines)], **options)


def code_of(lines: str) -> str:
    """Returns a script that runs these lines instead of a verb."""
    indented = "".join(f"    {line}\n" for line in lines.splitlines())
    return RUN.format(remark=REMARK, lines=indented)


def errors_of(lines: str, status: int = 0, **options) -> str:
    """Returns what comes out at standard error."""
    process = start(lines, **options)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == status, errors
    assert output == ""
    return errors


CHILD = """subprocess.run([sys.executable, "-c", f"import os; os.write(2, {REMARK!r} + b'x')"])"""
WITHIN = "import ftkeras.console\nwith ftkeras.console."


@pytest.mark.parametrize(
    ("lines", "printed"),
    [
        pytest.param("c(REMARK)", NOTE, id="known"),
        pytest.param("c(REMARK + b'other')", "other\n" + NOTE, id="known and other"),
        pytest.param("c(b'a ' + REMARK)", "a " + REMARK.decode(), id="within a line"),
        pytest.param(
            "c(b'WARNING: All log messages before absl::InitializeLog() is')", "", id="head"
        ),
        pytest.param("c(b'x' * 200_000 + b'\\n' + REMARK)", "x" * 200_000 + "\n" + NOTE, id="long"),
        pytest.param(CHILD, "x\n" + NOTE, id="child"),
        pytest.param(f"{WITHIN}silenced(2): c(REMARK + b'other')", "", id="quiet"),
        pytest.param(f"{WITHIN}kept_back(2): print(1, file=sys.stderr)", "", id="kept back"),
        pytest.param(
            "print('Corrupt JPEG data: ', file=sys.stderr)", "Corrupt JPEG data: \n", id="py"
        ),
    ],
)
def test_known_remarks_are_left_out_and_counted_and_all_else_is_printed(lines, printed):
    assert errors_of(lines) == printed


def test_a_variable_shows_them_and_a_level_those_of_tensorflow():
    assert errors_of("c(REMARK)", env={SHOW: "1"}) == REMARK.decode()
    assert errors_of(f"c({LOGGED!r})") == ""
    logged = errors_of(f"c({LOGGED!r} + REMARK)", env={"TF_CPP_MIN_LOG_LEVEL": "0"})
    assert logged == LOGGED.decode() + NOTE


@pytest.mark.parametrize(
    ("lines", "end", "flags", "printed"),
    [
        (f"c({CRASH!r}); os.abort()", signal.SIGABRT, (), re.escape(CRASH.decode())),
        ("c(b'half'); os.kill(os.getpid(), 9)", signal.SIGKILL, (), "half"),
        ("os.kill(os.getpid(), 11)", signal.SIGSEGV, ("-X", "faulthandler"),
         "Fatal Python error: Segmentation fault\n.*most recent call first.*"),
    ],
    ids=["a failed check", "killed", "faulthandler"],
)  # fmt: skip
def test_the_last_words_of_a_crash_are_printed(lines, end, flags, printed):
    errors = errors_of(lines, -end, flags=flags)
    assert re.fullmatch(printed, errors, re.DOTALL), errors


def test_ctrl_c_stops_the_command_and_not_what_passes_its_lines_on():
    """A terminal sends it to the whole group; a scheduler may send the others."""
    # A shell starts what runs in the background with Ctrl-C ignored; so it may have started pytest.
    lines = "signal.signal(2, signal.default_int_handler)\n"
    lines += "for number in (1, 10, 15): signal.signal(number, signal.SIG_IGN)\n"
    lines += "c(REMARK)\nfor number in (1, 10, 15): os.killpg(0, number)\n"
    lines += "try: os.killpg(0, signal.SIGINT)\nfinally: c(b'after\\n')"
    errors = errors_of(lines, 130, start_new_session=True)
    assert errors.endswith(NOTE)
    assert "ftkeras: interrupted" in errors and "after" in errors


def test_a_line_that_is_not_ended_is_printed_all_the_same():
    with start("c(b'press a key? '); sys.stdin.readline()") as process:
        assert process.stderr.read(13) == "press a key? "  # it still waits
        _, errors = process.communicate("\n", timeout=100)
        assert (process.returncode, errors) == (0, "")


def test_a_reader_that_leaves_and_a_child_that_stays_stop_nothing():
    """As `ftkeras train 2>&1 | head`, and as a server that a command leaves behind."""
    with start("sys.stdin.readline(); c(b'x' * 1_000_000)") as process:
        process.stderr.close()
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(timeout=100) == 0

    code = "subprocess.Popen(['sleep', '600'], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)"
    with start(f"print({code}.pid)\nc(b'there')") as process:
        child = int(process.stdout.readline())
        try:
            assert process.wait(timeout=100) == 0
        finally:
            os.kill(child, signal.SIGKILL)
        assert process.stderr.read() == "there"


def test_on_a_terminal_python_sees_the_terminal_and_c_code_does_not():
    import pty

    ours, theirs = pty.openpty()
    code = "c(REMARK)\nprint(sys.stderr.isatty(), os.isatty(2), file=sys.stderr)"
    with start(code, stderr=theirs) as process:
        os.close(theirs)
        assert process.wait(timeout=100) == 0
    assert os.read(ours, 1000).decode().replace("\r", "") == "True False\n" + NOTE
    os.close(ours)


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_ones_else(closed):
    lines = "c(REMARK + b'other')\nprint('lost', file=sys.stderr)\n"
    lines += "print(open(os.devnull).fileno() > 2)"
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code_of(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = "" if ">&- 2" in closed else "True\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


def test_within_another_program_descriptor_2_is_left_alone(monkeypatch):
    seen = []

    def main(arguments):
        seen.append(os.fstat(2).st_ino)
        return 0

    monkeypatch.setattr("ftkeras.cli.main.main", main)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit):
        run_command([])
    assert seen == [os.fstat(2).st_ino]


@pytest.mark.parametrize(
    "line",
    [
        b"F0000 00:00:1796070587.048103 19902 tensor.cc:9] Check failed",
        b"E0000 00:00:1796070587.048103 19902 jpeg_mem.cc:331] Premature end of JPEG data.",
        b"Corrupt data file", b"Bogus", b"Invalid argument", b"Unsupported GPU", b"Killed", b"",
        b"terminate called after throwing an instance of 'std::bad_alloc'",
    ],
)  # fmt: skip
def test_what_no_row_names_is_passed_on_as_it_came(line):
    sieve = Sieve(ON_IMAGES | OF_TENSORFLOW)
    assert sieve.sift(line + b"\r\n\n") == line + b"\r\n\n"
    assert not sieve.on_images


def test_a_remark_that_comes_in_pieces_is_known_by_all_of_it():
    sieve = Sieve(ON_IMAGES)
    assert sieve.sift(REMARK[:9]) == b"" and sieve.held
    assert sieve.sift(REMARK[9:-1]) == b""
    assert sieve.sift(b"", late=True) == b""  # its end is missing, and it is known
    assert sieve.sift(b"\nhalf") == b"" and sieve.on_images == 1
    assert sieve.sift(b"", late=True) == b"half"
    assert sieve.sift(b" a line, " + REMARK) == b" a line, " + REMARK
