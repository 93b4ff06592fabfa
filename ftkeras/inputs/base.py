"""What an example is: the interface of every kind of input, without anything about a single kind.

A source yields *raw* examples: the bytes of a file, a string, an array. An `Input` turns them into
a model's inputs. All other code, from the source to the served model, does not depend on the kind.
"""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from ftkeras.errors import UserError

Tree: TypeAlias = "tf.Tensor | dict[str, tf.Tensor]"
"""A model's inputs for one example or a batch: a tensor, or several by the inputs' names."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a check of one raw example: leave it out (a reason), or read it from `path`.

    A note describes an example that is read.
    """

    path: str
    reason: str = ""
    note: str = ""


class View(NamedTuple):
    """A version of an example: always the same one, or one that a tensor picks.

    Args:
        names: The names of the possible versions, each one of `Input.views`.
        which: The index among them, an int32 scalar, if there are several.
    """

    names: tuple[str, ...]
    which: Any = 0

    def pick(self, make: Callable[[str], Any]) -> Any:
        """Returns what `make` returns for the version."""
        if len(self.names) == 1:
            return make(self.names[0])
        return tf.switch_case(self.which, [lambda name=name: make(name) for name in self.names])


class Wire(NamedTuple):
    """How examples are sent to a served model.

    Args:
        raw: The argument of signatures that take raw examples.
        feature: The feature of a tf.Example that holds one.
        prepared: The signature that takes the model's own inputs; also its argument's name, if
        there is one.
    """

    raw: str
    feature: str
    prepared: str


class Shown(NamedTuple):
    """An example that a report shows.

    Args:
        raw: As a source yields it.
        explained: The class for which the report shows what in the example supports it.
        beside: Whether there is room for a second drawing next to the example.
    """

    raw: Any
    explained: int
    beside: bool


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}  # of .npy files, by version

PLAIN = View(("none",))
"""The example as it is, without anything random."""


class Input:
    """One kind of example, from what a source yields to a model's inputs.

    A kind is a subclass. It must have `kind`, `noun`, and all that raises NotImplementedError here;
    it may replace the rest. Everything from `decode` on consists of TensorFlow operations. So
    tf.data and a served model run the same code and get the same numbers.

    Attributes:
        kind: The name of the kind: `data.input.kind` of a config.
        noun: The word for one example, "image"; `nouns` is the plural.
        files: The words for files that hold one example each.
        smaller: The field of a config that makes examples smaller, if there is one.
        starter: The archive of examples of this kind that ftkeras ships, if there is one.
        pad: The value that pads a dimension of None, by the name of the input; default: 0.
        version: Must change if `check` may decide differently.
        abilities: What only some kinds can do: by name, the module that does it. Names: "cards",
            "show", "corruptions", "looks", "duplicates", "features", "counts", "golden" and
            "levels". See `inputs.image` for examples of such modules.
    """

    kind: str
    noun: str
    files: str = "files"
    smaller: str = ""
    starter: str = ""
    pad: Mapping[str, Any] = MappingProxyType({})
    version: tuple[Any, ...] = ()
    abilities: Mapping[str, str] = MappingProxyType({})

    @property
    def nouns(self) -> str:
        """The word for several examples."""
        return f"{self.noun}s"

    @property
    def takes(self) -> Mapping[str, tf.TensorSpec]:
        """The model's inputs by name, as specs of one example, without the batch.

        A dimension of None is padded to the longest example of each batch.
        """
        raise NotImplementedError

    @property
    def raw(self) -> tf.TensorSpec:
        """The spec of a raw example."""
        raise NotImplementedError

    @property
    def cells(self) -> Sequence[str]:
        """The columns of a table that hold the example itself; if none, a column names its file."""
        return ()

    def in_cells(self, cells: Sequence[str]) -> bytes:
        """Returns the raw example in the cells of a table's line, one per column of `cells`."""
        return cells[0].encode()

    @property
    def sizes(self) -> Sequence[int]:
        """The sizes that dimensions of None are padded to, rising; none: the longest of a batch."""
        return ()

    @property
    def views(self) -> Sequence[str]:
        """The names of the versions of an example that training may use; "none" is the first."""
        return ("none",)

    @property
    def training_view(self) -> str:
        """The view that training uses: one of `views`."""
        return "none"

    @property
    def wire(self) -> Wire:
        """How examples are sent to a served model."""
        return Wire(self.noun, self.noun, "inputs")

    @property
    def mixes(self) -> bool:
        """Whether `mix` does anything."""
        return False

    @property
    def notes(self) -> Sequence[str]:
        """Notes that are printed before training starts."""
        return ()

    @property
    def facts(self) -> Mapping[str, Any]:
        """The input's part of a run's `data.json`, ready for JSON."""
        return {"input": self.kind}

    @property
    def serving_packages(self) -> Sequence[str]:
        """The packages with operations that a serving process must import besides TensorFlow."""
        return ()

    @property
    def resources(self) -> Sequence[Any]:
        """The resources that a SavedModel with `read` must track, such as tables."""
        return ()

    @property
    def title(self) -> str:
        """The model's inputs, in a few words for people."""
        return f"for {self.nouns}"

    def recipe(self, view: str = "none") -> str:
        """Returns a text that differs if a version's numbers could; it is part of a trunk's key."""
        raise NotImplementedError

    def fresh(self, view: str | None) -> Sequence[str]:
        """Returns which of several inputs a view makes new in each epoch, if the others stay.

        Args:
            view: One of `views`; None for the first.
        """
        return ()

    def accepts(self, name: str) -> bool:
        """Whether a file is an example, by its name; for arrays, a `.npy` file."""
        return self.raw.dtype != tf.string and name.endswith(".npy")

    def check(self, raw: bytes, name: str, key: str) -> Verdict:
        """Decides whether a file's content can be used.

        Args:
            raw: The content.
            name: The path of the file; empty if the content is from a file of many.
            key: A name for a normalised copy, unique to this content.

        Returns:
            The verdict; its path is `name`, or that of a copy to read instead.
        """
        if self.raw.dtype == tf.string:
            return Verdict(name)
        stream = io.BytesIO(raw)
        try:  # the header alone: it may claim any size
            read = _HEADERS[np.lib.format.read_magic(stream)]
            shape, _, dtype = read(stream)
        except (ValueError, KeyError):
            return Verdict(name, f"a {self.noun} is read from a .npy file with one array")
        if dtype.hasobject or len(raw) - stream.tell() != math.prod(shape) * dtype.itemsize:
            return Verdict(name, "damaged, or an array of Python objects")
        if self.raw.shape.is_compatible_with(shape):
            return Verdict(name)
        return Verdict(name, f"it holds an array {shape}, and a {self.noun} is {self.raw.shape}")

    def check_array(self, array: np.ndarray, where: str) -> np.ndarray:
        """Returns an array (n, ...) of raw examples in the form that `decode` takes.

        Raises:
            UserError: It holds no such examples; `where` names it.
        """
        return array

    def strangers(self, raw: bytes) -> tuple[list[str], int]:
        """Returns the parts of an example that the model does not know, of how many."""
        return [], 0

    def strangeness(self, inputs: Tree) -> np.ndarray:
        """Returns the share of each example that the model does not know, (b,).

        Args:
            inputs: A batch, as in `takes`.
        """
        return np.zeros(len(tf.nest.flatten(inputs)[0]))

    def decode(self, raw: tf.Tensor, view: View) -> Tree:
        """Returns an example after the steps that are the same every time, for a cache.

        Args:
            raw: As a source yields it.
            view: The versions that may follow; which one is not known yet.
        """
        raise NotImplementedError

    def prepare(self, kept: Tree, view: View, key: tf.Tensor) -> Tree:
        """Returns the model's inputs, as in `takes`.

        Args:
            kept: The result of `decode` for a view of the same names.
            view: The version.
            key: int32 (2,); it alone decides all that is random. PLAIN ignores it.
        """
        raise NotImplementedError

    def read(self, raw: tf.Tensor, view: View, key: tf.Tensor) -> Tree:
        """Returns `prepare` of `decode`, perhaps faster, if nothing is cached."""
        return self.prepare(self.decode(raw, view), view, key)

    def mix(self, batch: tuple[Any, ...], key: tf.Tensor) -> tuple[Any, ...]:
        """Returns a batch (inputs, labels[, weights]) of blended examples, in the same shapes.

        Args:
            batch: The inputs are a Tree, or a trunk's output for one: a tuple of tensors.
            key: int32 (2,); it alone decides all that is random.
        """
        return batch

    def ability(self, name: str) -> Any:
        """Returns the module with an ability; None if this kind does not have it."""
        home = self.abilities.get(name)
        return None if home is None else importlib.import_module(home)

    def able(self, name: str, verb: str, why: str = "") -> Any:
        """Returns the module with an ability that `verb` needs.

        Args:
            name: The ability.
            verb: The caller, for the error.
            why: A clause about its purpose.

        Raises:
            UserError: The kind does not have it.
        """
        module = self.ability(name)
        if module is None:
            raise UserError(
                f"{verb}: {self.nouns} have no {name!r}, {why or 'which it needs'}; see abilities "
                "in docs/inputs.md."
            )
        return module

    def why_not_mixed(self, specs: Sequence[Any]) -> str:
        """Returns why tensors of these specs (with a `shape`) cannot be mixed, or ""."""
        return ""


def ensure_takes(tree: Tree, takes: Mapping[str, tf.TensorSpec]) -> Tree:
    """Returns a tree of one example with the static shapes of the model's inputs."""
    if isinstance(tree, dict):
        return {name: tf.ensure_shape(tree[name], spec.shape) for name, spec in takes.items()}
    [spec] = takes.values()
    return tf.ensure_shape(tree, spec.shape)
