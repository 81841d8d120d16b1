"""The page's lists of what is put back are made of what ``make prove`` breaks, and its breaks are in order."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.restored import PAGE, written
from tests import restored, rule_breaks
from tests.restored import OUT_OF_REACH, RESTORED

BREAKS = restored.BREAKS + rule_breaks.BREAKS
ROOT = Path(__file__).parents[1]


def test_the_page_says_what_the_list_says():
    page = PAGE.read_text()
    assert written(page) == page, "run python scripts/restored.py"


def test_every_thing_has_a_break_that_proves_it():
    assert all(breaks for things in RESTORED.values() for breaks in things.values())
    names = [one.thing for one in BREAKS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("one", BREAKS, ids=lambda one: one.thing)
def test_the_text_that_a_break_replaces_is_there_once(one):
    assert (ROOT / "src" / "findlr" / one.file).read_text().count(one.old) == 1
    assert one.new != one.old


def test_the_tests_named_exist():
    named = {f"tests/{test}" for test in [*(one.test for one in BREAKS), *OUT_OF_REACH.values()]}
    files = sorted({test.split("::")[0] for test in named})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    collected = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.split("\n")
    functions = {re.sub(r"\[.*", "", test) for test in collected}
    assert named <= {*collected, *functions}
