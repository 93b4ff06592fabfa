"""Shows which operations the time of a training step goes to.

    python tools/bench/operations.py --config=configs/two_phases.yaml --set phases[0].epochs=2

It trains through the config and watches some steps of its last phase with TensorFlow's profiler,
which makes them longer. Operations run side by side, and a large one on several cores, so the times
of all add up to more than a step. Export and report are off.
"""

from __future__ import annotations

import argparse
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

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

import ftkeras  # noqa: E402
from ftkeras.config.load import load_config  # noqa: E402
from ftkeras.console import table  # noqa: E402

FIRST, STEPS = 5, 20  # what is watched of a phase's last epoch
SHOWN = 12


class Profile(keras.callbacks.Callback):
    """Watches some steps of the last epoch of each `fit`; what the last one gave is kept.

    Args:
        scratch: The folder of the profiles.
    """

    def __init__(self, scratch: str):
        super().__init__()
        self.folder = ""
        """The path of the last profile; empty if nothing was watched in the last `fit`."""
        self.seconds = 0.0
        """How long the watched steps took."""
        self._scratch = scratch
        self._watching = False

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self.folder = ""

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._watching = epoch + 1 == self.params["epochs"]

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self._watching and batch == FIRST:
            self.folder = tempfile.mkdtemp(dir=self._scratch)
            tf.profiler.experimental.start(self.folder)
            self.seconds = -time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self._watching and batch == FIRST + STEPS - 1:
            self.seconds += time.perf_counter()
            tf.profiler.experimental.stop()


def main() -> None:
    """Runs the config and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default=str(ROOT / "configs" / "two_phases.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    options = parser.parse_args()
    config = load_config(options.config, ["export.saved_model=false", "report=false", *options.set])
    with tempfile.TemporaryDirectory(prefix="ftkeras-operations-") as scratch:
        os.environ["FTKERAS_CACHE"] = os.path.join(scratch, "cache")
        profile = Profile(scratch)
        plain = keras.Model.fit

        def fit(self: keras.Model, *args: Any, callbacks: list[Any], **kwargs: Any) -> Any:
            return plain(self, *args, callbacks=[*callbacks, profile], **kwargs)

        keras.Model.fit = fit
        ftkeras.train(config, os.path.join(scratch, "run"))
        traces = list(Path(profile.folder).rglob("*.xplane.pb")) if profile.folder else []
        if not traces:
            sys.exit(
                f"the last phase has no epoch of {FIRST + STEPS} steps or more that are calls of "
                "their own: a head that trains from a store takes 16 per call"
            )
        took = by_kind(traces[0])
    step = 1e3 * profile.seconds / STEPS
    total = sum(milliseconds for _, milliseconds in took.values())
    print(f"\n{step:.1f} ms per step under the profiler, {total:.1f} ms in its operations:")
    rows = sorted(took.items(), key=lambda row: row[1][1], reverse=True)
    print(
        table(
            [
                (kind, count, f"{milliseconds:.1f} ms", f"{milliseconds / total:.0%}")
                for kind, (count, milliseconds) in rows[:SHOWN]
            ],
            ("operation", "times per step", "took", "share"),
        )
    )


def by_kind(path: Path) -> dict[str, tuple[int, float]]:
    """Returns how often a step ran each kind of operation, and the milliseconds that it took."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    space.ParseFromString(path.read_bytes())
    counts: defaultdict[str, int] = defaultdict(int)
    picoseconds: defaultdict[str, int] = defaultdict(int)
    kinds = set(tf.raw_ops.__dict__)
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                # An operation's event is called "name in the graph:kind".
                kind = plane.event_metadata[event.metadata_id].name.rpartition(":")[2]
                if kind in kinds or kind.startswith("_"):  # as which TensorFlow rewrites others
                    counts[kind] += 1
                    picoseconds[kind] += event.duration_ps
    return {k: (round(counts[k] / STEPS), picoseconds[k] / STEPS / 1e9) for k in counts}


if __name__ == "__main__":
    main()
