"""Break each restored thing and each term of the default rule in turn, and show that a named test turns red.

    python scripts/break_restoration.py

The breaks are in ``tests/restored.py`` and ``tests/rule_breaks.py``. Each is one replacement in a copy of ``src``; the
tests run on that. Exits 1 if a break goes unnoticed, if a test is red without a break, or if a text to replace is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest
import torch

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))
from tests import restored, rule_breaks  # noqa: E402 - tests are no package that is installed
from tests.restored import Break  # noqa: E402

BREAKS = restored.BREAKS + rule_breaks.BREAKS


def copy_of_src(where: Path, one: Break | None = None) -> Path:
    """Copy ``src``, with one thing broken."""
    shutil.copytree(HOME / "src", where, ignore=shutil.ignore_patterns("__pycache__"))
    if one is not None:
        file = where / "findlr" / one.file
        text = file.read_text(encoding="utf-8")
        if text.count(one.old) != 1:
            sys.exit(f"{one.thing}: {one.file} has this {text.count(one.old)} times, not once:\n{one.old}")
        file.write_text(text.replace(one.old, one.new), encoding="utf-8")
    return where


def run(where: Path, tests: list[str]) -> tuple[int | None, str]:
    """The tests on the findlr that is in ``where``: pytest's exit code, and what it said."""
    said = where / "said.txt"
    # Forked, so that torch is imported once; no thread of its has started yet.
    process = multiprocessing.get_context("fork").Process(target=_run_here, args=(where, said, tests))
    process.start()
    process.join()
    return process.exitcode, said.read_text(encoding="utf-8")


def _run_here(where: Path, said: Path, tests: list[str]) -> None:
    with said.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.path.insert(0, str(where))
    os.environ["PYTHONPATH"] = str(where)  # for the processes that a test starts
    import findlr

    if not Path(findlr.__file__).is_relative_to(where):
        sys.exit(f"the tests would run on {findlr.__file__}")
    sys.exit(pytest.main(["-q", "--tb=line", "-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)]))


def main() -> int:
    """Run the tests unbroken, then each with its break."""
    os.chdir(HOME)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    torch.set_num_threads(1)
    parameter = torch.nn.Parameter(torch.zeros(1))
    torch.optim.SGD([parameter]).step()  # the first step imports half of torch
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        code, said = run(copy_of_src(folder / "unbroken"), list(dict.fromkeys(one.test for one in BREAKS)))
        if code != 0:
            sys.exit(f"red without a break:\n{said[-3000:]}")
        print(f"unbroken: {said.splitlines()[-1]}\n\n{'broken':52} {'red':5} test")
        unnoticed = 0
        for i, one in enumerate(BREAKS):
            code, said = run(copy_of_src(folder / str(i), one), [one.test])
            red = code == pytest.ExitCode.TESTS_FAILED  # anything else is no test's merit
            unnoticed += not red
            print(f"{one.thing:52} {'yes' if red else 'NO':5} {one.test}", flush=True)
            if not red:
                print(said[-1500:])
    print(f"\n{len(BREAKS) - unnoticed} of {len(BREAKS)} breaks turn their test red")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
