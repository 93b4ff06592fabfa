"""What the rows of `from_floor.py` and `rivals.py` say: rules of choice, sets, rivals, regret."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ftkeras.console import table

Row = dict[str, Any]
IN_USE = "t4 3e-4 20"
DRAWS = 9_999


def packed(flags: np.ndarray) -> str:
    """Returns flags as hexadecimal digits."""
    return np.packbits(flags).tobytes().hex()


def unpacked(digits: str, count: int) -> np.ndarray:
    """Returns the flags that `packed` has written, bool (count,)."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8))[:count].astype(bool)


def first_best(*candidates: str) -> Callable[[Row], str]:
    """Returns the rule that takes the least wrong candidate, the first one among equals."""
    return lambda row: min(candidates, key=lambda tag: row[tag]["wrong"].count("1"))


def by_standard_error(row: Row) -> str:
    """Keeps the floor unless another one is ahead by a standard error (of 100 examples or more)."""
    best = first_best("floor", "final 0.5", "final 1.0")(row)
    pairs = zip(row["floor"]["wrong"], row[best]["wrong"], strict=True)
    ahead = [int(a) - int(b) for a, b in pairs]
    error = math.sqrt(sum(each**2 for each in ahead))
    return "floor" if len(ahead) < 100 and sum(ahead) <= error else best


RULES: dict[str, Callable[[Row], str]] = {
    "always the last epoch": lambda row: "final 1.0",
    "always half way to it": lambda row: "final 0.5",
    "always the best epoch": lambda row: "best 1.0",
    "half, last or floor: most accurate, floor first": first_best(
        "floor", "final 0.5", "final 1.0"
    ),
    "half, last or floor: most accurate, floor last": first_best("final 0.5", "final 1.0", "floor"),
    "half, last or floor: the floor unless beaten by an error": by_standard_error,
    "half, last or floor: least validation loss": lambda row: min(
        ("floor", "final 0.5", "final 1.0"), key=lambda tag: row[tag]["val_loss"]
    ),
    "half, best or floor: most accurate, floor last": first_best("best 0.5", "best 1.0", "floor"),
}
KEPT = RULES["half, last or floor: most accurate, floor last"]


def gains(rows: Sequence[Row], rule: Callable[[Row], str]) -> list[float]:
    """Returns for each set the mean gain over the floor, in points of test accuracy."""
    names = dict.fromkeys(row["set"] for row in rows)
    return [
        statistics.mean(
            100 * (row[rule(row)]["test"] - row["floor"]["test"])
            for row in rows
            if row["set"] == name
        )
        for name in names
    ]


def refit(row: Row) -> str:
    """Returns what a run with `training.refit` answers with."""
    return KEPT(row).replace("final", "refit").replace("floor", "refit floor")


def summary(rows: Sequence[Row], rivals: Sequence[Row]) -> str:
    """Returns what `--rules` prints; each part says what it is."""
    own = [row for row in rows if row["recipe"] == IN_USE]
    parts = (
        ("Gain over the floor, in points, by what is kept", by_rule(rows)),
        (f"{IN_USE}, and the same after a second training with validation images", by_set(own)),
        (
            f"Against {IN_USE}, same splits and end; itself against its chosen end",
            by_recipe(rows),
        ),
        (regret(rows), ""),
        ("Other scripts, trained on the same images as `refit`", by_rival(own, rivals)),
    )
    return "\n\n".join("\n".join(filter(None, part)) for part in parts)


def by_rule(rows: Sequence[Row]) -> str:
    """Returns what each rule of choice gains with each recipe."""
    shown = []
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        own = [row for row in rows if row["recipe"] == recipe]
        for name, rule in RULES.items():
            each = gains(own, rule)
            numbers = (statistics.mean(each), statistics.median(each), min(each))
            shown.append((recipe, str(len(each)), name, *(f"{number:+.1f}" for number in numbers)))
    return table(shown, ("recipe", "sets", "what is kept", "mean", "median", "worst set"))


def by_set(rows: Sequence[Row]) -> str:
    """Returns each set's accuracies, the gain of `refit`, and whether it is below the floor."""
    shown, every, below = [], [], {}
    tags: tuple[Callable[[Row], str], ...] = (
        lambda row: "floor", KEPT, lambda row: "refit floor", refit,
    )  # fmt: skip
    for name, own in _grouped(rows).items():
        below[name] = chance_of_less(own)
        every.append([100 * (row[refit(row)]["test"] - row["refit floor"]["test"]) for row in own])
        means = (f"{statistics.mean(row[tag(row)]['test'] for row in own):.3f}" for tag in tags)
        shown.append((name, str(len(own)), *means, _with_error(every[-1]), f"{below[name]:.3f}"))
    header = ("set", "seeds", "floor", "kept", "floor, refit", "kept, refit", "gain of refit",
              "p of a loss")  # fmt: skip
    worse = holm(below)
    return (
        f"{table(shown, header)}\n{_median('gain of refit', every)}\n"
        f"significantly below the floor (Holm, 95%): {', '.join(worse) or 'none'}"
    )


def by_recipe(rows: Sequence[Row]) -> str:
    """Returns how far other recipes are ahead of the one in use, on the rows that both have."""
    ends = {"chosen": KEPT, "last epoch": RULES["always the last epoch"]}
    scores, shown = _scores(rows, ends), []
    for name, own in scores.items():
        recipe, end = name.split(", ")
        other = scores[f"{IN_USE}, chosen" if recipe == IN_USE else f"{IN_USE}, {end}"]
        keys = sorted(own.keys() & other.keys())
        each = _by_name({key: own[key] - other[key] for key in keys})
        if each and own is not other:
            low, high = np.quantile(draws(each, np.mean), (0.025, 0.975))
            mean = statistics.mean(map(statistics.mean, each))
            numbers = (f"{mean:+.1f}", f"{low:+.1f} to {high:+.1f}")
            shown.append((recipe, end, str(len(each)), str(len(keys)), *numbers))
    return table(shown, ("recipe", "end", "sets", "trainings", "difference", "95% interval"))


def by_rival(rows: Sequence[Row], rivals: Sequence[Row]) -> str:
    """Returns the accuracy of other scripts beside that of `refit`, and the median differences."""
    own = {(row["set"], row["seed"]): row[refit(row)]["test"] for row in rows}
    floor = {(row["set"], row["seed"]): row["refit floor"]["test"] for row in rows}
    ways = dict.fromkeys(row["way"] for row in rivals)
    theirs: dict[str, dict[tuple[str, int], float]] = {
        way: {(r["set"], r["seed"]): r["test"] for r in rivals if r["way"] == way} for way in ways
    }
    keys = [key for key in own if all(key in each for each in theirs.values())]
    columns = {"floor": floor, "ftkeras": own, **theirs}
    shown = []
    for name in dict.fromkeys(name for name, _ in keys):
        seeds = [key for key in keys if key[0] == name]
        means = (statistics.mean(each[key] for key in seeds) for each in columns.values())
        shown.append((name, str(len(seeds)), *(f"{mean:.3f}" for mean in means)))
    lines = [table(shown, ("set", "seeds", *columns))]
    for way, each in theirs.items():
        ahead = _by_name({key: 100 * (own[key] - each[key]) for key in keys})
        lines.append(_median(f"ftkeras - {way}", ahead))
    return "\n".join(lines)


FIXED = ("always the last epoch", "always half way to it", "always the best epoch")


def regret(rows: Sequence[Row]) -> str:
    """Returns by how much the rule in use is behind the best fixed strategy, sets left out in turn.

    The best one is chosen on the other sets, among the floor and all recipes with each fixed end
    and the chosen one, on the trainings that all of these have.
    """
    chosen = {"chosen": KEPT}
    scores = _scores(rows, {name: RULES[name] for name in FIXED} | chosen)
    scores["floor"] = {(row["set"], row["seed"]): 0.0 for row in rows}
    behind, taken = [], []
    for left_out in dict.fromkeys(row["set"] for row in rows):
        here = {n: own for n, own in scores.items() if any(key[0] == left_out for key in own)}
        shared = set.intersection(*(set(own) for own in here.values()))
        means = {
            n: statistics.mean(
                map(statistics.mean, _by_name({k: own[k] for k in shared if k[0] != left_out}))
            )
            for n, own in here.items()
        }
        best = max(means, key=lambda name: means[name])
        taken.append(best)
        keys = sorted(key for key in shared if key[0] == left_out)
        behind.append([here[best][key] - here[f"{IN_USE}, chosen"][key] for key in keys])
    low, high = np.quantile(draws(behind, np.mean), (0.025, 0.975))
    mean = statistics.mean(map(statistics.mean, behind))
    most = max(set(taken), key=taken.count)
    return (
        f"Mean regret against the best fixed strategy of the other sets: {mean:+.2f} points, 95% "
        f"interval {low:+.2f} to {high:+.2f} ({len(behind)} sets; mostly it is {most})"
    )


def chance_of_less(rows: Sequence[Row]) -> float:
    """Returns how often chance puts `refit` as far below its floor: a sign test over examples.

    The test splits of seeds share examples, so all answers on an example change signs together.
    """
    sums = np.zeros(rows[0]["of"])
    for row in rows:
        count = row["n"][2]
        missed = [unpacked(row[tag]["missed"], count) for tag in ("refit floor", refit(row))]
        order = np.random.default_rng(row["seed"]).permutation(row["of"])[:count]
        sums[order] += missed[0].astype(float) - missed[1]
    sums = sums[sums != 0]
    signs = np.random.default_rng(0).choice((-1.0, 1.0), (DRAWS, len(sums)))
    return float((1 + np.sum(signs @ sums <= sums.sum())) / (DRAWS + 1))


def holm(chances: dict[str, float], level: float = 0.05) -> list[str]:
    """Returns the names whose null hypothesis Holm's procedure rejects.

    Example:
        >>> holm({"a": 0.01, "b": 0.04, "c": 0.02})
        ['a', 'c', 'b']
    """
    out: list[str] = []
    for name in sorted(chances, key=lambda name: chances[name]):
        if chances[name] > level / (len(chances) - len(out)):
            break
        out.append(name)
    return out


Draw = Callable[[np.ndarray], Any]


def draws(groups: Sequence[Sequence[float]], statistic: Draw) -> np.ndarray:
    """Returns a bootstrap of a statistic of the sets' means: sets are drawn, then their seeds."""
    random = np.random.default_rng(0)

    def mean(number: int) -> float:
        own = groups[number]
        return float(np.mean(random.choice(own, len(own))))

    return np.array(
        [
            statistic(np.array([mean(n) for n in random.integers(0, len(groups), len(groups))]))
            for _ in range(2_000)
        ]
    )


def _median(what: str, groups: Sequence[Sequence[float]]) -> str:
    middle = statistics.median(map(statistics.mean, groups))
    error = float(draws(groups, np.median).std())
    return f"{what}: median of {len(groups)} sets {middle:+.1f} +- {error:.1f} points"


def _with_error(each: Sequence[float]) -> str:
    mean = f"{statistics.mean(each):+.1f}"
    return f"{mean} +- {statistics.stdev(each) / len(each) ** 0.5:.1f}" if len(each) > 1 else mean


Scores = dict[tuple[str, int], float]
"""Of (set, seed): points gained over the floor."""


def _scores(rows: Sequence[Row], rules: dict[str, Callable[[Row], str]]) -> dict[str, Scores]:
    """Returns the scores of each recipe with each rule."""
    out: dict[str, Scores] = {}
    for row in rows:
        for name, rule in rules.items():
            gain = 100 * (row[rule(row)]["test"] - row["floor"]["test"])
            out.setdefault(f"{row['recipe']}, {name}", {})[row["set"], row["seed"]] = gain
    return out


def _by_name(scores: Scores) -> list[list[float]]:
    """Returns the scores of each set."""
    groups: dict[str, list[float]] = {}
    for (name, _), score in scores.items():
        groups.setdefault(name, []).append(score)
    return list(groups.values())


def _grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["set"], []).append(row)
    return groups
