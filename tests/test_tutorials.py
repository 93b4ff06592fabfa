"""The tutorials' commands run as written, with few examples and epochs, and print what is shown."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
import zipfile
from pathlib import Path

import pytest

from ftkeras.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(sh|python|text|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SMALL = {
    "tutorial_images.md": ["data.input.size=32", "backbone.cut=block_4_add"],
    "tutorial_texts.md": [
        *("backbone.recurrent.units=8", "export.saved_model=false", "phases[1].epochs=2"),
    ],
    "tutorial_alignment.md": [
        *("data.input.size=32", "backbone.cut=block_4_add", "alignment.backbone.recurrent.units=8"),
        *("alignment.units=16", "export.saved_model=false", "trunk.mode=on"),
    ],
}
"""More `--set` of the commands that read a config. One of the runs is exported, that of images."""
_EXAMPLES = {"emoji": 1000}
"""How many of each class and split are unpacked into a folder, if not 8."""
_UNSEEN = ("SavedModel", "refit")
"""Lines that begin so are of an export, and of trained weights that are kept."""

pytestmark = pytest.mark.slow


def run_line(line: str, small: list[str]) -> str | None:
    """Runs one line of a shell block, and returns what it printed; None if it is not run here."""
    given, _, command = line.rpartition(" | ")
    words = shlex.split(command)
    printed = io.StringIO()
    if words[:2] == ["ftkeras", "doctor"] or "/serving/" in command:
        return None  # tests/doctor costs enough; the other needs Docker
    if words[:3] == ["python", "-m", "zipfile"]:
        unpack(ROOT / words[4], Path(words[5]))
    elif words[0] == "head":
        lines = Path(words[3]).read_text(encoding="utf-8").splitlines(keepends=True)
        return "".join(lines[: int(words[2])])
    else:
        assert words[0] == "ftkeras"
        sets = [f"--set={change}" for change in small] if "--config" in command else []
        stdin = io.TextIOWrapper(io.BytesIO(given.removeprefix("echo ").encode()))
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(sys, "stdin", stdin)
            status = main([*words[1:], *sets])
        assert status == 0, printed.getvalue()
    return printed.getvalue()


def unpack(archive: Path, target: Path) -> None:
    """Unpacks a part: a few examples of each folder, or of each class of a table."""
    counts: dict[str, int] = {}
    most = _EXAMPLES.get(target.name, 8)
    with zipfile.ZipFile(archive) as packed:
        for name in sorted(packed.namelist()):
            folder = name.rpartition("/")[0]
            counts[folder] = counts.get(folder, 0) + 1
            if counts[folder] <= most:
                packed.extract(name, target)
    for table in target.glob("*.csv"):
        head, *rows = table.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = []
        for row in rows:
            key = ",".join(row.rsplit(",", 2)[1:])
            counts[key] = counts.get(key, 0) + 1
            kept += [row] if counts[key] <= most else []
        table.write_text(head + "".join(kept), encoding="utf-8")


def begins(line: str) -> str:
    """Returns the first word of a printed line, up to a number or a comma."""
    return re.split(r"[\d,]|^-", (line.split() or [""])[0])[0]


@pytest.mark.parametrize("page", SMALL)
def test_a_tutorial_runs_and_prints_what_it_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    small = [*SMALL[page], "phases[0].epochs=2"]
    printed: str | None = ""
    shown = 0
    for language, code in BLOCK.findall(text):
        if language == "sh":
            commands = re.sub(r"\\\n *", "", code).splitlines()
            ran = [run_line(line, small) for line in commands]
            printed = None if None in ran else "".join(map(str, ran))
        elif language == "yaml":
            Path(code.split()[1]).write_text(code, encoding="utf-8")  # its first line names it
        elif language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as captured:
                exec(compile(code, page, "exec"), {})
            printed = captured.getvalue()
        elif printed is not None:
            there = {begins(line) for line in printed.splitlines()}
            wanted = [line for line in code.splitlines() if line != "..." and begins(line)]
            for line in wanted:
                assert begins(line) in there or line.startswith(_UNSEEN), (line, printed)
            shown += len(wanted)
    assert shown > 20
