from __future__ import annotations

import csv
import json

import pytest

from ftkeras.errors import UserError
from ftkeras.findings import Diagnosis, Evidence, Finding, check_out

NOTE = Finding("note", "size", "Images are small.", "Find larger ones.")
COPIES = Finding(
    "warning",
    "duplicates",
    "5 of 10 images are copies.",
    "Remove them.",
    tuple(Evidence(f"{i}.png", "train", "as 0.png") for i in range(5)),
)
ERROR = Finding("error", "missing", "No dogs.", "Add dogs.", (Evidence("dog"),))


def test_only_errors_stop():
    assert Diagnosis({}, [NOTE, COPIES]).exit_status == 0
    assert Diagnosis({}, [NOTE, ERROR]).exit_status == 1


def test_text_tells_the_gravest_first_and_a_little_of_the_evidence():
    text = Diagnosis({"disk": "full", "software": "Python"}, [NOTE, COPIES, ERROR]).text()
    assert text.splitlines()[:3] == ["disk      full", "software  Python", ""]
    assert (
        text.index("error    missing") < text.index("warning  dupl") < text.index("note     size")
    )
    assert text.count("(as 0.png)") == 3
    assert "and 2 more" in text
    assert "  -> Remove them." in text
    assert text.endswith("1 error, 1 warning, 1 note. Fix the errors before you train.")
    assert Diagnosis({}, []).text().endswith("nothing found. Nothing speaks against training.")


def test_an_address_stays_whole_and_an_empty_remedy_is_no_line():
    address = "https://storage.example.com/" + "keras-applications/" * 6
    text = Diagnosis({"model": address}, [Finding("error", "config", f"No {address}.")]).text()
    assert text.count(address) == 2 and "->" not in text


def test_a_file_has_all_evidence(tmp_path):
    diagnosis = Diagnosis({"disk": "full"}, [NOTE, COPIES])
    diagnosis.write(str(tmp_path / "all.csv"))
    with open(tmp_path / "all.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["0.png", "1.png", "2.png", "3.png", "4.png", ""]
    assert rows[0]["split"] == "train" and rows[0]["remedy"] == "Remove them."
    diagnosis.write(str(tmp_path / "all.json"))
    tree = json.loads((tmp_path / "all.json").read_text())
    assert tree == diagnosis.as_json()
    assert tree["findings"][0]["evidence"][4]["name"] == "4.png"


def test_a_path_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="must end in"):
        check_out("findings.txt")
    with pytest.raises(UserError, match="cannot be written"):
        Diagnosis({}, [NOTE]).write(str(tmp_path / "no" / "such" / "folder.csv"))
