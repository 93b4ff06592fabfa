"""Shows where the processor time of a run goes, stage by stage.

    python tools/bench/stages.py --config=configs/quickstart.yaml --set phases[0].epochs=10

A stage is some functions of the package, timed from outside while a whole run goes on; what one
stage calls of another counts for the other alone. Time is of all threads of the process. Export
and report are other processes' work in part, so they are off unless `--all` is given.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

STAGES = {
    "find and check the images": ["ftkeras.runs.build:images"],
    "build the model": ["ftkeras.runs.build:backbone", "ftkeras.runs.build:model"],
    "forecast": ["ftkeras.runs.assemble:plan_trunk"],
    "run the trunk": ["ftkeras.training.segments:get_stores"],
    "train": ["keras:Model.fit"],
    "validate": ["keras:Model.evaluate"],
    "save states and weights": [
        "ftkeras.training.resume.saving:SavedTraining.save",
        "ftkeras.training.resume.checkpoint:Checkpoints.on_epoch_end",
        "ftkeras.training.fit:save_last",
    ],
    "evaluate": ["ftkeras.runs.train:_evaluate_best"],
    "export": ["ftkeras.runs.train:_export_again"],
    "report": ["ftkeras.runs.train:_report_or_say_why"],
}


class Clock:
    """Gives each moment's processor time to the innermost stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._running = ["the rest"]
        self._last = time.process_time()

    def turn(self) -> None:
        """Books the time since the last turn."""
        now = time.process_time()
        self.seconds[self._running[-1]] += now - self._last
        self._last = now

    def watch(self, stage: str, target: str) -> None:
        """Has a function's time counted for a stage."""
        module, _, name = target.partition(":")
        holder: Any = importlib.import_module(module)
        *parts, last = name.split(".")
        for part in parts:
            holder = getattr(holder, part)
        original = getattr(holder, last)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.turn()
            self._running.append(stage)
            try:
                return original(*args, **kwargs)
            finally:
                self.turn()
                self._running.pop()

        setattr(holder, last, timed)


def main() -> None:
    """Runs the config and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default=str(ROOT / "configs" / "quickstart.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--all", action="store_true", help="export and report, too")
    options = parser.parse_args()
    clock = Clock()
    import ftkeras
    from ftkeras.config.load import load_config
    from ftkeras.console import table

    for stage, targets in STAGES.items():
        for target in targets:
            clock.watch(stage, target)
    off = [] if options.all else ["export.saved_model=false", "report=false"]
    config = load_config(options.config, [*off, *options.set])
    clock.turn()
    imported = clock.seconds.pop("the rest")
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ftkeras-stages-") as scratch:
        os.environ["FTKERAS_CACHE"] = os.path.join(scratch, "cache")
        ftkeras.train(config, os.path.join(scratch, "run"))
    clock.turn()
    rows = [("import", imported), *((name, clock.seconds[name]) for name in STAGES)]
    rows += [("the rest", clock.seconds["the rest"])]
    total = sum(seconds for _, seconds in rows)
    rows = [*(row for row in rows if row[1]), ("all", total)]
    print(
        f"\n{Path(options.config).name}: {time.monotonic() - start:.0f} s by the clock after import"
    )
    lines = [(name, f"{seconds:.1f} s", f"{seconds / total:.0%}") for name, seconds in rows]
    print(table(lines, ("stage", "processor time", "share")))


if __name__ == "__main__":
    main()
