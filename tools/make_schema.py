"""Writes configs/schema.json, with which editors complete and check configs.

Usage: python tools/make_schema.py
"""

from __future__ import annotations

import json
from pathlib import Path

from ftkeras.config.schemas import json_schema

if __name__ == "__main__":
    target = Path(__file__).resolve().parent.parent / "configs" / "schema.json"
    target.write_text(json.dumps(json_schema(), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {target}")
