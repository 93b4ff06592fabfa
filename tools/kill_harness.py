"""Stops `ftkeras train` at chosen and at random moments, resumes it, and compares the results.

    nice python tools/kill_harness.py --kills=90 --seed=0

One run of each config is not stopped. Each other run is stopped by SIGKILL, SIGINT (Ctrl-C) or
SIGTERM, and resumes. It must end with weights equal to the bit and the same `metrics.jsonl`, except
for time and memory. After SIGINT and SIGTERM it must also have the right exit status and no
traceback.

Two configs take turns: one has augmentation, dropout, accumulation and phases that end within an
epoch, the other trains from a stored trunk. First come stops at the start of named functions, with
each signal. Then come stops at random times over the whole life of the process. Some stop a run
twice, some send a second signal after the first.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

CONFIG = """
data: {{source: arrays, path: images.npz, batch_size: 16,
  input: {{size: 32, augmentation: {strength}}},
  split: {{val: 0.15, test: 0.15}}}}
backbone: {{name: backbone.keras}}
head: {{dropout: 0.3, hidden: [{{units: 8, dropout: 0.1}}]}}
phases:
  - {{name: head, train: [head], {length}, learning_rate: 3.0e-3, warmup: 0.2}}
  - {{name: top, train: [head, "blocks[-1:]"], epochs: 2, learning_rate: 1.0e-3, batch_norm: train}}
optimizer: {{accumulate: {accumulate}, clip_norm: 1.0}}
regularization: {{l2_sp: 1.0e-3}}
training: {{deterministic: true, average: {{decay: 0.9}}, checkpoint: {{every_steps: {every}}}}}
trunk: {{mode: {trunk}}}
"""
CONFIGS = {
    "augmented": CONFIG.format(
        strength="light", length="steps: 13", every=4, trunk="'off'", accumulate=3
    ),
    # Several steps at a call: so a stop that comes within an epoch waits for its validation.
    "stored": CONFIG.format(
        strength="none", length="epochs: 2", every="null", trunk="'on'", accumulate=4
    ),
}
_SHORT = "export: {saved_model: false}\nreport: false\n"  # half of the time, if it isn't about them

# Moments at which each run stops once: the function, and which call of it.
MOMENTS = {
    "run is built": ("ftkeras.runs.assemble:assemble", 1),
    "run folder made": ("ftkeras.run:Run.write_text", 2),
    "first state written": ("ftkeras.state_file:write_state", 1),
    "step being traced": ("ftkeras.phases.optimizer:PhasedOptimizer._update", 1),
    "step": ("ftkeras.training.callbacks.divergence:DivergenceWatch.on_train_batch_end", 2),
    "state half written": ("ftkeras.state_file:_bytes", 80),
    "state not yet renamed": ("ftkeras.files:flush_to_disk", 8),
    "old states removed": ("ftkeras.training.resume.checkpoint:Checkpoints.note_state", 3),
    "epoch recorded": ("ftkeras.run:Run.log", 2),
    "best weights written": ("ftkeras.training.resume.checkpoint:Checkpoints._path", 3),
    "phase left": ("ftkeras.phases.runner:PlanRunner.close", 2),
    "phase entered": ("ftkeras.phases.runner:PlanRunner.set_up", 2),
    "first validation": ("ftkeras.training.resume.saving:Saver.on_test_begin", 1),
    "validation": ("ftkeras.training.resume.saving:Saver.on_test_batch_end", 2),
    "last validation": ("ftkeras.training.resume.saving:Saver.on_test_begin", 4),
    "store begun": ("ftkeras.trunk.writer:make_writer", 1),
    "store half written": ("ftkeras.trunk.writer:_DiskWriter.append", 3),
    "store not yet published": ("ftkeras.trunk.writer:_DiskWriter.finish", 2),
    "training over": ("ftkeras.training.resume.checkpoint:save_last", 1),
    "before evaluation": ("ftkeras.runs.train:_evaluate_best", 1),
    "evaluation": ("ftkeras.evaluation.predictions:save_predictions", 2),
    "result written": ("ftkeras.runs.train:_export_again", 1),
    "export half written": ("ftkeras.export.publish:write_json", 1),
    "export being checked": ("ftkeras.export.certificate:certify_saved_model", 1),
    "export asked in its own process": ("ftkeras.export.certificate:FreshProcess.answers", 1),
    "finished": ("ftkeras.training.resume.checkpoint:States.remove", 1),
    "report": ("ftkeras.report.files:add_gallery", 1),
}
_STORED, _WHOLE = (
    "store ",
    ("export", "report"),
)  # moments of that config, and of runs not cut short

STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 75}
_BETWEEN = 0.1  # seconds from a signal to the second
_STARTED = "before the first function"


@dataclasses.dataclass(frozen=True)
class Stop:
    """A stop that is planned: when, and by which signals.

    Args:
        when: "MODULE:NAME:COUNT", a function and at which of its calls; or seconds.
        signals: The first, and perhaps a second one, a moment later.
    """

    asked: str
    when: str | float
    signals: tuple[signal.Signals, ...]


@dataclasses.dataclass(frozen=True)
class Stopped:
    """A stop that was made: the plan of it, the moment that it hit, how long the process took to
    end."""

    planned: Stop
    hit: str
    seconds: float


# ------------------------------------------------------------------------ inside the process


def be_stopped(arguments: list[str], place: Path, stop: Stop | None) -> int:
    """Runs the command; records its progress, and sends itself signals at the planned call.

    Args:
        arguments: Of `ftkeras`.
        place: The file that says in which of the named functions the process is, or was when the
            signals came, and when that was.
        stop: A stop at a function, or None.
    """
    from ftkeras.cli.main import run

    importlib.import_module("ftkeras.runs.train")
    file = os.open(place, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    wanted, _, count = str(stop.when if stop else "").rpartition(":")
    note = _Note(file)
    for target in {target for target, _ in MOMENTS.values()}:
        _mark(target, note, int(count) if target == wanted else 0, stop.signals if stop else ())
    note(_STARTED)
    try:
        run(arguments)
    except SystemExit as end:
        return int(str(end.code))


class _Note:
    """Records in a file what the process is doing; the last note stays."""

    def __init__(self, file: int):
        self._file = file
        self._last = False

    def __call__(self, text: str, last: bool = False) -> None:
        if not self._last:
            os.pwrite(self._file, f"{text}|{time.monotonic()}".ljust(80).encode(), 0)
            self._last = last


def _mark(target: str, note: _Note, deadly: int, signals: tuple[signal.Signals, ...]) -> None:
    """Has a function note that it runs, and send the signals at its `deadly`-th call."""
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
        note(f"in {name}", last=calls == deadly)
        for number in signals if calls == deadly else ():
            os.killpg(0, number)  # as a terminal does: also to the processes that it started
        try:
            return original(*args, **kwargs)
        finally:
            note(f"after {name}")

    setattr(holder, last, marked)
    for path, loaded in list(sys.modules.items()):  # if it was imported by name
        if path.startswith("ftkeras.") and getattr(loaded, last, None) is original:
            setattr(loaded, last, marked)


# ---------------------------------------------------------------------------- around it


def _fork(function: Callable[[], int], log: Path) -> int:
    """Runs a function in a process and process group of its own, and returns its id.

    TensorFlow takes seconds to import. It is imported here but has not begun to work, so a copy of
    this process is as good as a new one.
    """
    process = os.fork()
    if process:
        return process
    status = 70
    try:
        os.setpgid(0, 0)
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
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None if end is not None else os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


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
        from ftkeras.inputs.image.decode import whole

        split = load_data("starter").splits["train"]
        images = np.stack([whole(split.fetch(i)).numpy() for i in range(200)])
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
            (self.folder / f"{name}.yaml").write_text(text + _SHORT)
            (self.folder / f"{name}-whole.yaml").write_text(text)
        return 0

    def start(self, run: str, config: str | None, stop: Stop | None = None) -> int:
        """Starts a process that trains, and returns its id; its output goes to RUN.log."""
        place = self.folder / f"{run}.place"
        place.unlink(missing_ok=True)

        def train() -> int:
            os.chdir(self.folder)
            os.environ["FTKERAS_CACHE"] = f"{run}-cache"  # so that every run makes its own store
            arguments = ["train", f"--out={run}"] + ([f"--config={config}.yaml"] if config else [])
            return be_stopped(arguments, place, stop)

        return _fork(train, self.log(run))

    def log(self, run: str) -> Path:
        """The file with the output of a run's processes."""
        return self.folder / f"{run}.log"

    def place(self, run: str) -> tuple[str, float]:
        """Returns what a process does, or did when it was stopped, and since when; first ""."""
        path = self.folder / f"{run}.place"
        text, _, since = (path.read_text() if path.exists() else "").partition("|")
        return text, float(since or 0)

    def epochs(self, run: str) -> int:
        """Returns how many epochs are recorded."""
        records = self.folder / run / "metrics.jsonl"
        return len(records.read_text().splitlines()) if records.exists() else 0

    def state(self, run: str) -> str:
        """Returns how a run says that it stands."""
        path = self.folder / run / "status.json"
        return json.loads(path.read_text())["state"] if path.exists() else "nothing"

    def remove(self, run: str) -> None:
        """Removes a run and what belongs to it."""
        for path in [*self.folder.glob(run), *self.folder.glob(f"{run}[.-]*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def results(run: Path) -> dict[str, Any]:
    """Returns what two runs must have in common, arrays as their checksums."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        del record["seconds"], record["peak_memory_mb"]
    with zipfile.ZipFile(run / "model.keras") as model:
        weights = io.BytesIO(model.read("model.weights.h5"))
    return {
        "model": _checksums(weights),
        "last weights": _checksums(run / "checkpoints" / "last.weights.h5"),
        "record": records,
        "audit": json.loads((run / "plan.json").read_text())["audit"],
        "exports": sorted(str(path.relative_to(run)) for path in run.glob("export/*")),
        "evaluation": json.loads((run / "evaluation.json").read_text()),
        "state": json.loads((run / "status.json").read_text())["state"],
    }


def _checksums(file: Path | io.BytesIO) -> dict[str, str]:
    import h5py

    found: dict[str, str] = {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = hashlib.sha256(item[()].tobytes()).hexdigest()

    with h5py.File(file) as opened:
        opened.visititems(add)
    return found


def attempt(
    workshop: Workshop, run: str, config: str, stops: list[Stop]
) -> tuple[list[Stopped], str]:
    """Trains one run, stopped as planned, to its end; returns the stops and what went wrong."""
    done: list[Stopped] = []
    for stop in [*stops, None]:
        begun = (workshop.folder / run / "config.yaml").exists()
        known = workshop.log(run).stat().st_size if workshop.log(run).exists() else 0
        at_call = stop is not None and isinstance(stop.when, str)
        process = workshop.start(run, None if begun else config, stop if at_call else None)
        status = None
        if stop is not None and isinstance(stop.when, float):
            while not workshop.place(run)[0]:
                time.sleep(0.01)
            status = _wait(process, stop.when)
            if status is None:
                hit, since = workshop.place(run)[0], time.monotonic()
                for number in stop.signals:
                    os.killpg(process, number)
                    time.sleep(_BETWEEN)
                status = _wait(process)
        else:
            status = _wait(process)
            hit, since = workshop.place(run)
        if status == 0 or (done and status == 2 and workshop.state(run) == "finished"):
            return done, ""  # what was stopped after it had finished has nothing to resume
        where = f"see {workshop.log(run)}"
        if stop is None or status not in [STATUS[number] for number in stop.signals]:
            return done, f"exit status {status}; {where}"
        hit = f"{hit}, {workshop.epochs(run)} epochs recorded"
        done.append(Stopped(stop, hit, time.monotonic() - since))
        if fault := _fault(status, workshop.state(run), workshop.log(run).read_text()[known:]):
            return done, f"{fault}; {where}"
    return done, f"exit status {status} at the end"


def _fault(status: int | None, state: str, said: str) -> str:
    """Returns what is wrong with the way in which a process ended."""
    if status == -signal.SIGKILL:
        return ""
    if "Traceback" in said or "Exception ignored" in said:
        return "there is a traceback"
    last = {75: "ftkeras: stopped by SIGTERM", 130: "ftkeras: interrupted"}[status or 0]
    if not said.endswith(f"\n{last}\n"):
        return f"the last line is not {last!r}"
    if state != "nothing" and "data      " in said and "\nstopped   " not in said:
        return "it had begun, and does not say how to resume"
    return ""


def verdict(expected: dict[str, Any], found: dict[str, Any]) -> str:
    """Returns "equal", or what differs."""
    return ", ".join(name for name in expected if found[name] != expected[name]) or "equal"


def main() -> int:
    """Runs the harness and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=90, help="how many stops at least")
    parser.add_argument("--seed", type=int, default=0, help="of the random times")
    parser.add_argument("--moments", help="only these named moments, separated by commas; or none")
    parser.add_argument("--configs", help="only these configs", default=",".join(CONFIGS))
    parser.add_argument("--signals", help="which to send, in turn", default="KILL,INT,TERM")
    parser.add_argument(
        "--per-run", type=int, default=1, help="how many named moments stop one run"
    )
    parser.add_argument("--folder", help="the folder to work in; left out, a temporary folder")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory(prefix="kill-harness-") as scratch:
        folder = Path(options.folder or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        return _harness(Workshop(folder.resolve()), options)


def _harness(workshop: Workshop, options: argparse.Namespace) -> int:
    from ftkeras.cli.quiet import import_tensorflow
    from ftkeras.console import table

    import_tensorflow()
    importlib.import_module("ftkeras.runs.train")
    workshop.fill()
    plan = _named(options)
    named = sum(len(stops) for _, stops in plan)
    expected, lasted = {}, {}
    for name in options.configs.split(","):
        begin = time.time()
        # Exports and the page change no result: a run with them stands for those without.
        whole = named < options.kills or f"{name}-whole" in dict(plan)
        config = f"{name}-whole" if whole else name
        workshop.remove(f"alone-{name}")
        _, wrong = attempt(workshop, f"alone-{name}", config, [])
        if wrong:
            print(f"the run that was left alone failed: {wrong}")
            return 1
        lasted[config] = time.time() - begin
        if whole:  # with nothing after the evaluation it would have taken so long
            evaluated = workshop.folder / f"alone-{name}" / "evaluation.json"
            lasted[name] = evaluated.stat().st_mtime - begin
        expected[name] = results(workshop.folder / f"alone-{name}")
        print(f"{config}: left alone, {lasted[config]:.0f} s", flush=True)
    plan += _at_random(options, lasted, named)
    rows: list[tuple[object, ...]] = []
    bad = 0
    for number, (config, stops) in enumerate(plan):
        run = f"run-{number}"
        workshop.remove(run)
        done, wrong = attempt(workshop, run, config, stops)
        outcome = wrong or _compared(workshop, run, config, expected)
        missed = [stop for stop in stops if stop not in [made.planned for made in done]]
        if not wrong and any(isinstance(stop.when, str) for stop in missed):
            outcome = "a moment never came"
        bad += outcome != "equal"
        for row in [*done, *(Stopped(stop, "not stopped", 0.0) for stop in missed)]:
            signals = "+".join(number.name for number in row.planned.signals)
            cells = (config, signals, row.planned.asked, row.hit, f"{row.seconds:.1f} s")
            rows.append((len(rows) + 1, *cells, outcome))
            print(*rows[-1], sep=" | ", flush=True)
        if outcome == "equal":
            workshop.remove(run)
    header = ("stop", "config", "signal", "asked", "hit", "ended after", "outcome")
    print("\n" + table(rows, header))
    made = sum(row[4] != "not stopped" for row in rows)
    print(f"\n{made} stops in {len(plan)} runs: {len(plan) - bad} ended equal, {bad} did not")
    return 1 if bad else 0


def _compared(
    workshop: Workshop, run: str, config: str, expected: dict[str, dict[str, Any]]
) -> str:
    name, _, whole = config.partition("-")
    found = results(workshop.folder / run)
    return verdict(expected[name] if whole else {**expected[name], "exports": []}, found)


def _named(options: argparse.Namespace) -> list[tuple[str, list[Stop]]]:
    """Returns (config, stops) of the runs that stop at named moments, each with every signal."""
    names = list(MOMENTS) if options.moments is None else options.moments.split(",")
    names = [name for name in names if name]
    signals = [signal.Signals[f"SIG{name}"] for name in options.signals.split(",")]
    configs = options.configs.split(",")
    by_config: dict[str, list[Stop]] = {}
    for turn, number in enumerate(signals):
        for position, name in enumerate(names):
            target, count = MOMENTS[name]
            config = configs[(turn + position) % len(configs)]
            config = "stored" if name.startswith(_STORED) else config
            config += "-whole" if name.startswith(_WHOLE) else ""
            stop = Stop(f"at: {name}", f"{target}:{count}", (number,))
            by_config.setdefault(config, []).append(stop)
    return [
        (config, stops[first : first + options.per_run])
        for config, stops in by_config.items()
        for first in range(0, len(stops), options.per_run)
    ]


def _at_random(
    options: argparse.Namespace, lasted: dict[str, float], planned: int
) -> list[tuple[str, list[Stop]]]:
    """Returns (config, stops) of the runs that stop at random times, until there are enough.

    Args:
        options: The command line's.
        lasted: By config how long a run takes that is left alone, in seconds.
        planned: How many stops there are already.
    """
    chance = random.Random(options.seed)
    signals = [signal.Signals[f"SIG{name}"] for name in options.signals.split(",")]
    polite = [number for number in signals if number != signal.SIGKILL]
    pairs = itertools.product(polite, repeat=2)
    turns = itertools.cycle([*((number,) for number in signals), *pairs])
    plan: list[tuple[str, list[Stop]]] = []
    while planned < options.kills:
        config = list(lasted)[len(plan) % len(lasted)]
        stops = []
        for _ in range(chance.choice((1, 1, 2))):
            seconds = chance.uniform(0, lasted[config])
            stops.append(Stop(f"after {seconds:.1f} s", seconds, next(turns)))
        plan.append((config, stops))
        planned += len(stops)
    return plan


if __name__ == "__main__":
    sys.exit(main())
