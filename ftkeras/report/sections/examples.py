"""Examples worth a look: the surest mistakes, and labels that are likely wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ftkeras.evaluation.suspects import Suspect
from ftkeras.report.excerpt import excerpt, is_excerpt
from ftkeras.report.gallery import SUSPECTS, label_suspects, shown_mistakes
from ftkeras.report.html import Child, Html, details, missing, table, tag
from ftkeras.report.read import RunFacts
from ftkeras.report.section import Section, evaluate_command

_LISTED = 200  # suspects in the table
_DRAWN = "image"  # what is drawn of an example, unless it is an excerpt


def mistakes(facts: RunFacts) -> Section:
    """Returns the mistakes that the model is surest of, and where it looked."""
    title = "Most confident mistakes"
    if facts.split not in facts.predictions:
        sentence = f"There are no predictions of the {facts.split} {facts.nouns} to look at;"
        command = evaluate_command(facts, facts.split)
        return Section("mistakes", title, missing(sentence, command))
    shown = shown_mistakes(facts)
    if not shown:
        return Section("mistakes", title, tag("p", "There are none: every answer was right."))
    ids = facts.predictions[facts.split].ids
    cards = [_card(facts, facts.split, str(ids[m.index]), m, explained=True) for m in shown]
    lead = (
        f"The wrong answers on the {facts.split} {facts.nouns} with the highest scores, highest "
        "first. Look at their labels, too: some may be wrong."
    )
    return Section(
        "mistakes",
        title,
        [_overlay_note(facts) if facts.is_drawn else None, tag("ul", cards, class_="cards")],
        lead,
    )


def label_errors(facts: RunFacts) -> Section:
    """Returns the examples whose labels are likely wrong."""
    title = "Likely label errors"
    held_out = [split for split in ("val", "test") if split in facts.predictions]
    if not held_out:
        sentence = (
            f"Labels are checked against predictions of held-out {facts.nouns}, and there are none;"
        )
        command = evaluate_command(facts, "test")
        return Section("labels", title, missing(sentence, command))
    suspects = [(split, suspect) for split in held_out for suspect in label_suspects(facts, split)]
    suspects.sort(key=lambda pair: pair[1].label_score - pair[1].suggested_score)
    count = sum(len(facts.predictions[split].ids) for split in held_out)
    where = " and ".join(held_out)
    if not suspects:
        said = f"None of the {count:,} {where} {facts.nouns} looks wrongly labelled."
        return Section("labels", title, tag("p", said))
    named = [(s, str(facts.predictions[s].ids[suspect.index]), suspect) for s, suspect in suspects]
    cards = [_card(facts, s, key, suspect, explained=False) for s, key, suspect in named[:SUSPECTS]]
    rows = [
        [tag("span", key, class_="long"), split, _label(facts, suspect.label),
         _label(facts, suspect.suggested), f"{suspect.label_score:.3f}",
         f"{suspect.suggested_score:.3f}"]
        for split, key, suspect in named[:_LISTED]
    ]  # fmt: skip
    header = [facts.noun.capitalize(), "Split", "Label", "Answer", "Score of the label",
              "Score of the answer"]  # fmt: skip
    caption = f"The likeliest {len(rows)} of {len(named)} suspects, by name"
    lead = (
        f"{len(named)} of {count:,} {where} {facts.nouns} score another class as high as "
        f"{facts.nouns} of that class do on average, and their own class lower than its "
        f"{facts.nouns} do (confident learning, Northcutt et al. 2021). A suspicion, not a "
        "verdict: many are only hard."
    )
    if facts.refit is not None and "val" in held_out:
        lead += (
            f" Of val, the scores are those from before the second training, which had these "
            f"{facts.nouns} in it: a model cannot judge labels that it was trained on."
        )
    body = [
        None if _reads(facts, [facts.split]) else _excerpt_note(facts, held_out),
        tag("ul", cards, class_="cards" if _reads(facts, held_out) else "cards small"),
        details("All suspects by name", table(caption, header, rows, tall=True)),
    ]
    return Section("labels", title, body, lead)


def _card(facts: RunFacts, split: str, key: str, suspect: Suspect, *, explained: bool) -> Html:
    label = _label(facts, suspect.label)
    answer = _label(facts, suspect.suggested)
    return tag(
        "li",
        _drawing(facts, split, key, label, explained=explained) if facts.is_drawn else None,
        tag("p", tag("span", "answer ", class_="role"), tag("strong", answer),
            f" {suspect.suggested_score:.1%}"),
        tag("p", tag("span", "label ", class_="role"), tag("strong", label),
            f" {suspect.label_score:.1%}"),
        tag("p", key, class_="id"),
    )  # fmt: skip


def _drawing(facts: RunFacts, split: str, key: str, label: str, *, explained: bool) -> Html:
    drawn = facts.gallery.get(split, {}).get(key, {})
    if is_excerpt(drawn):
        return excerpt(drawn)
    shown = [
        tag("img", src=drawn[_DRAWN], alt=f"{key}, labelled {label}", loading="lazy")
        if _DRAWN in drawn
        else tag("div", "no picture", class_="blank")
    ]
    if explained and "overlay" in drawn:
        looked = f"where the model looked in {key}"
        shown.append(tag("img", src=drawn["overlay"], alt=looked, loading="lazy"))
    return tag("div", shown, class_="pair")


def _reads(facts: RunFacts, splits: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the excerpts among what is drawn."""
    drawn = (card for split in splits for card in facts.gallery.get(split, {}).values())
    return [card for card in drawn if is_excerpt(card)]


def _excerpt_note(facts: RunFacts, splits: Sequence[str]) -> Child:
    cards = _reads(facts, splits)
    if not cards:
        return None
    if any("weights" in card for card in cards):
        return tag(
            "p", "The colour behind a word is what the word did for the answer (integrated "
            "gradients, Sundararajan et al. 2017): blue speaks for it, orange and dotted against "
            "it, and the strongest are bold. The title of a word is what it added to the answer's "
            "score, in nats. Words without colour did little, or were not read.",
        )  # fmt: skip
    return tag("p", "No word has a colour: the model has no embedding of tokens to weigh them by.")


def _label(facts: RunFacts, index: int) -> str:
    return facts.class_names[index] if index >= 0 else "not there"


def _overlay_note(facts: RunFacts) -> Child:
    if note := _excerpt_note(facts, [facts.split]):
        return note
    cells = [p["cells"] for p in facts.gallery.get(facts.split, {}).values() if "cells" in p]
    if cells:
        height, width = cells[0]
        return tag(
            "p", f"The map beside each {facts.noun} shows the regions that led to the answer "
            "(Grad-CAM, Selvaraju et al. 2017): bright yellow most, dark violet least. It has "
            f"{height} x {width} cells, so its edges are soft.",
        )  # fmt: skip
    if facts.gallery.get(facts.split):
        return tag("p", "There are no Grad-CAM overlays: the model has no feature map, or at this "
                   f"{facts.noun} size one of a single cell.")  # fmt: skip
    return missing("Pictures are made if the run's model and data are at hand:",
                   f"ftkeras report {facts.folder}")  # fmt: skip
