"""Kills `ftkeras train` at random and at chosen moments, resumes it, and compares the results.

    nice python tools/kill_harness.py --kills=30 --seed=0

One run is left alone; each of the others is killed with SIGKILL, goes on, and must end with weights
equal to the bit and the same `metrics.jsonl` but for time and memory. Two configs in turn: one has
augmentation, dropout, accumulation, averaging and phases that end within an epoch, the other
trains from a stored trunk. First come kills at the start of named functions, then kills at random
times over the whole life of the process, some of them twice in one run.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

CONFIG = """
data: {{source: arrays, path: images.npz, image_size: 32, batch_size: 16, augmentation: {strength},
  split: {{val: 0.15, test: 0.15}}}}
backbone: {{name: backbone.keras}}
head: {{dropout: 0.3, hidden: [{{units: 8, dropout: 0.1}}]}}
phases:
  - {{name: head, train: [head], {length}, learning_rate: 3.0e-3, warmup: 0.2}}
  - {{name: top, train: [head, "blocks[-1:]"], epochs: 2, learning_rate: 1.0e-3, batch_norm: train}}
optimizer: {{accumulate: 3, clip_norm: 1.0}}
regularization: {{l2_sp: 1.0e-3}}
training: {{deterministic: true, average: {{decay: 0.9}}, checkpoint: {{every_steps: 4}}}}
trunk: {{mode: {trunk}}}
export: {{saved_model: {exports}}}
"""
CONFIGS = {
    "augmented": CONFIG.format(strength="light", length="steps: 13", trunk="'off'", exports="true"),
    "stored": CONFIG.format(strength="none", length="epochs: 2", trunk="'on'", exports="false"),
}

# Where a run certainly dies once: the function at whose call, and at which call.
MOMENTS = {
    "run folder made": ("ftkeras.run:Run.write_text", 2),
    "first state written": ("ftkeras.training.resume.state_file:_flush_to_disk", 1),
    "step": ("ftkeras.training.callbacks.divergence:DivergenceWatch.on_train_batch_end", 6),
    "state half written": ("ftkeras.training.resume.state_file:_bytes", 200),
    "state not yet renamed": ("ftkeras.training.resume.state_file:_flush_to_disk", 4),
    "old states removed": ("ftkeras.training.resume.checkpoint:Checkpoints.note_state", 5),
    "epoch recorded": ("ftkeras.run:Run.log", 2),
    "best weights written": ("ftkeras.training.resume.checkpoint:Checkpoints._path", 3),
    "phase left": ("ftkeras.phases.callback:StagedUnfreezing._leave", 1),
    "phase entered": ("ftkeras.phases.callback:StagedUnfreezing._set_up", 2),
    "validation": ("ftkeras.training.resume.saving:Saver.on_test_batch_end", 5),
    "store begun": ("ftkeras.trunk.writer:make_writer", 1),
    "store half written": ("ftkeras.trunk.writer:_DiskWriter.append", 3),
    "store not yet published": ("ftkeras.trunk.writer:_DiskWriter.finish", 2),
    "training over": ("ftkeras.training.resume.checkpoint:save_last", 1),
    "before evaluation": ("ftkeras.runs.train:_evaluate_best", 1),
    "evaluation": ("ftkeras.evaluation.predictions:save_predictions", 2),
    "result written": ("ftkeras.runs.train:_export_again", 1),
    "export half written": ("ftkeras.export.saved_model:_write_json", 1),
    "export being checked": ("ftkeras.export.certificate:certify_saved_model", 1),
    "finished": ("ftkeras.training.resume.checkpoint:States.remove", 1),
}
_STORED = ("store", "state", "step", "old", "phase left")  # moments of that config


# ------------------------------------------------------------------------ inside the process


def be_killed(arguments: list[str], path: Path, die_at: str | None) -> int:
    """Runs the command; writes down where it is, and dies at the asked call.

    Args:
        arguments: Of `ftkeras`.
        path: The file that says in which of the named functions the process is.
        die_at: "MODULE:NAME:COUNT", or None.
    """
    from ftkeras.cli.main import main

    importlib.import_module("ftkeras.runs.train")
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    wanted, _, count = (die_at or "").rpartition(":")
    for target, _ in MOMENTS.values():
        _mark(target, file, int(count) if target == wanted else 0)
    return main(arguments)


def _mark(target: str, file: int, deadly: int) -> None:
    """Has a function write its name down while it runs, and die at its `deadly`-th call."""
    module, _, name = target.partition(":")
    holder: Any = importlib.import_module(module)
    *classes, last = name.split(".")
    for part in classes:
        holder = getattr(holder, part)
    original: Callable[..., Any] = getattr(holder, last)
    calls = 0

    def marked(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        os.pwrite(file, f"in {name}".ljust(80).encode(), 0)
        if calls == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return original(*args, **kwargs)
        finally:
            os.pwrite(file, f"after {name}".ljust(80).encode(), 0)

    setattr(holder, last, marked)
    for path, loaded in list(sys.modules.items()):  # where it was imported by name
        if path.startswith("ftkeras.") and getattr(loaded, last, None) is original:
            setattr(loaded, last, marked)


# ---------------------------------------------------------------------------- around it


def _fork(function: Callable[[], int], log: Path) -> int:
    """Runs a function in a process of its own, and returns its id.

    TensorFlow, which takes seconds to import, is imported here but has not begun to work, so a copy
    of this process is as good as a new one.
    """
    process = os.fork()
    if process:
        return process
    status = 70
    try:
        output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = function()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(status)


def _wait(process: int, seconds: float | None = None) -> int | None:
    """Returns how a process ended, minus the signal that killed it; None if it has not yet."""
    end = None if seconds is None else time.monotonic() + seconds
    while end is not None and time.monotonic() < end:
        pid, status = os.waitpid(process, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None if end is not None else os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@dataclasses.dataclass
class Kill:
    """One SIGKILL: what was asked for, and where it hit."""

    asked: str
    hit: str


class Workshop:
    """A folder with images, a backbone and configs, and processes that train in it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def fill(self) -> None:
        """Makes 200 of the starter's images, a small backbone and the configs."""
        if _wait(_fork(self._fill, self.folder / "fill.log")) != 0:
            raise RuntimeError((self.folder / "fill.log").read_text())

    def _fill(self) -> int:
        import keras
        import numpy as np

        from ftkeras.data.load import load_data

        split = load_data("starter").splits["train"]
        images = np.stack([split.fetch(i).numpy() for i in range(200)])
        np.savez(self.folder / "images.npz", images=images, labels=split.labels[:200])
        keras.utils.set_random_seed(0)
        layers = [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255)]
        for number, width in enumerate((8, 16, 32)):
            layers += [
                keras.layers.Conv2D(width, 3, 2, use_bias=False, name=f"conv{number}"),
                keras.layers.BatchNormalization(name=f"norm{number}"),
                keras.layers.ReLU(name=f"relu{number}"),
            ]
        keras.Sequential(layers).save(self.folder / "backbone.keras")
        for name, text in CONFIGS.items():
            (self.folder / f"{name}.yaml").write_text(text)
        return 0

    def start(self, run: str, config: str | None, die_at: str | None = None) -> int:
        """Starts a process that trains, and returns its id; its output goes to RUN.log."""

        def train() -> int:
            os.chdir(self.folder)
            os.environ["FTKERAS_CACHE"] = f"{run}-cache"  # so that every run makes its own store
            arguments = ["train", f"--out={run}"] + ([f"--config={config}.yaml"] if config else [])
            return be_killed(arguments, Path(f"{run}.place"), die_at)

        return _fork(train, self.folder / f"{run}.log")

    def place(self, run: str) -> str:
        """Returns where a killed process was."""
        path = self.folder / f"{run}.place"
        text = path.read_text().strip() if path.exists() else ""
        records = self.folder / run / "metrics.jsonl"
        epochs = len(records.read_text().splitlines()) if records.exists() else 0
        return f"{text or 'before the first function'}, {epochs} epochs recorded"

    def is_finished(self, run: str) -> bool:
        """Returns whether a run says that it is done."""
        path = self.folder / run / "status.json"
        return path.exists() and json.loads(path.read_text())["state"] == "finished"

    def remove(self, run: str) -> None:
        """Removes a run and what belongs to it."""
        for path in self.folder.glob(f"{run}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def results(self, run: str) -> dict[str, Any]:
        """Returns what two runs must have in common."""
        target = self.folder / f"{run}.results"

        def write() -> int:
            target.write_text(json.dumps(results(self.folder / run)))
            return 0

        _wait(_fork(write, self.folder / f"{run}.log"))
        return json.loads(target.read_text())


def results(run: Path) -> dict[str, Any]:
    """Returns what two runs must have in common, arrays as their checksums."""
    import keras

    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        del record["seconds"], record["peak_memory_mb"]
    model = keras.models.load_model(run / "model.keras", compile=False, safe_mode=True)
    return {
        "model": [_checksum(array) for array in model.get_weights()],
        "last weights": _checksums(run / "checkpoints" / "last.weights.h5"),
        "record": records,
        "audit": json.loads((run / "plan.json").read_text())["audit"],
        "exports": sorted(str(path.relative_to(run)) for path in run.glob("export/*")),
        "evaluation": json.loads((run / "evaluation.json").read_text()),
        "state": json.loads((run / "status.json").read_text())["state"],
    }


def _checksum(array: Any) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _checksums(path: Path) -> dict[str, str]:
    import h5py

    checksums: dict[str, str] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                checksums.update({name: _checksum(item[()])})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    return checksums


def attempt(
    workshop: Workshop, run: str, config: str, kills: list[tuple[str, Any]]
) -> tuple[list[Kill], str]:
    """Trains one run, killed as asked, to its end; returns the kills and what went wrong."""
    done: list[Kill] = []
    for asked, how in [*kills, ("", None)]:
        begun = (workshop.folder / run / "config.yaml").exists()
        die_at = how if isinstance(how, str) else None
        process = workshop.start(run, None if begun else config, die_at)
        status = _wait(process, how) if isinstance(how, float) else None
        if status is None:
            if isinstance(how, float):
                os.kill(process, signal.SIGKILL)
            status = _wait(process)
        if status == -signal.SIGKILL:
            done.append(Kill(asked, workshop.place(run)))
        elif status == 0 or (done and status == 2 and workshop.is_finished(run)):
            return done, ""  # what was killed after it had finished has nothing to go on with
        else:
            return done, f"exit status {status}; see {workshop.folder / run}.log"
    return done, f"exit status {status} at the end"


def verdict(expected: dict[str, Any], actual: dict[str, Any]) -> str:
    """Returns "equal", or what differs."""
    return ", ".join(name for name in expected if actual[name] != expected[name]) or "equal"


def main() -> int:
    """Runs the harness and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="how many kills at least")
    parser.add_argument("--seed", type=int, default=0, help="of the random times")
    parser.add_argument("--moments", help="only these named moments, with commas between them")
    parser.add_argument("--configs", help="only these configs", default=",".join(CONFIGS))
    parser.add_argument("--folder", help="where to work; left out, a temporary folder")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory(prefix="kill-harness-") as scratch:
        folder = Path(options.folder or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        return _harness(Workshop(folder), options)


def _harness(workshop: Workshop, options: argparse.Namespace) -> int:
    from ftkeras.cli.quiet import import_tensorflow
    from ftkeras.console import table

    import_tensorflow()
    importlib.import_module("ftkeras.runs.train")
    workshop.fill()
    expected, lasted = {}, {}
    for config in options.configs.split(","):
        begin = time.monotonic()
        workshop.remove(f"whole-{config}")
        _, wrong = attempt(workshop, f"whole-{config}", config, [])
        lasted[config] = time.monotonic() - begin
        if wrong:
            print(f"the run that was left alone failed: {wrong}")
            return 1
        expected[config] = workshop.results(f"whole-{config}")
        print(f"{config}: left alone, {lasted[config]:.0f} s", flush=True)
    rows: list[tuple[object, ...]] = []
    bad = 0
    for number, (config, kills) in enumerate(_plan(options, lasted)):
        run = f"run-{number}"
        workshop.remove(run)
        done, wrong = attempt(workshop, run, config, kills)
        outcome = wrong or verdict(expected[config], workshop.results(run))
        bad += outcome != "equal"
        for kill in done or [Kill(kills[0][0], "not killed: it was done before")]:
            rows.append((len(rows) + 1, config, kill.asked, kill.hit, outcome))
            print(*rows[-1], sep=" | ", flush=True)
        if outcome == "equal":
            workshop.remove(run)
    print("\n" + table(rows, ("kill", "config", "asked", "hit", "outcome")))
    killed = sum("not killed" not in str(row[3]) for row in rows)
    print(f"\n{killed} kills in {number + 1} runs: {number + 1 - bad} ended equal, {bad} did not")
    return 1 if bad else 0


def _plan(
    options: argparse.Namespace, lasted: dict[str, float]
) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Returns (config, kills) of each run: the named moments, then random times."""
    chance = random.Random(options.seed)
    named = list(MOMENTS) if options.moments is None else options.moments.split(",")
    plan: list[tuple[str, list[tuple[str, Any]]]] = []
    for name in named:
        target, count = MOMENTS[name]
        config = "stored" if name.startswith(_STORED) else "augmented"
        if config in lasted:
            plan.append((config, [(f"at: {name}", f"{target}:{count}")]))
    planned = len(plan)
    while planned < options.kills:
        config = list(lasted)[len(plan) % len(lasted)]
        times = [chance.uniform(0, lasted[config]) for _ in range(chance.choice((1, 1, 2)))]
        plan.append((config, [(f"after {seconds:.1f} s", seconds) for seconds in times]))
        planned += len(times)
    return plan


if __name__ == "__main__":
    sys.exit(main())
