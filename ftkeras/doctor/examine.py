"""Asks every check about a config, or about the machine alone."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from ftkeras.config.schema import Config
from ftkeras.console import duration
from ftkeras.data.copies import find_copies
from ftkeras.data.dataset import Data
from ftkeras.data.feed import Feed
from ftkeras.data.load import Expected
from ftkeras.doctor import machine, preprocessing, settings, splits
from ftkeras.doctor.embed import make_embedding
from ftkeras.doctor.look import look_at
from ftkeras.errors import UserError
from ftkeras.findings import Diagnosis, Finding
from ftkeras.inputs.base import Input
from ftkeras.outputs.kinds import answered
from ftkeras.runs import build
from ftkeras.runs.assemble import Assembled, assemble
from ftkeras.trunk.plan import EPOCH

_SAMPLE = 64  # examples that are sent through the backbone
_MOST_TIMED = 3  # phases


def examine(config: Config | None = None) -> Diagnosis:
    """Looks for what would spoil a run, before any money is spent on it. Nothing is written.

    Args:
        config: The config; None looks at the machine alone.

    Raises:
        UserError: The config or its data cannot be read at all.

    Example:
        ```python
        print(examine(load_config("my.yaml")).text())
        ```
    """
    facts, findings = machine.machine_facts(), machine.check_machine()
    if config is None:
        facts["arithmetic"] = machine.arithmetic()
        return Diagnosis(facts, findings)
    try:
        assembled = assemble(config)  # first of all: it chooses devices, before any is touched
    except UserError as error:
        facts["model"] = "not tried: the error below"
        try:
            data = build.data(config, expected=Expected(strict=False))
        except UserError:  # perhaps only because it is no classification: the task's word counts
            raise error from None
        data_findings = list(_data_findings(config, data, facts))
        if any(finding.severity == "error" for finding in data_findings):
            facts["model"] = f"not tried: {error}"
        else:
            data_findings.append(Finding("error", "config", str(error)))
        return Diagnosis(facts, [*findings, *data_findings])
    findings += _data_findings(config, assembled.data, facts, assembled.feed.input)
    findings += assembled.task.findings(assembled.data)
    findings += _model_findings(assembled, facts)
    if assembled.task.trains(config):
        findings += _phase_findings(config, assembled)
        facts["a step"] = _step_times(assembled)
    by_nature = assembled.task.by_nature
    return Diagnosis(facts, [finding for finding in findings if finding.check not in by_nature])


def _data_findings(
    config: Config, data: Data, facts: dict[str, str], kind: Input | None = None
) -> Iterator[Finding]:
    """Yields what is wrong with the data; `kind` is how the model reads them, if there is one."""
    kind = kind or build.input_of(config)
    facts["data"] = _describe(data)
    yield from splits.read_errors(data, config.data.max_bad_files)
    yield from splits.check_classes(data, kind)
    yield from splits.check_labels(data)
    looks = look_at(data, kind)
    if looks is None:  # nothing is known of what such examples look like
        yield from find_copies(data, kind).findings
        return
    features = make_embedding(data, kind, looks)
    yield from kind.able("duplicates", "doctor").find_duplicates(looks, data.class_names, features)
    yield from splits.check_shift(data, kind, looks, features)
    yield from kind.able("looks", "doctor").find_odd(looks, data.class_names, kind)


def _model_findings(assembled: Assembled, facts: dict[str, str]) -> Iterator[Finding]:
    if assembled.feed.input.ability("levels") is not None:  # otherwise no range is known
        facts["preprocessing"], findings = preprocessing.check_preprocessing(
            assembled.model, assembled.backbone, _some_inputs(assembled.feed)
        )
        yield from findings
    for note in assembled.notes:
        remedy = "Change what it names in the config, or continue if it is meant."
        if note in assembled.data.notes:
            remedy = f"Continue if it is meant; {assembled.task.page} has more."
        elif note in assembled.feed.input.notes:
            remedy = "Change data.input, or continue if it is meant."
        yield Finding("note", "data", note, remedy)


def _phase_findings(config: Config, assembled: Assembled) -> list[Finding]:
    asked = settings.Settings(
        optimizer=config.optimizer.name,
        weights=config.backbone.weights,
        precision=keras.config.dtype_policy().name,
        on_gpu=bool(tf.config.list_physical_devices("GPU")),
        batch_size=config.data.batch_size,
        accumulate=config.optimizer.accumulate,
        examples=len(assembled.data.splits["train"]),
        validated="val" in assembled.data.splits,
        kind=assembled.feed.input,
        from_floor=assembled.task.starts_from_floor(config),
        compares=assembled.task.why_complete(config) is not None,
    )
    return settings.check_config(asked, assembled.plan, assembled.unfreeze.phases)


def _describe(data: Data) -> str:
    parts = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
    return f"{data.source}: {parts}; {answered(data.outputs)}"


def _some_inputs(feed: Feed) -> np.ndarray:
    """Training examples from all over the split, as the model gets them: (n, size, size, 3)."""
    batches = feed.plain("train")
    every = max(int(batches.cardinality()) // 4, 1)
    parts = [batch[0].numpy() for batch in batches.shard(every, 0).take(4)]
    return np.concatenate([part[: max(_SAMPLE // len(parts), 1)] for part in parts])


def _step_times(assembled: Assembled) -> str:
    """Times the phases (of many, the first and the largest) and says how long all will take."""
    phases = assembled.plan.phases
    timed = list(range(len(phases)))
    if len(timed) > _MOST_TIMED:
        timed = sorted({0, max(timed, key=lambda i: phases[i].parameters)})
    batch = next(iter(assembled.feed.train()))
    count = len(tf.nest.flatten(batch[0])[0])
    seconds, nouns = {}, assembled.feed.input.nouns
    for i in timed:
        assembled.unfreeze.set_flags(i)
        seconds[i] = machine.seconds_a_step(assembled.model, batch)
    forecasts = assembled.trunk.forecasts if assembled.trunk is not None else ()
    stored = {i: forecast.seconds_with for i, forecast in enumerate(forecasts) if forecast.stored}
    every = EPOCH / assembled.feed.steps_per_epoch  # seconds, of an epoch without its steps
    total = sum(
        stored.get(i, phase.steps * (seconds.get(i, max(seconds.values())) + every))
        for i, phase in enumerate(phases)
    )
    parts = [
        f"phase {phases[i].name} {duration(taken)} ({count / taken:.0f} {nouns}/s)"
        for i, taken in seconds.items()
    ]
    return (
        f"{count} {nouns}: {', '.join(parts)}; all phases about {duration(total)}, "
        f"{'from a stored trunk' if stored else 'without validation'}"
    )
