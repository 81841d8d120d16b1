"""Write the page's lists of what is put back and what is out of reach, from ``tests/restored.py``.

python scripts/restored.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
PAGE = HOME / "docs" / "restore.md"
sys.path.insert(0, str(HOME))
from tests.restored import out_of_reach, table  # noqa: E402 - tests are no package that is installed


def written(text: str) -> str:
    """The page with its lists as they must be."""
    for name, made in (("restored", table()), ("out of reach", out_of_reach())):
        between = rf"(<!-- {name}: .*? -->\n).*?(<!-- end -->)"
        text, count = re.subn(between, lambda found, made=made: f"{found[1]}{made}{found[2]}", text, flags=re.DOTALL)
        if count != 1:
            sys.exit(f"the page has {count} places for {name!r}, not one")
    return text


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
