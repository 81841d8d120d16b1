"""Every optimizer of torch.optim is swept at the rates that are recorded, or refused with the reason."""

import math

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from findlr import OptimizerError, RangeTest, Stop, find_lr
from findlr.torch import TorchTrainable
from findlr.torch.rates import Rates
from tests.torch.training import plan_for

KINDS = {
    name: kind
    for name, kind in vars(optim).items()
    if isinstance(kind, type) and issubclass(kind, optim.Optimizer) and kind is not optim.Optimizer
}
REFUSED = {"Rprop": "only sets the size of the first step"}
HOW = {  # those without an entry take any parameters, and no argument but the rate
    "Muon": {"matrices": True},
    "SparseAdam": {"sparse": True},
    "SGD": {"momentum": 0.9},
}
SWEPT = [  # a new optimizer fails until somebody has looked at it
    "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "LBFGS", "Muon", "NAdam", "RAdam", "RMSprop",
    "SGD", "SparseAdam",
]  # fmt: skip


class Indices(nn.Module):
    """The signs of the inputs as indices of an embedding."""

    def forward(self, x):
        return 2 * torch.arange(x.shape[1]) + (x > 0)


def training(name="SGD", lr=0.01, dtype=torch.float32, **how):
    """A model, the named optimizer on it, and pairs to learn."""
    torch.manual_seed(0)
    known = HOW.get(name, {})
    if known.get("sparse"):
        model = nn.Sequential(Indices(), nn.EmbeddingBag(16, 3, sparse=True))
    elif known.get("matrices"):
        model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Tanh(), nn.Linear(16, 3, bias=False))
    else:
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    how = {key: value for key, value in known.items() if key not in ("sparse", "matrices")} | how
    model = model.to(dtype)
    return model, KINDS[name](model.parameters(), lr=lr, **how), nn.CrossEntropyLoss(), loader(dtype)


def loader(dtype):
    x = torch.randn(512, 8, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return DataLoader(TensorDataset(x, (x[:, :3]).argmax(1)), batch_size=64, shuffle=True)


def steps(trainable, rates):
    """The parameters before and after a step at each rate, and the gradients between."""
    for lr in rates:
        before = [p.detach().clone() for p in trainable.model.parameters()]
        trainable.step(lr)
        yield lr, before, [p.grad for p in trainable.model.parameters()], list(trainable.model.parameters())


def test_every_optimizer_of_torch_is_here():
    assert KINDS.keys() - {*SWEPT, *REFUSED} == set()


SWEPT = [name for name in SWEPT if name in KINDS]  # an older torch has fewer


@pytest.mark.parametrize("name", SWEPT)
def test_it_is_swept_and_the_curve_falls(name):
    finding = find_lr(*training(name), min_lr=1e-6, max_lr=100.0, num_steps=100)
    curve = finding.curve.usable()
    start = curve.loss[:10].mean()
    assert curve.lr[0] == pytest.approx(1e-6)
    assert start == pytest.approx(math.log(3), rel=0.2)
    assert curve.smoothed(0.5).loss.min() < 0.8 * start
    if name == "Adafactor":
        assert finding.stop is Stop.CAPPED
    else:
        assert finding.stop in (Stop.FINISHED, Stop.DIVERGED, Stop.NOT_FINITE)
        assert curve.lr[-1] > 0.5


@pytest.mark.parametrize("name", SWEPT)
def test_the_recorded_rate_is_the_one_that_acted(name):
    """A step's change of the parameters is proportional to its rate, whatever state the optimizer has built up."""
    how = {"max_iter": 1} if name == "LBFGS" else {}
    for warm in (0, 3):
        trainable = TorchTrainable(*training(name, dtype=torch.float64, **how))
        for _ in range(warm):
            trainable.step(1e-3)
        snapshot, changes = trainable.snapshot(), {}
        for lr in (1e-3, 1e-1):
            acting = trainable.acting_lr(lr)
            ((_, before, _, after),) = steps(trainable, [lr])
            changes[acting] = torch.cat(
                [(b - a).detach().double().flatten() for a, b in zip(before, after, strict=True)]
            )
            trainable.restore(snapshot)
        (low, small), (high, large) = changes.items()
        assert high / low == pytest.approx(100, rel=1e-5)
        assert (large.norm() / small.norm()).item() == pytest.approx(high / low, rel=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_the_reason(name):
    model, optimizer, criterion, data = training(name)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(OptimizerError, match=REFUSED[name]):
        find_lr(model, optimizer, criterion, data)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


# Those that do not use their rate as it is


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("warm", [False, True])
def test_asgd_steps_at_the_recorded_rate(foreach, warm):
    lambd = 0.01
    model, optimizer, criterion, data = training("ASGD", lr=0.5, lambd=lambd, foreach=foreach)
    if warm:
        for inputs, targets in data:
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
    trainable = TorchTrainable(model, optimizer, criterion, data)
    for lr in (1e-3, 1e-2, 0.3, 1.0):
        eta = trainable.acting_lr(lr)
        assert eta == torch.tensor(lr).item()
        ((_, before, grads, after),) = steps(trainable, [lr])
        for old, grad, new in zip(before, grads, after, strict=True):
            torch.testing.assert_close(new.detach(), old * (1 - lambd * eta) - eta * grad, rtol=1e-5, atol=1e-7)


def test_adafactor_ends_where_it_caps_its_rate():
    finding = find_lr(*training("Adafactor"), min_lr=1e-4, max_lr=10.0, num_steps=60)
    assert finding.stop is Stop.CAPPED
    steps_taken = len(finding.curve)
    assert finding.curve.lr[-1] <= 1 / math.sqrt(steps_taken)
    q = (10.0 / 1e-4) ** (1 / 59)
    assert finding.curve.lr[-1] * q > 1 / math.sqrt(steps_taken + 1)


@pytest.mark.parametrize("by_loop", [False, True])
def test_a_sweep_of_many_steps_ends_where_adafactors_cap_falls(by_loop):
    """Each rate is 0.4 % above the one before, so the first that is capped would act by less than that one did."""
    model, optimizer, criterion, data = training("Adafactor")
    settings = {"min_lr": 1e-2, "max_lr": 0.1, "num_steps": 600}
    if by_loop:
        with RangeTest(model, optimizer, **settings) as test:
            for inputs, targets in test(data):
                optimizer.zero_grad()
                loss = criterion(model(inputs), targets)
                loss.backward()
                optimizer.step()
                test.record(loss)
        finding = test.finding
    else:
        finding = find_lr(model, optimizer, criterion, data, **settings)
    assert finding.stop is Stop.CAPPED
    assert finding.curve.lr[-1] <= 1 / math.sqrt(len(finding.curve))


def test_adafactor_counts_the_steps_of_the_training_so_far():
    model, optimizer, criterion, data = training("Adafactor")
    for _ in range(4):
        for inputs, targets in data:
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
    finding = find_lr(model, optimizer, criterion, data, min_lr=1e-4, max_lr=10.0, num_steps=60)
    assert finding.curve.lr[-1] <= 1 / math.sqrt(32 + len(finding.curve))


def test_lbfgs_has_its_closure_and_one_loss_a_step():
    model, optimizer, criterion, data = training("LBFGS", max_iter=4)
    finding = find_lr(model, optimizer, criterion, data, min_lr=1e-4, max_lr=1.0, num_steps=20)
    assert len(finding.curve) == 20
    assert finding.cost.backwards > 20
    assert finding.curve.loss[0] == pytest.approx(math.log(3), rel=0.2)


# Param groups


def grouped(kind=optim.SGD, *, lrs, initial=(None, None), **how):
    model, _, criterion, data = training()
    groups = [{"params": model[0].parameters(), "lr": lrs[0]}, {"params": model[2].parameters(), "lr": lrs[1]}]
    for group, rate in zip(groups, initial, strict=True):
        group.update({} if rate is None else {"initial_lr": rate})
    return model, kind(groups, **how), criterion, data


@pytest.mark.parametrize(
    ("lrs", "initial", "ratios"),
    [
        ((0.1, 0.02), (None, None), (1.0, 0.2)),
        ((0.1, 0.2), (None, None), (0.5, 1.0)),
        ((1e-4, 1e-4), (0.01, 0.1), (0.1, 1.0)),  # a schedule has moved the rates
        ((0.0, 0.0), (0.3, 0.1), (1.0, 1 / 3)),  # a warm-up starts at 0
        ((0.0, 0.5), (None, None), (0.0, 1.0)),
        ((0.1, 0.0), (0.1, 0.0), (1.0, 0.0)),
    ],
)
def test_the_ratios_of_the_groups_are_kept(lrs, initial, ratios):
    model, optimizer, criterion, data = grouped(lrs=lrs, initial=initial)
    seen = []
    optimizer.register_step_pre_hook(lambda opt, *_: seen.append([group["lr"] for group in opt.param_groups]))
    finding = find_lr(model, optimizer, criterion, data, min_lr=1e-3, max_lr=1e3, num_steps=80)
    assert finding.ratios == pytest.approx(ratios)
    assert len(seen) == len(finding.curve)
    for rates, lr in zip(seen, finding.curve.lr, strict=True):
        assert rates == pytest.approx([lr * ratio for ratio in ratios])
    assert finding.lrs == pytest.approx([finding.lr * ratio for ratio in ratios])
    assert [group["lr"] for group in optimizer.param_groups] == list(lrs)


def test_a_group_at_zero_does_not_move():
    model, optimizer, criterion, data = grouped(lrs=(0.0, 0.1), momentum=0.9)
    frozen, trained = model[0].weight.detach().clone(), model[2].weight.detach().clone()
    moved = []
    optimizer.register_step_post_hook(
        lambda *_: moved.append((not torch.equal(frozen, model[0].weight), not torch.equal(trained, model[2].weight)))
    )
    find_lr(model, optimizer, criterion, data, min_lr=1e-3, max_lr=1.0, num_steps=20)
    assert set(moved) == {(False, True)}


@pytest.mark.parametrize(
    ("lrs", "words"),
    [
        ((0.0, 0.0), "no param group that trains has a rate above 0, so"),
        ((math.nan, 0.1), "param group 0 has rate nan, so"),
        ((0.1, math.inf), "param group 1 has rate inf, so"),
        ((0.1, -0.1), "param group 1 has rate -0.1, so"),
    ],
)
def test_rates_without_a_ratio_are_an_error_that_names_the_group(lrs, words):
    model, optimizer, criterion, data = grouped(lrs=(0.1, 0.1))
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        group["lr"] = lr
    with pytest.raises(OptimizerError, match=f"{words} the groups' ratios cannot be told"):
        find_lr(model, optimizer, criterion, data)


@pytest.mark.parametrize("missing", ["none", "absent"])
def test_a_group_without_a_rate_is_an_error(missing):
    model, optimizer, criterion, data = grouped(lrs=(0.1, 0.1))
    if missing == "none":
        optimizer.param_groups[1]["lr"] = None
    else:
        del optimizer.param_groups[1]["lr"]
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(OptimizerError, match=r"SGD cannot be swept: its param group 1 has (lr=None|no 'lr')"):
        find_lr(model, optimizer, criterion, data)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("rate", ["0.1", torch.ones(2), [0.1], True])
def test_a_rate_that_is_no_number_is_an_error(rate):
    model, optimizer, criterion, data = grouped(lrs=(0.1, 0.1))
    optimizer.param_groups[1]["lr"] = rate
    with pytest.raises(OptimizerError, match="param group 1 is no number"):
        find_lr(model, optimizer, criterion, data)


@pytest.mark.parametrize("rate", [np.float64(0.02), np.float32(0.02), np.array(0.02), torch.tensor([0.02])], ids=repr)
def test_rates_of_numpy_and_tensors_of_one_element_are_numbers(rate):
    model, optimizer, criterion, data = grouped(lrs=(0.1, 0.1))
    optimizer.param_groups[1]["lr"] = rate
    finding = find_lr(model, optimizer, criterion, data, min_lr=1e-3, max_lr=1.0, num_steps=20)
    assert finding.ratios == pytest.approx((1.0, 0.2))
    assert optimizer.param_groups[1]["lr"] is rate
    assert float(rate) == pytest.approx(0.02)


@pytest.mark.parametrize("frozen_lr", [1.0, 1e-4, 0.0])
def test_a_frozen_group_does_not_set_the_scale(frozen_lr):
    def search(lr):
        model, optimizer, criterion, data = grouped(lrs=(lr, 1e-3))
        model[0].requires_grad_(requires_grad=False)
        return find_lr(model, optimizer, criterion, data, max_lr=1e3, num_steps=60)

    finding = search(frozen_lr)
    assert finding.ratios == pytest.approx((frozen_lr / 1e-3, 1.0))
    assert finding.lrs[1] == finding.lr == search(1e-3).lr


def test_a_rate_of_zero_where_all_that_trains_has_it_is_an_error():
    model, optimizer, criterion, data = grouped(lrs=(0.1, 0.0))
    model[0].requires_grad_(requires_grad=False)
    with pytest.raises(OptimizerError, match="one that trains a rate above 0"):
        find_lr(model, optimizer, criterion, data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop])
def test_a_tensor_rate_is_written_in_place_and_recorded_as_it_is(kind, dtype):
    lrs = torch.tensor(0.1, dtype=dtype), torch.tensor(0.02, dtype=dtype)
    model, optimizer, criterion, data = grouped(kind, lrs=lrs, foreach=False)
    seen = []

    def look(opt, *_):
        assert all(group["lr"] is lr for group, lr in zip(opt.param_groups, lrs, strict=True))
        seen.append(tuple(lr.item() for lr in lrs))

    optimizer.register_step_pre_hook(look)
    finding = find_lr(model, optimizer, criterion, data, min_lr=1e-4, max_lr=0.3, num_steps=30)
    assert [largest for largest, _ in seen] == finding.curve.lr.tolist()
    assert [small / largest for largest, small in seen] == pytest.approx([0.2] * len(seen), rel=1e-6)
    assert all(group["lr"] is lr for group, lr in zip(optimizer.param_groups, lrs, strict=True))
    assert [lr.item() for lr in lrs] == [torch.tensor(0.1, dtype=dtype).item(), torch.tensor(0.02, dtype=dtype).item()]
    exact = 1e-4 * (0.3 / 1e-4) ** (1 / 29)
    assert bool(finding.curve.lr[1] == exact) is (dtype is torch.float64)


def test_the_rate_in_the_groups_is_what_acting_tells():
    _, optimizer, *_ = grouped(optim.Adam, lrs=(torch.tensor(0.1), torch.tensor(0.2)), foreach=False)
    rates = Rates(optimizer)
    rates.write(0.3)
    assert rates.acting(0.3) == optimizer.param_groups[1]["lr"].item() == torch.tensor(0.3).item()


@pytest.mark.parametrize(("rate", "least"), [(torch.tensor(0.1).half(), "6.1e-05"), (torch.tensor(1), "1")])
def test_a_rate_that_its_tensor_can_not_hold_is_refused_before_the_first_step(rate, least):
    given = grouped(optim.Adam, lrs=(rate, 0.01), foreach=False)
    with pytest.raises(OptimizerError, match=f"whose smallest number above 0 is {least}, and 1e-08 would be 0 in it"):
        find_lr(*given)
    assert not given[1].state


def test_an_attached_scheduler_does_not_write_over_the_sweep():
    model, optimizer, criterion, data = grouped(lrs=(0.1, 0.02))
    scheduler = optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=10)
    seen = []
    optimizer.register_step_pre_hook(lambda opt, *_: seen.append(opt.param_groups[0]["lr"]))
    finding = find_lr(model, optimizer, criterion, data, min_lr=1e-4, max_lr=1.0, num_steps=30)
    assert seen == finding.curve.lr.tolist()
    assert finding.ratios == pytest.approx((1.0, 0.2))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.001, 0.0002])
    assert scheduler.last_epoch == 0


# Optimizers like torch's


class MyAdamW(optim.AdamW):
    """A class of somebody's own."""


class AdamW8bit(optim.Optimizer):
    """As bitsandbytes' is: no subclass of PyTorch's."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.999)})


class PagedOfMine(AdamW8bit):
    """One more class below."""


class Adafactor(AdamW8bit):
    """As transformers' is."""


class Unheard(optim.Optimizer):
    """A class that nobody knows."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (MyAdamW, "AdamW"),
        (AdamW8bit, "AdamW"),
        (PagedOfMine, "AdamW"),
        (Adafactor, "Adafactor"),
        (optim.Adam, "Adam"),
        (optim.AdamW, "AdamW"),
        (Unheard, "Unheard"),
    ],
)
def test_an_optimizer_is_what_isinstance_says(kind, name):
    optimizer = kind([nn.Parameter(torch.zeros(2))])
    assert plan_for(optimizer, "constant", None).optimizer == name


def test_a_subclass_gets_the_rate_of_its_parent():
    def search(kind):
        model, _, criterion, data = training("AdamW")
        return find_lr(model, kind(model.parameters(), lr=1e-3), criterion, data)

    one, other = search(optim.AdamW), search(MyAdamW)
    assert (one.curve.loss == other.curve.loss).all()
    assert (one.lr, one.plan) == (other.lr, other.plan)
    assert other.facts["optimizer"]["name"] == "MyAdamW"


@pytest.mark.skipif("Muon" not in KINDS, reason="an older torch")
@pytest.mark.parametrize(("adjust", "name"), [(None, "Muon"), ("original", "Muon"), ("match_rms_adamw", "AdamW")])
def test_a_muon_that_matches_adamw_takes_its_rates(adjust, name):
    optimizer = optim.Muon([nn.Parameter(torch.zeros(2, 2))], adjust_lr_fn=adjust)
    assert plan_for(optimizer, "constant", None).optimizer == name


class Wrapper(optim.Optimizer):
    """As Lookahead and SAM are written: an optimizer that holds another, and state in containers of its own."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})
        self.inner = optim.SGD(self.param_groups, lr=lr, momentum=0.9)
        self.param_groups = self.inner.param_groups
        self.slow = {p: p.detach().clone() for group in self.param_groups for p in group["params"]}
        self.taken, self.recent = None, []

    def step(self, closure=None):
        self.inner.step()
        self.taken = (self.taken or 0) + 1
        self.recent.append(self.taken)
        if self.taken % 2 == 0:
            for fast, slow in self.slow.items():
                slow.lerp_(fast.detach(), 0.5)
                fast.data.copy_(slow)


def test_an_optimizer_that_holds_another_is_put_back():
    def trained(search):
        model, _, criterion, data = training()
        optimizer = Wrapper(model.parameters(), lr=0.1)
        for _ in range(2):
            if search:
                find_lr(model, optimizer, criterion, data, max_lr=1.0, num_steps=15)
            for inputs, targets in data:
                optimizer.zero_grad()
                criterion(model(inputs), targets).backward()
                optimizer.step()
        return torch.cat([p.detach().flatten() for p in model.parameters()]), optimizer.recent

    (with_weights, with_steps), (weights, steps_taken) = trained(search=True), trained(search=False)
    assert torch.equal(with_weights, weights)
    assert with_steps == steps_taken


def test_an_optimizer_around_another_class_is_of_that_family_and_no_line_makes_it(tmp_path):
    """A ZeroRedundancyOptimizer holds a shard of it, and needs its class."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        from torch.distributed.optim import ZeroRedundancyOptimizer

        torch.manual_seed(0)
        net, inputs = nn.Linear(4, 1), torch.randn(256, 4)
        batches = list(zip(inputs.split(16), inputs.sum(dim=1, keepdim=True).split(16), strict=True))
        call = nn.parallel.DistributedDataParallel(net), nn.MSELoss(), batches
        sharded = ZeroRedundancyOptimizer(net.parameters(), optim.Adam, lr=1e-3)
        model, *data = call
        there, plain = (find_lr(model, o, *data) for o in (sharded, optim.Adam(net.parameters())))
        assert (there.plan.optimizer, there.lr) == ("Adam", plain.lr)
        assert there.code().startswith("for group, lr in zip(optimizer.param_groups")
    finally:
        torch.distributed.destroy_process_group()
