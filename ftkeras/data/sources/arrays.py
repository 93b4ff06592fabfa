"""A NumPy .npz file with examples and labels."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from ftkeras.console import counted
from ftkeras.data.dataset import Listing
from ftkeras.data.reading import from_array, read_whole
from ftkeras.errors import UserError, did_you_mean
from ftkeras.inputs.base import Input
from ftkeras.memory import available_memory

_PARTS = ("train", "val", "test")


def find(
    *,
    path: str,
    parts: Mapping[str, str],
    kind: Input,
    class_names: Sequence[str] | None = None,
) -> Listing:
    """Finds the examples of an .npz file; nothing in it is unpickled.

    Args:
        path: The file: an array (n, ...) that is called what they are, and `labels`,
            (n,) class indices or (n, classes) zeros and ones; or `x_train`, `y_train`, and the same
            for val and test.
        parts: Names in place of train, val and test: "holdout" reads x_holdout and y_holdout.
        kind: What the examples are.
        class_names: Names of the classes; left out, the numbers.

    Raises:
        UserError: The file is missing, or its arrays are not such.
    """
    arrays = _load(path)
    wanted = {part: parts.get(part, part) for part in _PARTS}
    for part, name in parts.items():
        if f"x_{name}" not in arrays:
            raise UserError(
                f"data.split.{part}: {path} has no array 'x_{name}'; it has {', '.join(arrays)}."
            )
    if kind.nouns in arrays:
        pairs = [("", kind.nouns, "labels")]
    else:
        pairs = [(p, f"x_{n}", f"y_{n}") for p, n in wanted.items() if f"x_{n}" in arrays]
    if not any(part in ("", "train") for part, _, _ in pairs):
        raise UserError(
            f"data.path: {path} must hold the arrays {kind.nouns} and labels, or x_train and "
            f"y_train; it holds {', '.join(arrays) or 'none'}."
        )
    examples = [kind.check_array(arrays[x], f"{path}: {x}") for _, x, _ in pairs]
    counts = [len(part) for part in examples]
    labels = [_labels(arrays, y, n, path) for (_, _, y), n in zip(pairs, counts, strict=True)]
    if len({x.shape[1:] for x in examples}) > 1 or len({y.shape[1:] for y in labels}) > 1:
        raise UserError(f"{path}: the parts' {kind.nouns} or labels differ in shape.")
    all_labels = np.concatenate(labels)
    several = all_labels.ndim == 2
    names = _names(all_labels, class_names, path)
    rows = [np.flatnonzero(row) for row in all_labels] if several else all_labels[:, None]
    return Listing(
        ids=[f"{x}[{k}]" for (_, x, _), n in zip(pairs, counts, strict=True) for k in range(n)],
        labels=[tuple(names[i] for i in row) for row in rows],
        parts=[part for (part, _, _), n in zip(pairs, counts, strict=True) for _ in range(n)],
        make_fetch=from_array(np.concatenate(examples)),
        class_names=names,
        label_kind="labels" if several else "classes",
    )


def _names(labels: np.ndarray, class_names: Sequence[str] | None, path: str) -> list[str]:
    """Returns the names of the classes that labels (n,) or (n, classes) tell of."""
    several = labels.ndim == 2
    classes = labels.shape[1] if several else int(labels.max()) + 1
    if classes > max(len(labels), 2) and not several:
        raise UserError(
            f"{path}: the labels go up to {classes - 1}, and there are only "
            f"{counted(len(labels), 'example')}. Number the classes from 0 on."
        )
    if class_names is not None and len(class_names) < classes:
        raise UserError(
            f"data.class_names: {counted(len(class_names), 'name')} for {classes} classes "
            f"in {path}."
        )
    return list(class_names or map(str, range(classes)))


def _load(path: str) -> dict[str, np.ndarray]:
    content = read_whole(path)
    if bytes(content.getbuffer()[:6]) == b"\x93NUMPY":
        raise UserError(f"data.path: {path} holds one array; save several with numpy.savez.")
    try:
        # What a few bytes unpack to may be more than any machine holds.
        with zipfile.ZipFile(content) as packed:
            unpacked = sum(member.file_size for member in packed.infolist())
        if unpacked > available_memory() // 2:
            raise UserError(
                f"data.path: {path} unpacks to {unpacked / 1e9:.1f} GB, and this machine's memory "
                "cannot hold that twice. Save the examples as files, or in TFRecord shards."
            )
        content.seek(0)
        loaded = np.load(content, allow_pickle=False)
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except UserError:
        raise
    except Exception as error:  # a stranger's file may break the reader in any way
        raise UserError(
            f"data.path: {path} is not an .npz file of plain arrays ({error}). Save it with "
            "numpy.savez; arrays of Python objects are never loaded."
        ) from error


def _labels(arrays: Mapping[str, np.ndarray], name: str, count: int, path: str) -> np.ndarray:
    """Returns int (n,) class indices, or int (n, classes) zeros and ones."""
    if name not in arrays:
        raise UserError(f"{path}: there is no array {name!r}.{did_you_mean(name, arrays)}")
    labels = arrays[name]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or len(labels) != count or 0 in labels.shape:
        raise UserError(
            f"{path}: {name} has the shape {labels.shape}; it must be ({count},) or "
            f"({count}, classes), one row per example."
        )
    whole = np.issubdtype(labels.dtype, np.number) and np.array_equal(labels, labels.astype(int))
    in_range = whole and labels.min() >= 0 and (labels.ndim == 1 or labels.max() <= 1)
    if labels.dtype != bool and not in_range:
        raise UserError(
            f"{path}: {name} must be class indices from 0 on, or zeros and ones; it is "
            f"{labels.dtype}, for example {labels.ravel()[0]!r}."
        )
    return labels.astype(int)
