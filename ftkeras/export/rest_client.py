"""Asks a served classifier over HTTP; needs nothing but Python.

    python rest_client.py http://localhost:8501/v1/models/NAME FILE ...

Prints a line for each file: file, class, score; or file, "error", what is wrong with it. A model
with several heads has classes, scores and values by head.
"""

from __future__ import annotations

import base64
import http.client
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def classify(url: str, files: Sequence[bytes], timeout: float = 30.0) -> list[dict[str, Any]]:
    """Returns an answer for each example, in order.

    Args:
        url: The model's, such as http://localhost:8501/v1/models/NAME.
        files: The files' bytes: images (JPEG, PNG, GIF or BMP, of any sizes), or texts in UTF-8.
        timeout: Seconds to wait.

    Returns:
        Dicts with `scores` (the best first), `class_names`, `class_indices`, and `error`, which is
        empty unless the file could not be read.
    """
    instances = [{"b64": base64.b64encode(file).decode("ascii")} for file in files]
    question = json.dumps({"signature_name": "serving_default", "instances": instances})
    request = urllib.request.Request(
        f"{url}:predict", question.encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=timeout) as response:
        answers: list[dict[str, Any]] = json.load(response)["predictions"]
    return answers


def main(url: str, *paths: str) -> None:
    """Classifies files and prints what they show."""
    for path, answer in zip(
        paths, classify(url, [Path(p).read_bytes() for p in paths]), strict=True
    ):
        if answer["error"]:
            print(path, "error", answer["error"], sep="\t")
        else:
            print(path, *columns(answer), sep="\t")


def columns(answer: dict[str, Any]) -> Iterator[str]:
    """Yields the best class and its score; of several heads, each one's name before its own."""
    for name in sorted(answer):
        if name.endswith("_value"):
            yield from (name.removesuffix("_value"), f"{answer[name]:.6g}")
        elif name.endswith("class_names"):
            start = name.removesuffix("class_names")
            yield from [start[:-1]] if start else []
            yield from (answer[name][0], f"{answer[start + 'scores'][0]:.4f}")


def run(arguments: Sequence[str]) -> int:
    """Runs the command line; returns the exit status, 2 if nothing was answered."""
    if len(arguments) < 2:
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
