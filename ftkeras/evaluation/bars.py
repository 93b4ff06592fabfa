"""Bars that a model must clear, such as `accuracy>=0.85`: for continuous integration."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftkeras.errors import TrainingError, UserError, did_you_mean, there_are

if TYPE_CHECKING:  # bars are read before Keras is imported
    from ftkeras.outputs.base import Output

_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_EXPRESSION = re.compile(r"\s*(.+?)\s*(>=|<=|>|<)\s*(\S+)\s*")


@dataclass(frozen=True)
class Bar:
    """One condition on a metric.

    Args:
        metric: A name of `measured`.
        relation: ">=", "<=", ">" or "<".
        value: What the metric is compared with.
    """

    metric: str
    relation: str
    value: float

    def __str__(self) -> str:
        return f"{self.metric}{self.relation}{self.value:g}"

    def holds(self, measured: float | None) -> bool:
        """Whether a measured value clears the bar; what is undefined does not."""
        return measured is not None and _RELATIONS[self.relation](measured, self.value)


def parse_bars(expressions: Sequence[str]) -> list[Bar]:
    """Reads conditions as people write them.

    Raises:
        UserError: One is not METRIC, a relation and a number.

    Example:
        >>> parse_bars(["accuracy>=0.85"])
        [Bar(metric='accuracy', relation='>=', value=0.85)]
    """
    return [_parse(expression) for expression in expressions]


def _parse(expression: str) -> Bar:
    match = _EXPRESSION.fullmatch(expression)
    try:
        value = float(match[3]) if match else math.nan
    except ValueError:
        value = math.nan
    if match is None or not math.isfinite(value):
        raise UserError(
            f"--assert {expression!r}: expected METRIC, one of {' '.join(_RELATIONS)}, and a "
            "number, as in --assert 'accuracy>=0.85'."
        )
    return Bar(match[1], match[2], value)


def measured(results: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns what `evaluate_predictions` measured, flat: the names that a bar may use.

    Besides each metric: `accuracy.low` and `accuracy.high`, the ends of its interval, and
    `per_class.NAME.recall` and the like. Of several heads, each name begins with the head's.
    """
    flat: dict[str, float | None] = {}
    for name, value in results.items():
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            flat[name] = value
    for name, interval in results.get("intervals", {}).items():
        low, high = interval or (None, None)
        flat |= {f"{name}.low": low, f"{name}.high": high}
    for row in results.get("per_class", []):
        flat |= {f"per_class.{row['name']}.{k}": v for k, v in row.items() if k != "name"}
    for head, head_results in results.get("heads", {}).items():
        flat |= {f"{head}.{name}": value for name, value in measured(head_results).items()}
    return flat


def whole(results: Mapping[str, Any]) -> dict[str, float]:
    """Returns the metrics of the whole split that are defined, of several heads as HEAD.METRIC."""
    parts = {"": results, **{f"{name}.": r for name, r in results.get("heads", {}).items()}}
    return {
        f"{head}{name}": value
        for head, part in parts.items()
        for name, value in part.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def known_metrics(outputs: Mapping[str, Output]) -> dict[str, float | None]:
    """Returns what `measured` returns of made-up answers, which have the names of real ones.

    Args:
        outputs: What the model answers, by name.
    """
    parts = {name: o.measure(*o.made_up(), resamples=1) for name, o in outputs.items()}
    return measured(next(iter(parts.values())) if len(parts) == 1 else {"heads": parts})


def check_metrics(bars: Sequence[Bar], outputs: Mapping[str, Output]) -> None:
    """Refuses, before anything is measured, a metric that will not be.

    Args:
        bars: The conditions.
        outputs: What the model answers, by name.

    Raises:
        UserError: A bar names a metric that an evaluation of such a model does not give.
    """
    if bars:
        refuse_unknown(bars, known_metrics(outputs))


def require(bars: Sequence[Bar], results: Mapping[str, Any]) -> None:
    """Compares an evaluation with the bars.

    Args:
        bars: The conditions.
        results: What `evaluate_predictions` returned.

    Raises:
        UserError: A bar names a metric that was not measured.
        TrainingError: The model is below a bar; the message names each.
    """
    values = measured(results)
    refuse_unknown(bars, values)
    below = [
        f"{bar} ({'undefined' if values[bar.metric] is None else f'{values[bar.metric]:.4f}'})"
        for bar in bars
        if not bar.holds(values[bar.metric])
    ]
    if below:
        raise TrainingError(f"--assert does not hold: {', '.join(below)}")


def refuse_unknown(bars: Sequence[Bar], known: Mapping[str, float | None]) -> None:
    """Raises UserError if a bar's metric is not among those that `measured` returned."""
    for bar in bars:
        if bar.metric not in known:
            shown = [name for name in known if "per_class." not in name]
            if len(shown) < len(known):
                shown.append("per_class.CLASS.METRIC")
            raise UserError(
                f"--assert {bar}: no metric {bar.metric!r} is measured."
                f"{did_you_mean(bar.metric, known)} {there_are(shown, 'metric')}"
            )
