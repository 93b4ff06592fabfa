"""Two models on the same examples: which is better, and whether that is more than chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ftkeras.console import duration, table
from ftkeras.errors import UserError
from ftkeras.evaluation.predictions import Predictions, load_predictions
from ftkeras.inputs.registry import nouns_in
from ftkeras.measures.metrics import correct_answers
from ftkeras.outputs.kinds import only_classes, outputs_of
from ftkeras.run import Run

_LEVEL = 0.05  # a difference that chance explains more often than this is called noise
_Z = 1.959964  # standard deviations to the ends of a 95% interval
_HALVINGS = 60  # of a bisection, to the last bit
_LEAST_SHARED = 0.5  # of each test set
_MOST_CLASSES = 8  # shown as gained, and as lost


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the two-sided p of McNemar's exact test (McNemar 1947).

    If both models were equally good, each example that only one of them gets right would be a toss
    of a coin. The p-value is how often tosses come out at least as one-sided as these.

    Args:
        only_first: Examples that only the first model got right.
        only_second: Examples that only the second model got right.
    """
    tosses = only_first + only_second
    ways = tail = 1  # binomial coefficients, exact whatever their size
    for heads in range(min(only_first, only_second)):
        ways = ways * (tosses - heads) // (heads + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**tosses)


def paired_interval(only_first: int, only_second: int, examples: int) -> list[float]:
    """Returns the 95% interval of the difference of two models' accuracies, [low, high].

    All differences that the score test of pairs (Tango 1998) or McNemar's exact test does not
    refuse. So 0 is outside if and only if McNemar's exact p is below 0.05. The interval is not
    empty even if both models are right on the same examples.

    Args:
        only_first: Examples that only the first model got right.
        only_second: Examples that only the second model got right.
        examples: All examples, above 0.

    Example:
        >>> [round(end, 3) for end in paired_interval(0, 5, 100)]
        [-0.002, 0.112]
    """
    in_exact = _exact_test(only_first, only_second, examples)

    def possible(difference: float) -> bool:
        score = _in_score_test(only_first, only_second, examples, difference)
        return score or in_exact(difference)

    ends = []
    for outside in (-1.0, 1.0):
        inside = (only_second - only_first) / examples
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if possible(middle) else (inside, middle)
        ends.append(inside)
    return ends


def _in_score_test(only_first: int, only_second: int, n: int, difference: float) -> bool:
    seen = only_second - only_first
    linear = (2 * n - seen) * difference - only_first - only_second
    constant = -only_first * difference * (1 - difference)
    # The likeliest share of examples that only the first gets right, if this is the difference.
    share = (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * share + difference * (1 - difference))
    return (seen - n * difference) ** 2 <= _Z**2 * variance


def _exact_test(only_first: int, only_second: int, n: int) -> Callable[[float], bool]:
    """Returns whether a difference is in the interval of Clopper and Pearson, of the tosses."""
    tosses = only_first + only_second
    heads = np.arange(tosses + 1)
    logs = np.array([math.lgamma(count + 1) for count in range(tosses + 1)])
    ways = logs[-1] - logs - logs[::-1]  # (tosses + 1,)

    def possible(difference: float) -> bool:
        chance = (difference * n / tosses + 1) / 2 if tosses else 0.0  # that the second is right
        if not 0 < chance < 1:
            return False
        odds = np.exp(ways + heads * math.log(chance) + heads[::-1] * math.log1p(-chance))
        return bool(2 * min(odds[: only_second + 1].sum(), odds[only_second:].sum()) >= _LEVEL)

    return possible


def compare_runs(first: Run, second: Run, split: str | None = None) -> dict[str, Any]:
    """Returns how two runs differ on the examples that both were measured on, ready for JSON.

    Args:
        first: Run A.
        second: Run B.
        split: Whose examples; left out, those that the first run was measured on.

    Raises:
        UserError: A run was not measured on the split, or the two have other classes or examples.
    """
    runs = (first, second)
    facts = [run.read_json("data.json") for run in runs]
    one, other = (only_classes(outputs_of(each), "compare") for each in facts)
    nouns = nouns_in(facts[0])[1]
    if one != other:
        raise UserError(
            f"compare: {first.folder} and {second.folder} answer different questions: their "
            f"classes in data.json differ. Compare runs on the same classes."
        )
    if split is None:
        measured = tf.io.gfile.exists(first.path("evaluation.json"))
        split = str(first.read_json("evaluation.json")["split"]) if measured else "test"
    a, b = (load_predictions(run, split) for run in runs)
    pair = on_shared_examples(a, b, nouns)
    return {
        "runs": [{"folder": run.folder, **_size(run)} for run in runs],
        "split": split,
        "nouns": nouns,
        "left_out": [len(whole.ids) - len(pair[0].ids) for whole in (a, b)],
        **compare_predictions(*pair, one.class_names),
    }


def on_shared_examples(
    first: Predictions, second: Predictions, nouns: str = "examples"
) -> tuple[Predictions, Predictions]:
    """Returns both models' answers on the examples that both saw, in one order.

    Args:
        first: Model A's answers.
        second: Model B's.
        nouns: What the examples are called.

    Raises:
        UserError: They share too few, or do not agree on what is in them.
    """
    if not np.array_equal(first.ids, second.ids):
        shared, *indices = np.intersect1d(first.ids, second.ids, return_indices=True)
        if len(shared) < _LEAST_SHARED * max(len(first.ids), len(second.ids)):
            raise UserError(
                f"compare: the runs were tested on different {nouns}: {len(shared)} are in both, "
                f"of {len(first.ids)} and {len(second.ids)}. Give both the same test set (a "
                "folder, a manifest's split column, or one seed)."
            )
        first, second = (
            Predictions(whole.logits[index], whole.labels[index], whole.ids[index])
            for whole, index in zip((first, second), indices, strict=True)
        )
    differ = first.labels != second.labels
    other = np.flatnonzero(differ.any(axis=1) if differ.ndim == 2 else differ)
    if len(other):
        raise UserError(
            f"compare: {len(other)} {nouns} have another label in the second run, first "
            f"{first.ids[other[0]]}. Evaluate both runs on the same labels."
        )
    return first, second


def compare_predictions(
    first: Predictions, second: Predictions, class_names: Sequence[str]
) -> dict[str, Any]:
    """Returns the difference in accuracy, with its interval and McNemar's p.

    Args:
        first: Model A's answers.
        second: Model B's answers to the same examples.
        class_names: One name per class.

    Returns:
        `accuracy` of A and B, `difference` (B - A) and its `interval`, how many examples `only_a`
        and `only_b` got right, `p`, `noise` (0 is in the interval), and `classes`, most gained
        first.
    """
    labels, examples = first.labels, len(first.labels)
    right = [correct_answers(labels, p.logits) for p in (first, second)]  # (n,) each
    only_a, only_b = _discordant(*right)
    low, high = paired_interval(only_a, only_b, examples)
    return {
        "examples": examples,
        "accuracy": [float(part.mean()) for part in right],
        "difference": (only_b - only_a) / examples,
        "interval": [low, high],
        "only_a": only_a,
        "only_b": only_b,
        "p": mcnemar(only_a, only_b),
        "noise": low <= 0 <= high,
        "classes": sorted(
            (
                _class_row(name, *_of_class(c, labels, (first, second), right))
                for c, name in enumerate(class_names)
            ),
            key=lambda row: (-row["change"], row["name"]),
        ),
    }


def _of_class(
    number: int, labels: np.ndarray, pair: Sequence[Predictions], right: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Returns whether A and B were right on a class: its examples, or its column of labels."""
    if labels.ndim == 2:
        return [(labels[:, number] > 0.5) == (p.logits[:, number] >= 0) for p in pair]
    return [part[labels == number] for part in right]


def _class_row(name: str, first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    a, b = (float(part.mean()) if len(part) else 0.0 for part in (first, second))
    p = mcnemar(*_discordant(first, second))
    return {"name": name, "n": len(first), "accuracy": [a, b], "change": b - a, "p": p}


def _discordant(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    return int((first & ~second).sum()), int((second & ~first).sum())


def _size(run: Run) -> dict[str, Any]:
    records = list(run.metrics())
    return {
        "epochs": len(records),
        "seconds": sum(record["seconds"] for record in records),
        "parameters": run.read_json("plan.json")["parameters"],
        "bytes": tf.io.gfile.stat(run.path("model.keras")).length,
    }


def verdict(results: dict[str, Any]) -> str:
    """Returns in one sentence whether B is better, worse, or cannot be told from A."""
    (a, b), difference, p = results["accuracy"], results["difference"], results["p"]
    nouns = results.get("nouns", "examples")
    low, high = results["interval"]
    if results["noise"]:
        return (
            f"The difference is noise: B is right on {b:.1%} and A on {a:.1%} of the same "
            f"{results['examples']} {nouns} (95% interval of B - A: {low:+.1%} to {high:+.1%}), "
            f"and two equally good models would differ by as much with probability {p:.2f}."
        )
    return (
        f"B is {'better' if difference > 0 else 'worse'} than A by {abs(difference):.1%} of the "
        f"{nouns} (95% interval of B - A: {low:+.1%} to {high:+.1%}); two equally good models "
        f"would differ by as much with probability {p:.2g}."
    )


def format_comparison(results: dict[str, Any]) -> str:
    """Returns what `compare_runs` found: the verdict, the sizes, the classes gained and lost."""
    a, b = results["runs"]
    low, high = results["interval"]
    whole = [
        ("accuracy", *(f"{value:.4f}" for value in results["accuracy"])),
        ("right that the other gets wrong", results["only_a"], results["only_b"]),
        ("training time", duration(a["seconds"]), duration(b["seconds"])),
        ("epochs", a["epochs"], b["epochs"]),
        ("parameters", f"{a['parameters']:,}", f"{b['parameters']:,}"),
        ("model.keras", *(f"{run['bytes'] / 1e6:.1f} MB" for run in (a, b))),
    ]
    nouns = results["nouns"]
    shared = f"{results['examples']} {nouns} of {results['split']} that both were measured on"
    if any(results["left_out"]):
        shared += " ({} more of A and {} of B left out)".format(*results["left_out"])
    lines = [
        f"A  {a['folder']}",
        f"B  {b['folder']}",
        shared,
        "",
        table(whole, ("", "A", "B")),
        "",
        f"B - A: {results['difference']:+.4f}, 95% interval {low:+.4f} to {high:+.4f}; "
        f"McNemar's exact test: p = {results['p']:.3g}",
    ]
    changed = [row for row in results["classes"] if row["change"]]
    gained = [row for row in changed if row["change"] > 0][:_MOST_CLASSES]
    lost = [row for row in changed if row["change"] < 0][-_MOST_CLASSES:]
    rows = [
        (
            row["name"],
            row["n"],
            *(f"{value:.3f}" for value in row["accuracy"]),
            f"{row['change']:+.3f}",
            f"{row['p']:.3f}",
        )
        for row in gained + lost
    ]
    if rows:
        lines += ["", table(rows, ("class", nouns, "A", "B", "change", "p"))]
        lines += [f"({len(changed)} of {len(results['classes'])} classes changed)"]
    return "\n".join([*lines, "", verdict(results)])
