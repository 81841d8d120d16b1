"""The same training is planned alike through every door."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn, optim

from findlr import ConfigurationError, OptimizerError, Plan, RangeTest, TorchTrainable, find, find_lr
from findlr.command.target import search
from tests.torch.training import loop


def parts(make=lambda p: optim.Adam(p, lr=1e-3)):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    inputs = torch.randn(320, 8)
    data = [(x, x[:, :3].argmax(dim=1)) for x in inputs.split(16)]
    return net, make(net.parameters()), nn.CrossEntropyLoss(), data


def test_find_find_lr_and_the_command_answer_the_same_rate():
    plan = dict(schedule="one_cycle", total_steps=600)
    by_call = find_lr(*parts(), **plan)
    by_find = find(TorchTrainable(*parts()), Plan("one_cycle", 600))
    by_command = search(TorchTrainable(*parts()), {**plan, "progress": False})
    assert by_call.lr == by_find.lr == by_command.lr
    assert by_call.plan == by_find.plan == by_command.plan
    assert by_call.plan.optimizer == "Adam"
    assert by_call.plan.momentum == 0.9
    assert by_call.plan.parameters == sum(p.numel() for p in parts()[0].parameters())


def test_a_range_test_plans_alike():
    found = loop(*parts(), num_steps=20, max_lr=1e-3, schedule="cosine", total_steps=50)
    assert found.plan == find_lr(*parts(), schedule="cosine", total_steps=50).plan


def test_what_the_caller_says_of_the_plan_stands():
    plan = find(TorchTrainable(*parts()), Plan(optimizer="AdamW", momentum=0.5, parameters=10)).plan
    assert (plan.optimizer, plan.momentum, plan.parameters) == ("AdamW", 0.5, 10)


DOORS = {
    "find": lambda given, how: find(TorchTrainable(*given), Plan(total_steps=100), **how),
    "find_lr": lambda given, how: find_lr(*given, total_steps=100, **how),
    "command": lambda given, how: search(TorchTrainable(*given), {"total_steps": 100, **how}),
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_a_race_of_an_optimizer_whose_step_costs_what_it_likes_is_refused_at_every_door(door):
    with pytest.raises(OptimizerError, match="leave verify out"):
        door(parts(lambda p: optim.LBFGS(p, max_iter=2)), dict(verify=True, progress=False))


@pytest.mark.parametrize(
    ("given", "meant"),
    [("num_it", "num_steps"), ("start_lr", "min_lr"), ("end_lr", "max_lr"), ("num_training", "num_steps")],
)
def test_other_finders_names_are_answered_with_ours(given, meant):
    with pytest.raises(ValueError, match=f"no argument '{given}'; it is called '{meant}' here"):
        find_lr(*parts(), **{given: 10})


@pytest.mark.parametrize("door", [TorchTrainable, RangeTest])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("net", "called 'model'"),
        ("foo", "there are model"),
        ("memory_cache", "called 'snapshot'"),
        ("device", "leave it out"),
    ],
)
def test_a_class_answers_other_finders_names_too(door, given, says):
    training = parts()[: 4 if door is TorchTrainable else 2]
    with pytest.raises(ConfigurationError, match=f"{door.__name__}: there is no argument '{given}'.*{says}"):
        door(*training, **{given: 10})


@pytest.mark.parametrize(
    ("given", "meant"), [("num_it", "num_steps"), ("start_lr", "min_lr"), ("epochs", "total_steps")]
)
def test_a_range_test_answers_the_names_of_a_sweep(given, meant):
    with pytest.raises(ConfigurationError, match=f"no argument '{given}'; .*{meant}"):
        RangeTest(*parts()[:2], **{given: 10})


@pytest.mark.parametrize("given", ["schedule", "total_steps", "epochs", "warmup", "max_steps", "momentum"])
def test_find_says_that_what_is_planned_goes_into_the_plan(given):
    with pytest.raises(ConfigurationError, match=f"no argument '{given}'; give plan=Plan"):
        find(TorchTrainable(*parts()), **{given: 10})


def test_a_device_is_not_needed():
    with pytest.raises(ValueError, match="no argument 'device': leave it out"):
        find_lr(*parts(), device="cuda")


def test_the_command_takes_the_names_of_how_a_step_is_taken(tmp_path):
    script = """
        import torch
        from torch import nn, optim
        def setup():
            torch.manual_seed(0)
            net = nn.Linear(4, 1)
            x = torch.randn(64, 4)
            data = [(b, b[:, :1]) for b in x.split(8)]
            return dict(model=net, optimizer=optim.SGD(net.parameters(), lr=0.1), criterion=nn.MSELoss(), loader=data,
                        accumulation_steps=2, clip_grad_norm=1.0)
    """
    (tmp_path / "train.py").write_text(textwrap.dedent(script))
    done = subprocess.run(
        [sys.executable, "-m", "findlr", "run", "train.py:setup", "--no-progress"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
