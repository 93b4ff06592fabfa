"""Feeds hostile input to ftkeras: each case must end in success or in one clear line.

    python tools/fuzz.py --configs=2000 --images=1000 --seed=0

Configs and command lines run in this process, through the command line itself. Those that are
accepted are bound to a small model, as `ftkeras plan` does. Files (images, texts, TFRecord shards,
manifests, arrays, weights, folders) run in child processes with limits on memory and time. They are
scanned as `train` scans them, and files that pass are read as training reads them.

With --served=N an exported model gets N damaged files, ten per request. It must answer the whole
files among them as it does without the damaged ones. The same seed makes the same cases. A case
that ends in another way is printed and kept, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from fuzzing import commands, files  # noqa: E402

from ftkeras.memory import peak_memory  # noqa: E402

SECONDS = 60  # of processor time for one case; by the clock, ten times that
BATCH = 250  # files a child process
MEMORY = 12 << 30  # address space of a child; TensorFlow alone reserves several GB
RESIDENT = 3 << 30  # what a child may really use


def main() -> int:
    """Runs both kinds of cases and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--configs", type=int, default=2000, help="configs and command lines")
    parser.add_argument("--images", type=int, default=1000, help="files of all kinds")
    parser.add_argument("--served", type=int, default=0, help="damaged files for a SavedModel")
    parser.add_argument("--bind", type=int, default=200, help="accepted configs to bind to a model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", default="fuzz-failures", help="the folder of failing cases")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return files.run_all(Path(options.child), SECONDS)
    with tempfile.TemporaryDirectory(prefix="ftkeras-fuzz-") as scratch:
        os.environ["FTKERAS_CACHE"] = os.path.join(scratch, "cache")
        failed = fuzz_commands(options, Path(scratch))
        failed += fuzz_files(options, Path(scratch), "file", options.images, files.make)
        requests = options.served // files.REQUEST
        failed += fuzz_files(options, Path(scratch), "request", requests, files.make_request)
    print("FAILED" if failed else "passed", f"({failed} cases ended otherwise)")
    return 1 if failed else 0


def fuzz_commands(options: argparse.Namespace, scratch: Path) -> int:
    """Runs configs and command lines; returns how many ended otherwise."""
    start, outcomes, failed = time.monotonic(), Counter[str](), 0
    folder = scratch / "commands"
    folder.mkdir()
    left = options.bind
    for number in range(options.configs):
        rng = random.Random(f"{options.seed}/command/{number}")
        case = commands.make(rng, folder)
        outcome = commands.run(case, SECONDS, bind=left > 0)
        left -= outcome.startswith("bound")
        outcomes[outcome.partition(":")[0]] += 1
        if outcome.startswith("BAD"):
            failed += 1
            kept = Path(options.keep) / f"command-{options.seed}-{number}"
            kept.mkdir(parents=True, exist_ok=True)
            (kept / "case.txt").write_text(f"{case.arguments}\n{outcome}\n", errors="replace")
            (kept / "config.yaml").write_bytes(case.config)
            print(f"command {number}: {str(case.arguments)[:200]} {outcome[-2000:]}")
    peak = peak_memory()
    if options.configs and peak > RESIDENT:
        failed += 1
        print(f"BAD: configs took {peak / 1e9:.1f} GB")
    _report("configs and command lines", outcomes, start, peak)
    return failed


def fuzz_files(
    options: argparse.Namespace,
    scratch: Path,
    what: str,
    count: int,
    make: Callable[[random.Random, Path], None],
) -> int:
    """Runs cases of files in children; returns how many ended otherwise."""
    start, outcomes, failed, peak = time.monotonic(), Counter[str](), 0, 0
    for first in range(0, count, BATCH):
        folder = scratch / f"{what}s-{first}"
        folder.mkdir()
        numbers = range(first, min(first + BATCH, count))
        for number in numbers:
            make(random.Random(f"{options.seed}/{what}/{number}"), folder / str(number))
        results = _run_children(folder, len(numbers))
        for name, (outcome, used) in results.items():
            peak = max(peak, used)
            if used > RESIDENT and not outcome.startswith("BAD"):
                outcome = f"BAD: took {used / 1e9:.1f} GB"
            kind = (folder / name / "kind").read_text()
            outcomes[f"{kind} {outcome.partition(':')[0]}"] += 1
            if outcome.startswith("BAD"):
                failed += 1
                kept = Path(options.keep) / f"{what}-{options.seed}-{name}"
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(folder / name, kept, symlinks=True, ignore=files.not_plain)
                print(f"{what} {name} ({kind}): {outcome[-2000:]}")
        shutil.rmtree(folder)
    _report(f"{what}s", outcomes, start, peak)
    return failed


def _run_children(folder: Path, count: int) -> dict[str, tuple[str, int]]:
    """Runs all cases of a folder; a child that dies is blamed on its case and started again."""
    results: dict[str, tuple[str, int]] = {}
    while len(results) < count:
        log = folder / "results.jsonl"
        command = [sys.executable, __file__, f"--child={folder}"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace",
                timeout=3600, preexec_fn=_limit,
            )  # fmt: skip
            how = f"the process ended with {done.returncode}: {done.stderr[-1500:]}"
        except subprocess.TimeoutExpired:
            how = "the process hung"
        lines = log.read_text().splitlines() if log.exists() else []
        for line in lines:
            row = json.loads(line)
            results[row["case"]] = (row["outcome"], row["peak"])
        begun = (folder / "begun").read_text() if (folder / "begun").exists() else ""
        if len(results) < count:
            if begun in results or not begun:
                raise SystemExit(f"the child could not run: {how}")
            with log.open("a") as file:
                row = {"case": begun, "outcome": f"BAD: {how}", "peak": 0}
                file.write(json.dumps(row) + "\n")
            results[begun] = (f"BAD: {how}", 0)
    return results


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _report(what: str, outcomes: Counter[str], start: float, peak: int) -> None:
    total, seconds = sum(outcomes.values()), time.monotonic() - start
    print(f"{what}: {total} in {seconds:.0f} s, at most {peak / 1e6:.0f} MB")
    for outcome, count in sorted(outcomes.items()):
        print(f"  {count:6} {outcome}")


if __name__ == "__main__":
    sys.exit(main())
