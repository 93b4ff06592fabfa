"""Asks served towers over HTTP; needs nothing but Python.

    python rest_client.py http://localhost:8501/v1/models/NAME "cat,dog,a red boat" FILE ...

Prints a line for each file: file, the likeliest label, its score; or file, "error", what is wrong.
"""

from __future__ import annotations

import base64
import http.client
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PICTURE = ("encode_image", "image_bytes")
TEXT = ("encode_text", "text")
"""The signatures of both towers, and what each calls its argument."""


def encode_pictures(url: str, files: Sequence[bytes], timeout: float = 30.0) -> dict[str, Any]:
    """Returns `embedding`, a unit vector for each file, and `error`."""
    return _ask(url, PICTURE[0], {PICTURE[1]: list(map(_in_base64, files))}, timeout)


def encode_texts(url: str, texts: Sequence[str], timeout: float = 30.0) -> dict[str, Any]:
    """Returns `embedding`, a unit vector for each text, and `error`."""
    return _ask(url, TEXT[0], {TEXT[1]: list(texts)}, timeout)


def classify(
    url: str, files: Sequence[bytes], labels: Sequence[str], timeout: float = 30.0
) -> dict[str, Any]:
    """Returns `scores`, for each file one for each label, and `error`."""
    question = {PICTURE[1]: list(map(_in_base64, files)), "labels": list(labels)}
    return _ask(url, "classify", question, timeout)


def _in_base64(content: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(content).decode("ascii")}


def _ask(url: str, signature: str, inputs: dict[str, Any], timeout: float) -> dict[str, Any]:
    question = json.dumps({"signature_name": signature, "inputs": inputs})
    request = urllib.request.Request(
        f"{url}:predict", question.encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=timeout) as response:
        answers: dict[str, Any] = json.load(response)["outputs"]
    return answers


def main(url: str, labels: str, *paths: str) -> None:
    """Classifies files by any words and prints what they show."""
    names = [label.strip() for label in labels.split(",")]
    answers = classify(url, [Path(path).read_bytes() for path in paths], names)
    for path, scores, error in zip(paths, answers["scores"], answers["error"], strict=True):
        if error:
            print(path, "error", error, sep="\t")
        else:
            score, label = max(zip(scores, names, strict=True))
            print(path, label, f"{score:.4f}", sep="\t")


def run(arguments: Sequence[str]) -> int:
    """Runs the command line; returns the exit status, 2 if nothing was answered."""
    if len(arguments) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        main(*arguments)
    except urllib.error.HTTPError as error:
        answer = " ".join(error.read().decode("utf-8", "replace").split())[:300]
        fault = f"{arguments[0]}: the server refuses it ({error.code}): {answer}"
    except urllib.error.URLError as error:
        fault = f"{arguments[0]}: no server answers ({error.reason}); serve.sh starts one"
    except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
        fault = f"{type(error).__name__}: {error}"
    else:
        return 0
    print(f"rest_client.py: {fault}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
