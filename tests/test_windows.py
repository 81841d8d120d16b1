"""What stands in for Windows: a process without what only POSIX has, with its way to start workers and its encoding.

The library asks for each of these before it uses it; a search, the copies on a disk and the command work without them.
"""

import os
import subprocess
import sys
import textwrap

import pytest

WITHOUT = """
import multiprocessing, os, signal, sys
import torch  # which goes by the name of the system, where findlr asks for each thing
for module in ("fcntl", "pwd", "grp", "resource", "termios", "tty", "pty"):
    sys.modules[module] = None
for name in ("fork", "forkpty", "getuid", "geteuid", "getpgid", "killpg", "mkfifo", "register_at_fork"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGKILL", "setitimer"):
    if hasattr(signal, name):
        delattr(signal, name)
"""
TRAINING = """
import torch
from torch import nn

def setup(workers=0):
    torch.manual_seed(0)
    inputs = torch.randn(64, 4)
    data = torch.utils.data.TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))
    net = nn.Linear(4, 1)
    loader = torch.utils.data.DataLoader(data, 8, shuffle=True, num_workers=workers)
    return net, torch.optim.AdamW(net.parameters(), lr=0.1), nn.MSELoss(), loader
"""


@pytest.fixture
def python(tmp_path):
    """Run a script in a process without POSIX."""

    def run(code, *arguments, **environment):
        script = tmp_path / "script.py"
        script.write_text(WITHOUT + textwrap.dedent(code), encoding="utf-8")
        (tmp_path / "training.py").write_text(TRAINING)
        temporary = tmp_path / "temporary"
        temporary.mkdir(exist_ok=True)
        known = os.environ | {"TMPDIR": str(temporary), "TEMP": str(temporary)} | environment
        command = [sys.executable, str(script), *arguments]
        done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=known, check=False, timeout=200)
        assert list(temporary.glob("findlr-*")) == []
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.parametrize("snapshot", ["device", "disk"])
def test_a_search_puts_everything_back(python, snapshot):
    code, _, err = python(
        """
        import copy
        import findlr
        from training import setup

        net, optimizer, criterion, loader = setup()
        before = copy.deepcopy(net.state_dict()), torch.get_rng_state()
        for _ in range(2):
            finding = findlr.find_lr(net, optimizer, criterion, loader, snapshot=sys.argv[1], progress=False)
            assert finding.suggestion is not None
        assert all(torch.equal(net.state_dict()[name], value) for name, value in before[0].items())
        assert torch.equal(torch.get_rng_state(), before[1])
        assert not optimizer.state
        """,
        snapshot,
    )
    assert code == 0, err


def test_workers_that_are_spawned(python):
    code, _, err = python(
        """
        import findlr
        from training import setup

        if __name__ == "__main__":
            multiprocessing.set_start_method("spawn")
            found = [findlr.find_lr(*setup(workers), num_steps=10, progress=False) for workers in (0, 1)]
            assert found[0].curve == found[1].curve
        """
    )
    assert code == 0, err


def test_the_command_on_a_terminal_of_another_encoding(python, tmp_path):
    code, out, err = python(
        "from findlr.command.cli import main; main(sys.argv[1:])",
        *("run", "training.py:setup", "-o", "found.json", "--report", "found.html", "--plot", "found.svg"),
        PYTHONIOENCODING="cp1252",
        PYTHONUTF8="0",
    )
    assert code == 0, err
    assert "suggestion" in out.decode("cp1252")
    assert all((tmp_path / f"found.{kind}").exists() for kind in ("json", "html", "svg"))


def test_a_race_that_was_interrupted_goes_on_from_its_checkpoint(python):
    code = """
    from findlr import find_lr
    from training import setup

    class Enough(Exception):
        pass

    steps = []

    def on_step(step):
        steps.append(step)
        if sys.argv[1] == "stop" and len(steps) > 150:
            raise Enough

    try:
        how = dict(verify=True, total_steps=1000, checkpoint="race.json", progress=False, on_step=on_step)
        print(find_lr(*setup(), **how).lr, len(steps))
    except Enough:
        print("stopped")
    """
    assert python(code, "stop")[1].strip() == b"stopped"
    lr, steps = python(code, "go on")[1].split()
    whole, all_steps = python(code.replace('checkpoint="race.json", ', ""), "go on")[1].split()
    assert lr == whole
    assert int(steps) < int(all_steps)
