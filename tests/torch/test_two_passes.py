"""Optimizers whose step wants more than one pass's gradients; numbers and arguments of every kind."""

import numpy as np
import pytest
import torch
from torch import nn, optim

from findlr import RangeTest, Stop, find_lr
from findlr.errors import ConfigurationError, FindlrError, OptimizerError


def parts():
    torch.manual_seed(0)
    inputs = torch.randn(64, 4)
    return nn.Linear(4, 1), [(inputs[i : i + 16], inputs[i : i + 16].sum(1, keepdim=True)) for i in range(0, 64, 16)]


class Ascends(optim.SGD):
    """Steps up by the gradients that are there, then down by those of its closure."""

    def __init__(self, parameters, lr=0.1, rho=0.05):
        super().__init__(parameters, lr=lr)
        self.rho = rho

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is not None
        ups = [self.rho * p.grad for group in self.param_groups for p in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        torch._foreach_add_(parameters, ups)
        self.zero_grad()
        with torch.enable_grad():
            closure()
        torch._foreach_sub_(parameters, ups)
        for p in parameters:
            p.sub_(p.grad, alpha=self.param_groups[0]["lr"])


class Curved(optim.SGD):
    """Asks for the curvature along a random direction."""

    def step(self, closure=None):
        parameters = [p for group in self.param_groups for p in group["params"]]
        if not all(p.grad.requires_grad for p in parameters):
            raise RuntimeError("Gradient tensor has no grad_fn: call backward with create_graph=True")
        torch.autograd.grad([p.grad.square().sum() for p in parameters], parameters, retain_graph=True)
        return super().step()


@pytest.mark.parametrize("kind", [Ascends, Curved])
def test_it_is_stepped_by_what_it_asks_for(kind):
    net, batches = parts()
    before = net.weight.clone()
    finding = find_lr(net, kind(net.parameters(), lr=0.1), nn.MSELoss(), batches, progress=False)
    assert 1e-3 < finding.lr < 1
    assert torch.equal(net.weight, before)
    assert net.weight.grad is None


class CurvedNowAndThen(Curved):
    """Asks for the curvature at every fourth step, as Sophia does."""

    def step(self, closure=None):
        group = self.param_groups[0]
        done = super() if group.get("step", 0) % 4 == 0 else super(Curved, self)
        done.step(closure)
        group["step"] = group.get("step", 0) + 1


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("how", [{}, {"accumulation_steps": 2}, {"verify": True, "total_steps": 300}])
def test_what_it_asks_for_only_now_and_then_it_gets_in_the_middle_of_a_training_too(before, how):
    net, batches = parts()
    optimizer = CurvedNowAndThen(net.parameters(), lr=0.01)
    for inputs, targets in batches[:before]:
        loss = nn.functional.mse_loss(net(inputs), targets)
        net.weight.grad, net.bias.grad = torch.autograd.grad(loss, [net.weight, net.bias], create_graph=True)
        optimizer.step()
    optimizer.zero_grad()
    weight = net.weight.clone()
    finding = find_lr(net, optimizer, nn.MSELoss(), batches, progress=False, **how)
    assert finding.stop is not Stop.FAILED
    assert len(finding.curve) > 80
    assert optimizer.param_groups[0].get("step", 0) == before
    assert torch.equal(net.weight, weight)


class Counts(Curved):
    """Counts its calls by itself, before it asks."""

    calls = 0

    def step(self, closure=None):
        self.calls += 1
        done = super() if self.calls % 4 == 1 else super(Curved, self)
        done.step(closure)


def test_the_step_that_is_tried_again_is_the_first():
    net, batches = parts()
    optimizer, seen = Counts(net.parameters(), lr=0.01), []
    find_lr(net, optimizer, nn.MSELoss(), batches, progress=False, on_step=lambda _: seen.append(optimizer.calls))
    assert seen[:2] == [1, 2]
    assert optimizer.calls == 0


class FailsLater(optim.SGD):
    calls = 0

    def step(self, closure=None):
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("no such kernel")
        super().step()


def test_another_error_of_a_later_step_stays_what_it_is():
    net, batches = parts()
    with pytest.raises(RuntimeError, match=r"^no such kernel"):
        find_lr(net, FailsLater(net.parameters(), lr=0.01), nn.MSELoss(), batches, progress=False)


def test_the_losses_are_those_before_the_first_of_the_two_passes():
    net, batches = parts()
    with torch.no_grad():
        first = nn.functional.mse_loss(net(batches[0][0]), batches[0][1]).item()
    finding = find_lr(net, Ascends(net.parameters()), nn.MSELoss(), batches, progress=False)
    assert finding.curve.loss[0] == first
    assert finding.cost.backwards >= 2 * len(finding.curve)


class StepsElsewhere(optim.SGD):
    def step(self, closure=None):
        raise NotImplementedError("call first_step and second_step")


@pytest.mark.parametrize(
    ("kind", "how"),
    [(StepsElsewhere, {}), (Ascends, {"scaler": torch.amp.GradScaler("cpu")})],
)
def test_what_cannot_be_stepped_so_is_an_error_that_says_what_to_do(kind, how):
    net, batches = parts()
    before = net.weight.clone()
    with pytest.raises(OptimizerError, match="train_step"):
        find_lr(net, kind(net.parameters(), lr=0.1), nn.MSELoss(), batches, progress=False, **how)
    assert torch.equal(net.weight, before)


class AscendsFirst(Ascends):
    """Has moved the weights up when it finds no closure."""

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.add_(p.grad, alpha=self.rho)
        torch.enable_grad()(closure)()


def test_what_asks_for_a_closure_with_the_weights_moved_is_told_what_to_do_and_put_back():
    net, batches = parts()
    before = net.weight.clone()
    with pytest.raises(OptimizerError, match=r"wants a closure, and fails without it once .*train_step="):
        find_lr(net, AscendsFirst(net.parameters()), nn.MSELoss(), batches)
    assert torch.equal(net.weight, before)


def test_it_is_not_raced():
    net, batches = parts()
    with pytest.raises(OptimizerError, match="verify=True"):
        find_lr(net, Ascends(net.parameters()), nn.MSELoss(), batches, verify=True, total_steps=600, progress=False)


def test_an_error_of_the_step_itself_stays_what_it_is():
    class Broken(optim.SGD):
        def step(self, closure=None):
            raise ZeroDivisionError("mine")

    net, batches = parts()
    with pytest.raises(ZeroDivisionError, match="mine"):
        find_lr(net, Broken(net.parameters(), lr=0.1), nn.MSELoss(), batches, progress=False)


def test_lbfgs_is_suggested_a_full_step_or_a_third_of_the_lowest():
    net, batches = parts()
    finding = find_lr(net, optim.LBFGS(net.parameters()), nn.MSELoss(), batches[:1], progress=False)
    assert finding.suggestion is None or 0.1 < finding.lr <= 1.0


def test_lbfgs_is_suggested_a_full_step_where_all_rates_solve_the_problem():
    net, _ = parts()
    inputs = torch.randn(128, 4)
    targets = (inputs[:, :1] + 0.1 * torch.randn(128, 1) > 0).float()
    finding = find_lr(net, optim.LBFGS(net.parameters()), nn.BCEWithLogitsLoss(), [(inputs, targets)], progress=False)
    assert finding.lr == 1.0


def closed(optimizer, net, batch):
    def closure():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(batch[0]), batch[1])
        loss.backward()
        return loss

    return closure


def swept_by(door, make):
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 128)[:, None]
    net, batch = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1)), (x, torch.sin(4 * x))
    optimizer = make(net.parameters())
    if door == "find_lr":
        return find_lr(net, optimizer, nn.MSELoss(), [batch], total_steps=100_000, progress=False)
    with RangeTest(net, optimizer, progress=False) as test:
        for _ in test.steps():
            test.record(optimizer.step(closed(optimizer, net, batch)))
    return test.finding


@pytest.mark.parametrize(
    ("door", "make", "end"),
    [
        ("find_lr", optim.LBFGS, "no rate is seen to be too high; raise max_lr."),
        ("RangeTest", optim.LBFGS, "no rate is seen to be too high; raise max_lr."),
        ("find_lr", lambda p: Ascends(p, lr=0.1), "and overfitting shows late."),
    ],
)
def test_what_cannot_be_verified_is_not_advised_to(door, make, end):
    finding = swept_by(door, make)
    assert "verify=True" not in finding.why
    assert finding.why.endswith(end)


def test_a_line_search_is_refused():
    net, _batches = parts()
    with pytest.raises(OptimizerError, match="line search"):
        RangeTest(net, optim.LBFGS(net.parameters(), line_search_fn="strong_wolfe"))


@pytest.mark.parametrize(
    "how",
    [
        dict(smoothing="a"), dict(smoothing=None), dict(divergence_threshold="a"), dict(divergence_threshold=None),
        dict(clip_grad_norm="a"), dict(clip_grad_value=float("nan")), dict(total_steps="a"), dict(restore=5),
        dict(restore=[3]), dict(num_steps=10**30), dict(num_steps="a"), dict(num_steps=np.ones(2)),
        dict(min_lr="a"), dict(max_lr=10**400),
        dict(on_step=3), dict(schedule=lambda _: "a"), dict(rule=lambda *_: 0.1), dict(autocast=torch.int32),
        dict(autocast="int4"), dict(control_variate="x"), dict(verify="yes"), dict(one_pass=2), dict(consume="no"),
        dict(accumulation_steps=1.5), dict(validation_every=0), dict(budget="a"), dict(snapshot="gpu"),
        dict(accumulation_steps=10**30),
    ],
    ids=lambda how: next(iter(how)),
)  # fmt: skip
def test_a_bad_argument_is_an_error_of_findlrs_and_nothing_is_touched(how):
    net, batches = parts()
    before = net.weight.clone()
    with pytest.raises(FindlrError):
        find_lr(net, optim.SGD(net.parameters(), lr=0.1), nn.MSELoss(), batches, **{"num_steps": 60, **how})
    assert torch.equal(net.weight, before)


def test_numbers_of_numpy_and_torch_are_numbers():
    net, batches = parts()
    how = dict(
        min_lr=np.float32(1e-6), max_lr=torch.tensor(1.0), num_steps=np.int64(40), smoothing=np.float64(0.9),
        divergence_threshold=np.int32(5), clip_grad_norm=torch.tensor(100.0), accumulation_steps=np.int64(2),
        total_steps=np.int64(500), control_variate=np.True_,
    )  # fmt: skip
    finding = find_lr(net, optim.SGD(net.parameters(), lr=0.1), nn.MSELoss(), batches, progress=False, **how)
    assert len(finding.curve) == 40
    finding.to_dict()


@pytest.mark.parametrize("how", [dict(accumulation_steps=2), dict(clip_grad_norm=1.0), dict(autocast=torch.bfloat16)])
def test_what_a_train_step_would_ignore_is_refused(how):
    net, batches = parts()
    with pytest.raises(ConfigurationError, match="train_step"):
        find_lr(net, optim.SGD(net.parameters(), lr=0.1), loader=batches, train_step=lambda draw: 0.0, **how)


class Counting(nn.Module):
    """In TorchScript: a buffer that is given anew, numbers, a list, a dict and a tensor of its own."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.register_buffer("mean", torch.zeros(1))
        self.steps = 0
        self.log = [0.0]
        self.counts = {"steps": 0}
        self.last = torch.zeros(1)

    def forward(self, x):
        self.steps += 1
        self.mean = self.mean + x.mean()
        self.last += 1
        self.log.append(1.0)
        self.counts["steps"] += 1
        return self.linear(x) * (1 + 0.01 * self.last)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("control_variate", [True, False])
def test_what_torchscript_gives_its_modules_anew_is_put_back(control_variate):
    net = torch.jit.script(Counting())
    net(torch.ones(2, 4))
    told = lambda: (net.mean.item(), net.steps, list(net.log), dict(net.counts), net.last.item())  # noqa: E731
    before = told()
    batches = [(x, x.sum(1, keepdim=True)) for x in torch.randn(256, 4).split(32)]
    how = {"control_variate": control_variate, "num_steps": 20, "progress": False}
    find_lr(net, optim.SGD(net.parameters(), lr=0.1), nn.MSELoss(), batches, **how)
    assert told() == before


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "scripted", [torch.jit.script, lambda net: nn.Sequential(nn.Identity(), torch.jit.script(net))]
)
def test_torchscript_finds_the_same_rate(scripted):
    def found(wrap):
        torch.manual_seed(0)
        inputs = torch.randn(256, 4)
        net = wrap(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)))
        batches = [(x, x.sum(1, keepdim=True)) for x in inputs.split(32)]
        before = {name: value.clone() for name, value in net.state_dict().items()}
        finding = find_lr(net, optim.SGD(net.parameters(), lr=0.1), nn.MSELoss(), batches, progress=False)
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        return finding

    own, theirs = found(lambda net: net), found(scripted)
    assert theirs.curve.baseline is not None
    assert theirs.lr == pytest.approx(own.lr, rel=1e-3)


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr", "to_sparse_csc"])
def test_sparse_batches_are_raced(layout):
    net, _ = parts()
    inputs = torch.randn(64, 4)
    batch = getattr(torch.eye(64), layout)(), inputs

    def loss_fn(model, batch):
        return (batch[0] @ model(batch[1]) - inputs[:, :1]).square().mean()

    how = dict(verify=True, total_steps=400, num_steps=40, progress=False)
    assert find_lr(net, optim.SGD(net.parameters(), lr=0.1), loader=[batch], loss_fn=loss_fn, **how).race is not None
