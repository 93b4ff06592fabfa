"""How good the model is class by class, and what it takes for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ftkeras.measures.metrics import confusion_matrix
from ftkeras.outputs.any_of import AnyOf
from ftkeras.outputs.one_of import OneOf
from ftkeras.report.html import Child, Html, bar, interval, missing, number, scrolling, table, tag
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section, evaluate_command

_WHOLE = 24  # up to how many classes the matrix is shown whole
_PART = 14  # how many of the most confused classes are shown if it isn't
_PAIRS = 20  # how many pairs are listed
_IN_ORDER = 30  # up to how many classes are listed in their own order
_COLUMNS = {
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "auc": "AUC",
    "average_precision": "Average precision",
}


def per_class(facts: RunFacts) -> Section:
    """Returns precision, recall and support of each class, and of each slice."""
    title, rows = "Classes", (facts.evaluation or {}).get("per_class")
    if not rows:
        sentence = "There are no measures by class yet;"
        return Section("classes", title, missing(sentence, evaluate_command(facts)))
    ordered = rows
    note = ""
    if len(rows) > _IN_ORDER:
        ordered = sorted(rows, key=lambda row: (row.get("f1") is not None, row.get("f1") or 0.0))
        note = " The weakest come first."
    columns = {key: name for key, name in _COLUMNS.items() if key in rows[0]}
    listed = table(
        f"Each of the {len(rows)} classes on the {facts.split} {facts.nouns}",
        ["Class", facts.nouns.capitalize(), *columns.values()],
        [
            [
                tag("span", row["name"], class_="long"),
                number(row["support"], ","),
                *(bar(row.get(key)) for key in columns),
            ]
            for row in ordered
        ],
        tall=len(rows) > _IN_ORDER,
    )
    lead = (
        "Precision: of the answers for this class, how many are right. Recall: of the "
        f"{facts.nouns} of this class, how many are found. F1 is their harmonic mean.{note}"
    )
    return Section("classes", title, [listed, slices(facts)], lead)


def slices(facts: RunFacts) -> Child:
    """Returns the metrics of parts of the split, if the run has any."""
    groups = (facts.evaluation or {}).get("slices")
    if not groups:
        return None
    return [
        tag("h3", "Slices"),
        [_slice_table(name, parts, facts.nouns) for name, parts in groups.items()],
    ]


def _slice_table(name: str, parts: dict[str, dict[str, Any]], nouns: str) -> Html:
    return table(
        f"By {name}",
        [name, nouns.capitalize(), "Accuracy", "95% interval"],
        [
            [value, part.get("n"), bar(part.get("accuracy"), ".1%"), interval(part.get("interval"))]
            for value, part in parts.items()
        ],
    )


def confusion(facts: RunFacts) -> Section:
    """Returns the confusion matrix, or what matters of it if it is large."""
    title = "Confusion matrix"
    matrix = confusion_of(facts)
    if matrix is None:
        if isinstance(facts.output, AnyOf):
            sentence = (
                f"With several labels per {facts.noun} no answer takes another's place, so there "
                "is no confusion matrix; precision and recall by class say what is missed or made "
                "up."
            )
            return Section("confusion", title, tag("p", sentence))
        sentence = "The confusion matrix is missing;"
        return Section("confusion", title, missing(sentence, evaluate_command(facts)))
    names = facts.class_names
    pairs = most_confused(matrix, 10 if len(names) <= _WHOLE else _PAIRS)
    if len(names) <= _WHOLE:
        shown = list(range(len(names)))
        caption = f"How many {facts.nouns} of each class (row) got which answer (column)"
    else:
        involved = [
            c for truth, answer, _ in most_confused(matrix, 10 * _PART) for c in (truth, answer)
        ]
        shown = sorted(list(dict.fromkeys(involved))[:_PART])
        caption = (
            f"The {len(shown)} of {len(names)} classes that are confused most: how many "
            f"{facts.nouns} of each (row) got which answer (column)"
        )
    drawn = _matrix(matrix, names, shown, caption) if shown else None
    if not pairs:
        listed: Child = tag("p", f"No {facts.noun} of one class was taken for another.")
    else:
        listed = table(
            f"The {len(pairs)} most frequent confusions" if len(pairs) > 1 else "The confusion",
            ["True class", "Answer", facts.nouns.capitalize(), "Share of the class"],
            [
                [
                    tag("span", names[truth], class_="long"),
                    tag("span", names[answer], class_="long"),
                    count,
                    bar(count / matrix[truth].sum(), ".0%"),
                ]
                for truth, answer, count in pairs
            ],
        )
    lead = (
        "Right answers lie on the diagonal. The fuller a cell's colour, the more of its row it "
        "holds."
    )
    return Section("confusion", title, tag("div", drawn, listed, class_="beside"), lead)


def confusion_of(facts: RunFacts) -> np.ndarray | None:
    """Returns the confusion matrix, (classes, classes): truth by row, answers by column."""
    predictions, classes = facts.predictions.get(facts.split), len(facts.class_names)
    if not isinstance(facts.output, OneOf):
        return None
    if predictions is not None:
        return confusion_matrix(predictions.labels, predictions.logits.argmax(axis=1), classes)
    kept = np.array((facts.evaluation or {}).get("confusion_matrix", ()))
    return kept if kept.shape == (classes, classes) else None


def most_confused(matrix: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """Returns (truth, answer, count) of the most frequent wrong answers, in that order."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    cells = (divmod(int(cell), len(matrix)) for cell in order)
    return [
        (truth, answer, int(wrong[truth, answer]))
        for truth, answer in cells
        if wrong[truth, answer]
    ]


def _matrix(matrix: np.ndarray, names: Sequence[str], shown: Sequence[int], caption: str) -> Html:
    part = len(shown) < len(names)
    totals = matrix.sum(axis=1)

    def cell(truth: int, count: int, right: bool, answer: str) -> Html:
        share = count / max(totals[truth], 1)
        said = f"{names[truth]} answered as {answer}: {count} of {totals[truth]}"
        return tag(
            "td", count or tag("span", 0, class_="nothing"), title=said,
            class_="right" if right else None, style=f"--share:{share:.3f}" if count else None,
        )  # fmt: skip

    header = [
        tag("th", tag("span", names[answer]), scope="col", title=names[answer]) for answer in shown
    ]
    if part:
        header.append(tag("th", tag("span", "others"), scope="col"))
    rows = []
    for truth in shown:
        cells = [cell(truth, int(matrix[truth, a]), a == truth, names[a]) for a in shown]
        if part:
            rest = int(totals[truth] - matrix[truth, list(shown)].sum())
            cells.append(cell(truth, rest, False, "others"))
        rows.append(
            tag("tr", tag("th", tag("span", names[truth]), scope="row", title=names[truth]), cells)
        )
    corner = tag("td", "true \\ answer", class_="corner")
    whole = tag(
        "table", tag("caption", tag("span", caption)), tag("thead", tag("tr", corner, header)),
        tag("tbody", rows), class_="matrix",
    )  # fmt: skip
    return scrolling(whole, caption)
