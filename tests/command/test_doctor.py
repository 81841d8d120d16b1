"""``findlr doctor``: what is installed, and what a search leaves in a training."""

import os
import signal
import subprocess
import sys
import time
from importlib import metadata

import numpy as np
import pytest
import torch

from findlr import __version__
from findlr.command import cli
from findlr.command.doctor import _extras
from findlr.testing.bits import bits, differing

TARGETS = """
import functools
import torch
from torch import nn
from findlr.testing import Quadratic

class Count:
    n = 0

def parts():
    torch.manual_seed(0)
    inputs = torch.randn(64, 4)
    data = torch.utils.data.TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.2), nn.Linear(3, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    return net, optimizer, nn.MSELoss(), torch.utils.data.DataLoader(data, 8, shuffle=True)

def arguments(**more):
    names = ("model", "optimizer", "criterion", "loader")
    return dict(zip(names, parts()), num_steps=20, control_variate=False, **more)

def counts():
    def loss_fn(model, batch):
        Count.n += 1
        return nn.functional.mse_loss(model(batch[0]), batch[1]) * (1 + Count.n / 100)
    return {**arguments(), "criterion": None, "loss_fn": loss_fn}

def unseeded():
    made = arguments()
    torch.seed()
    return made

def uses_up():
    made = arguments(consume=True)
    return {**made, "loader": iter(made["loader"])}

partial = functools.partial(arguments)

class Forgets(Quadratic):
    def restore(self, snapshot):
        pass

class Refuses:
    def state_dict(self):
        return {"n": 1}
    def load_state_dict(self, state):
        raise RuntimeError("the lake is frozen")

def refuses():
    return arguments(restore=[Refuses()])

def explodes():
    return {**arguments(), "criterion": lambda outputs, targets: (outputs - targets).mean() * float("nan")}

def slow():
    import pathlib, time
    pathlib.Path("begun").touch()
    time.sleep(60)

def fails():
    raise ValueError("no data")

def is_killed():
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)

def leaves():
    import os
    os._exit(0)

def nothing():
    pass
"""


@pytest.fixture
def doctor(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(TARGETS)

    def doctor(*arguments):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["doctor", *arguments])
        printed = capfd.readouterr()
        return exit_.value.code, printed.out, printed.err

    return doctor


def test_names_versions_devices_and_extras(doctor):
    code, out, err = doctor()
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"findlr {__version__}, Python {sys.version.split()[0]}, ")
    assert f"torch {metadata.version('torch')}" in out  # without the "+cpu" or "+cu130" of what is imported
    assert f"cpu ({torch.get_num_threads()} thread" in lines[1]


@pytest.mark.parametrize(
    ("required", "told"),
    [
        (["numpy>=1; extra == 'plot'"], f"  plot         numpy {np.__version__}"),
        (["numpy>=99.5; extra == 'x'"], f"numpy {np.__version__} is older than 99.5; run: pip install 'findlr[x]'"),
        (["no-such-thing>=1; extra == 'x'"], "no-such-thing is not installed; run: pip install 'findlr[x]'"),
        (["numpy>=1.26"], None),
    ],
)  # fmt: skip
def test_an_extra_that_is_missing_or_old_says_what_to_do(monkeypatch, required, told):
    monkeypatch.setattr(metadata, "requires", lambda _: required)
    lines = list(_extras())
    assert lines == [] if told is None else told in lines[0]


@pytest.mark.parametrize("target", ["own.py:parts", "own.py:partial", "findlr.testing:Quadratic"])
def test_a_search_that_leaves_nothing_is_proved(doctor, target):
    code, out, err = doctor(target, "--num-steps", "20")
    assert (code, err) == (0, "")
    assert "20 steps" in out
    assert "right after the search everything was as before it" in out
    assert "the training went on as without it: 8 losses" in out


def test_what_a_search_leaves_is_named(doctor):
    code, out, _ = doctor("own.py:counts")
    assert code == 1
    assert "LEFT BEHIND right after the search: loss_fn.0.Count.n, global.Count.n\n" in out
    assert "DIFFERENT after the search: model.0.weight" in out
    assert "restore=" in out


def test_a_training_that_is_not_the_same_twice_proves_nothing(doctor):
    code, out, _ = doctor("own.py:unseeded")
    assert code == 1
    assert "right after the search everything was as before it" in out
    assert "NO PROOF: two trainings without a search differ already: model.0.weight" in out


def test_a_training_of_nan_proves_nothing(doctor):
    code, out, _ = doctor("own.py:explodes")
    assert code == 1
    assert "NO PROOF: the training's losses are not finite" in out


@pytest.mark.posix
@pytest.mark.parametrize(("target", "how"), [("is_killed", "by SIGKILL"), ("leaves", "with exit code 0")])
def test_a_process_that_had_no_time_to_say_why_it_ended_is_one_line(doctor, target, how):
    code, _, err = doctor(f"own.py:{target}")
    assert (code, err) == (3, f"findlr: own.py:{target} failed: its process was ended {how}\n")


@pytest.mark.posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_ends_the_command_ends_the_training_that_it_has_begun(tmp_path, number):
    (tmp_path / "own.py").write_text(TARGETS)
    command = [sys.executable, "-m", "findlr", "doctor", "own.py:slow"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **streams) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)  # ends once nobody has its pipes open any more
    assert (process.returncode, err) == (130, "findlr: interrupted\n")


@pytest.mark.posix
def test_ctrl_c_ends_it_in_one_line(tmp_path):
    (tmp_path / "own.py").write_text(TARGETS)
    command = [sys.executable, "-m", "findlr", "doctor", "own.py:slow"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.communicate(timeout=60)[1] == "findlr: interrupted\n"
    assert process.returncode == 130


def test_a_trainable_of_ones_own_that_does_not_go_back_is_seen(doctor):
    code, out, _ = doctor("own.py:Forgets")
    assert code == 1
    assert "DIFFERENT after the search: loss[3]" in out


def test_what_cannot_be_put_back_is_named(doctor):
    code, out, _ = doctor("own.py:refuses")
    assert code == 1
    assert "LEFT BEHIND right after the search: could not be put back: the Refuses (RuntimeError: " in out
    assert "the lake is frozen" in out


@pytest.mark.parametrize(
    ("target", "code", "words"),
    [
        ("own.py:fails", 3, "own.py:fails failed: ValueError: no data ("),
        ("own.py:nothing", 2, "own.py:nothing returned None; expected"),
        ("own.py:uses_up", 2, "consume=True uses batches up"),
        ("own.py:missing", 2, "has no 'missing'; it has parts, arguments"),
        ("nowhere.py:f", 2, "there is no file nowhere.py"),
    ],
)
def test_what_ends_a_trial_is_one_line(doctor, target, code, words):
    ended, _, err = doctor(target)
    assert (ended, err.count("\n")) == (code, 1)
    assert words in err


def test_the_same_values_have_the_same_bits():
    value = {"a": [1.0, float("nan")], "b": torch.ones(2, dtype=torch.bfloat16), "c": np.arange(3), "d": {3, 1}}
    assert not list(differing(value, {**value, "b": value["b"].clone(), "d": {1, 3}}))
    sparse = torch.eye(3).to_sparse()
    assert not list(differing(sparse, torch.eye(3).to_sparse()))
    assert bits(object()) == bits(object())


@pytest.mark.parametrize(
    ("one", "other", "where"),
    [
        ({"a": [1, 2]}, {"a": [1, 3]}, ["a[1]"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a (its length)", "a[1]"]),
        ({"a": 1}, {"b": 1}, ["the value (its keys)", "a", "b"]),
        (0.0, -0.0, ["the value"]),
        (1, 1.0, ["the value"]),
        (True, 1, ["the value"]),
        (np.zeros(2), np.zeros(2, dtype=np.float32), ["the value"]),
        (torch.zeros(2), torch.zeros(1, 2), ["the value"]),
        (torch.tensor(0.0), torch.tensor(-0.0), ["the value"]),
        (torch.eye(2).to_sparse(), torch.ones(2, 2).to_sparse(), ["the value"]),
    ],
)
def test_what_differs_has_its_place(one, other, where):
    assert list(differing(one, other)) == where
