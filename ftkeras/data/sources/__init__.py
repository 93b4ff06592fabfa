"""Where data comes from: one module per source, all of them in `SOURCES`.

A source is a function that takes the fields of its config section, `parts` (the strings among
data.split's train, val and test), and the kind of its examples. It returns a `Listing`.
"""

from __future__ import annotations

from collections.abc import Callable

from ftkeras.data.dataset import Listing
from ftkeras.data.sources import arrays, folder, manifest, starter, tfds, tfrecord

SOURCES: dict[str, Callable[..., Listing]] = {
    "folder": folder.find,
    "manifest": manifest.find,
    "tfds": tfds.find,
    "tfrecord": tfrecord.find,
    "arrays": arrays.find,
    "starter": starter.find,
}
