"""What an alignment reached, in words; and how well class names alone tell pictures apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from ftkeras.console import table
from ftkeras.data.dataset import Split
from ftkeras.data.pipeline import plain
from ftkeras.data.reading import from_array
from ftkeras.errors import UserError
from ftkeras.evaluation.predict import note_unknown, predict_outputs
from ftkeras.inputs.base import Input
from ftkeras.measures.bootstrap import share_interval
from ftkeras.tasks.alignment.config import ClassesSection
from ftkeras.tasks.alignment.data import check_classes
from ftkeras.tasks.alignment.pairs import Pair, PairFeed
from ftkeras.tasks.alignment.retrieval import AT, WAYS, Embedded, telling, unit

_BATCH = 64
_SHOWN = {"picture_to_text": "picture to text", "text_to_picture": "text to picture"}


def encode_texts(tower: keras.Model, texts: Sequence[str], kind: Input) -> np.ndarray:
    """Returns the embeddings of texts, unit vectors float32 (n, units).

    Raises:
        UserError: A text cannot be used.
    """
    raw = np.array([text.encode() for text in texts], object)
    for text, content in zip(texts, raw, strict=True):
        if reason := kind.check(content, "", "").reason:
            raise UserError(f"the text {text[:40]!r} cannot be used: {reason}.")
    split = Split(
        "texts", list(map(str, range(len(texts)))), np.zeros((len(texts), 0), np.float32), 0,
        from_array(raw)(np.arange(len(texts))),
    )  # fmt: skip
    return unit(predict_outputs(tower, plain(split, kind, _BATCH), "encode texts")[0])


def check_words(texts: Sequence[str], kind: Input, where: str) -> None:
    """Prints which words of some texts the model does not know.

    Raises:
        UserError: It knows none of a text: the answer would be the same for any other such text.
    """
    unknown: dict[str, None] = {}
    for text in texts:
        strangers, count = kind.strangers(text.encode())
        if strangers and len(strangers) == count:
            raise UserError(
                f"{where}: the model knows no word of {text[:40]!r}. It knows words that have "
                "vectors, and those that occur twice in its training texts. Use other words."
            )
        unknown |= dict.fromkeys(strangers)
    if unknown:
        note_unknown(unknown)


def encode_classes(
    tower: keras.Model, names: Sequence[str], templates: Sequence[str], kind: Input
) -> np.ndarray:
    """Returns an embedding for each class, (classes, units): the mean of its sentences'."""
    sentences = [template.replace("{}", name) for name in names for template in templates]
    embedded = encode_texts(tower, sentences, kind)
    return unit(embedded.reshape(len(names), len(templates), -1).mean(axis=1))


def zero_shot(
    section: ClassesSection, model: keras.Model, feed: PairFeed, split: str, embedded: Embedded
) -> dict[str, Any]:
    """Returns the accuracy of telling pictures apart by the names of their classes alone.

    Raises:
        UserError: The table has no such column.
    """
    columns = feed.data.splits[split].columns
    check_classes(section, columns)
    assert isinstance(feed.input, Pair)
    names = sorted({str(n) for s in feed.data.splits.values() for n in s.columns[section.column]})
    names = [name for name in names if name.strip()]
    truth = np.array(columns[section.column], str)
    known = np.isin(truth, names)
    kind = feed.input.text
    classes = encode_classes(model.get_layer(kind.nouns), names, section.templates, kind)
    answers = np.array(names)[(embedded.pictures[known] @ classes.T).argmax(axis=1)]
    share = float(np.mean(answers == truth[known]))
    return {
        "zero_shot_accuracy": share,
        "zero_shot_classes": len(names),
        "zero_shot_intervals": {"zero_shot_accuracy": share_interval(share, int(known.sum()))},
    }


def headline(evaluation: Mapping[str, Any]) -> str:
    """Returns the result in a few lines."""
    ends = evaluation["intervals"]
    shown = ", ".join(
        f"recall@{k} {evaluation[f'recall_at_{k}']:.3f} ({_span(ends[f'recall_at_{k}'])})"
        for k in telling(evaluation)
    )
    lines = [f"{evaluation['split']:10}{shown}, {evaluation['examples']} {evaluation['nouns']}"]
    if ridge := evaluation.get("ridge"):
        lines += [_against(ridge, k) for k in (1, 10) if k in telling(evaluation)]
    if "zero_shot_accuracy" in evaluation:
        lines.append(
            f"zero-shot accuracy {evaluation['zero_shot_accuracy']:.3f} "
            f"({_span(ends['zero_shot_accuracy'])}) among {evaluation['zero_shot_classes']} classes"
        )
    return "\n".join(lines)


def _against(ridge: Mapping[str, Any], k: int) -> str:
    name = f"recall_at_{k}"
    low, high = (100 * end for end in ridge[f"{name}_difference_interval"])
    gain = 100 * ridge[f"{name}_difference"]
    verdict = "noise" if ridge[f"{name}_noise"] else "gained" if gain > 0 else "lost"
    return (
        f"floor     recall@{k} {ridge[name]:.3f} (ridge regression between frozen features); "
        f"{verdict} {gain:+.1f} points (95% interval {low:.1f} to {high:.1f})"
    )


def _span(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def format_retrieval(evaluation: Mapping[str, Any]) -> str:
    """Returns the result as a table."""
    ends, rows = evaluation["intervals"], []
    for way in WAYS:
        for name in (*(f"recall_at_{k}" for k in telling(evaluation, [way])), "median_rank", "map"):
            value = evaluation[f"{way}_{name}"]
            digits = ".1f" if name == "median_rank" else ".4f"
            span = ends[f"{way}_{name}"]
            between = "-" if span is None else f"{span[0]:{digits}} to {span[1]:{digits}}"
            rows.append((_SHOWN[way], name.replace("_", " "), f"{value:{digits}}", between))
    parts = [table(rows, ("way", "metric", "value", "95% interval")), headline(evaluation)]
    for way in WAYS:
        if trivial := [f"@{k}" for k in AT if k not in telling(evaluation, [way])]:
            few = f"there are only {evaluation['candidates'][way]} candidates"
            parts[0] += f"\nleft out  {_SHOWN[way]}, recall{' and '.join(trivial)}: {few}"
    return "\n\n".join(parts)
