"""A search on several processes: the same everywhere, put back everywhere, and no process waits for one that failed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ranks.cases import problems

ROOT = Path(__file__).parents[2]
ASKED = [
    "2 exits('ddp', ['sgd'])",
    "3 exits('ddp', ['adamw-fused'], ('finish', 'raise'))",
    "2 exits('fsdp', ['adamw-foreach'])",
    "2 places('ddp', (15,), (0, 1))",
    "2 ways",
    "2 fault('ddp', 'forward', kill, 7, 1)",
    "3 fault('fsdp', 'forward', kill, 7, 0)",
    "2 fault('fsdp', 'backward', fail, 12, 1)",
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """All cases, by one process that loads torch once."""
    out = tmp_path_factory.mktemp("ranks") / "results.json"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "tests.ranks.cases", str(out), *ASKED]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("asked", ASKED)
def test_every_rank_is_put_back_and_finds_the_same(results, asked):
    assert problems(asked, **results[asked]) == []
