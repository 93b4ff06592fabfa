"""Pictures of a folder by a text: an index that is kept, refreshed by content, and ranked whole."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from ftkeras.cache import cache_folder, digest, keep
from ftkeras.console import counted
from ftkeras.errors import UserError
from ftkeras.evaluation.predict import each_output, expand_inputs
from ftkeras.paths import is_remote
from ftkeras.run import Run
from ftkeras.runs.finished import load_model
from ftkeras.runs.task import task_of
from ftkeras.tasks.alignment.pairs import Pair
from ftkeras.tasks.alignment.results import check_words, encode_texts
from ftkeras.tasks.alignment.retrieval import unit

_BATCH = 64


@dataclass
class Index:
    """The embeddings of files.

    Args:
        files: Their paths.
        stamps: Size and time of each, int64 (n, 2): a file with another one is read again.
        contents: A digest of each file's bytes: the same bytes are not encoded again.
        vectors: Unit vectors float32 (n, units); 0 of a file that is no picture.
    """

    files: list[str] = field(default_factory=list)
    stamps: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    contents: list[str] = field(default_factory=list)
    vectors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def sound(self) -> np.ndarray:
        """Returns which files are pictures: their places, ascending."""
        return np.flatnonzero(self.vectors.any(axis=1))

    def best(self, query: np.ndarray, count: int) -> list[tuple[str, float]]:
        """Returns the nearest files with their cosines, the nearest first.

        Args:
            query: A unit vector (units,).
            count: How many, at most.
        """
        if not self.files:
            return []
        cosines = self.vectors @ query.astype(np.float32)
        sound = self.sound()
        some = sound[np.argpartition(-cosines[sound], min(count, len(sound)) - 1)[:count]]
        some = some[np.argsort(-cosines[some], kind="stable")]
        return [(self.files[i], float(cosines[i])) for i in some]

    def save(self, path: str) -> None:
        """Writes the index as one file, whole or not at all."""
        texts = {"files": _packed(self.files), "contents": _packed(self.contents)}
        keep(Path(path), {"vectors": self.vectors, "stamps": self.stamps, **texts})

    @classmethod
    def load(cls, path: str) -> Index:
        """Returns what `save` wrote; an empty one if there is none, or it is damaged."""
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as arrays:
                files, contents = (_unpacked(arrays[name]) for name in ("files", "contents"))
                found = cls(files, arrays["stamps"], contents, arrays["vectors"])
            if len(files) == len(contents) == len(found.stamps) == len(found.vectors):
                return found
        return cls()


class Searcher:
    """Ranks folders by texts with one run's model.

    Args:
        run: A finished run of the task alignment.

    Raises:
        UserError: The run is of another task, or has no model.

    Example:
        ```python
        searcher = Searcher(Run.open("runs/alignment"))
        index = searcher.index(["photos/"])
        for file, cosine in index.best(searcher.encode("a red fruit"), 5):
            print(f"{cosine:.3f}", file)
        ```
    """

    def __init__(self, run: Run):
        config = run.config
        if config.task != "alignment":
            raise UserError(
                f"search: {run.folder} is a run of the task {config.task}; only a run of the task "
                "alignment ranks pictures by texts."
            )
        self.model = load_model(run)
        pair = task_of(config).input(config, self.model)
        assert isinstance(pair, Pair)
        self._pair = pair
        self._name = digest(*(fingerprint(layer) for layer in self._towers), pair.picture.recipe())

    @property
    def _towers(self) -> Sequence[keras.Model]:
        return [self.model.get_layer(name) for name in self._pair.sides]

    def index(self, places: Sequence[str]) -> Index:
        """Returns the index of files, folders and patterns; encodes what is new, keeps the rest.

        Args:
            places: What `ftkeras predict` takes.

        Raises:
            UserError: There is no picture, or none that can be read.
        """
        found = expand_inputs(
            places, self._pair.picture, lambda line: print(line, file=sys.stderr), "search"
        )
        files = [str(path) for path in found]
        about = digest(self._name, *(os.path.abspath(place) for place in places))
        path = str(cache_folder("search") / f"{about}.npz")
        old, stamps = Index.load(path), np.array([_stamp(file) for file in files], np.int64)
        index = old
        if old.files != files or not np.array_equal(old.stamps, stamps):
            index = self._refreshed(old, files, stamps)
            index.save(path)
        if not len(index.sound()):
            raise UserError(
                f"search: none of {counted(len(files), 'file')} can be read as a picture, for "
                f"example {files[0]}. Name other files or folders."
            )
        return index

    def _refreshed(self, old: Index, files: list[str], stamps: np.ndarray) -> Index:
        """Returns an index of files: what is known of a file, or of its content, is taken over."""
        before = {file: i for i, file in enumerate(old.files)}
        by_content = {content: i for i, content in enumerate(old.contents)}
        units = self.model.get_layer(self._pair.picture.nouns).output_shape[-1]
        new = Index(files, stamps, [], np.zeros((len(files), units), np.float32))
        missing, known_stamps = [], old.stamps.tolist()
        for place, (file, stamp) in enumerate(zip(files, stamps.tolist(), strict=True)):
            known = before.get(file)
            if known is None or known_stamps[known] != stamp:
                content = _content(file)
                known = by_content.get(content)
            else:
                content = old.contents[known]
            new.contents.append(content)
            if known is None:
                missing.append(place)
            else:
                new.vectors[place] = old.vectors[known]
        self._encode(new, missing)
        return new

    def _encode(self, index: Index, places: Sequence[int]) -> None:
        tower, _ = self._towers
        asked = [index.files[place] for place in places]
        faults = []
        for place, (_, error, said) in zip(
            places, each_output(tower, asked, self._pair.picture, _BATCH), strict=True
        ):
            if error:
                faults.append(f"{index.files[place]}: {error}")
            else:
                index.vectors[place] = unit(said[np.newaxis])[0]
        if faults:
            print(
                f"note      {counted(len(faults), 'file')} left out ({faults[0]})", file=sys.stderr
            )

    def encode(self, text: str) -> np.ndarray:
        """Returns the embedding of a text, a unit vector (units,).

        Raises:
            UserError: The text cannot be used, or none of its words is known.
        """
        check_words([text], self._pair.text, "search")
        _, tower = self._towers
        return encode_texts(tower, [text], self._pair.text)[0]


def fingerprint(tower: keras.Model) -> str:
    """Returns a digest of a tower's weights."""
    made = hashlib.blake2b(digest_size=16)
    for weight in tower.get_weights():
        made.update(np.ascontiguousarray(weight).tobytes())
    return made.hexdigest()


def _packed(texts: Sequence[str]) -> np.ndarray:
    """Returns texts as bytes: to read an array of 100,000 strings takes half a second."""
    return np.frombuffer("\0".join(texts).encode("utf-8", "surrogateescape"), np.uint8)


def _unpacked(packed: np.ndarray) -> list[str]:
    text = packed.tobytes().decode("utf-8", "surrogateescape")
    return text.split("\0") if text else []


def _stamp(file: str) -> tuple[int, int]:
    """Returns size and time of a file; -1 if it is gone."""
    try:
        if is_remote(file):
            facts = tf.io.gfile.stat(file)
            return facts.length, facts.mtime_nsec
        info = os.stat(file)  # a tenth of the time
        return info.st_size, info.st_mtime_ns
    except (tf.errors.OpError, OSError):
        return -1, -1


def _content(file: str) -> str:
    """Returns a digest of a file's bytes; of a file that cannot be read, of its name."""
    made = hashlib.blake2b(digest_size=16)
    try:
        with tf.io.gfile.GFile(file, "rb") as stream:
            while chunk := stream.read(1 << 20):
                made.update(chunk)
    except tf.errors.OpError:
        return f"unreadable {file}"
    return made.hexdigest()
