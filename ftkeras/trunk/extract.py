"""Runs the trunk over a split once and stores what comes out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import tensorflow as tf

from ftkeras.console import Progress
from ftkeras.data import dataset
from ftkeras.trunk.engines import best_precision, make_engine
from ftkeras.trunk.key import stamp_examples, store_key
from ftkeras.trunk.split import Split
from ftkeras.trunk.store import FrontierStore, Layout, open_store
from ftkeras.trunk.writer import choose_placement, estimate_bytes, make_writer, plan_layout


def get_store(
    split: Split,
    examples: dataset.Split,
    images: tf.data.Dataset,
    *,
    recipe: str,
    views: int = 1,
    batch_size: int = 32,
    dtype: str = "float32",
    engine: str = "auto",
    precision: str = "float32",
    strategy: tf.distribute.Strategy | None = None,
    memory_budget: int | None = None,
    disk_budget: int | None = None,
    report: Callable[[str], None] = print,
) -> FrontierStore | None:
    """Returns the stored frontier of a split: what is there already, or else made now.

    Args:
        split: The model, divided for the phase.
        examples: What the images are of.
        images: Batches that begin with images float32 (b, s, s, 3): all of the examples in order,
            once for each view.
        recipe: A text that differs where the images' pixels could.
        views: How many versions there are of each image.
        batch_size: Images that run through the trunk at a time.
        dtype: How numbers are stored: float32, float16 or bfloat16.
        engine: "auto", "tensorflow" or "openvino".
        precision: "exact" (to the bit as the model does), "float32" or "bfloat16"; see
            `ftkeras.trunk.engines.make_engine`.
        strategy: The run's.
        memory_budget: Bytes that a store may take in memory; half of what is free by default.
        disk_budget: Bytes that it may take on disk; a fifth of what is free by default.
        report: Gets a line on what was decided and done.

    Returns:
        The store, or None where there is room for it neither on disk nor in memory.
    """
    precision = best_precision(precision)
    stamp = stamp_examples(examples)
    key = store_key(split, examples=stamp, recipe=recipe, dtype=dtype, precision=precision)
    store = open_store(key, report)
    if store is not None:
        report(f"trunk     {examples.name}: stored already ({key[:8]})")
        return store
    layout = plan_layout(split.frontier, examples=len(examples), views=views, dtype=dtype)
    placement = choose_placement(
        estimate_bytes(split.frontier, layout.rows, dtype),
        memory_budget=memory_budget,
        disk_budget=disk_budget,
    )
    report(f"trunk     {examples.name}: {placement.reason}")
    if placement.where == "none":
        return None
    try:
        return extract(
            split,
            images.map(lambda images, *_: images),
            layout,
            key=key if placement.where == "disk" else None,
            about=f"{len(examples)} {examples.name} images, {recipe}",
            batch_size=batch_size,
            engine=engine,
            precision=precision,
            strategy=strategy,
            report=report,
        )
    except OSError as error:  # somebody else filled the disk, or it failed
        report(f"trunk     {examples.name}: nothing is stored: {error}")
        return None


def extract(
    split: Split,
    images: tf.data.Dataset,
    layout: Layout,
    *,
    key: str | None = None,
    about: str = "",
    batch_size: int = 32,
    engine: str = "auto",
    precision: str = "float32",
    strategy: tf.distribute.Strategy | None = None,
    report: Callable[[str], None] = print,
) -> FrontierStore:
    """Runs the trunk over images and stores the frontier.

    Args:
        split: The model, divided.
        images: Batches float32 (b, s, s, 3) in the order of the store's rows; `tf.data` decodes the
            next ones meanwhile.
        layout: What will be stored, from `plan_layout`.
        key: The store's name on disk; None for memory.
        about: What it is of, for people.
        batch_size: The largest batch of `images`.
        engine: "auto", "tensorflow" or "openvino".
        precision: "exact", "float32" or "bfloat16".
        strategy: The run's.
        report: Gets a line on what ran.
    """
    images = images.prefetch(tf.data.AUTOTUNE)
    sample = next(iter(images.take(1)))
    run, name = make_engine(
        split.trunk,
        sample,
        batch_size=batch_size,
        engine=engine,
        precision=precision,
        strategy=strategy,
    )
    report(f"trunk     {layout.rows} images through {name}")
    progress = contextlib.closing(Progress("run the trunk", layout.rows))
    with contextlib.closing(make_writer(layout, key, about)) as writer, progress as shown:
        for frontier in run(images):
            writer.append(frontier)
            shown.advance(len(frontier[0]))
        return writer.finish()
