"""The trunk's outputs for every example, in memory or on disk, read at random in the graph.

On disk a store is a folder named by its key. It has raw numbers in shards, one or more for each
tensor of the frontier, and a manifest. It gets that name only when it is complete.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf

from ftkeras.cache import Kept, cache_folder, remove
from ftkeras.data import dataset
from ftkeras.data.pipeline import At
from ftkeras.data.share import WHOLE, Share
from ftkeras.trunk.split import Spec

MANIFEST = "manifest.json"
_VERSION = 2
_CHUNK = 1 << 22  # bytes read at a time


@dataclass(frozen=True)
class Layout:
    """The layout of the numbers in a store.

    Args:
        specs: The tensors of the frontier.
        examples: The number of examples.
        views: How many augmented versions of each. A view holds all examples; views follow each
        other.
        dtype: How floating-point numbers are stored: float32, float16 or bfloat16.
        shard_rows: How many rows (an example in one view) a shard has; the last may have fewer.
    """

    specs: tuple[Spec, ...]
    examples: int
    views: int
    dtype: str
    shard_rows: int

    @property
    def rows(self) -> int:
        """The number of rows: how often the trunk ran."""
        return self.examples * self.views

    @property
    def shards(self) -> list[int]:
        """The number of rows of each shard."""
        starts = range(0, self.rows, self.shard_rows)
        return [min(self.shard_rows, self.rows - start) for start in starts]

    def stored(self, spec: Spec) -> tf.DType:
        """The type in which a tensor's numbers are stored."""
        return stored_dtype(spec, self.dtype)


def stored_dtype(spec: Spec, dtype: str) -> tf.DType:
    """Returns the type for storing a tensor: never wider than its own; integers stay integers."""
    own, asked = tf.as_dtype(spec.dtype), tf.as_dtype(dtype)
    return asked if own.is_floating and asked.size < own.size else own


class FrontierStore:
    """The frontier of every example, for training the tail.

    Args:
        layout: The layout.
        shards: For each tensor its shards, (rows, *shape), on the CPU.
        folder: The store's folder, or None for memory.
    """

    def __init__(self, layout: Layout, shards: Sequence[Sequence[tf.Tensor]], folder: Path | None):
        self.layout = layout
        self.folder = folder
        self._shards = tuple(map(tuple, shards))

    def gather(self, rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns the frontier of some rows, int64 (b,), each tensor in its layer's type."""
        tensors = zip(self.layout.specs, self._shards, strict=True)
        return tuple(tf.cast(self._rows(shards, rows), s.dtype) for s, shards in tensors)

    def _rows(self, shards: Sequence[tf.Tensor], rows: tf.Tensor) -> tf.Tensor:
        if len(shards) == 1:
            return tf.gather(shards[0], rows)
        which = tf.cast(rows // self.layout.shard_rows, tf.int32)
        within = rows % self.layout.shard_rows
        partitions = tf.dynamic_partition(tf.range(tf.size(rows)), which, len(shards))
        parts = [
            tf.gather(shard, tf.gather(within, partition))
            for shard, partition in zip(shards, partitions, strict=True)
        ]
        return tf.dynamic_stitch(partitions, parts)

    def read(
        self, split: dataset.Split, part: Share = WHOLE, sizes: Sequence[int] = ()
    ) -> StoredRows:
        """Returns the reader of the frontier's batches for `ftkeras.data.pipeline.batches`.

        The examples, their order and their labels are the same as without a store.

        Args:
            split: The examples of the store; with a `part`, all examples.
            part: The examples of the store: those from `index` on in steps of `count`. A batch then
                has only those of its examples, padded for this worker's replicas. They cannot be
                mixed.
            sizes: The lengths that batches of sequences may have; see `Input.sizes`.
        """
        stored = len(range(part.index, len(split), part.count))
        if stored != self.layout.examples:
            raise ValueError(
                f"the store has {self.layout.examples} examples, the split has {stored}"
            )
        return StoredRows(self, part if part.count > 1 else WHOLE, sizes=sizes)


@dataclass(frozen=True)
class StoredRows:
    """Reads the frontier of a batch of examples: a tensor (b, *shape), or a tuple of them.

    The epoch chooses the view.
    """

    store: FrontierStore
    part: Share = WHOLE
    # For whole batches: a step that runs once per example costs more than all others.
    by_batch = True
    pad: Mapping[str, Any] = field(default_factory=dict)
    sizes: Sequence[int] = ()

    def __call__(self, index: tf.Tensor, at: At) -> Any:
        """Returns the rows of the examples, int64 (b,)."""
        layout = self.store.layout
        rows = index // self.part.count + at.epoch % layout.views * layout.examples
        tensors = self._cut(self.store.gather(rows))
        return tensors if len(tensors) > 1 else tensors[0]

    def _cut(self, tensors: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        """Cuts sequences to the length that the batch would have without a store."""
        specs = self.store.layout.specs
        telling = [x for x, spec in zip(tensors, specs, strict=True) if spec.tells]
        if not (telling and self.sizes):
            return tensors
        some = tf.reduce_any(tf.cast(telling[0], tf.bool), axis=0)  # (length,)
        needed = tf.reduce_max(tf.where(some, tf.range(1, tf.size(some) + 1), 0))
        at = tf.searchsorted(tf.constant(self.sizes, tf.int32), [needed])[0]
        length = tf.constant([*self.sizes, self.sizes[-1]], tf.int32)[at]
        return tuple(
            x[:, :length] if spec.varies else x for x, spec in zip(tensors, specs, strict=True)
        )


# ------------------------------------------------------------------------------ on disk


def stores_folder() -> Path:
    """Returns the folder of all stores."""
    return cache_folder("trunk")


def is_there(key: str) -> bool:
    """Whether there is a store of that name; `open_store` checks whether it is complete."""
    return (stores_folder() / key).exists()


def open_store(key: str, report: Callable[[str], None] | None = None) -> FrontierStore | None:
    """Opens a store by its key, after comparing every byte with its checksums.

    Its numbers stay on disk; the system's page cache keeps them in memory if there is room.

    Args:
        key: The key, from `store_key`.
        report: Takes a line if a damaged store is removed.

    Returns:
        The store, or None if there is no complete store of that name.
    """
    folder = stores_folder() / key
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not folder.exists():
            return None
        manifest = {}
    except (OSError, ValueError):
        manifest = {}
    try:
        fault = None if manifest.get("version") == _VERSION else "its manifest cannot be read"
        fault = fault or check_shards(folder, manifest["shards"])
        if fault is None:
            os.utime(folder / MANIFEST)  # when it was last used, for `prune`
            return map_store(folder, manifest)
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        fault = f"its manifest or a shard cannot be read ({type(error).__name__})"
    if report is not None:
        report(f"trunk store {key}: {fault}; it is made again.")
    remove(folder)
    return None


def map_store(folder: Path, manifest: dict[str, Any]) -> FrontierStore:
    """Returns a store over the files of a folder, which are mapped into memory."""
    facts = manifest["layout"]
    specs = tuple(Spec(**{**spec, "shape": tuple(spec["shape"])}) for spec in facts["specs"])
    layout = Layout(**{**facts, "specs": specs})
    shards = []
    with tf.device("CPU:0"):
        for number, spec in enumerate(specs):
            shards.append(
                [
                    tf.raw_ops.ImmutableConst(
                        dtype=layout.stored(spec),
                        shape=(rows, *spec.shape),
                        memory_region_name=str(folder / shard_name(number, shard)),
                    )
                    for shard, rows in enumerate(layout.shards)
                ]
            )
    return FrontierStore(layout, shards, folder)


def shard_name(tensor: int, shard: int) -> str:
    """Returns the name of a shard's file."""
    return f"tensor-{tensor}-{shard:05d}.bin"


def as_manifest(layout: Layout, shards: dict[str, tuple[int, int]], about: str) -> dict[str, Any]:
    """Returns the manifest's content: the layout, and the bytes and checksum of each shard."""
    return {
        "version": _VERSION,
        "about": about,
        "layout": asdict(layout),
        "shards": {name: list(facts) for name, facts in shards.items()},
    }


def check_shards(folder: Path, shards: dict[str, list[int]]) -> str | None:
    """Returns what is wrong with a store's files, or None."""
    for name, (size, _) in shards.items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            return f"{name} is missing or incomplete"
    with ThreadPoolExecutor() as pool:  # zlib can run in several threads
        sums = pool.map(lambda name: _checksum(folder / name), shards)
        for (name, (_, expected)), actual in zip(shards.items(), sums, strict=True):
            if actual != expected:
                return f"{name} is damaged"
    return None


def _checksum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total = zlib.crc32(chunk, total)
    return total


def list_stores() -> list[Kept]:
    """Returns the stores on disk, the most recently used first."""
    stores = []
    for path in stores_folder().glob(f"*/{MANIFEST}"):
        if path.parent.name.startswith("."):
            continue
        try:
            about = json.loads(path.read_text(encoding="utf-8"))["about"]
            size = sum(file.stat().st_size for file in path.parent.iterdir())
            stores.append(Kept(path.parent, size, path.stat().st_mtime, about))
        except FileNotFoundError:
            continue  # another process removed it meanwhile
        except (ValueError, KeyError, TypeError):
            stores.append(Kept(path.parent, 0, 0.0, "damaged"))
    return sorted(stores, key=lambda store: store.used, reverse=True)
