"""What the trunk put out for every example, in memory or on disk, read at random in the graph.

On disk a store is a folder named by its key: raw numbers in shards, one or more for each tensor of
the frontier, and a manifest. It appears under that name only when it is whole.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from ftkeras.cache import cache_folder
from ftkeras.data import dataset
from ftkeras.data.order import balanced, make_weight, shuffled
from ftkeras.data.pipeline import Number, mixing_key, repeated, with_length
from ftkeras.data.share import WHOLE, Share, pad, with_rows
from ftkeras.inputs.image.mix import mix_batch
from ftkeras.trunk.split import Spec

DTYPES = ("float32", "float16", "bfloat16")
MANIFEST = "manifest.json"
_VERSION = 2
_CHUNK = 1 << 22  # bytes read at a time


@dataclass(frozen=True)
class Layout:
    """How the numbers of a store lie.

    Args:
        specs: The tensors of the frontier.
        examples: How many examples there are.
        views: How many augmented versions of each; all examples of a view come one after another.
        dtype: How floating-point numbers are stored: float32, float16 or bfloat16.
        shard_rows: How many rows (an example in one view) a shard holds; the last may hold fewer.
    """

    specs: tuple[Spec, ...]
    examples: int
    views: int
    dtype: str
    shard_rows: int

    @property
    def rows(self) -> int:
        """How many times the trunk ran."""
        return self.examples * self.views

    @property
    def shards(self) -> list[int]:
        """How many rows each shard holds."""
        starts = range(0, self.rows, self.shard_rows)
        return [min(self.shard_rows, self.rows - start) for start in starts]

    def stored(self, spec: Spec) -> tf.DType:
        """The type as which a tensor's numbers are stored."""
        return stored_dtype(spec, self.dtype)


def stored_dtype(spec: Spec, dtype: str) -> tf.DType:
    """Returns the type for storing a tensor: never wider than it is, and whole numbers as such."""
    own, asked = tf.as_dtype(spec.dtype), tf.as_dtype(dtype)
    return asked if own.is_floating and asked.size < own.size else own


class FrontierStore:
    """The frontier of every example, for training the tail.

    Args:
        layout: What is stored.
        shards: For each tensor its shards, (rows, *shape), on the CPU.
        folder: Where it lies, or None for memory.
    """

    def __init__(self, layout: Layout, shards: Sequence[Sequence[tf.Tensor]], folder: Path | None):
        self.layout = layout
        self.folder = folder
        self._shards = tuple(map(tuple, shards))

    def gather(self, rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns the frontier of some rows, int64 (b,), each tensor in its layer's own type."""
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

    def batches(
        self,
        split: dataset.Split,
        *,
        batch_size: int,
        training: bool = False,
        seed: int = 0,
        epoch: Number = 0,
        start: Number = 0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        balance: str = "none",
        drop_remainder: bool = False,
        share: Share = WHOLE,
    ) -> tf.data.Dataset:
        """Yields the batches of `ftkeras.data.pipeline.batches`, the frontier in place of images.

        Arguments that both have mean the same, and give the same examples in the same order.

        Args:
            split: The examples that the store was made of, or with a `share` all of them.
            batch_size: Examples a batch, over all devices.
            training: Whether to shuffle and balance; else all examples come once, in order.
            seed: Decides the order, together with `epoch`.
            epoch: Which pass over the data this is; it also chooses the view.
            start: How many examples of the epoch to leave out.
            mixup: Alpha of MixUp, which here blends the frontier; 0 is off.
            cutmix: Alpha of CutMix, likewise: every tensor of the frontier must be a map.
            balance: "none", "class_weights" or "sampling".
            drop_remainder: Whether to leave out the last batch where it is not full.
            share: Which examples the store is of: those from `index` on in steps of `count`. Each
                batch then has those of its examples that the store knows, padded for this worker's
                replicas, with `Rows` in place of the weights. It cannot be mixed.

        Returns:
            Batches (frontier, labels float32 (b, classes)[, weights float32 (b,)]), where the
            frontier is a tensor (b, *shape), or a tuple of them.
        """
        layout, count = self.layout, len(split)
        stored = len(range(share.index, count, share.count))
        if stored != layout.examples:
            raise ValueError(f"the store is of {layout.examples} examples, the split has {stored}")
        sampled = training and balance == "sampling"
        order = balanced(split, seed) if sampled else shuffled(count, seed)
        weigh = make_weight(split, balance if training else "none")
        target = split.make_target()

        @tf.autograph.experimental.do_not_convert
        def positions(_: tf.Tensor) -> tf.data.Dataset:
            # Variables are read here, when an epoch begins: all that is prefetched is of one epoch.
            now = tf.identity(tf.cast(epoch, tf.int64))  # a cast may hand a variable on as it is
            epoch_range = tf.data.Dataset.range(tf.cast(start, tf.int64), count)
            if sampled:  # the order of sampling takes one place at a time, the other a whole batch
                epoch_range = epoch_range.map(lambda position: (position, order(position, now)))
            else:
                epoch_range = tf.data.Dataset.zip((epoch_range, epoch_range))
            # By the batch from here on: a step that runs once an example costs more than the rest.
            taken = epoch_range.batch(batch_size, drop_remainder=drop_remainder)
            return tf.data.Dataset.zip((taken, repeated(now)))

        @tf.autograph.experimental.do_not_convert
        def read(taken: tuple[tf.Tensor, tf.Tensor], now: tf.Tensor) -> tuple[Any, ...]:
            epoch_positions, chosen = taken
            indices = order(chosen, now) if training and not sampled else chosen  # (b,)
            if share.count > 1:
                indices, *rows = _own_rows(indices, share)
            tensors = self.gather(indices // share.count + now % layout.views * stored)
            weight = () if weigh is None else (weigh(indices),)
            batch = (*tensors, target(indices), *weight)
            if training and (mixup or cutmix):
                key = mixing_key(seed, now, epoch_positions[0])
                batch = mix_batch(batch, key, mixup, cutmix, maps=len(tensors))
            tensors, others = batch[: len(tensors)], batch[len(tensors) :]
            batch = (tensors if len(tensors) > 1 else tensors[0], *others)
            return with_rows(batch, *rows) if share.count > 1 else batch

        data = tf.data.Dataset.from_tensors(0).flat_map(positions)
        data = data.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        data = data.prefetch(tf.data.AUTOTUNE)
        return with_length(data, count, start, batch_size, drop_remainder)


def _own_rows(indices: tf.Tensor, share: Share) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns which examples of a global batch (b,) this worker has stored: see `pad`."""
    own = tf.boolean_mask(indices, indices % share.count == share.index)
    real = tf.size(own)
    examples = tf.size(indices) / share.count  # of equally many, whatever is stored
    some = tf.concat([own, [share.index]], axis=0)[: tf.maximum(real, 1)]  # never none
    rows: tuple[tf.Tensor, tf.Tensor, tf.Tensor] = pad(
        some, share.replicas // share.count, real, examples
    )
    return rows


# ------------------------------------------------------------------------------ on disk


@dataclass(frozen=True)
class StoreInfo:
    """A store on disk.

    Args:
        key: Its name.
        bytes: What it takes on disk.
        used: When it was last opened, in seconds since 1970.
        about: What it is of, for people.
    """

    key: str
    bytes: int
    used: float
    about: str


def stores_folder() -> Path:
    """Returns the folder that all stores lie in."""
    return cache_folder("trunk")


def is_there(key: str) -> bool:
    """Whether there is a store of that name; whether it is whole, `open_store` finds out."""
    return (stores_folder() / key).exists()


def open_store(key: str, report: Callable[[str], None] | None = None) -> FrontierStore | None:
    """Opens a store by its key, having compared every byte with its checksums.

    Its numbers stay on disk; the system's page cache keeps in memory what there is room for.

    Args:
        key: What `store_key` returned.
        report: Gets a line where a damaged store is thrown away.

    Returns:
        None where there is no whole store of that name: it has to be made (again).
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
    remove_store(folder)
    return None


def map_store(folder: Path, manifest: dict[str, Any]) -> FrontierStore:
    """Returns a store over the files of a folder, mapped into memory and read where needed."""
    facts = manifest["layout"]
    specs = tuple(Spec(tuple(spec["shape"]), spec["dtype"]) for spec in facts["specs"])
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
    """Returns what the manifest says: the layout, and the bytes and checksum of each shard."""
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
            return f"{name} is missing or not whole"
    with ThreadPoolExecutor() as pool:  # zlib works on several files at once
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


def remove_store(folder: Path) -> None:
    """Removes a store whole: nobody sees half of it. Who has it open can go on reading."""
    going = folder.with_name(f".removed-{folder.name}-{os.getpid()}-{time.monotonic_ns()}")
    try:
        os.replace(folder, going)
    except FileNotFoundError:
        return
    shutil.rmtree(going, ignore_errors=True)


def list_stores() -> list[StoreInfo]:
    """Returns the stores on disk, the one that was used last first."""
    stores = []
    for path in stores_folder().glob(f"*/{MANIFEST}"):
        if path.parent.name.startswith("."):
            continue
        try:
            about = json.loads(path.read_text(encoding="utf-8"))["about"]
            size = sum(file.stat().st_size for file in path.parent.iterdir())
            stores.append(StoreInfo(path.parent.name, size, path.stat().st_mtime, about))
        except FileNotFoundError:
            continue  # another process removed it meanwhile
        except (ValueError, KeyError, TypeError):
            stores.append(StoreInfo(path.parent.name, 0, 0.0, "damaged"))
    return sorted(stores, key=lambda store: store.used, reverse=True)


def prune(*, max_bytes: int | None = None, older_than: float | None = None) -> list[StoreInfo]:
    """Removes stores, those that were not used for longest first, and returns what it removed.

    Args:
        max_bytes: Remove until the rest takes no more than this.
        older_than: Remove what was not used for this many seconds.
    """
    removed, total = [], 0
    for store in list_stores():
        old = older_than is not None and time.time() - store.used > older_than
        if old or (max_bytes is not None and total + store.bytes > max_bytes):
            remove_store(stores_folder() / store.key)
            removed.append(store)
        else:
            total += store.bytes
    return removed
