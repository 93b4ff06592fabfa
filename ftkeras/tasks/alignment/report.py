"""What a report shows of an alignment: what is found, and what is missed most."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from ftkeras.inputs.base import PLAIN
from ftkeras.report.html import Child, Html, interval, missing, number, table, tag
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section, evaluate_command
from ftkeras.tasks.alignment.pairs import Pair, PairFeed, PairSplit
from ftkeras.tasks.alignment.retrieval import WAYS, Embedded, telling

_QUERIES, _MISSES, _HITS = 8, 6, 5
_TITLES = {"picture_to_text": "picture to text", "text_to_picture": "text to picture"}


def gallery(feed: PairFeed, split: str, embedded: Embedded) -> dict[str, Any]:
    """Returns some queries with the pictures nearest to them, and the pictures that are lost most.

    Args:
        feed: The run's data.
        split: The split that was measured.
        embedded: Its embeddings.
    """
    examples, pair = feed.data.splits[split], feed.input
    assert isinstance(examples, PairSplit) and isinstance(pair, Pair)
    asked = np.flatnonzero(examples.queries)
    show = pair.picture.ability("show")
    drawn: dict[int, str] = {}

    def draw(place: int) -> dict[str, str]:
        if show is not None and place not in drawn:
            raw = examples.fetch(tf.constant(place, tf.int64))
            pixels = pair.picture.read(raw, PLAIN, tf.zeros(2, tf.int32))
            drawn[place] = show.data_uri(np.asarray(pixels))
        return {"id": str(examples.ids[place]), "drawn": drawn.get(place, "")}

    def text(place: int) -> str:
        raw = examples.texts.fetch(tf.constant(int(asked[place]), tf.int64)).numpy()
        return bytes(raw).decode("utf-8", "replace")

    similar = embedded.texts @ embedded.pictures.T  # (queries, pictures)
    queries = []
    for place in np.unique(np.linspace(0, len(asked) - 1, min(_QUERIES, len(asked))).astype(int)):
        best = np.argsort(-similar[place], kind="stable")[:_HITS]
        hits = [{**draw(int(i)), "right": _fits(embedded, int(place), int(i))} for i in best]
        queries.append({"text": text(int(place)), "hits": hits})
    found, _ = embedded.both()
    misses = []
    for i in np.argsort(-found.first, kind="stable")[:_MISSES]:
        if found.first[i] <= 1:
            break
        picture = int(found.pictures[i])
        nearest = np.argsort(-similar[:, picture], kind="stable")[:_HITS]
        own = np.flatnonzero(embedded.owners == picture)
        misses.append(
            {
                **draw(picture),
                "rank": int(found.first[i]),
                "own": [text(int(place)) for place in own[:2]],
                "nearest": [text(int(place)) for place in nearest],
            }
        )
    return {"split": split, "queries": queries, "misses": misses}


def _fits(embedded: Embedded, query: int, picture: int) -> bool:
    same = embedded.numbers == embedded.numbers[query]
    return bool((embedded.owners[same] == picture).any())


def sections(facts: RunFacts) -> list[Section]:
    """Returns the task's sections of a report."""
    evaluation = facts.evaluation
    if evaluation is None or "recall_at_1" not in evaluation:
        sentence = "Retrieval was not measured;"
        return [Section("retrieval", "Retrieval", missing(sentence, evaluate_command(facts)))]
    return [_retrieval(evaluation, facts), *_found(facts)]


def _retrieval(evaluation: dict[str, Any], facts: RunFacts) -> Section:
    ends = evaluation["intervals"]
    rows = []
    for way in WAYS:
        for name in (*(f"recall_at_{k}" for k in telling(evaluation, [way])), "map", "median_rank"):
            value, digits = evaluation[f"{way}_{name}"], ".1f" if name == "median_rank" else ".3f"
            span = interval(ends[f"{way}_{name}"], digits)
            rows.append([_TITLES[way], name.replace("_", " "), number(value, digits), span])
    body: list[Child] = [table("Both ways", ["Way", "Metric", "Value", "95% interval"], rows)]
    if ridge := evaluation.get("ridge"):
        against = [
            [
                f"recall at {k}, both ways",
                number(ridge[f"recall_at_{k}"], ".3f"),
                number(evaluation[f"recall_at_{k}"], ".3f"),
                number(ridge[f"recall_at_{k}_difference"], "+.3f"),
                interval(ridge[f"recall_at_{k}_difference_interval"], "+.3f"),
            ]
            for k in telling(evaluation)
        ]
        header = ["Metric", "Ridge regression", "The model", "Difference", "95% interval"]
        body.append(table("Against ridge regression between frozen features", header, against))
    lead = (
        f"{evaluation['examples']} {facts.nouns} of the split {evaluation['split']}, and "
        f"{evaluation['texts']} texts of the first column. Each picture is looked for among all, "
        "and each text."
    )
    return Section("retrieval", "Retrieval", body, lead)


def _found(facts: RunFacts) -> list[Section]:
    shown = facts.task
    if not shown.get("queries"):
        return []
    rows = [[query["text"], [_hit(hit) for hit in query["hits"]]] for query in shown["queries"]]
    lost = [
        [
            _picture(miss["drawn"], miss["id"], ""),
            "; ".join(miss["own"]),
            miss["rank"],
            "; ".join(miss["nearest"]),
        ]
        for miss in shown["misses"]
    ]
    header = ["Picture", "Its text", "Rank", "Nearest texts"]
    sections = [
        Section(
            "found",
            "Queries",
            table("The nearest pictures", ["Query", "Nearest first; right ones are framed"], rows),
            "Some texts of the split, and the pictures that the model puts nearest to them.",
        )
    ]
    if lost:
        missed = table("The rank of the picture's own text", header, lost)
        lead = "The pictures whose own text comes last among all texts of the split."
        sections.append(Section("missed", "Worst misses", missed, lead))
    return sections


def _hit(hit: dict[str, Any]) -> Html:
    return _picture(hit["drawn"], hit["id"], "outline:3px solid #2a7d2e" if hit["right"] else "")


def _picture(drawn: str, name: str, style: str) -> Html:
    if not drawn.startswith("data:image/"):
        return tag("span", name)
    return tag("img", src=drawn, alt=name, title=name, width=72, style=f"margin:4px;{style}")
