"""The page of a run, and of several: complete, well-formed, and safe whatever the names are."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ftkeras.config.load import leaves
from ftkeras.errors import UserError
from ftkeras.measures.metrics import softmax
from ftkeras.report.axes import COLOURS
from ftkeras.report.comparison import comparison_page, run_names
from ftkeras.report.gallery import shown_mistakes
from ftkeras.report.page import SECTIONS, run_page
from ftkeras.report.read import read_run

HOSTILE = ["<script>alert(1)</script>", "猫 & \"dog\" 'x'", "a" * 300, "\u202eevil\x00"]
VOID = {"meta", "img", "br"}


class Document(HTMLParser):
    """Reads a page, checks that its tags are nested rightly, and keeps what the tests look at."""

    def __init__(self, markup: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.by_section: dict[str, str] = {}
        self._open: list[str] = []
        self._section = ""
        self.feed(markup)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        if tag == "section":
            self._section = dict(attrs)["id"]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        data += " "
        if self._open and self._open[-1] != "style":
            self.words += data
            self.by_section[self._section] = self.by_section.get(self._section, "") + data

    def all(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def document(folder: Path) -> Document:
    return Document(run_page(read_run(str(folder))))


def check_accessible(page: Document) -> None:
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for link in page.all("a"):
        assert link["href"].removeprefix("#") in ids
    for svg in page.all("svg"):
        assert svg["role"] == "img"
        assert svg["aria-label"]
    assert all(picture["alt"] for picture in page.all("img"))
    names = [tag for tag, _ in page.tags]
    assert names.count("caption") == names.count("table")
    assert all(cell.get("scope") for cell in page.all("th"))
    boxes = [a for a in page.all("div") if a.get("class", "").startswith("scroll")]
    assert len(boxes) == names.count("table")
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)
    assert [a.get("lang") for a in page.all("html")] == ["en"]
    headings = [int(name[1]) for name in names if re.fullmatch("h[1-6]", name)]
    assert headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(headings, headings[1:], strict=False))


def check_self_contained(markup: str) -> None:
    assert not re.search(r"(src|href)=.(?!data:image/|#)", markup)
    assert "@import" not in markup
    assert "url(" not in markup
    assert "<script" not in markup
    assert "default-src &#x27;none&#x27;" in markup


def test_a_run_is_told_whole(make_run):
    folder = make_run()
    markup = run_page(read_run(str(folder)))
    page = Document(markup)
    check_accessible(page)
    check_self_contained(markup)
    told = {section: " ".join(words.split()) for section, words in page.by_section.items()}
    accuracy = read_run(str(folder)).evaluation["accuracy"]
    assert f"{accuracy:.1%}" in told["summary"]
    assert "ftkeras train '--out=it'\"'\"'s'" in told["repeat"]
    assert "The seed is 0" in told["repeat"]
    assert "stem to block_1 (2 blocks)" in told["plan"]
    assert "Mind it." in told["plan"]
    assert "Grad-CAM" in told["mistakes"]
    assert "frozen weights held" in told["frozen"]
    assert "block_2/bias" in told["frozen"]
    assert "903" in told["cost"]  # MB, the peak of the last phase
    assert "gaussian noise" in told["robustness"]
    assert "it pays 1 min 30 s 9.0 s 12 s 2.5" in told["plan"]
    assert "saved model 3.0e-06 1.0e-04 - 7.5 99.2 4.0" in told["export"]
    assert "kept" in told["curves"]
    assert len(page.all("section")) == len(SECTIONS)
    assert len(page.all("svg")) == 3 + 2  # loss, accuracy, rate; calibration before and after


def test_scores_are_those_of_predict_and_say_which_model_gave_them(make_run):
    folder = make_run()
    facts = read_run(str(folder))
    said = facts.predictions["test"]
    for mistake in shown_mistakes(facts):
        scores = softmax(said.logits[[mistake.index]] / 1.3)[0]
        assert mistake.suggested_score == pytest.approx(scores[mistake.suggested])
    page = Document(run_page(facts)).by_section
    assert "second training" not in page["labels"]
    shutil.copy(folder / "predictions/test.npz", folder / "predictions/val.npz")
    (folder / "refit.json").write_text(json.dumps({"examples": 70}))
    again = Document(run_page(read_run(str(folder)))).by_section
    assert "from before the second training" in again["labels"]


def test_names_never_become_markup(make_run):
    folder = make_run(HOSTILE[0][1:4], HOSTILE, accuracy=0.5)
    markup = run_page(read_run(str(folder)))
    page = Document(markup)
    check_accessible(page)
    check_self_contained(markup)
    assert HOSTILE[0] in page.words
    assert HOSTILE[1] in page.words
    assert "\u202e" not in markup
    assert "\x00" not in markup
    assert not {"script", "iframe", "object", "link"} & {tag for tag, _ in page.tags}


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_any_number_of_classes_stays_small_and_readable(make_run, classes):
    names = [f"class {i:04d}" for i in range(classes)]
    folder = make_run(names=names, examples=2 * classes, accuracy=0.7)
    markup = run_page(read_run(str(folder)))
    page = Document(markup)
    check_accessible(page)
    assert len(markup) < 2_000_000
    assert all(name in page.by_section["classes"] for name in names)
    [matrix] = re.findall(r'<table class="matrix">.*?</table>', markup, re.DOTALL)
    rows = matrix.count("<tr>") - 1
    assert rows == (classes if classes <= 10 else 14)
    assert ("others" in matrix) == (classes > 10)


def test_several_labels_an_image(make_run):
    page = document(make_run(names=["sky", "sea", "sand"], multi_label=True))
    check_accessible(page)
    assert "no confusion matrix" in " ".join(page.by_section["confusion"].split())
    assert "not there" in page.by_section["mistakes"]
    assert "Average precision" in page.by_section["classes"]


def test_what_is_missing_is_said_with_the_command_that_makes_it(make_run):
    folder = make_run(whole=False)
    page = document(folder)
    check_accessible(page)
    for section, command in {
        "summary": "ftkeras evaluate", "curves": "ftkeras train", "plan": "ftkeras train",
        "classes": "ftkeras evaluate", "confusion": "ftkeras evaluate",
        "calibration": "ftkeras evaluate", "mistakes": "ftkeras evaluate",
        "labels": "ftkeras evaluate", "robustness": "ftkeras robustness", "frozen": "ftkeras train",
        "cost": "ftkeras train", "export": "ftkeras export",
    }.items():  # fmt: skip
        assert command in page.by_section[section], section


@pytest.mark.parametrize(("kind", "shown"), [("image", True), ("text", False), ("own", True)])
def test_no_command_is_named_that_cannot_work_on_the_kind(make_run, kind, shown):
    folder = make_run(whole=False)
    facts = {**json.loads((folder / "data.json").read_text()), "input": kind}
    (folder / "data.json").write_text(json.dumps(facts))
    assert ("robustness" in document(folder).by_section) == shown


@pytest.mark.parametrize(
    "name",
    ["environment.json", "status.json", "data.json", "plan.json", "metrics.jsonl",
     "certificate.json", "evaluation.json", "predictions/test.npz", "pictures.json",
     "robustness.json"],
)  # fmt: skip
def test_no_single_file_is_needed_and_none_need_be_whole(make_run, name):
    folder = make_run()
    whole = (folder / name).read_bytes()
    for broken in (None, whole[: len(whole) // 2], b""):
        if broken is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(broken)
        check_accessible(document(folder))


def test_drift_and_failure_are_not_hidden(make_run):
    folder = make_run()
    plan = (folder / "plan.json").read_text().replace('"drifted": []', '"drifted": ["stem/x"]')
    (folder / "plan.json").write_text(plan)
    (folder / "status.json").write_text('{"state": "failed", "error": "OSError: disk full"}')
    page = document(folder)
    assert "frozen weights changed" in page.by_section["frozen"]
    assert "stem/x" in page.by_section["frozen"]
    assert "The run is failed.  OSError: disk full" in page.by_section["summary"]
    assert "2 frozen variables changed" in page.by_section["summary"]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        read_run(str(tmp_path))


def test_several_runs_stand_side_by_side(make_run):
    folders = [make_run("a"), make_run("b", seed=1, accuracy=0.6), make_run("c", whole=False)]
    markup = comparison_page([read_run(str(folder)) for folder in folders])
    page = Document(markup)
    check_accessible(page)
    check_self_contained(markup)
    told = {section: " ".join(words.split()) for section, words in page.by_section.items()}
    for folder in folders[:2]:
        assert f"{read_run(str(folder)).evaluation['accuracy']:.1%}" in told["results"]
    assert f"ftkeras evaluate {folders[2]}" in told["results"]
    assert "seed" in told["configs"]
    assert "backbone.name" not in told["configs"]
    assert told["classes"].count("Recall") == 3
    assert "not measured on the same images" not in told["results"]
    assert "900" not in told["results"]


def test_runs_measured_on_other_images_are_pointed_out(make_run):
    runs = [read_run(str(make_run("a"))), read_run(str(make_run("b", examples=50)))]
    assert "not measured on the same images" in comparison_page(runs)


def test_runs_of_one_name_are_told_apart_by_their_folders(make_run, tmp_path):
    first = make_run("x/run")
    shutil.copytree(first, tmp_path / "y" / "run")
    runs = [read_run(str(tmp_path / parent / "run")) for parent in "xy"]
    assert run_names(runs) == [run.folder for run in runs]
    assert "The configs are the same" in comparison_page(runs)


def test_a_configs_fields_are_named_as_set_names_them():
    tree = {"seed": 1, "phases": [{"train": ["head"]}], "mix": {}}
    assert dict(leaves(tree)) == {"seed": 1, "phases[0].train": ["head"], "mix": {}}


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("source", ["page", "chart"])
def test_text_has_a_contrast_of_4_5_and_graphics_of_3(source, make_run):
    style = run_page(read_run(str(make_run()))) if source == "page" else COLOURS
    schemes = [
        dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})\b", block))
        for block in re.findall(r":root \{.*?--c5:.*?\}", style, re.DOTALL)
    ]
    assert len(schemes) == 2
    for colours in schemes:

        def contrast(one: str, other: str, colours: dict[str, str] = colours) -> float:
            low, high = sorted(luminance(colours[name]) for name in (one, other))
            return (high + 0.05) / (low + 0.05)

        for ground in ("paper", "soft"):
            for name in {"ink", "muted", "link", "good", "bad"} & set(colours):
                assert contrast(name, ground) >= 4.5, (name, ground)
            for hue in range(6):
                assert contrast(f"c{hue}", ground) >= 3, (hue, ground)
