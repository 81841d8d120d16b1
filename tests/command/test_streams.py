"""The command where a standard stream is closed, full, or obeyed by a terminal: one clean line, and the right code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from findlr import Finding, find
from findlr.testing import Quadratic

TARGETS = """
from findlr.testing import Quadratic

class Breaks(Quadratic):
    def step(self, lr):
        if lr > 1e-3:
            raise RuntimeError("\\x1b[31mon\\x1b[0m\\n\\x1b]0;owned\\x07fire\\x00\\u202e" + "x" * 10000)
        return super().step(lr)

class Unspeakable(Exception):
    def __str__(self):
        raise ValueError("no words")

class Mute(Quadratic):
    def step(self, lr):
        raise Unspeakable

class Mine(Exception):
    finding = 3

def quadratic(): return Quadratic()
def closes_both():
    import sys
    sys.stdout.close()
    sys.stderr.close()
    return Quadratic()
def mute(): raise Unspeakable
def mine(): raise Mine("a finding of its own")
"""


@pytest.fixture
def findlr(tmp_path):
    """Run the command in a folder with targets; streams whose numbers are in ``closed`` are closed before it starts."""
    (tmp_path / "train.py").write_text(TARGETS)
    find(Quadratic()).save(tmp_path / "finding.json")

    def run(*arguments, closed=(), **streams):
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
        return subprocess.run(
            [sys.executable, "-m", "findlr", *arguments],
            cwd=tmp_path,
            preexec_fn=(lambda: [os.close(number) for number in closed]) if closed else None,  # which Windows refuses
            text=True,
            check=False,
            timeout=120,
            **streams,
        )

    return run


def one_clean_line(text):
    assert text.endswith("\n")
    assert text.removesuffix("\n").isprintable()
    assert text.startswith("findlr: ")
    return text


@pytest.mark.posix
def test_json_needs_a_standard_output_and_says_so_before_anything_is_run(findlr):
    done = findlr("run", "train.py:mute", "--json", closed=[1])
    assert done.returncode == 2
    assert "--json prints on standard output, which is closed" in one_clean_line(done.stderr)


def test_a_training_that_closes_the_streams_leaves_the_files(findlr, tmp_path):
    done = findlr("run", "train.py:closes_both", "-o", "out.json", "--no-progress")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert Finding.load(tmp_path / "out.json").suggestion is not None


@pytest.mark.posix
def test_without_a_standard_output_the_files_are_written(findlr, tmp_path):
    done = findlr("run", "train.py:quadratic", "-o", "out.json", "--no-progress", closed=[1])
    assert (done.returncode, done.stderr) == (0, "findlr: written: out.json\n")
    assert Finding.load(tmp_path / "out.json").suggestion is not None


@pytest.mark.posix
@pytest.mark.parametrize("closed", [[0], [2], [0, 2], [0, 1, 2]])
def test_json_is_alone_on_standard_output_whatever_else_is_closed(findlr, closed):
    done = findlr("run", "train.py:Breaks", "--json", closed=closed)
    assert done.returncode == (2 if 1 in closed else 3)
    assert done.stdout.count("\n") == (0 if 1 in closed else 1)
    assert "findlr: " not in done.stdout


@pytest.mark.posix
@pytest.mark.parametrize(
    "arguments", [["show", "finding.json"], ["run", "train.py:quadratic", "--json", "-o", "a.json"]]
)
def test_a_reader_that_has_gone_is_told_in_one_line(findlr, arguments, tmp_path):
    theirs, ours = os.pipe()
    os.close(theirs)
    done = findlr(*arguments, stdout=ours)
    os.close(ours)
    assert done.returncode == 2
    assert "standard output was closed" in one_clean_line(done.stderr.splitlines(keepends=True)[-1])
    assert "Traceback" not in done.stderr
    assert (tmp_path / "a.json").exists() == ("-o" in arguments)  # what was measured is not lost with the print


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.parametrize(
    "arguments", [("run", "train.py:quadratic", "--json", "--no-progress"), ("doctor",), ("--version",)], ids=str
)
def test_a_full_disk_is_told_in_one_line_that_says_where(findlr, arguments):
    with Path("/dev/full").open("w") as full:
        done = findlr(*arguments, stdout=full)
    assert done.returncode == 2
    assert one_clean_line(done.stderr) == "findlr: standard output: No space left on device\n"


def test_what_a_terminal_obeys_is_left_out_of_an_exceptions_text(findlr):
    done = findlr("run", "train.py:Breaks", "--json", "--no-progress")
    line = one_clean_line(done.stderr)
    assert done.returncode == 3
    assert "train.py:Breaks failed: RuntimeError: on fire??xxx" in line
    assert "steps were measured, and everything was put back" in line
    assert len(line) < 1000


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("mute", "failed: Unspeakable: (its message cannot be read) ("),
        ("Mute", "failed: Unspeakable: (its message cannot be read) ("),
        ("mine", "failed: Mine: a finding of its own ("),
    ],
)
def test_an_odd_exception_is_one_line(findlr, target, words):
    done = findlr("run", f"train.py:{target}", "--no-progress")
    assert done.returncode == 3
    assert words in one_clean_line(done.stderr)


@pytest.mark.parametrize(
    "arguments", [["show", "\x1b[2J\n.json"], ["run", "\x1b[2J:f"], ["\x1b[31m"], ["run", "--\x1b[2J"]]
)
def test_what_was_typed_comes_back_clean(findlr, arguments):
    done = findlr(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    one_clean_line(done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "finding.json", "finding.json", "--label", "Größe", "--label", "λ"),
        ("doctor", "größe λ.py:quadratic"),
        ("run", "größe λ.py:quadratic", "-o", "größe λ.json"),
    ],
)
def test_what_the_terminal_has_no_letter_for_is_its_number(findlr, tmp_path, arguments):
    (tmp_path / "größe λ.py").write_text(TARGETS + "print('größe λ')\n", encoding="utf-8")
    done = findlr(*arguments, env=os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}, encoding="latin-1")
    assert done.returncode == 0, done.stderr
    assert "\\u03bb" in done.stdout + done.stderr
