"""Training with a call to find_lr in the middle is bit-identical to training without it: one restored thing at a time.

``scripts/break_restoration.py`` breaks each restored thing in turn and shows which of these tests turns red.
"""

import logging
import os
import signal
from functools import partial

import pytest
import torch
from torch import nn, optim

from findlr import Stop
from findlr.torch import TorchTrainable
from tests.torch.training import (
    DIVERGING,
    LOADERS,
    MODELS,
    OPTIMIZERS,
    STEPS,
    SWEEP,
    WORKERS,
    Bomb,
    Training,
    check,
    cnn,
    copied,
    frozen,
    mlp,
)

# The matrix

EXITS = [
    pytest.param(error, place, at, id=f"{error.__name__}-{place}-{at}")
    for error in (RuntimeError, KeyboardInterrupt)
    for place in ("criterion", "loader", "optimizer")
    for at in (0, 1, 5, STEPS[-1])
]


def check_exit(make, error, place, at, **how):
    finding, raised = check(lambda: make(bomb=lambda: Bomb(place, at, error)), **how)
    assert type(raised) is error
    assert finding.stop is Stop.INTERRUPTED
    assert len(finding.curve) == at
    assert finding.curve.num_steps == SWEEP["num_steps"]
    assert any("put back" in note for note in raised.__notes__)


@pytest.mark.parametrize("before", [0, 4], ids=["fresh", "warm"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_model_with_every_optimizer(model, optimizer, before):
    finding, _ = check(lambda: Training(model, optimizer), before)
    assert finding.stop is Stop.FINISHED
    assert len(finding.curve) == len(STEPS)


@pytest.mark.parametrize("before", [0, 4], ids=["fresh", "warm"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_sweep_that_diverges(optimizer, model, before):
    finding, _ = check(lambda: Training(model, optimizer), before, call=lambda training: training.find(**DIVERGING))
    assert finding.stop in (Stop.DIVERGED, Stop.NOT_FINITE)


@pytest.mark.parametrize(("error", "place", "at"), EXITS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer_with_every_exit(optimizer, error, place, at):
    check_exit(partial(Training, cnn, optimizer), error, place, at)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [0, 1, 2, 3, 7])  # the first three are the first step's: a baseline, and its check
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer_with_an_exit_from_the_control_variate(optimizer, error, at):
    finding, raised = check(lambda: Training(cnn, optimizer, bomb=lambda: Bomb("baseline", at, error)))
    assert type(raised) is error
    assert len(finding.curve) == max(at - 2, 0)


@pytest.mark.parametrize(("error", "place", "at"), EXITS)
@pytest.mark.parametrize(
    "loader", [v for k, v in LOADERS.items() if k != "list"], ids=[k for k in LOADERS if k != "list"]
)
def test_every_loader_with_every_exit(loader, error, place, at):
    check_exit(partial(Training, loader=loader), error, place, at)


@pytest.mark.parametrize("how", [SWEEP, DIVERGING], ids=["finish", "diverge"])
@pytest.mark.parametrize("before", [0, 4, 6], ids=["fresh", "mid-epoch", "between-epochs"])
@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_every_loader(loader, before, how):
    check(lambda: Training(cnn, loader=loader), before, call=lambda training: training.find(**how))


@pytest.mark.parametrize("before", [0, 4], ids=["fresh", "mid-epoch"])
@pytest.mark.parametrize("loader", WORKERS.values(), ids=WORKERS)
def test_worker_processes(loader, before):
    finding, _ = check(lambda: Training(loader=loader), before)
    assert finding.stop is Stop.FINISHED


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("loader", WORKERS.values(), ids=WORKERS)
def test_worker_processes_with_an_exception_in_the_main_process(loader, error):
    check_exit(partial(Training, loader=loader), error, "criterion", 5)


@pytest.mark.parametrize("loader", WORKERS.values(), ids=WORKERS)
def test_worker_processes_with_an_exception_in_one_of_them(loader):
    _, error = check(lambda: Training(loader=loader, bomb=lambda: Bomb("dataset", 12)))
    assert "boom" in str(error)


# One thing at a time


class Restless(nn.Module):
    """Changes itself at each forward pass."""

    def __init__(self, inner, change):
        super().__init__()
        self.inner, self.change = inner, change
        self.own = nn.Parameter(torch.zeros(4), requires_grad=False)
        self.register_buffer("persistent", torch.zeros(4))
        self.register_buffer("passing", torch.zeros(4), persistent=False)
        self.register_buffer("expanded", torch.zeros(1, 3).expand(4, 3))
        self.register_buffer("sliding", torch.zeros(6).unfold(0, 3, 1))

    def forward(self, *inputs):
        with torch.no_grad():
            self.change(self)
        return self.inner(*inputs)


CHANGES = {
    "parameter": lambda m: m.own.add_(1),
    "persistent-buffer": lambda m: m.persistent.add_(1),
    "non-persistent-buffer": lambda m: m.passing.add_(1),
    "expanded-buffer": lambda m: m.expanded[1].add_(1),
    "overlapping-buffer": lambda m: m.sliding[1].add_(1),
    "buffer-bound-anew": lambda m: setattr(m, "persistent", m.persistent + 1),
    "new-buffer": lambda m: m.register_buffer("late", torch.ones(1)),
    "nan-buffer": lambda m: m.persistent.div_(0),
    "train-flag": lambda m: m.inner.eval(),
}


@pytest.mark.parametrize("before", [0, 3], ids=["fresh", "warm"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("where", ["model", "criterion"])
def test_what_a_module_changes_in_its_forward_pass(where, change, before):
    if where == "model":
        check(lambda: Training(lambda: Restless(cnn(), change)), before)
    else:
        check(lambda: Training(loss=lambda: Restless(nn.CrossEntropyLoss(), change)), before)


class Scaled(nn.Module):
    """A loss with a parameter that is not registered: only the optimizer has it."""

    def __init__(self):
        super().__init__()
        self.unregistered = [nn.Parameter(torch.ones(()))]

    def forward(self, outputs, targets):
        return nn.functional.cross_entropy(outputs * self.unregistered[0], targets)


class Weighted(nn.CrossEntropyLoss):
    """A loss with a parameter that is learned."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, outputs, targets):
        return super().forward(outputs * self.scale, targets)


@pytest.mark.parametrize("before", [0, 4], ids=["fresh", "warm"])
@pytest.mark.parametrize("loss", [Scaled, Weighted], ids=["the-optimizers-alone", "the-criterions"])
def test_a_parameter_that_is_not_the_models(loss, before):
    check(lambda: Training(optimizer=OPTIMIZERS["adam"], loss=loss), before)


GROUP_CHANGES = {
    "initial_lr": lambda group: group.update(initial_lr=group["initial_lr"] * 0.9),
    "weight_decay": lambda group: group.update(weight_decay=group["weight_decay"] + 0.01),
    "new-entry": lambda group: group.update(late=True),
    "list-in-place": lambda group: group.setdefault("history", []).append(1),
}


@pytest.mark.parametrize("before", [0, 4], ids=["fresh", "warm"])
@pytest.mark.parametrize("change", GROUP_CHANGES.values(), ids=GROUP_CHANGES)
def test_param_group_entries(change, before):
    def optimizer(parameters):
        made = optim.SGD([{"params": parameters, "lr": 0.1, "initial_lr": 0.2}], momentum=0.9)
        made.register_step_post_hook(lambda self, *_: change(self.param_groups[0]))
        return made

    check(lambda: Training(optimizer=optimizer), before)


@pytest.mark.parametrize("optimizer", [optim.SGD, optim.Adam, optim.AdamW], ids=lambda kind: kind.__name__)
def test_tensor_rates(optimizer):
    def two_groups(parameters):
        rates = torch.tensor(0.1), torch.tensor(0.01)
        groups = [{"params": parameters[:2], "lr": rates[0]}, {"params": parameters[2:], "lr": rates[1]}]
        return optimizer(groups, foreach=False)

    check(lambda: Training(optimizer=two_groups))


SCHEDULERS = {
    "step": lambda o: optim.lr_scheduler.StepLR(o, 2, gamma=0.5),
    "one-cycle": lambda o: optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=40),
    "lambda": lambda o: optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "warm-up": lambda o: optim.lr_scheduler.LinearLR(o, start_factor=0.1, total_iters=5),
    "sequential": lambda o: optim.lr_scheduler.SequentialLR(
        o, [optim.lr_scheduler.ConstantLR(o, 0.1, 3), optim.lr_scheduler.ExponentialLR(o, 0.9)], milestones=[3]
    ),
}


@pytest.mark.parametrize("before", [0, 4], ids=["fresh", "warm"])
@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_an_attached_scheduler(scheduler, before):
    check(lambda: Training(scheduler=scheduler), before)


def test_torch_still_warns_of_a_scheduler_that_steps_first():
    training = Training(scheduler=SCHEDULERS["step"])
    training.find()
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        training.scheduler.step()


@pytest.mark.parametrize("before", [0, 4], ids=["fresh", "warm"])
def test_lbfgs(before):
    class ClosureTraining(Training):
        def train(self, steps):
            for _ in range(steps):
                batch = self.batch()
                self.seen.append(copied(batch))
                self.optimizer.step(lambda batch=batch: self.passed(*batch))
            return self

        def passed(self, inputs, targets):
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(inputs), targets)
            loss.backward()
            return loss

    check(lambda: ClosureTraining(optimizer=lambda p: optim.LBFGS(p, lr=0.1, max_iter=3)), before)


def test_gradients_in_the_middle_of_accumulation():
    finding, _ = check(lambda: Training(cnn, accumulation=3), before=4)
    assert finding.stop is Stop.FINISHED


def test_gradients_of_parameters_that_the_optimizer_lacks():
    check(lambda: Training(optimizer=lambda parameters: optim.SGD(parameters[2:], lr=0.1), accumulation=3), before=4)


def test_the_gradient_of_a_buffer_that_takes_part_in_the_loss():
    class Committed(nn.Linear):  # as VectorQuantize of vector-quantize-pytorch begins its loss
        def __init__(self):
            super().__init__(16, 4)
            self.register_buffer("zero", torch.zeros(()), persistent=False)

        def forward(self, inputs):
            return super().forward(inputs) + self.zero.requires_grad_()

    training = Training(Committed)
    training.find()
    assert training.model.zero.grad is None
    assert not training.model.zero.requires_grad


@pytest.mark.parametrize("accumulation", [1, 3])
def test_sparse_gradients(accumulation):
    def model():
        return nn.Sequential(Bits(), nn.EmbeddingBag(16, 4, sparse=True))

    check(lambda: Training(model, optim.SparseAdam, accumulation=accumulation))


class Bits(nn.Module):
    """The signs of the numbers, as indices."""

    def forward(self, x):
        return torch.arange(x.shape[1]).expand_as(x) * (x > 0)


# Modes


def test_a_model_in_eval_mode_is_swept_in_train_mode_and_put_back(caplog):
    def in_eval_mode():
        training = Training(cnn)
        training.model.eval()
        return training

    caplog.set_level(logging.INFO, logger="findlr")
    swept_in = set()

    def call(training):
        with training.model.register_forward_pre_hook(lambda model, _: swept_in.add(model.training)):
            return training.find()

    check(in_eval_mode, call=call)
    assert True in swept_in
    assert [record.getMessage() for record in caplog.records if "eval mode" in record.getMessage()] != []


def test_frozen_layers_stay_in_eval_mode_during_the_sweep(caplog):
    caplog.set_level(logging.INFO, logger="findlr")
    training, flags = Training(frozen), set()
    training.model.register_forward_hook(lambda *_: flags.add(tuple(m.training for m in training.model)))
    training.find()
    assert flags == {(False, True, True, True, True)}
    assert not any("eval mode" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("loader", [LOADERS["global-rng"], LOADERS["list"], WORKERS["persistent"]])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_a_block_without_gradients(mode, loader):
    def call(training):
        with mode():
            return training.find()

    finding, error = check(lambda: Training(cnn, loader=loader), call=call)
    assert error is None
    assert finding == check(lambda: Training(cnn, loader=loader))[0]


def test_default_dtype_float64():
    torch.set_default_dtype(torch.float64)
    try:
        check(lambda: Training(lambda: nn.Sequential(Doubled(), mlp())))
    finally:
        torch.set_default_dtype(torch.float32)


class Doubled(nn.Module):
    def forward(self, x):
        return x.double()


# Called twice, interrupted twice


@pytest.mark.parametrize("loader", [*LOADERS.values(), WORKERS["persistent"]], ids=[*LOADERS, "persistent"])
@pytest.mark.parametrize("how", [SWEEP, DIVERGING], ids=["finish", "diverge"])
def test_called_twice_it_finds_the_same(how, loader):
    training = Training(cnn, loader=loader).train(4)
    first, second = training.find(**how)[0], training.find(**how)[0]
    training.close()
    assert first == second
    assert first.curve == second.curve


class Interrupting:
    """Ctrl-C arrives while it is put back."""

    armed = False

    def state_dict(self):
        return {"armed": self.armed}

    def load_state_dict(self, state):
        if self.armed:
            os.kill(os.getpid(), signal.SIGINT)


def interrupted(**how):
    return Training(extra=lambda _: (Interrupting(), lambda: None), **how)


def arm(training):
    training.extra.armed = True
    try:
        return training.find()
    finally:
        training.extra.armed = False


@pytest.mark.posix
@pytest.mark.parametrize("bomb", [Bomb, lambda: Bomb("criterion", 5, KeyboardInterrupt)], ids=["first", "second"])
def test_ctrl_c_while_things_are_put_back(bomb):
    before = signal.getsignal(signal.SIGINT)
    finding, error = check(lambda: interrupted(bomb=bomb), call=arm)
    assert type(error) is KeyboardInterrupt
    assert finding.stop is not None
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_while_things_are_put_back_reaches_the_users_own_handler():
    came = []

    def handler(number, frame):
        came.append(number)

    before = signal.signal(signal.SIGINT, handler)
    try:
        finding, error = check(interrupted, call=arm)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert error is None
    assert finding.stop is Stop.FINISHED
    assert came == [signal.SIGINT]


# A snapshot in the middle of the data


@pytest.mark.parametrize("drawn", [0, 3, 6, 8])
@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_a_snapshot_remembers_its_place_in_the_data(loader, drawn):
    check_place(loader, drawn)


@pytest.mark.parametrize("loader", WORKERS.values(), ids=WORKERS)
def test_a_snapshot_remembers_its_place_in_the_data_of_workers(loader):
    check_place(loader, 3)


def check_place(loader, drawn):
    training = Training(cnn, loader=loader)
    inner = TorchTrainable(training.model, training.optimizer, training.criterion, training.loader)
    for _ in range(drawn):
        inner.step(0.01)
    snapshot = inner.snapshot()
    runs = []
    for _ in range(3):
        runs.append([inner.step(0.01) for _ in range(7)])
        inner.restore(snapshot)
    inner.batches.close()
    assert runs[0] == runs[1] == runs[2]
