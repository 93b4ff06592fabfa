"""Words that give a class away: its own name, or a mark of its source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ftkeras.findings import Evidence, Finding
from ftkeras.inputs.text.words import stem, words_in

if TYPE_CHECKING:
    from ftkeras.inputs.text.looks import Looks

_LEAST = 10  # texts of a class and of the others, for meaningful shares
_LEAST_MARKED = 20
_NAMED, _NAMED_ELSEWHERE = 0.6, 0.05
_MARKED, _MARKED_ELSEWHERE = 0.9, 0.01
_SHOWN = 20  # marks per class


def find_giveaways(looks: Looks, class_names: Sequence[str]) -> Iterator[Finding]:
    """Yields a finding on names of classes in their texts, and one on other giveaway words.

    Args:
        looks: Measurements of the texts.
        class_names: Names of the classes.
    """
    if not class_names or not len(looks):
        return
    named = _named(looks, class_names)
    if named:
        yield Finding(
            "warning",
            "class names in texts",
            f"The texts of {len(named)} of {len(class_names)} classes contain the name of their "
            "class, and others do not: the label leaks, or a search for a word is enough.",
            "If the texts to classify later do not have these words, take them out.",
            tuple(named),
        )
    marked = _marked(looks, class_names)
    if marked:
        classes = len({row.name for row in marked})
        yield Finding(
            "warning",
            "telling words",
            f"One word gives away {classes} of {len(class_names)} classes: it is in more than "
            f"{_MARKED:.0%} of the texts of a class and in less than {_MARKED_ELSEWHERE:.0%} of "
            "others. The model can use it instead of content.",
            "Take out marks of the source: headers, signatures, addresses, names of tools.",
            tuple(marked),
        )


def _named(looks: Looks, class_names: Sequence[str]) -> list[Evidence]:
    rows, numbers = looks.words.once
    stems_of = {
        c: {stem(word) for word in words_in(name) if word[0].isalnum()}
        for c, name in enumerate(class_names)
    }
    # A short name, a number, or a label of several outputs may be in texts by chance.
    stems_of = {c: s for c, s in stems_of.items() if s and all(map(_can_be_meant, s))}
    number_of = {word: i for i, word in enumerate(set().union(*stems_of.values()))}
    stems = [stem(word) for word in looks.words.vocabulary]
    which = np.array([number_of.get(word, -1) for word in stems] or [-1])[numbers]
    rows, which = rows[which >= 0], which[which >= 0]
    named = []
    for c, inside in looks.classes():
        if c not in stems_of or min(inside.sum(), (~inside).sum()) < _LEAST:
            continue
        there = np.ones(len(looks), bool)
        for word in stems_of[c]:
            has = np.zeros(len(looks), bool)
            has[rows[which == number_of[word]]] = True
            there &= has
        own, others = there[inside].mean(), there[~inside].mean()
        if own >= _NAMED and others <= _NAMED_ELSEWHERE:
            detail = f"its name is in {own:.0%} of its texts, in {others:.1%} of others"
            named.append(Evidence(class_names[c], detail=detail))
    return named


def _can_be_meant(word: str) -> bool:
    return word.isalpha() and (len(word) >= 3 or not word.isascii())


def _marked(looks: Looks, class_names: Sequence[str]) -> list[Evidence]:
    rows, numbers = looks.words.once
    size = len(looks.words.vocabulary)
    everywhere = np.bincount(numbers, minlength=size)
    marked = []
    for c, inside in looks.classes():
        count, rest = int(inside.sum()), int((~inside).sum())
        if min(count, rest) < _LEAST_MARKED:
            continue
        here = np.bincount(numbers[inside[rows]], minlength=size)
        share, elsewhere = here / count, (everywhere - here) / rest
        found = np.flatnonzero((share > _MARKED) & (elsewhere < _MARKED_ELSEWHERE))
        name = {stem(word) for word in words_in(class_names[c])}
        for number in found[np.argsort(-share[found], kind="stable")][:_SHOWN].tolist():
            word = looks.words.vocabulary[number]
            if stem(word) not in name:  # names have their own finding
                detail = f"{word!r} is in {share[number]:.0%}, in {elsewhere[number]:.1%} of others"
                marked.append(Evidence(class_names[c], detail=detail))
    return marked
