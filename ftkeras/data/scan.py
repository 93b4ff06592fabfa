"""Checks every example before training does, several at a time, and remembers what it found."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import tensorflow as tf

from ftkeras.cache import Remembered, digest
from ftkeras.console import Progress
from ftkeras.errors import first_line
from ftkeras.inputs.base import Input, Verdict
from ftkeras.paths import shown, why_not_readable

T = TypeVar("T")
R = TypeVar("R")

MAX_BYTES = 256 << 20
_CHUNK = 256  # files in flight


def scan_files(paths: Sequence[str], about: str, kind: Input) -> list[Verdict]:
    """Examines files, several at a time; files that have not changed are not examined again.

    Args:
        paths: The files, anywhere that `tf.io.gfile` reads.
        about: What they belong to (a folder, a manifest); names the cache.
        kind: What they are examples of.

    Returns:
        A verdict for each path, in order.
    """
    known = Remembered("scan", about, *kind.version)

    def look(path: str) -> tuple[str, str, list[str] | None, Verdict]:
        if reason := why_not_readable(path):
            return path, "", None, Verdict(shown(path), reason)
        try:
            stat = tf.io.gfile.stat(path)
        except tf.errors.OpError:
            return path, "", None, Verdict(path, "no such file")
        stamp = f"{stat.length}:{stat.mtime_nsec}"
        fact = known.get(path, stamp)
        if isinstance(fact, list) and (not fact[0] or fact[1] or os.path.exists(fact[0])):
            return path, stamp, None, Verdict(fact[0] or path, *fact[1:])
        if stat.length > MAX_BYTES:
            verdict = Verdict(path, f"file of {stat.length >> 20} MiB; the limit is 256 MiB")
        else:
            try:
                with tf.io.gfile.GFile(path, "rb") as file:
                    verdict = kind.check(file.read(), path, digest(path, stamp))
            except (OSError, tf.errors.OpError) as error:
                return path, "", None, Verdict(path, f"cannot be read: {first_line(error)}")
        own = "" if verdict.path == path else verdict.path
        return path, stamp, [own, verdict.reason, verdict.note], verdict

    verdicts = []
    try:
        for path, stamp, fact, verdict in in_parallel(look, paths, "scan", len(paths), "file"):
            verdicts.append(verdict)
            if fact:
                known.put(path, stamp, fact)
    finally:
        known.save()  # also when interrupted: the next scan resumes from here
    return verdicts


def in_parallel(
    look: Callable[[T], R], items: Iterable[T], label: str, total: int | None, noun: str
) -> Iterator[R]:
    """Yields `look(item)` in order from a pool of threads, for what frees Python's lock."""
    progress = Progress(label, total, noun)
    remaining = iter(items)
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # libraries' remarks about odd but readable files
        while chunk := list(islice(remaining, _CHUNK)):
            for result in pool.map(look, chunk):
                progress.advance()
                yield result
    progress.close()
