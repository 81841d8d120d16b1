"""Lightning, Accelerate and Hugging Face under torchrun: the same training after a search, the same Finding on all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import collect_ignore

ROOT = Path(__file__).parents[2]
ROOMS = [
    room
    for room in ("lightning", "accelerate", "accelerate_race", "huggingface", "huggingface_after_failures")
    if f"src/findlr/{room.partition('_')[0]}.py" not in collect_ignore
]


@pytest.mark.parametrize("room", ROOMS)
def test_a_search_on_two_ranks(room):
    own = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "tests.rooms.on_ranks", room]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True, check=False)
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("on ranks: ")] or [done.stderr]
    first, second = json.loads(told.removeprefix("on ranks: "))
    assert first["same"]
    assert second["same"]
    assert first["finding"] == second["finding"]
    assert first["facts"] == [8 if room.startswith("huggingface") else 16, 2]
    assert first["points"] == 24
