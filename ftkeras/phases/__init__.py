"""Phases: which weights train when, at what rate, and proof of it."""

from ftkeras.outputs.smoothing import Smoothed
from ftkeras.phases.callback import StagedUnfreezing
from ftkeras.phases.phase import Phase, Until
from ftkeras.phases.plan import Plan, format_plan, make_plan
from ftkeras.phases.selectors import weights_of

__all__ = [
    "Phase",
    "Plan",
    "Smoothed",
    "StagedUnfreezing",
    "Until",
    "format_plan",
    "make_plan",
    "weights_of",
]
