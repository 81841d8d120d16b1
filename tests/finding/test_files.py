"""A file is written whole, or what was there stays."""

import errno
import os
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from findlr import ConfigurationError, Finding, find
from findlr.finding.files import write_whole
from findlr.testing import Quadratic
from findlr.views.plot import compare

pytestmark = pytest.mark.posix

FINDING = find(Quadratic())
WRITERS = {
    "a.json": FINDING.save,
    "a.csv": FINDING.to_csv,
    "a.csv.gz": FINDING.to_csv,
    "a.jsonl": FINDING.to_jsonl,
    "a.html": FINDING.report,
    "a.png": FINDING.plot,
    "a.svgz": FINDING.plot,
    "a.pdf": lambda path: compare([FINDING, FINDING], ["one", "other"], path),
}


@contextmanager
def a_full_disk(room=100):
    """The system takes no more than so many bytes of a file."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("was", [None, b"what was there"])
@pytest.mark.parametrize("name", WRITERS)
def test_on_a_full_disk_what_was_there_stays_and_nothing_else_is_left(tmp_path, name, was):
    file = tmp_path / name
    if was is not None:
        file.write_bytes(was)
    WRITERS[name](tmp_path / f"first-{name}")  # what is loaded for the first time may write, too
    (tmp_path / f"first-{name}").unlink()
    with a_full_disk(), pytest.raises(OSError, match=f"File too large: '{file}'"):
        WRITERS[name](file)
    assert [each.read_bytes() for each in tmp_path.iterdir()] == ([] if was is None else [was])
    WRITERS[name](str(file))
    assert [each.name for each in tmp_path.iterdir()] == [name]
    assert file.read_bytes() != was


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_breaks_off_a_write_leaves_what_was_there(tmp_path, error):
    file = tmp_path / "a.json"
    file.write_text("what was there")

    def half(beside):
        beside.write_text("ha")
        raise error

    with pytest.raises(error):
        write_whole(file, half)
    assert file.read_text() == "what was there"
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_stays_a_link_and_a_file_keeps_its_permissions(tmp_path):
    there, link, dangling = (tmp_path / name for name in ("there.json", "link.json", "dangling.json"))
    there.write_text("what was there")
    there.chmod(0o640)
    link.symlink_to("there.json")
    dangling.symlink_to("new.json")
    for path in (link, dangling):
        FINDING.save(path)
        assert path.is_symlink()
        assert Finding.load(path) == FINDING
    assert stat.S_IMODE(there.stat().st_mode) == 0o640
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "new.json").stat().st_mode == plain.stat().st_mode  # what a new file has here


def test_a_file_that_may_not_be_written_is_refused_and_one_alone_that_may_is_written(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("what was there")
    file.chmod(0o440)
    if os.access(file, os.W_OK):
        pytest.skip("root may write anywhere")
    with pytest.raises(PermissionError, match=r"a\.json"):
        FINDING.save(file)
    assert file.read_text() == "what was there"
    file.chmod(0o640)
    tmp_path.chmod(0o550)
    try:
        FINDING.save(file)
    finally:
        tmp_path.chmod(0o750)
    assert Finding.load(file) == FINDING


def test_what_is_no_regular_file_is_written_to_as_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        FINDING.save(pipe)
        assert os.read(reader, 100_000).startswith(b'{"format": 1')
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_file_that_is_a_mount_of_its_own_is_written_to_as_it_is(tmp_path):
    file, behind = tmp_path / "a.json", tmp_path / "behind.json"
    file.touch()
    behind.touch()
    if subprocess.run(["mount", "--bind", behind, file], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        FINDING.save(file)
    finally:
        subprocess.run(["umount", file], check=True)
    assert Finding.load(behind) == FINDING
    assert sorted(tmp_path.iterdir()) == [file, behind]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_a_full_device_is_one_error_that_names_it():
    with pytest.raises(OSError, match="'/dev/full'") as caught:
        FINDING.save("/dev/full")
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_folder_that_is_missing_is_named_by_what_was_asked_for(tmp_path, writer):
    path = tmp_path / "missing" / "a.png"
    with pytest.raises(FileNotFoundError, match=str(path)):
        writer(path)


NO_NAMES = [None, 0, 1.5, [], lambda: 0, np.array([1]), "a\0b", "\ud800", Exception("e")]


@pytest.mark.parametrize("name", NO_NAMES, ids=lambda name: type(name).__name__)
@pytest.mark.parametrize("method", ["save", "report", "to_csv", "to_jsonl", "load"])
def test_what_names_no_file_is_one_clear_error(method, name):
    with pytest.raises(ConfigurationError, match=r"a file is named by a str or a Path|no name that a file can have"):
        getattr(FINDING, method)(name)


def test_a_name_in_bytes_is_one(tmp_path):
    path = bytes(tmp_path / "finding.json")
    FINDING.save(path)
    assert Finding.load(path) == FINDING


def test_what_is_quoted_in_an_error_is_cut():
    with pytest.raises(ConfigurationError, match=r"^rule must be one of .*x \.\.\. x*'$") as caught:
        FINDING.suggest("x" * 100_000)
    assert len(str(caught.value)) < 1_000


SEARCH = """
import sys, warnings
import torch
import findlr.torch
from findlr.views.report import write_report
warnings.filterwarnings("error", category=EncodingWarning, module="findlr")
net = torch.nn.Linear(1, 1)
batches = [(torch.ones(4, 1), torch.ones(4, 1))] * 5
optimizer = torch.optim.SGD(net.parameters(), 0.1)
how = dict(num_steps=20, total_steps=200, verify=True, budget=200, progress=False)
for _ in range(2):  # the second one reads the first one's checkpoint
    finding = findlr.find_lr(net, optimizer, torch.nn.MSELoss(), batches, checkpoint="race.json", **how)
finding.save("run.json")
findlr.Finding.load("run.json").report("run.html")
finding.to_csv("run.csv")
finding.to_jsonl("run.jsonl")
"""


def test_no_file_is_in_the_encoding_of_whoever_runs(tmp_path):
    strict = [sys.executable, "-X", "warn_default_encoding", "-c", SEARCH]
    done = subprocess.run(strict, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
