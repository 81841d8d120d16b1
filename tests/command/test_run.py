"""``findlr run``: what it takes, what it prints, how it ends."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from findlr import ConfigurationError, Finding, Stop
from findlr.command import cli
from findlr.command.target import search
from findlr.testing import Quadratic

TARGETS = """
import functools
import os
import torch
from torch import nn
from findlr import TorchTrainable
from findlr.testing import Quadratic

def parts():
    torch.manual_seed(0)
    inputs = torch.randn(256, 4)
    data = torch.utils.data.TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
    return net, optimizer, nn.MSELoss(), torch.utils.data.DataLoader(data, 32)

def arguments():
    return dict(zip(("model", "optimizer", "criterion", "loader"), parts()), max_lr=5.0, schedule="cosine")

def trainable():
    return TorchTrainable(*parts())

def quadratic():
    return Quadratic(noise=0.1)

def loud():
    print("from Python")
    os.system("echo from a subprocess")
    return quadratic()

def flat():
    return dict(zip(("model", "optimizer", "criterion", "loader"), parts()), max_lr=1e-6)

class Breaks(Quadratic):
    def step(self, lr):
        if lr > 1e-3:
            raise RuntimeError("the disk is\\non fire")
        return super().step(lr)

def three(): return parts()[:3]
def nothing(): pass
def text(): return "abcd"
def a_class(): return Quadratic
async def later(): return parts()
def wrong_key(): return {"model": 1, "learning_rate": 2}
def no_model(): return {"loader": []}
def swapped(): net, optimizer, criterion, loader = parts(); return net, criterion, optimizer, loader
def needs(folder, size=3, *more, seed, **rest): return parts()
@functools.wraps(needs)
def given(*more): return parts()
def raises(): raise ValueError("no data")
def exits(): raise SystemExit("usage: train.py --data")
def reads_arguments():
    import argparse
    argparse.ArgumentParser().parse_args()
    return quadratic()
number = 3
"""
names = (f"targets{i}" for i in itertools.count())


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file with targets, of a name that no other test has imported."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"{next(names)}.py"
    path.write_text(TARGETS)
    yield path.name
    sys.modules.pop(path.stem, None)


@pytest.fixture
def run(capfd):
    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["run", *map(str, arguments)])
        printed = capfd.readouterr()
        return exit_.value.code, printed.out, printed.err

    return run


def result(printed):
    return Finding.from_dict(json.loads(printed))


@pytest.mark.parametrize("function", ["parts", "arguments", "trainable", "quadratic", "given"])
def test_a_target_is_a_tuple_a_dict_or_a_trainable(run, file, function):
    code, out, err = run(f"{file}:{function}", "--json")
    assert code == 0
    finding = result(out)
    assert finding.stop in (Stop.FINISHED, Stop.DIVERGED)
    assert finding.plan.schedule == ("cosine" if function == "arguments" else "constant")
    if function != "quadratic":
        assert (finding.plan.optimizer, finding.plan.momentum) == ("SGD", 0.5)
    assert "smoothed loss" in err


def test_options_go_before_what_the_function_returns(run, file):
    options = [
        "--schedule",
        "one_cycle",
        "--total-steps",
        "400",
        "--min-lr",
        "1e-6",
        "--max-lr",
        "2",
        "--num-steps",
        "80",
    ]
    finding = result(run(f"{file}:arguments", *options, "--rule", "valley", "--json")[1])
    assert (finding.plan.schedule, finding.plan.total_steps) == ("one_cycle", 400)
    assert (finding.curve.lr[0], finding.curve.num_steps, finding.suggestion.rule) == (1e-6, 80, "valley")


@pytest.mark.parametrize(("budget", "most"), [("300", 300), ("0.5", 200), ("1.0", 400)])
def test_verify_spends_no_more_than_its_budget(run, file, budget, most):
    options = ["--verify", "--total-steps", "400", "--budget", budget, "--num-steps", "60"]
    finding = result(run(f"{file}:parts", *options, "--json")[1])
    assert finding.race is not None
    assert most / 2 < finding.cost.steps <= most


def test_an_epoch_is_a_number_of_steps_too(run, file):
    assert result(run(f"{file}:parts", "--num-steps", "epoch", "--json")[1]).curve.num_steps == 8


@pytest.mark.parametrize("function", ["parts", "arguments", "trainable"])
def test_a_length_in_epochs(run, file, function):
    for epochs, steps in (("5", 40), ("0.5", 4), ("0.001", 1)):
        assert result(run(f"{file}:{function}", "--epochs", epochs, "--json")[1]).plan.total_steps == steps
    assert result(run(f"{file}:{function}", "--total-steps", "5 epochs", "--json")[1]).plan.total_steps == 40
    code, _, err = run(f"{file}:quadratic", "--epochs", "5")
    assert (code, err.count("\n")) == (2, 1)
    assert "total_steps='5.000000 epochs' needs a loader with a length" in err


SLOW_LATER = """
import os, time
from findlr.testing import Quadratic

class Kept(Quadratic):
    steps = 0

    def step(self, lr):
        Kept.steps += 1
        if Kept.steps > 300 and not os.path.exists("go"):
            open("reached", "w").close()
            time.sleep(60)
        return super().step(lr)
"""


@pytest.mark.posix
def test_a_race_that_was_interrupted_goes_on_from_its_checkpoint(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW_LATER)
    command = [sys.executable, "-m", "findlr", "run", "slow.py:Kept", "--json", "--verify", "--total-steps", "1000"]
    command += ["--no-progress", "--checkpoint", "race.json"]

    def begun():
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with begun() as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "reached").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert result(out).race is None
    assert err.endswith("; the same command goes on with what race.json has\n")
    kept = len(json.loads((tmp_path / "race.json").read_text())["checkpoint"]["race"]["runs"])
    assert kept > 0

    (tmp_path / "go").touch()
    with begun() as process:
        out, _ = process.communicate(timeout=60)
    again = result(out)
    assert (process.returncode, again.race is None) == (0, False)
    (tmp_path / "race.json").unlink()
    with begun() as process:
        assert result(process.communicate(timeout=60)[0]) == again


def test_workers_make_the_runs_of_a_race(tmp_path):
    (tmp_path / "targets.py").write_text(TARGETS)
    command = [sys.executable, "-m", "findlr", "run", "targets.py:quadratic", "--json", "--no-progress"]
    command += ["--verify", "--total-steps", "500"]
    command += ["--workers", "2"]
    first, second = (
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    assert result(first).race.path == "parallel"
    assert result(first) == result(second)


def test_workers_without_a_race_are_one_line(run):
    code, _, err = run("findlr.testing:Quadratic", "--workers", "2")
    assert code == 2
    assert "give verify=True" in err


def test_a_module_is_a_target(run):
    assert run("findlr.testing:Quadratic", "--no-progress")[::2] == (0, "")


def test_people_see_the_table_and_the_curve(run, file):
    code, out, _ = run(f"{file}:quadratic")
    assert code == 0
    assert "suggestion" in out
    assert "learning rate" in out


def test_json_is_alone_on_stdout_whatever_the_training_prints(run, file):
    code, out, err = run(f"{file}:loud", "--json")
    assert (code, out.count("\n")) == (0, 1)
    assert result(out).suggestion is not None
    assert "from Python" in err
    assert "from a subprocess" in err


def test_no_suggestion_exits_with_1(run, file):
    code, out, _ = run(f"{file}:flat", "--json")
    assert code == 1
    assert json.loads(out)["suggestion"] is None


def test_files_are_written(run, file, tmp_path):
    files = ["-o", "run.json", "--plot", "run.svg", "--report", "run.html"]
    code, out, err = run(f"{file}:quadratic", "--json", *files, "--no-progress")
    assert code == 0
    assert Finding.load("run.json") == result(out)
    assert "<svg" in (tmp_path / "run.svg").read_text()
    assert "</html>" in (tmp_path / "run.html").read_text()
    assert err == "findlr: written: run.json, run.svg, run.html\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-o", "no/run.json"], "no folder"),
        (["--plot", "run.xyz"], "no picture that can be drawn"),
        (["--report", "."], "is a folder"),
        (["--rule", "magic"], "rule must be one of quick, "),
        (["--schedule", "onecicle"], "did you mean 'one_cycle'"),
        (["--budget", "much"], "--budget"),
        (["--num-steps", "many"], "--num-steps"),
        (["--verify"], "total_steps"),
        (["--epochs", "5", "--total-steps", "50"], "give one of them"),
        (["--epochs", "0"], "--epochs must be a number above 0, got 0"),
        (["--epochs", "nan"], "--epochs must be a number above 0, got nan"),
        (["--total-steps", "0"], "total_steps"),
        (["--total-steps", "five"], "such as '5 epochs', got 'five'"),
        (["--nonsense"], "--nonsense"),
        (["--verify", "true"], "A flag takes no value: --verify alone says yes, --no-verify no."),
        (["--spacing", "log"], "spacing must be"),
    ],
)
def test_wrong_options_are_one_line_before_anything_is_run(run, file, options, words):
    code, out, err = run(f"{file}:loud", *options)
    assert code == 2
    assert out == "" or options in (["--verify"], ["--spacing", "log"])  # a dict may have brought what goes with them
    assert err.startswith("findlr: ")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            "three",
            "returned a tuple of 3 (Linear, SGD, MSELoss); expected (model, optimizer, criterion, loader), a dict",
        ),
        ("nothing", "returned None; expected"),
        ("text", "returned something of type str; expected"),
        ("a_class", "returned the class Quadratic; expected"),
        ("later", "returned a coroutine; expected"),
        ("wrong_key", "there is no argument 'learning_rate'"),
        ("no_model", "without 'model'"),
        ("missing", "has no 'missing'; it has parts, arguments"),
        ("number", "must be a function, got int"),
        ("swapped", "got SGD: the order is (model, optimizer, criterion, loader)"),
        ("needs", "is called without arguments, and needs folder, seed: give them defaults"),
        (":parts", "TARGET must be"),
    ],
)
def test_a_function_of_another_kind_is_told_what_was_expected(run, file, function, words):
    code, out, err = run(f"{file}:{function}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("train", "TARGET must be"),
        ("train.py:", "TARGET must be"),
        (":f", "TARGET must be"),
        ("nofile.py:f", "there is no file nofile.py"),
        ("no_such_package.train:f", "there is no module no_such_package.train"),
        ("findlr.nothing:f", "there is no module findlr.nothing"),
        (".relative:f", "no module's name"),
    ],
)
def test_a_target_that_is_not_there_is_one_line(run, target, words):
    code, out, err = run(target)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_a_folder_that_the_training_enters_takes_no_file(run, file, tmp_path):
    with (tmp_path / file).open("a") as opened:
        opened.write("def elsewhere():\n    os.mkdir('sub')\n    os.chdir('sub')\n    return Quadratic()\n")
        opened.write("def nowhere():\n    os.chdir('sub')\n    os.rmdir('../sub')\n    return Quadratic()\n")
    for function in ("elsewhere", "nowhere"):
        code, _, err = run(f"{file}:{function}", "-o", f"{function}.json", "--no-progress")
        assert (code, err) == (0, f"findlr: written: {function}.json\n")
        assert Finding.load(tmp_path / f"{function}.json").suggestion is not None


def test_no_output_replaces_what_the_command_reads_or_has_written(run, file, tmp_path):
    target, before = f"{file}:quadratic", (tmp_path / file).read_text()
    (tmp_path / "run.yaml").write_text("max_lr: 1.0")
    (tmp_path / "link.json").symlink_to(tmp_path / "run.yaml")
    for options in (
        ["-o", file],
        ["--report", f"./{file}"],
        ["--config", "run.yaml", "-o", "run.yaml"],
        ["--config", "run.yaml", "-o", "link.json"],
        ["-o", "run.html", "--report", "run.html"],
        ["-o", "run.json", "--verify", "--total-steps", "400", "--checkpoint", "run.json"],
    ):
        code, out, err = run(target, *options)
        assert (code, out) == (2, "")
        assert re.fullmatch(r"findlr: .* has another use in this command, and would be lost: name another file\n", err)
    assert (tmp_path / file).read_text() == before
    assert (tmp_path / "run.yaml").read_text() == "max_lr: 1.0"
    assert not (tmp_path / "run.html").exists()


def test_a_file_may_not_take_the_name_of_a_module(run, tmp_path):
    (tmp_path / "json.py").write_text("def f(): pass")
    code, _, err = run(f"{tmp_path / 'json.py'}:f")
    assert code == 2
    assert "is another module's name: rename the file" in err
    (tmp_path / "train.v2.py").write_text("def f(): pass")
    assert "has a dot: rename the file" in run(f"{tmp_path / 'train.v2.py'}:f")[2]


def test_a_files_name_need_be_no_name_of_pythons(tmp_path):
    (tmp_path / "01-train é.py").write_text(TARGETS, encoding="utf-8")
    command = [sys.executable, "-m", "findlr", "run", "01-train é.py:trainable", "--json", "--no-progress", "--verify"]
    command += ["--total-steps", "400", "--workers", "1"]  # which imports the file by its name
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert result(done.stdout).race.path == "parallel"


def test_a_file_of_a_package_or_of_another_kind_is_told_what_to_give(run, tmp_path):
    (tmp_path / f"{next(names)}.py").write_text("from .nets import Net\ndef f(): pass")
    (tmp_path / "train.ipynb").write_text("{}")
    for file, words in (
        (f"{tmp_path / next(tmp_path.glob('*.py')).name}", "imports from its package: give package.module:function"),
        (f"{tmp_path / 'train.ipynb'}", "is no Python file: TARGET is path/to/train.py:function"),
    ):
        code, out, err = run(f"{file}:f")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert words in err


@pytest.mark.parametrize(
    ("function", "words"),
    [("raises", "ValueError: no data ("), ("exits", "SystemExit: usage: train.py --data (")],
)
def test_what_the_training_raises_is_one_line_with_its_place(run, file, function, words):
    code, out, err = run(f"{file}:{function}")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert f"{file}:{function} failed: {words}" in err
    assert f"{file}, line " in err
    assert re.search(rf'File ".*{file}", line \d+', run(f"{file}:{function}", "--traceback")[2])


@pytest.mark.parametrize("text", ["import no_such_package", "def f(:", "1 / 0"])
def test_a_file_that_cannot_be_imported_is_one_line(run, tmp_path, text):
    path = tmp_path / f"{next(names)}.py"
    path.write_text(text)
    code, out, err = run(f"{path}:f")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert path.stem not in sys.modules


def test_an_error_in_the_sweep_keeps_what_was_measured(run, file):
    code, out, err = run(f"{file}:Breaks", "--json", "-o", "part.json", "--no-progress")
    assert code == 3
    assert result(out).stop is Stop.INTERRUPTED
    assert 0 < len(result(out).curve) < 100
    assert Finding.load("part.json") == result(out)
    assert "failed: RuntimeError: the disk is on fire (" in err
    assert f"; {len(result(out).curve)} steps were measured" in err


def test_the_target_does_not_see_findlrs_arguments(run, file):
    before = list(sys.argv), list(sys.path)
    assert run(f"{file}:reads_arguments", "--json")[0] == 0
    assert (sys.argv, sys.path) == before


def test_the_folder_of_a_file_is_where_it_imports_from(run, tmp_path):
    (tmp_path / "sub").mkdir()
    helper, main = next(names), next(names)
    (tmp_path / "sub" / f"{helper}.py").write_text("from findlr.testing import Quadratic")
    (tmp_path / "sub" / f"{main}.py").write_text(f"from {helper} import Quadratic as f")
    assert run(f"{tmp_path / 'sub' / main}.py:f", "--json")[0] == 0


@pytest.mark.posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_a_time_limit_and_a_closed_terminal_print_what_was_measured(tmp_path, number):
    (tmp_path / "slow.py").write_text(
        "import sys, time\nfrom findlr.testing import Quadratic\n"
        "class Slow(Quadratic):\n"
        "    def step(self, lr):\n"
        "        if lr > 1e-5: (open('reached', 'w').close(), time.sleep(60))\n"
        "        return super().step(lr)\n"
    )
    command = [sys.executable, "-m", "findlr", "run", "slow.py:Slow", "--json", "--no-progress"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "reached").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert result(out).stop is Stop.INTERRUPTED
    assert len(result(out).curve) > 0
    assert err == f"findlr: interrupted; {len(result(out).curve)} steps were measured, and everything was put back\n"


@pytest.mark.posix
@pytest.mark.parametrize(("ignored", "code"), [(False, -signal.SIGTERM), (True, 0)])
def test_a_fork_of_the_trainings_ends_as_it_did(tmp_path, ignored, code):
    (tmp_path / "forks.py").write_text(
        "import multiprocessing, signal, time\nfrom findlr.testing import Quadratic\n"
        "def f():\n"
        "    worker = multiprocessing.get_context('fork').Process(target=time.sleep, args=(3,))\n"
        "    worker.start()\n"
        "    worker.terminate()\n"
        "    worker.join()\n"
        "    print('ended with', worker.exitcode)\n"
        "    return Quadratic()\n"
    )
    command = [sys.executable, "-m", "findlr", "run", "forks.py:f", "--no-progress"]
    ignore = (lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN)) if ignored else None
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60, preexec_fn=ignore
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"ended with {code}\n")


def test_a_checkpoint_that_cannot_be_is_one_line(run, file):
    for options, words in (
        (["--checkpoint", "race.json"], "checkpoint= keeps the runs of a race: give verify=True"),
        (["--verify", "--total-steps", "1000", "--checkpoint", "no/race.json"], "its folder is not there"),
        (["--verify", "--total-steps", "1000", "--checkpoint", file], "no checkpoint of a race"),
    ):
        code, out, err = run(f"{file}:quadratic", *options)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert words in err


def test_search_takes_arguments_for_a_trainable():
    assert search(Quadratic(), {"schedule": "linear", "total_steps": 9, "progress": False}).plan.total_steps == 9
    with pytest.raises(ConfigurationError, match="the function returned something of type int"):
        search(3, {})


def test_the_shell_completes_commands_and_values():
    def completed(words):
        environment = os.environ | {
            "_FINDLR_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        command = [sys.executable, "-m", "findlr"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()

    assert completed("findlr ") == ["run", "doctor", "demo", "show", "compare", "report"]
    assert completed("findlr run train.py:f --schedule one") == ["one_cycle"]
    assert completed("findlr run train.py:f --rule s") == ["slide", "steep"]
