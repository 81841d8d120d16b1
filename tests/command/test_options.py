"""The options of a search: all that can be said in a word, on a command line or in a YAML file."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from findlr import Finding
from findlr.command import cli
from findlr.command.options import SEARCH
from findlr.torch.search import argument_names

OBJECTS = {"model", "optimizer", "criterion", "loader", "loss_fn", "train_step", "restore", "on_step", "executor"}
OBJECTS |= {"validation_loader", "scaler", "consume"}
TARGET = """
import torch
from torch import nn

def parts():
    torch.manual_seed(0)
    inputs = torch.randn(64, 4)
    data = torch.utils.data.TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))
    net = nn.Linear(4, 1)
    return net, torch.optim.SGD(net.parameters(), lr=0.1), nn.MSELoss(), torch.utils.data.DataLoader(data, 8)

def raced():
    return dict(zip(("model", "optimizer", "criterion", "loader"), parts()), verify=True, total_steps=400)
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run ``findlr run`` in a folder with a training; gives the exit code, the Finding, and what was said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some_training.py").write_text(TARGET)

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["run", "--no-progress", "-o", "found.json", *map(str, arguments)])
        code, said = exit_.value.code, capfd.readouterr().err
        return code, Finding.load("found.json") if code < 2 else None, said

    yield run
    sys.modules.pop("some_training", None)


def config(text):
    Path("findlr.yaml").write_text(text, encoding="utf-8")
    return "--config", "findlr.yaml"


def test_each_argument_of_find_lr_is_an_option_or_an_object():
    assert {*SEARCH, "progress"} == {*argument_names(), "epochs"} - OBJECTS


def test_a_file_says_what_the_command_line_does_not(run):
    text = "target: some_training.py:parts\nmin-lr: 1e-6\nmax_lr: 1\nnum_steps: 40\nschedule: cosine\ntotal_steps: 400"
    code, finding, _ = run(*config(text), "--num-steps", "50")
    assert code < 2
    assert (finding.plan.schedule, finding.plan.total_steps) == ("cosine", 400)
    assert (finding.curve.lr[0], finding.curve.num_steps) == (1e-6, 50)


def test_a_file_of_run_is_one_of_doctor_too(run, capfd):
    text = "target: some_training.py:parts\nnum_steps: 20\noutput: found.json\njson: true"
    assert run(*config(text))[1].curve.num_steps == 20
    with pytest.raises(SystemExit) as exit_:
        cli.main(["doctor", "--config", "findlr.yaml"])
    assert exit_.value.code == 0, capfd.readouterr()


def test_how_a_step_is_taken_can_be_said(run):
    _, finding, _ = run("some_training.py:parts", "--accumulation-steps", 4, "--clip-grad-norm", 0.5, "--warmup", 0.1,
                        "--schedule", "linear", "--total-steps", 100, "--sweep", 0)  # fmt: skip
    assert (finding.facts["accumulation_steps"], finding.facts["clip_grad_norm"]) == (4, 0.5)
    assert finding.plan.warmup == 0.1


def test_a_training_that_takes_its_own_steps_is_told_so(run):
    code, _, err = run("findlr.testing:Quadratic", "--autocast", "bf16")
    assert (code, err.count("\n")) == (2, 1)
    assert "there is no argument 'autocast'" in err


@pytest.mark.parametrize("text", ["verify: false", "verify: no", "{}"])
def test_a_flag_in_a_file_says_no_too(run, text):
    _, finding, _ = run("some_training.py:raced", *(config(text) if text != "{}" else ("--no-verify",)))
    assert finding.race is None
    assert run("some_training.py:raced", *config("verify: true"))[1].race is not None


def test_without_a_race_what_only_a_race_takes_is_left_out(run):
    for target in ("some_training.py:raced", "findlr.testing:Quadratic"):
        _, finding, _ = run(target, *config("budget: 0.5\nverify: true\ntotal_steps: 400"), "--no-verify")
        assert finding.race is None


def test_a_share_and_a_number_of_steps_are_told_apart(run):
    for budget, most in (("200", 200), ("0.25", 100)):
        _, finding, _ = run("some_training.py:raced", *config(f"budget: {budget}\nnum_steps: 30"))
        assert most / 2 < finding.cost.steps <= most


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_rl: 1", "findlr.yaml: there is no argument 'max_rl'; it is called 'max_lr' here"),
        ("num_iter: 1", "it is called 'num_steps' here"),
        ("config: other.yaml", "there is no argument 'config'"),
        ("max_lr: high", "Invalid value for '--max-lr'"),
        ("verify: 3", "Invalid value for '--verify'"),
        ("warmup: long", "'--warmup': 'long' is neither a number of steps, such as 500, nor a share, such as 0.5"),
        ("budget: 1.5x", "'--budget': '1.5x' is neither a number of steps"),
        ("num_steps: ten", "'--num-steps': 'ten' is no number of steps, such as 100, nor 'epoch'"),
        ("total_steps: many", "total_steps must be a whole number of steps, or a text such as '5 epochs', got 'many'"),
        ("max_lr: [1, 2]", "findlr.yaml: max_lr must be one value, got [1, 2]"),
        ("max_lr: [1", "findlr.yaml is no YAML: "),
        ("max_lr", "findlr.yaml must hold names and values, such as 'max_lr: 1.0', got 'max_lr'"),
        ("", "must hold names and values"),
        ("rule: magic", "rule must be one of quick"),
        ("schedule: onecicle", "did you mean 'one_cycle'"),
    ],
)
def test_a_file_that_cannot_work_is_one_line(run, text, words):
    code, _, err = run("some_training.py:parts", *config(text))
    assert (code, err.count("\n")) == (2, 1)
    assert words in err
    assert "some_training" not in sys.modules


def test_a_file_that_is_not_there_or_no_text_is_one_line(run, tmp_path):
    assert run("--config", "no.yaml")[::2] == (2, "findlr: no.yaml: No such file or directory\n")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert "bytes.yaml is no YAML" in run("--config", "bytes.yaml")[2]


def test_without_pyyaml(run):
    code = "import sys; sys.modules['yaml'] = None; from findlr.command.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "run", *config("max_lr: 1")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (2, "findlr: pyyaml is not installed; run: pip install 'findlr[cli]'\n")


@pytest.mark.parametrize("command", [None, "run", "doctor", "demo", "compare"])
def test_no_flag_names_a_value(command):
    app = cli.app()
    shown = app if command is None else app.commands[command]
    flags = [option for option in shown.get_params(typer.Context(shown)) if getattr(option, "is_flag", False)]
    assert flags
    assert {option.metavar for option in flags} == {""}
