"""Rebuilds `ftkeras/starter/emoji.zip`: small pictures with their names and tags.

    python tools/make_emoji_starter.py [--pictures FILE] [--names FILE] [--out DIR] [--all DIR]

Without the flags it fetches both inputs with `npm pack`. Needs Pillow. The same inputs give the
same table and the same pixels; the PNG bytes may differ with the zlib that Pillow was built with.
The entries of other files in PROVENANCE are kept. Emoji with the same pixels ship once, under the
name that is oldest in Unicode: some flags have several names, and a flag that the package has no
picture of shows another one. `--all` writes all emoji, whole, into a folder of your own instead:
`emoji.csv` beside `img/`. `--languages=de,fr` adds tables with their names and tags:
`emoji-de.csv`, `emoji-fr.csv`.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from make_starter import checked, download, sha256, write_provenance, write_zip
from PIL import Image

ARCHIVE = "emoji.zip"
PACKAGES = {"pictures": "emoji-datasource-google@16.0.0", "names": "emojibase-data@17.0.0"}
KNOWN_INPUTS = {
    "pictures": "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    "names": "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
}
SHARE = 3  # one concept in so many ships
COLOURS = 128
COLUMNS = ("path", "name", "tags", "group", "concept", "split")
GROUPS = (
    "smileys and emotion", "people and body", "component", "animals and nature", "food and drink",
    "travel and places", "activities", "objects", "symbols", "flags",
)  # fmt: skip
PEOPLE = {"1F468", "1F469", "1F9D1"}  # man, woman, person: variants of one another
MARKS = {
    "200D", "FE0F", "2640", "2642", "27A1", *(f"1F3F{n:X}" for n in range(0xB, 0x10))
}  # fmt: skip
PARTS = (("test", 0.25), ("val", 0.4), ("train", 1.0))  # of concepts, up to these shares

ENTRY = {
    ARCHIVE: """\
  What       {count:,} emoji of Noto, 64 x 64 pixels, each with its English name and tags.
  Source     img/google/64/ in the npm package emoji-datasource-google 16.0.0; en/data.json in the
             npm package emojibase-data 17.0.0.
  Author     Google (pictures); Miles Johnson, after Unicode CLDR (names and tags)
  Licence    Pictures: Apache-2.0. Names and tags: MIT, and Unicode's (see NOTICE).
  Changed    One concept in {share}, chosen by SHA-256. Pictures lie on white and have
             {colours} colours. A concept is an emoji with all its variants: skin, hair, gender and
             direction. Its emoji are in one split: {parts}.
             Of emoji with the same pixels, only the one that is oldest in Unicode ships. So
             these are left out: {copies}.
             One table, emoji.csv, with the columns path, name, tags (separated by semicolons),
             group, concept and split.
  Input      sha256 {pictures}  emoji-datasource-google-16.0.0.tgz
  Input      sha256 {names}  emojibase-data-17.0.0.tgz
  Output     sha256 {output}  {name}
"""
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Rebuild the emoji of ftkeras/starter/.")
    parser.add_argument("--pictures", type=Path, help="the archive of emoji-datasource-google")
    parser.add_argument("--names", type=Path, help="the archive of emojibase-data")
    parser.add_argument("--all", type=Path, help="a folder that takes all emoji instead")
    parser.add_argument("--languages", default="", help="of more tables beside that of --all")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).resolve().parents[1] / "ftkeras" / "starter"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        inputs = {
            name: getattr(args, name)
            or download(
                ["npm", "pack", package, "--pack-destination", folder],
                f"{package.partition('@')[0]}-*.tgz",
                Path(folder),
            )
            for name, package in PACKAGES.items()
        }
        checksums = checked(inputs, KNOWN_INPUTS)
        pictures = unpack(inputs["pictures"])
        rows = emoji(inputs["names"], pictures)
        others = {
            language: emoji(inputs["names"], pictures, language)
            for language in filter(None, args.languages.split(","))
        }
    if args.all:
        write_all(args.all, rows, pictures)
        for language, named in others.items():
            (args.all / f"emoji-{language}.csv").write_bytes(table(named))
    else:
        build(args.out, rows, pictures, checksums)


def unpack(archive: Path) -> dict[str, bytes]:
    """Returns the pictures by file name."""
    found = {}
    with tarfile.open(archive) as packed:
        for member in packed:
            folder, _, name = member.name.rpartition("/")
            if folder == "package/img/google/64" and (file := packed.extractfile(member)):
                found[name] = file.read()
    return found


def emoji(archive: Path, pictures: dict[str, bytes], language: str = "en") -> list[dict[str, Any]]:
    """Returns a row of the table, and "since", for each emoji that has a picture."""
    with tarfile.open(archive) as packed:
        file = packed.extractfile(f"package/{language}/data.json")
        assert file is not None
        entries = json.load(file)
    rows = []
    for entry in entries:
        path = _picture(entry["hexcode"], pictures)
        if "group" in entry and path:
            concept = concept_of(entry["hexcode"])
            rows.append(
                {
                    "path": path,
                    "name": entry["label"],
                    "tags": ";".join(tag.replace(";", ",") for tag in entry.get("tags", ())),
                    "group": GROUPS[entry["group"]],
                    "concept": concept,
                    "split": split_of(concept),
                    "since": entry["version"],
                }
            )
    return rows


def _picture(code: str, pictures: dict[str, bytes]) -> str:
    """Returns the file of an emoji; "" if there is none. Some leave out the mark FE0F."""
    parts = [part.lower().zfill(4) for part in code.split("-")]
    plain = [part for part in parts if part != "fe0f"]
    keycap = [plain[0], "fe0f", *plain[1:]]
    for candidate in (parts, plain, [*plain, "fe0f"], keycap):
        if (name := f"{'-'.join(candidate)}.png") in pictures:
            return name
    return ""


def concept_of(code: str) -> str:
    """Returns what an emoji shares with its variants: of other skin, hair, gender, direction.

    >>> concept_of("1F6A3-200D-2642-FE0F") == concept_of("1F6A3")
    True
    """
    parts = code.split("-")
    if parts[0].startswith("1F1"):  # a flag is two letters
        return code
    kept = ["person" if part in PEOPLE else part for part in parts if part not in MARKS]
    return "-".join(kept) or code


def split_of(concept: str) -> str:
    place = int(hashlib.sha256(f"split {concept}".encode()).hexdigest()[:8], 16) / 2**32
    return next(name for name, end in PARTS if place < end)


def ships(concept: str) -> bool:
    return int(hashlib.sha256(f"ship {concept}".encode()).hexdigest()[:8], 16) % SHARE == 0


def on_white(content: bytes) -> Image.Image:
    """Returns a picture without transparency."""
    picture = Image.open(io.BytesIO(content)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def without_copies(
    rows: list[dict[str, Any]], pictures: dict[str, Image.Image]
) -> list[dict[str, Any]]:
    """Leaves out emoji whose pixels an older one has. Of the same age, the first row is kept."""
    oldest: dict[bytes, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["since"]):
        oldest.setdefault(pictures[row["path"]].convert("RGB").tobytes(), row)
    kept = {row["path"] for row in oldest.values()}
    return [row for row in rows if row["path"] in kept]


def table(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "path": f"img/{row['path']}"} for row in rows)
    return text.getvalue().encode()


def write_all(folder: Path, rows: list[dict[str, Any]], pictures: dict[str, bytes]) -> None:
    """Writes all emoji as a table with pictures beside it."""
    (folder / "img").mkdir(parents=True, exist_ok=True)
    for row in rows:
        (folder / "img" / row["path"]).write_bytes(png(on_white(pictures[row["path"]])))
    (folder / "emoji.csv").write_bytes(table(rows))
    print(f"{folder}: {len(rows):,} emoji")


def build(
    out: Path, rows: list[dict[str, Any]], pictures: dict[str, bytes], checksums: dict[str, str]
) -> None:
    """Writes the archive and its entry of PROVENANCE into `out`."""
    drawn = [row for row in rows if ships(row["concept"])]
    small = {
        row["path"]: on_white(pictures[row["path"]]).quantize(COLOURS, Image.Quantize.MEDIANCUT)
        for row in drawn
    }
    chosen = without_copies(drawn, small)
    files = [("emoji.csv", table(chosen))]
    files += [(f"img/{row['path']}", png(small[row["path"]])) for row in chosen]
    write_zip(out / ARCHIVE, files)
    counts = [f"{sum(r['split'] == name for r in chosen)} {name}" for name, _ in PARTS]
    copies = ", ".join(row["name"] for row in drawn if row not in chosen)
    facts = {
        "count": len(chosen), "share": SHARE, "colours": COLOURS, "name": ARCHIVE, "copies": copies,
        "parts": ", ".join(counts), "output": sha256((out / ARCHIVE).read_bytes()), **checksums,
    }  # fmt: skip
    write_provenance(out, {name: entry.format(**facts) for name, entry in ENTRY.items()})
    print(f"{out / ARCHIVE}: {(out / ARCHIVE).stat().st_size:,} bytes, {', '.join(counts)}")


if __name__ == "__main__":
    main()
