"""Makes a store: its size, its place, and writing it completely or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import tensorflow as tf

from ftkeras.config.schema import TrunkConfig
from ftkeras.memory import available_memory
from ftkeras.trunk.split import Spec
from ftkeras.trunk.store import (
    MANIFEST,
    FrontierStore,
    Layout,
    as_manifest,
    map_store,
    shard_name,
    stored_dtype,
    stores_folder,
)

_SHARD_BYTES = 256 << 20
_STALE_SECONDS = 24 * 3600.0  # after them another machine's unfinished store is removed
_BUILDING = ".building-"
_LARGEST_FLOAT16 = 65504.0


@dataclass(frozen=True)
class Placement:
    """Where a store goes, and why, in one line.

    Args:
        where: "disk" (it outlives the run), "memory", or "none": it is not made.
        reason: For people.
    """

    where: Literal["memory", "disk", "none"]
    reason: str


def estimate_bytes(specs: Sequence[Spec], rows: int, dtype: str) -> int:
    """Returns how many bytes a store takes.

    Example:
        >>> estimate_bytes([Spec((7, 7, 320), "float32")], 1000, "float16")
        31360000
    """
    return rows * sum(spec.size * stored_dtype(spec, dtype).size for spec in specs)


def choose_placement(needed: int, options: TrunkConfig) -> Placement:
    """Decides where a store goes: to disk if there is room, otherwise to memory, or nowhere.

    Disk comes first because other runs and later phases find the store there. Rows that are read
    often stay in the system's page cache, which is as fast as memory and is freed when needed.

    Args:
        needed: Bytes, from `estimate_bytes`.
        options: The limits.

    Example:
        >>> choose_placement(2_000_000, TrunkConfig(memory_mb=10, disk_mb=1)).where
        'memory'
    """
    on_disk, in_memory = options.disk_mb, options.memory_mb
    free = shutil.disk_usage(stores_folder()).free
    disk_budget = free // 5 if on_disk is None else on_disk << 20
    memory_budget = available_memory() // 2 if in_memory is None else in_memory << 20
    size, disk, memory = (_megabytes(n) for n in (needed, disk_budget, memory_budget))
    if needed <= disk_budget:
        return Placement("disk", f"{size} on disk, of {disk} allowed there")
    if needed <= memory_budget:
        return Placement("memory", f"{size} in memory: more than the {disk} allowed on disk")
    reason = f"{size} are needed, {disk} allowed on disk and {memory} in memory"
    return Placement("none", f"nothing is stored: {reason}")


def _megabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def plan_layout(
    specs: Sequence[Spec], *, examples: int, views: int = 1, dtype: str = "float32"
) -> Layout:
    """Returns a layout with shards of moderate size."""
    row = max(spec.size * stored_dtype(spec, dtype).size for spec in specs)
    return Layout(tuple(specs), examples, views, dtype, max(1, _SHARD_BYTES // row))


class Writer(Protocol):
    """Takes the frontier batch by batch, in the order of rows, and returns the store at the end."""

    def append(self, arrays: Sequence[np.ndarray]) -> None:
        """Adds rows: for each tensor of the frontier an array (b, *shape)."""

    def finish(self) -> FrontierStore:
        """Returns the store; every row must have been added."""

    def close(self) -> None:
        """Removes an unfinished store."""


def make_writer(layout: Layout, key: str | None, about: str = "") -> Writer:
    """Returns the writer of a store: to disk under its key, or to memory if there is no key.

    Example:
        ```python
        with contextlib.closing(make_writer(layout, key)) as writer:
            writer.append([features])
            store = writer.finish()
        ```
    """
    return _MemoryWriter(layout) if key is None else _DiskWriter(layout, key, about)


class _Rows:
    """Counts rows and cuts batches where a shard ends."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.done = 0
        self._types = [layout.stored(spec).as_numpy_dtype for spec in layout.specs]

    def cut(self, arrays: Sequence[np.ndarray]) -> Iterable[tuple[int, list[np.ndarray]]]:
        """Yields (shard, arrays in the stored type), each within one shard."""
        count = len(arrays[0])
        specs = self.layout.specs
        arrays = [_filled(array, spec) for array, spec in zip(arrays, specs, strict=True)]
        for spec, array in zip(specs, arrays, strict=True):
            if array.shape != (count, *spec.shape):
                raise ValueError(f"expected {(count, *spec.shape)} numbers, got {array.shape}")
        if self.done + count > self.layout.rows:
            raise ValueError(f"more rows than the store's {self.layout.rows}")
        at = 0
        while at < count:
            shard, within = divmod(self.done, self.layout.shard_rows)
            end = min(count, at + self.layout.shard_rows - within)
            parts = zip(arrays, self._types, strict=True)
            yield shard, [_narrow(array[at:end], dtype) for array, dtype in parts]
            self.done += end - at
            at = end

    def check_all_there(self) -> None:
        if self.done != self.layout.rows:
            raise ValueError(f"only {self.done} of {self.layout.rows} rows were added")


def _filled(array: np.ndarray, spec: Spec) -> np.ndarray:
    """Returns sequences (b, length, ...), padded to the stored length."""
    missing = spec.shape[0] - array.shape[1] if spec.varies else 0
    return np.pad(array, [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2)) if missing else array


def _narrow(array: np.ndarray, dtype: type) -> np.ndarray:
    if dtype == np.float16:  # numbers that are too large become the largest, not infinite
        array = np.clip(array, -_LARGEST_FLOAT16, _LARGEST_FLOAT16)
    return np.ascontiguousarray(array, dtype)


class _MemoryWriter:
    def __init__(self, layout: Layout):
        self._rows = _Rows(layout)
        self._tensors: list[list[tf.Tensor]] = [[] for _ in layout.specs]
        self._open: list[list[np.ndarray]] = [[] for _ in layout.specs]

    def append(self, arrays: Sequence[np.ndarray]) -> None:
        for shard, parts in self._rows.cut(arrays):
            if shard > len(self._tensors[0]):
                self._seal()
            for pieces, part in zip(self._open, parts, strict=True):
                pieces.append(part)

    def finish(self) -> FrontierStore:
        self._rows.check_all_there()
        self._seal()
        return FrontierStore(self._rows.layout, self._tensors, None)

    def close(self) -> None:
        self._open = []

    def _seal(self) -> None:
        """Makes a tensor of a full shard, so that at most one shard is held twice."""
        for tensors, pieces in zip(self._tensors, self._open, strict=True):
            whole = np.concatenate(pieces)
            pieces.clear()
            with tf.device("CPU:0"):
                tensors.append(tf.constant(whole))


class _DiskWriter:
    """Writes into a folder of its own, and renames that at the end.

    So a process that is killed leaves nothing that looks like a store. If two processes make the
    same store at once, the second takes the first one's.
    """

    def __init__(self, layout: Layout, key: str, about: str):
        self._rows = _Rows(layout)
        self._about = about
        self._final = stores_folder() / key
        remove_stale(stores_folder())
        prefix = f"{_BUILDING}{socket.gethostname()}-{os.getpid()}-"
        self._folder = Path(tempfile.mkdtemp(prefix=prefix, dir=self._final.parent))
        self._facts: dict[str, tuple[int, int]] = {}  # by shard: bytes, checksum

    def append(self, arrays: Sequence[np.ndarray]) -> None:
        for shard, parts in self._rows.cut(arrays):
            for tensor, part in enumerate(parts):
                name, data = shard_name(tensor, shard), part.view(np.uint8).data
                with (self._folder / name).open("ab") as file:
                    file.write(data)
                size, checksum = self._facts.get(name, (0, 0))
                self._facts[name] = size + data.nbytes, zlib.crc32(data, checksum)

    def finish(self) -> FrontierStore:
        self._rows.check_all_there()
        manifest = as_manifest(self._rows.layout, self._facts, self._about)
        (self._folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        try:
            os.replace(self._folder, self._final)
        except OSError:
            if not self._final.is_dir():  # otherwise another process made the same one first
                raise
            self.close()
        return map_store(self._final, manifest)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def remove_stale(folder: Path) -> None:
    """Removes unfinished stores of processes that have ended."""
    for path in folder.glob(".*"):
        with contextlib.suppress(OSError):
            old = time.time() - path.stat().st_mtime > _STALE_SECONDS
            if old or _maker_is_gone(path.name):
                shutil.rmtree(path, ignore_errors=True)


def _maker_is_gone(name: str) -> bool:
    host = f"{_BUILDING}{socket.gethostname()}-"
    process = name[len(host) :].split("-")[0] if name.startswith(host) else ""
    if not process.isdigit() or os.name != "posix":
        return False
    try:
        os.kill(int(process), 0)  # signal 0 only checks that the process exists
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
