"""The doctor: what would spoil a run, found before it is paid for.

Each module looks at one thing and returns findings; `examine`
asks them all.
"""

from __future__ import annotations

from ftkeras.doctor.examine import examine
from ftkeras.findings import Diagnosis, Evidence, Finding

__all__ = ["Diagnosis", "Evidence", "Finding", "examine"]
