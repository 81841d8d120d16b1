"""Print the oldest versions that pyproject.toml allows, as pins.

python scripts/floors.py torch plot   # of the package itself and of these extras
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent


def floors(*extras: str) -> list[str]:
    """Each requirement of the package and its extras at its floor; what has none, and findlr itself, is left out."""
    project = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = [
        *project["dependencies"],
        *(each for extra in extras for each in project["optional-dependencies"][extra]),
    ]
    pins = {re.sub(r">=([\w.]+).*", r"==\1", each) for each in required if ">=" in each}
    return sorted(pins)


if __name__ == "__main__":
    print("\n".join(floors(*sys.argv[1:])))
