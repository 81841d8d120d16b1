"""The code on each room's page, and on the one for who comes from another finder, runs in a process of its own."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from conftest import ROOMS, collect_ignore

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [room for room in ROOMS if f"src/findlr/{room}.py" not in collect_ignore and (DOCS / f"{room}.md").exists()]
OTHERS = ("fastai", "ignite", "lightning", "torch_lr_finder")
if all(find_spec(package) is not None for package in OTHERS):
    PAGES.append("coming-from")


@pytest.mark.parametrize("page", PAGES)
def test_the_code_on_the_page_runs(page, tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / f"{page}.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    assert blocks
    (tmp_path / "page.py").write_text("\n".join(blocks))
    usual = {**os.environ, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "page.py"], check=False, cwd=tmp_path, env=usual, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
