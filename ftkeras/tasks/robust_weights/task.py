"""Robust weights: between the linear probe and the fine-tuned model, or the mean of several runs.

Fine-tuning loses some of a pretrained network's robustness. Wortsman et al. 2022, "Robust
fine-tuning of zero-shot models" (WiSE-FT) and "Model soups", get it back by averaging.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ftkeras.backbones.matching import Mismatch
from ftkeras.backbones.weights_file import read_model, weights_in_order
from ftkeras.config.load import parse_config
from ftkeras.config.schema import Config
from ftkeras.console import table, track
from ftkeras.data.dataset import Data
from ftkeras.errors import TrainingError, UserError
from ftkeras.inputs.base import Input
from ftkeras.inputs.registry import nouns_in
from ftkeras.model.inference import logits_function
from ftkeras.phases.blend import Blender, Weights, weights_of_model
from ftkeras.report.axes import Axis
from ftkeras.report.chart import Curve, line_chart
from ftkeras.report.html import number, tag
from ftkeras.report.html import table as html_table
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section
from ftkeras.run import Run
from ftkeras.runs import build
from ftkeras.runs.assemble import Assembled
from ftkeras.runs.task import Task, only_one_of
from ftkeras.tasks.robust_weights.config import RobustWeightsConfig, RobustWeightsSection
from ftkeras.tasks.robust_weights.corrupted import (
    CorruptedSample,
    check_corruptions,
    chosen_corruptions,
    corrupted_sample,
)
from ftkeras.tasks.robust_weights.soups import KeepProbe, greedy

Score = dict[str, Any]


class RobustWeights(Task):
    """Trains through the phases and chooses weights on the way, or averages finished runs."""

    def check(self, config: Config, data: Data) -> None:
        super().check(config, data)
        section = _section(config)
        if config.lora is not None:
            raise UserError("lora: robust_weights averages whole weights. Leave lora out.")
        only_one_of(data, "task robust_weights")
        if "val" not in data.splits:
            raise UserError("data.split.val: robust_weights chooses on a validation split.")
        kind = build.input_of(config)
        names = chosen_corruptions(section.corruptions, kind)
        check_corruptions(names, kind, "robust_weights.corruptions")
        for folder in section.runs:
            _check_ingredient(Run.open(folder), config, data)

    def trains(self, config: Config) -> bool:
        return _section(config).method == "wise_ft"

    def callbacks(self, assembled: Assembled) -> Sequence[keras.callbacks.Callback]:
        if not self.trains(assembled.config):
            for folder in _section(assembled.config).runs:
                _check_reads_alike(Run.open(folder), assembled.feed.input)
            return ()
        first, *others = assembled.unfreeze.phases
        if tuple(first.train) != ("head",) or not others:
            raise UserError(
                "phases: wise_ft needs a first phase that trains the head alone, for the linear "
                "probe, and one after it."
            )
        return [KeepProbe(assembled.model, assembled.unfreeze)]

    def finish(self, assembled: Assembled, run: Run) -> keras.Model:
        """Chooses the weights on the validation split; measures them and the parts on test."""
        section = _section(assembled.config)
        if self.trains(assembled.config):
            names = ["linear probe", "fine-tuned"]
            ingredients = [_probe(assembled), weights_of_model(assembled.model)]
        else:
            names = list(section.runs)
            ingredients = [_ingredient(Run.open(f), assembled.model) for f in section.runs]
        blender = Blender(assembled.model, ingredients, assembled.feed.plain("train"))
        scorer = _Scorer(assembled, blender, section)
        choose = {"wise_ft": _sweep, "uniform_soup": _uniform, "greedy_soup": _greedy}
        results, shares = choose[section.method](scorer, section, names)
        parts = {name: [float(i == j) for j in range(len(names))] for i, name in enumerate(names)}
        split = "test" if "test" in assembled.data.splits else "val"
        side_by_side = {
            name: scorer(each, split) for name, each in {**parts, "chosen": shares}.items()
        }
        blender.put(shares)
        results |= {
            "method": section.method,
            "select": section.select,
            "ingredients": names,
            "shares": list(shares),
            "recalibrated": blender.recalibrates,
            "split": split,
            "corruptions": list(scorer.corruptions),
            "severity": section.severity,
            "side_by_side": side_by_side,
        }
        run.write_json("task.json", results)
        print(_format(results))
        return assembled.model

    def sections(self, facts: RunFacts) -> Sequence[Section]:
        return [_report(facts.task, facts.nouns)] if facts.task.get("side_by_side") else []


TASK = RobustWeights()


def soup_config(first: Config, runs: Sequence[str], method: str, select: str) -> Config:
    """Returns the config that averages some runs on the data of the first.

    Args:
        first: The config of the first run.
        runs: The folders of the runs.
        method: uniform_soup or greedy_soup.
        select: The accuracy that decides: mean or clean.
    """
    tree = first.model_dump(mode="json")
    shared = {name: tree[name] for name in Config.model_fields}
    if first.lora is not None:  # the runs' models have merged adapters, and nothing trains
        shared |= {"lora": None, "phases": {"strategy": "linear_probe"}}
    section = {"method": method, "runs": list(runs), "select": select}
    return parse_config({**shared, "task": "robust_weights", "robust_weights": section})


def _section(config: Config) -> RobustWeightsSection:
    assert isinstance(config, RobustWeightsConfig)
    return config.robust_weights


# --------------------------------------------------------------------------- ingredients


def _probe(assembled: Assembled) -> Weights:
    [keeper] = [c for c in assembled.callbacks if isinstance(c, KeepProbe)]
    if keeper.weights is None:
        raise TrainingError("robust_weights: training ended in its first phase; nothing to blend.")
    return keeper.weights


def _check_ingredient(run: Run, config: Config, data: Data) -> None:
    """Refuses a run of another model, or one that trained on examples of val or test."""
    if run.state() != "finished" or not tf.io.gfile.exists(run.path("model.keras")):
        raise UserError(f"robust_weights.runs: {run.folder} is not finished.")
    theirs = run.config
    for field in ("backbone", "head"):
        if getattr(theirs, field) != getattr(config, field):
            raise UserError(f"robust_weights.runs: {run.folder} has another {field} section.")
    facts = run.read_json("data.json")
    if facts["class_names"] != list(data.class_names):
        raise UserError(f"robust_weights.runs: {run.folder} has other classes.")
    rows = csv.DictReader(run.read_text("splits.csv").splitlines())
    trained = {row["id"] for row in rows if row["split"] == "train"}
    for name in ("val", "test"):
        seen = trained.intersection(data.splits[name].ids) if name in data.splits else ()
        if seen:
            raise UserError(
                f"robust_weights.runs: {run.folder} has trained on {len(seen)} of the {name} "
                f"{nouns_in(facts)[1]}. Give all runs one data.split_seed."
            )


def _check_reads_alike(run: Run, kind: Input) -> None:
    """Refuses a run whose model gets other inputs for the same example."""
    facts = run.read_json("data.json")
    for name, value in kind.facts.items():
        if name in facts and facts[name] != value:
            raise UserError(
                f"robust_weights.runs: {run.folder} reads {kind.nouns} differently: its {name} is "
                f"{facts[name]}, here it is {value}. Their weights cannot be averaged."
            )


def _ingredient(run: Run, model: keras.Model) -> Weights:
    try:
        return weights_in_order(read_model(run.path("model.keras"), run.folder), model)
    except Mismatch as error:
        raise UserError(f"robust_weights.runs: {run.folder} does not fit: {error}") from error


# ------------------------------------------------------------------------------- choosing


class _Scorer:
    """Measures blends on a split, clean and corrupted; examples are corrupted once."""

    def __init__(self, assembled: Assembled, blender: Blender, section: RobustWeightsSection):
        self._assembled, self._blender, self._section = assembled, blender, section
        self._answer = logits_function(assembled.model)
        self._samples: dict[str, CorruptedSample] = {}
        self.corruptions = chosen_corruptions(section.corruptions, assembled.feed.input)

    def __call__(self, shares: Sequence[float], split: str = "val") -> Score:
        """Returns the accuracies of a blend: clean, corrupted, by corruption, and what decides."""
        self._blender.put(shares)
        labels = self._assembled.data.splits[split].labels
        plain = self._assembled.feed.plain(split)
        answers = [self._answer(inputs).numpy().argmax(axis=1) for inputs, *_ in plain]
        clean = float(np.mean(np.concatenate(answers) == labels))
        by_name = self._sample(split).accuracies(self._answer)
        corrupted = float(np.mean(list(by_name.values()))) if by_name else None
        deciding = clean
        if corrupted is not None and self._section.select == "mean":
            deciding = (clean + corrupted) / 2
        return {"clean": clean, "corrupted": corrupted, "by_name": by_name, "score": deciding}

    def _sample(self, split: str) -> CorruptedSample:
        if split not in self._samples:
            self._samples[split] = corrupted_sample(
                self._assembled.data.splits[split],
                self.corruptions,
                self._section.severity,
                kind=self._assembled.feed.input,
                examples=self._section.examples,
                seed=self._assembled.config.seed,
            )
        return self._samples[split]


Chosen = tuple[dict[str, Any], list[float]]


def _sweep(scorer: _Scorer, section: RobustWeightsSection, names: Sequence[str]) -> Chosen:
    """Tries each share of the fine-tuned weights; if equal, the smallest is best."""
    rows = [
        {"alpha": alpha, **scorer([1 - alpha, alpha])}
        for alpha in track(section.alphas, "sweep", "alpha")
    ]
    best = max(rows, key=lambda row: row["score"])
    return {"sweep": rows, "alpha": best["alpha"]}, [1 - best["alpha"], best["alpha"]]


def _uniform(scorer: _Scorer, section: RobustWeightsSection, names: Sequence[str]) -> Chosen:
    return {}, _mean(range(len(names)), len(names))


def _greedy(scorer: _Scorer, section: RobustWeightsSection, names: Sequence[str]) -> Chosen:
    count = len(names)
    alone = [scorer(_mean([i], count)) for i in track(list(range(count)), "measure alone", "run")]
    kept = greedy(
        [score["score"] for score in alone], lambda kept: scorer(_mean(kept, count))["score"]
    )
    return {"alone": alone, "kept": [names[i] for i in kept]}, _mean(kept, count)


def _mean(kept: Sequence[int], count: int) -> list[float]:
    """Returns the shares of a mean of some of the models."""
    return [1 / len(kept) if i in kept else 0.0 for i in range(count)]


# ------------------------------------------------------------------------------- results


def _format(results: dict[str, Any]) -> str:
    rows = [
        (name, *(f"{scores[column]:.3f}" for column in _columns(results)))
        for name, scores in results["side_by_side"].items()
    ]
    made = table(rows, (f"accuracy on {results['split']}", *_columns(results)))
    return f"\n{made}\nchosen: {_chosen(results)}"


def _chosen(results: dict[str, Any]) -> str:
    if results["method"] == "wise_ft":
        return f"alpha {results['alpha']:g}, the share of the fine-tuned weights"
    kept = sum(share > 0 for share in results["shares"])
    return f"the mean of {kept} of {len(results['shares'])} runs"


def _report(results: dict[str, Any], nouns: str) -> Section:
    what = ", ".join(name.replace("_", " ") for name in results["corruptions"])
    columns = _columns(results)
    alone = results["select"] == "clean" or not results["corruptions"]
    by = "clean accuracy" if alone else "mean of clean and corrupted"
    lead = (
        f"Weights between those of {len(results['ingredients'])} models, chosen by the {by} on "
        f"validation {nouns}: {_chosen(results)}."
    )
    if results["corruptions"]:
        lead += f" Corrupted is the mean over {what}, at severity {results['severity']}."
    if results["recalibrated"]:
        lead += (
            " The models' batch normalisation differs: its statistics were estimated again on "
            f"training {nouns} for each blend."
        )
    body: list[Any] = []
    if sweep := results.get("sweep"):
        alphas = [row["alpha"] for row in sweep]
        chart = line_chart(
            [Curve(name, alphas, [row[name] for row in sweep]) for name in columns],
            title="Validation accuracy between the linear probe and the fine-tuned model",
            x=Axis("share of the fine-tuned weights"),
            y=Axis("accuracy"),
            mark=results["alpha"],
        )
        body.append(tag("figure", chart))
    rows = [
        [tag("span", name, class_="long"), *(number(scores[k], ".1%") for k in columns)]
        for name, scores in results["side_by_side"].items()
    ]
    header = ["Weights", *(column.capitalize() for column in columns)]
    body.append(html_table(f"Side by side on {results['split']}", header, rows))
    return Section("robust-weights", "Robust weights", body, lead)


def _columns(results: dict[str, Any]) -> list[str]:
    return ["clean", "corrupted"] if results["corruptions"] else ["clean"]
