"""Runs in one pass against the same runs one by one, in float64; what can't be run so is refused."""

import copy
import math
import random
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn, optim

from findlr import Plan, TorchTrainable, find_lr
from findlr.testing import TrainableConformance
from findlr.torch.passes import obstacles, together
from findlr.torch.passes.replay import CannotRecordError, recorded
from tests.torch.test_verify import Held, same, state_of

RATES = np.outer([0.003, 0.03, 0.1], Plan("one_cycle").shares(12)).tolist()


@pytest.fixture(autouse=True)
def two_runs_are_enough(monkeypatch):
    monkeypatch.setattr(obstacles, "FEWEST_RUNS_ON_CPU", 2)


class Attention(nn.Module):
    """Not by scaled_dot_product_attention, whose kernel for CPUs vmap can't batch."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.mixed = nn.Embedding(5, 8), nn.LayerNorm(8), nn.Linear(8, 24)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        tokens = (x[:, :6] + 2).clamp(0, 4).long()
        query, key, value = self.mixed(self.norm(self.embed(tokens))).chunk(3, dim=2)
        return self.last((query @ key.transpose(1, 2)).softmax(dim=2) @ value).mean(dim=1)


class Partly(nn.Module):
    """A frozen trunk, a parameter that is never used, and a tied weight."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(16, 8).requires_grad_(requires_grad=False)
        self.first, self.second, self.unused = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.second(torch.tanh(self.first(self.trunk(x)))))


def mlp():
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


def cnn():
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.GELU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16, 3)),
    )


NETS = {"mlp": mlp, "cnn": cnn, "attention": Attention, "partly": Partly}
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
    "nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "sgd-maximize": lambda p: optim.SGD(p, lr=0.1, momentum=0.5, maximize=True, foreach=False),
    "sgd-fused": lambda p: optim.SGD(p, lr=torch.tensor(0.1), momentum=0.9, fused=True),
    "adam": lambda p: optim.Adam(p, lr=0.1, betas=(0.8, 0.99)),
    "adam-decay": lambda p: optim.Adam(p, lr=0.1, weight_decay=0.1, eps=1e-4),
    "adam-amsgrad": lambda p: optim.Adam(p, lr=0.1, amsgrad=True, weight_decay=0.1, maximize=True),
    "adamw": lambda p: optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "adamw-amsgrad": lambda p: optim.AdamW(p, lr=0.1, weight_decay=0.1, amsgrad=True, foreach=True),
    "adamw-maximize": lambda p: optim.AdamW(p, lr=torch.tensor(0.1, dtype=torch.float64), maximize=True),
}


def batches_of(count=20, size=8, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, size, 16, dtype=torch.float64, generator=drawn)
    return [(x, x[:, :3].argmax(dim=1)) for x in inputs]


def training_of(net=mlp, make=OPTIMIZERS["momentum"], *, warm=0, data=None, **how):
    torch.manual_seed(0)
    model = net().double()
    optimizer = make(model.parameters())
    how = {"criterion": nn.CrossEntropyLoss()} | how if "loss_fn" not in how else how
    training = TorchTrainable(model, optimizer, loader=data or batches_of(), **how)
    for _ in range(warm):
        training.step(0.05)
    training.hold_out(2, 12, 12)
    training.keep_batches(12)
    return training


def one_by_one(training, begin, rates=RATES):
    """The losses of each run, and the held-out loss at its end."""
    losses, ends = [], []
    for lrs in rates:
        training.restore(begin)
        losses.append([training.step(lr) for lr in lrs])
        ends.append(training.evaluate())
    return losses, ends


def in_one_pass(training, begin, rates=RATES):
    training.restore(begin)
    single = together._Single(training, rates[0][: together.TRIAL_STEPS])
    training.restore(begin)
    training.model.train()
    with torch.no_grad():
        runner = together._Pass(training, single, rates)
        batches = [copy.deepcopy(batch) for batch in training.batches.kept]
        return torch.stack([runner._step(*each) for each in zip(batches, runner._rates.T, strict=True)]).T.tolist()


def check(training):
    begin = training.snapshot()
    assert training.prepare_together(3) is None
    losses, ends = one_by_one(training, begin)
    assert len({round(end, 6) for end in ends}) == len(ends)  # the rates do act
    np.testing.assert_allclose(in_one_pass(training, begin), losses, rtol=1e-10)
    np.testing.assert_allclose(training.run_together(begin, RATES), ends, rtol=1e-10)


@pytest.mark.parametrize("warm", [0, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_gives_the_losses_of_runs_one_by_one(optimizer, warm):
    check(training_of(make=OPTIMIZERS[optimizer], warm=warm))


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("net", NETS)
def test_every_net_gives_the_losses_of_runs_one_by_one(net, optimizer):
    check(training_of(NETS[net], OPTIMIZERS[optimizer]))


def groups(parameters):
    first, *rest = parameters
    shares = [{"params": [first], "lr": 0.1}, {"params": rest[:1], "lr": 0.02, "weight_decay": 0.1}]
    return optim.SGD([*shares, {"params": rest[1:], "lr": 0.0}], lr=0.1, momentum=0.9)


class Scaled(nn.Module):
    """A criterion with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, outputs, targets):
        return nn.functional.cross_entropy(outputs * self.scale, targets) + self.scale.square().mean()


SCALED = Scaled()
VARIANTS = {
    "groups": dict(make=groups),
    "clipped norm": dict(clip_grad_norm=0.1),
    "clipped values": dict(clip_grad_value=0.01),
    "a criterion that learns": dict(
        criterion=SCALED, make=lambda p: optim.SGD([*p, *SCALED.parameters()], lr=0.1, momentum=0.9)
    ),
    "a loss of one place": dict(loss_fn=lambda model, batch: (model(batch[0]) - 1).square().mean().reshape(1)),
    "dictionaries, and a smaller last batch": dict(
        loss_fn=lambda model, batch: nn.functional.cross_entropy(model(batch["x"]), batch["of"][0]),
        data=[{"x": x[: 8 - i % 2], "of": [y[: 8 - i % 2], "name"]} for i, (x, y) in enumerate(batches_of())],
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_trainings_give_the_losses_of_runs_one_by_one(variant):
    check(training_of(**VARIANTS[variant]))


@pytest.mark.parametrize("read_every", [1, 10])
def test_the_losses_of_a_pass_are_shown_once_it_is_known_to_be_right(read_every):
    training = training_of()
    training.read_every = read_every
    begin = training.snapshot()
    losses, ends = one_by_one(training, begin)
    calls = []
    training.see_together = lambda first, rows: calls.append((first, rows))
    np.testing.assert_allclose(training.run_together(begin, RATES), ends, rtol=1e-10)
    assert [len(rows) for _, rows in calls] == ([4] + [1] * 8 if read_every == 1 else [10, 2])
    assert {first for first, _ in calls} == {0}
    np.testing.assert_allclose([row for _, rows in calls for row in rows], np.transpose(losses), rtol=1e-10)


def test_a_race_in_one_pass_is_seen_step_by_step():
    steps = []
    torch.manual_seed(0)
    net = mlp().double()
    how = dict(total_steps=400, verify=True, one_pass=True, budget=900)
    finding = find_lr(
        *(net, optim.SGD(net.parameters(), lr=0.1), nn.CrossEntropyLoss(), batches_of()), **how, on_step=steps.append
    )
    assert finding.race.path == "one pass"
    for number, run in enumerate(finding.race.runs, start=1):
        own = [step for step in steps if step.run == number]
        assert [step.index for step in own] == list(range(run.steps))
        assert own[-1].ended == finding.race.runs[:number]


def test_where_memory_is_short_there_are_several_passes(monkeypatch):
    training = training_of()
    begin = training.snapshot()
    whole = training.run_together(begin, RATES)
    free = 2 * 2 * obstacles._bytes_of_a_run(training.training)
    monkeypatch.setattr(obstacles, "free_memory", lambda device: free)
    sizes, firsts = [], []
    training.see_together = lambda first, rows: firsts.append((first, len(rows[0])))
    step = together._Pass._step
    monkeypatch.setattr(together._Pass, "_step", lambda self, *a: sizes.append(len(self._rates)) or step(self, *a))
    assert training.prepare_together(3) is None
    np.testing.assert_allclose(training.run_together(begin, RATES), whole, rtol=1e-12)
    assert set(sizes) == {2, 1}
    assert set(firsts) == {(0, 2), (2, 1)}
    free -= 1
    assert training.prepare_together(3) == "there is not enough memory for two runs"


def test_a_run_that_diverges_is_infinite_and_spoils_no_other():
    training = training_of(make=OPTIMIZERS["sgd"], criterion=lambda x, y: x.square().square().mean())
    begin = training.snapshot()
    fine, *diverged = training.run_together(begin, [[0.001] * 12, [1e3] * 12, [1e3] * 12])
    assert diverged == [math.inf, math.inf]
    assert fine == pytest.approx(one_by_one(training, begin, [[0.001] * 12])[1][0], rel=1e-10)
    forwards = training.forwards
    assert training.run_together(begin, [[1e3] * 12] * 2) == [math.inf, math.inf]
    assert training.forwards - forwards == together.TRIAL_STEPS + 2 * 10  # then it was seen


def test_the_suite_for_trainables_holds_for_a_pass():
    class Suite(TrainableConformance):
        def trainable(self):
            return TorchTrainable(*parts())

    try:
        Suite().test_run_together()
    except pytest.skip.Exception as skipped:
        pytest.fail(str(skipped))


# What is refused


class Counting(nn.Module):
    """Its forward pass counts in a buffer."""

    def __init__(self, *, rebind=False):
        super().__init__()
        self.last, self.rebind = nn.Linear(16, 3), rebind
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        if self.rebind:
            self.count = self.count + 1
        else:
            self.count += 1
        return self.last(x)


class Renormalised(nn.Module):
    """Its forward pass writes into its weights."""

    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(4, 16, max_norm=0.1), nn.Linear(16, 3)

    def forward(self, x):
        return self.last(x + self.table(torch.zeros(len(x), dtype=torch.long)))


@dataclass
class Pair:
    x: torch.Tensor
    y: torch.Tensor


class OwnSGD(optim.SGD):
    pass


def hooked(change):
    def make():
        net = mlp()
        change(net)
        return net

    return make


def annealed():
    scale = [1.0]

    def criterion(outputs, targets):
        scale[0] *= 0.9
        return scale[0] * nn.functional.cross_entropy(outputs, targets)

    return criterion


def cross_entropy_times(factor):
    return lambda outputs, targets: nn.functional.cross_entropy(outputs, targets) * factor(outputs)


def with_hook(parameters):
    optimizer = optim.SGD(parameters, lr=0.1)
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


def with_own_step(parameters):
    optimizer = optim.SGD(parameters, lr=0.1)
    optimizer.step = lambda: None
    return optimizer


LOSS = nn.functional.cross_entropy
OWN, OWN_OF_TORCH = random.Random(0), torch.Generator()
REFUSED = {
    "BatchNorm": (dict(net=lambda: nn.Sequential(nn.Linear(16, 3), nn.BatchNorm1d(3))), "BatchNorm1d keeps"),
    "dropout": (dict(net=lambda: nn.Sequential(nn.Linear(16, 3), nn.Dropout(0.1))), "Dropout draws"),
    "a function's dropout": (
        dict(loss_fn=lambda m, b: LOSS(m(nn.functional.dropout(b[0])), b[1])),
        "draws random numbers",
    ),
    "Python's random": (dict(criterion=cross_entropy_times(lambda _: 1 + random.random())), "draws random"),
    "NumPy's random": (dict(criterion=cross_entropy_times(lambda _: 1 + np.random.rand())), "draws random"),
    "a generator of its own": (
        dict(criterion=cross_entropy_times(lambda _: 1 + OWN.random())),
        "the losses differ",
    ),
    "a generator of torch's": (
        dict(criterion=cross_entropy_times(lambda _: 1 + torch.rand((), dtype=torch.float64, generator=OWN_OF_TORCH))),
        "RuntimeError: vmap",
    ),
    "a buffer written to": (dict(net=Counting), "changes a buffer"),
    "a buffer bound anew": (dict(net=lambda: Counting(rebind=True)), "changes a buffer"),
    "a weight written to": (dict(net=Renormalised), ""),
    "a weight out of reach": (dict(net=partial(Held, 16)), ""),
    "a loss that changes": (dict(criterion=annealed()), "the losses differ"),
    "a value of a batch": (
        dict(loss_fn=lambda m, b: LOSS(m(b[0]), b[1]) * (1 + b[0].max().item())),
        "depends on the values",
    ),
    "a shape of a value": (
        dict(loss_fn=lambda m, b: LOSS(m(b[0]), b[1]) * (1 + b[0][b[0] > 0].sum())),
        "depends on the values",
    ),
    "attention's kernel": (
        dict(
            net=lambda: nn.Sequential(nn.Unflatten(1, (2, 8)), nn.TransformerEncoderLayer(8, 2, 8, 0.0), nn.Flatten())
        ),
        "performance drop",
    ),
    "a branch": (dict(criterion=lambda x, y: LOSS(x, y) if x.sum() > 0 else 2 * LOSS(x, y)), "RuntimeError: vmap"),
    "RMSprop": (dict(make=lambda p: optim.RMSprop(p, lr=0.1)), "RMSprop is none of"),
    "a subclass": (dict(make=lambda p: OwnSGD(p, lr=0.1)), "OwnSGD is none of"),
    "differentiable": (dict(make=lambda p: optim.SGD(p, lr=0.1, differentiable=True)), "is differentiable"),
    "a tensor of settings": (
        dict(
            make=lambda p: optim.Adam(
                p, lr=torch.tensor(0.1), betas=(torch.tensor(0.9), torch.tensor(0.9)), foreach=False
            )
        ),
        "a setting of Adam is a tensor",
    ),
    "the optimizer's hook": (dict(make=with_hook), "the optimizer has hooks"),
    "the optimizer's step": (dict(make=with_own_step), "step is not its own"),
    "accumulation": (dict(accumulation_steps=2), "accumulated"),
    "a scaler": (dict(scaler=torch.amp.GradScaler("cpu")), "scaler"),
    "a forward hook": (dict(net=hooked(lambda n: n.register_forward_hook(lambda *_: None))), "forward hooks"),
    "a backward hook": (dict(net=hooked(lambda n: n[2].register_full_backward_hook(lambda *_: None))), "has hooks"),
    "a gradient's hook": (dict(net=hooked(lambda n: n[0].weight.register_hook(lambda g: g * 2))), "a parameter has"),
    "compiled": (dict(net=hooked(lambda n: n.compile(backend="eager"))), "compiled"),
    "objects": (
        dict(loss_fn=lambda m, b: LOSS(m(b.x), b.y), data=[Pair(*batch) for batch in batches_of()]),
        "a batch holds a Pair",
    ),
    "many shapes": (
        dict(data=[(x[: i % 5 + 2], y[: i % 5 + 2]) for i, (x, y) in enumerate(batches_of())]),
        "more than 4 shapes",
    ),
    "a large model": (dict(net=lambda: nn.Sequential(nn.Linear(16, 9000), nn.Linear(9000, 3))), "on a CPU, a model"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_run_in_one_pass_is_refused(case):
    how, reason = REFUSED[case]
    training = training_of(**how)
    begin = training.snapshot()
    said = training.prepare_together(3)
    if said is None:
        spent = training.forwards
        said = training.run_together(begin, RATES)
        assert training.forwards - spent <= together.TRIAL_STEPS * (len(RATES) + 1)
    assert isinstance(said, str)
    assert reason in said
    if case != "differentiable":  # which torch itself can't step so
        training.restore(begin)
        assert math.isfinite(training.step(0.01))


def test_an_optimizer_that_knows_some_parameters_only_is_refused():
    training = training_of(warm=2)
    del training.optimizer.state[training.model[2].bias]
    said = training.run_together(training.snapshot(), RATES)
    assert said == "ValueError: only some parameters have a momentum_buffer"


def test_hooks_for_all_modules_are_seen():
    training = training_of()
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert training.prepare_together(3) == "there are hooks for all modules"
    finally:
        hook.remove()


def test_an_error_of_the_training_is_told_and_left_to_the_run_that_meets_it(monkeypatch):
    training = training_of()
    monkeypatch.setattr(together._Pass, "_end", lambda *_: 1 / 0)
    assert training.run_together(training.snapshot(), RATES) == "ZeroDivisionError: division by zero"


def test_what_was_recorded_goes_by_what_it_is_given():
    buffer = torch.ones(3)

    def function(x, y):
        low, high = (x * y + buffer).split(2)
        return [low.exp_(), high.sum()]

    first = torch.tensor([0.0, 1, 2]), torch.tensor([1.0, 2, 3])
    results, again = recorded(function, first)
    other = torch.tensor([3.0, 2, 1]), torch.tensor([0.5, 0, 1])
    for given, expected in ((first, results), (other, function(*other))):
        assert all(map(torch.equal, again(*given), expected))
    buffer.fill_(5)
    assert all(map(torch.equal, again(*other), function(*other)))
    with pytest.raises(CannotRecordError, match="writes into"):
        recorded(lambda x: [x.add_(1)], first[:1])


# In a race


def parts(dtype=torch.float32, net=mlp):
    torch.manual_seed(0)
    model = net().to(dtype)
    data = [(x.to(dtype), y) for x, y in batches_of(60)]
    return model, optim.Adam(model.parameters(), lr=1e-3), nn.CrossEntropyLoss(), data


CALL = dict(one_pass=True, schedule="one_cycle", total_steps=600, verify=True, control_variate=False, progress=False)


@pytest.mark.parametrize(("budget", "at_once"), [(700, 2), (1400, 4)])
def test_a_race_in_one_pass_finds_what_it_finds_one_by_one(monkeypatch, budget, at_once):
    model, optimizer, criterion, data = parts(torch.float64)
    before = state_of(model, optimizer)
    call = CALL | dict(budget=budget)
    finding = find_lr(model, optimizer, criterion, data, **call)
    assert same(before, state_of(model, optimizer))
    assert finding.race.path == "one pass"
    assert finding.cost.steps <= budget
    assert finding == find_lr(model, optimizer, criterion, data, **call)
    runs = finding.race.runs
    lrs = np.array([run.lr for run in runs[:at_once]])
    np.testing.assert_allclose(lrs / lrs[0], [1, 3] if at_once == 2 else [1, 3, 9, 81])
    monkeypatch.setattr(TorchTrainable, "run_together", one_after_another)
    compared = find_lr(model, optimizer, criterion, data, **call).race
    np.testing.assert_allclose([run.loss for run in runs], [run.loss for run in compared.runs], rtol=1e-8)


def one_after_another(training, begin, rates):
    return one_by_one(training, begin, rates)[1]


def test_a_race_whose_pass_is_refused_keeps_its_budget_and_says_why(caplog):
    model, optimizer, criterion, data = parts()
    model.append(nn.Dropout())
    before = state_of(model, optimizer)
    finding = find_lr(model, optimizer, criterion, data, budget=700, **CALL)
    assert same(before, state_of(model, optimizer))
    assert finding.race.path == "sequential"
    assert "one after another: Dropout draws random numbers" in caplog.text
    assert finding.cost.steps <= 700


def test_without_being_asked_for_there_is_no_pass():
    assert find_lr(*parts(), budget=1400, **CALL | dict(one_pass=False)).race.path == "sequential"


def test_a_pass_that_fails_late_leaves_shorter_runs(monkeypatch):
    monkeypatch.setattr(together._Pass, "_end", lambda *_: 1 / 0)
    finding = find_lr(*parts(), budget=1000, **CALL)
    assert finding.race.path == "sequential"
    assert finding.cost.steps <= 1000
    assert finding.race.steps < 150


def test_two_runs_gain_nothing_on_a_cpu(monkeypatch):
    monkeypatch.setattr(obstacles, "FEWEST_RUNS_ON_CPU", 3)
    training = training_of()
    assert training.prepare_together(2) == "on a CPU, 2 runs gain nothing"
    assert training.prepare_together(3) is None


def test_a_pass_that_is_not_to_be_trusted_shows_nothing():
    training = training_of(criterion=annealed())
    shown = []
    training.see_together = lambda *given: shown.append(given)
    assert "the losses differ" in training.run_together(training.snapshot(), RATES)
    assert not shown
