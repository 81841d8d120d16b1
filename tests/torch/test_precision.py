"""Mixed precision: a step is a step the optimizer took, and the scaler comes back to the last bit."""

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.amp import GradScaler
from torch.utils.data import DataLoader, TensorDataset

from findlr import ConfigurationError, RangeTest, Stop, find_lr
from findlr.torch import TorchTrainable

RANGE = dict(min_lr=1e-4, max_lr=0.5, num_steps=25)
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: optim.Adam(p, lr=1e-3),
    "sgd-fused": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "adam-fused": lambda p: optim.Adam(p, lr=1e-3, fused=True),
    "adagrad-fused": lambda p: optim.Adagrad(p, lr=1e-2, fused=True),
}


def skips_inside(optimizer):
    """Whether a fused kernel is told of overflows; Adagrad's is not before torch 2.12."""
    return getattr(OPTIMIZERS[optimizer]([torch.zeros(1)]), "_step_supports_amp_scaling", False)


FUSED = list(filter(skips_inside, OPTIMIZERS))
UNFUSED = [optimizer for optimizer in OPTIMIZERS if optimizer not in FUSED]
DTYPES = [torch.float16, torch.bfloat16, None]


class Overflows(nn.Module):
    """Cross entropy whose gradient, not its value, is infinite at the calls that are named."""

    def __init__(self, at=()):
        super().__init__()
        self.calls, self.at = 0, set(at)

    def forward(self, outputs, targets):
        if torch.is_grad_enabled():
            self.calls += 1
            if self.calls - 1 in self.at:
                outputs.register_hook(lambda gradient: gradient * torch.inf)
        return nn.functional.cross_entropy(outputs, targets)


def parts(optimizer="sgd", at=()):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    inputs = torch.randn(160, 8)
    loader = DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(dim=1)), 16, shuffle=True)
    return net, OPTIMIZERS[optimizer](net.parameters()), Overflows(at), loader


def train(net, optimizer, criterion, loader, scaler, dtype, epochs=1):
    """The loop of PyTorch's own recipe."""
    losses = []
    for inputs, targets in (batch for _ in range(epochs) for batch in loader):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            loss = criterion(net(inputs), targets)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses


def scaler_of():
    return GradScaler("cpu", init_scale=256.0, growth_interval=4)


def told(scaler):
    """All that is in a scaler; ``state_dict`` does not tell what is made lazily."""
    return {
        name: value.item() if isinstance(value, torch.Tensor) else value
        for name, value in vars(scaler).items()
        if name != "_per_optimizer_states"
    }, repr(dict(scaler._per_optimizer_states))


@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "warm"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_grad_scaler_is_restored_and_training_goes_on_bit_identically(optimizer, dtype, warm):
    results = []
    for call in (False, True):
        training = parts(optimizer)
        scaler = scaler_of()
        if warm:
            train(*training, scaler, dtype)
        if call:
            before, tensor = told(scaler), scaler._scale
            finding = find_lr(*training, **RANGE, autocast=dtype, scaler=scaler, clip_grad_norm=1.0)
            assert len(finding.curve) == 25
            assert told(scaler) == before
            assert scaler._scale is tensor
            assert (scaler._scale is None) is not warm
        losses = train(*training, scaler, dtype, epochs=2)
        results.append((losses, told(scaler), [p.tolist() for p in training[0].parameters()]))
    assert results[0] == results[1]


@pytest.mark.parametrize("control_variate", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_scaled_step_is_the_recipes_step(optimizer, dtype, control_variate):
    how = dict(autocast=dtype, scaler=scaler_of(), clip_grad_norm=1.0, control_variate=control_variate)
    curve = find_lr(*parts(optimizer), **RANGE, **how).curve
    net, swept, criterion, loader = parts(optimizer)
    rates = iter(curve.lr)
    swept.register_step_pre_hook(lambda *_: swept.param_groups[0].update(lr=next(rates, 0.0)))
    np.testing.assert_allclose(curve.loss, train(net, swept, criterion, loader, scaler_of(), dtype, 3)[:25], rtol=1e-12)
    if control_variate:
        assert curve.baseline[0] == pytest.approx(curve.loss[0], rel=1e-6)
        assert len(curve.baseline) == 25


@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize("optimizer", UNFUSED)
def test_a_step_that_the_scaler_skips_does_not_raise_the_rate(optimizer, accumulation_steps):
    at = {calls * accumulation_steps for calls in (0, 3, 4, 9)}
    scaler = scaler_of()
    how = dict(scaler=scaler, autocast=torch.bfloat16, accumulation_steps=accumulation_steps)
    with_skips = find_lr(*parts(optimizer, at), **RANGE, **how)
    without = find_lr(*parts(optimizer), **RANGE)
    assert with_skips.curve.lr.tolist() == without.curve.lr.tolist()
    assert with_skips.cost.backwards == 25 + 4


def test_a_step_tells_by_none_that_it_was_skipped():
    net, optimizer, criterion, loader = parts(at={1})
    training = TorchTrainable(net, optimizer, criterion, loader, scaler=scaler_of())
    assert training.step(0.1) is not None
    weights = [p.clone() for p in net.parameters()]
    assert training.step(0.1) is None
    assert all(map(torch.equal, weights, net.parameters()))
    assert training.step(0.1) is not None
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("control_variate", [False, True])
@pytest.mark.parametrize("optimizer", FUSED)
def test_a_step_that_a_fused_kernel_skips_is_dropped_from_the_curve(optimizer, control_variate):
    at = {1, 3, 4, 9}  # not the first: torch's fused SGD then starts from a momentum that was never written
    how = dict(scaler=scaler_of(), control_variate=control_variate)
    curve = find_lr(*parts(optimizer, at), **RANGE, **how).curve
    whole = find_lr(*parts(optimizer), **RANGE).curve
    assert curve.lr.tolist() == [lr for i, lr in enumerate(whole.lr) if i not in at]
    assert curve.baseline is None or len(curve.baseline) == len(curve)
    assert (curve.baseline is not None) is control_variate


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_twenty_skips_in_a_row_end_the_sweep(optimizer):
    net, swept, criterion, loader = parts(optimizer, range(5, 1000))
    scaler = scaler_of()
    finding = find_lr(net, swept, criterion, loader, min_lr=1e-4, max_lr=0.5, num_steps=100, scaler=scaler)
    assert finding.stop is Stop.OVERFLOW
    assert len(finding.curve) == 5
    assert finding.cost.backwards == 25
    assert scaler._scale is None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_nineteen_skips_in_a_row_do_not_end_it(optimizer):
    finding = find_lr(*parts(optimizer, range(2, 21)), min_lr=1e-4, max_lr=0.5, num_steps=25, scaler=scaler_of())
    assert finding.stop is Stop.FINISHED


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_loss_that_is_not_finite_stops_at_once_with_a_scaler_too(optimizer):
    net, swept, _, loader = parts(optimizer)
    calls = []

    def criterion(outputs, targets):
        calls.append(1)
        return nn.functional.cross_entropy(outputs, targets) * (torch.nan if len(calls) == 8 else 1.0)

    finding = find_lr(net, swept, criterion, loader, **RANGE, scaler=scaler_of(), control_variate=False)
    assert finding.stop is Stop.NOT_FINITE
    assert len(finding.curve) == 8


def own_loop(net, optimizer, criterion, loader, scaler, dtype=None, **how):
    with RangeTest(net, optimizer, restore=[scaler], **{**RANGE, **how}) as test:
        for inputs, targets in test(loader):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
                loss = criterion(net(inputs), targets)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            test.record(loss)
    return test.finding


@pytest.mark.parametrize("at", [(), (1, 3, 4, 9), range(5, 1000)], ids=["none", "some", "all"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_scaler_in_a_loop_of_ones_own_gives_find_lrs_curve_and_is_restored(optimizer, at):
    scaler = scaler_of()
    before = told(scaler)
    in_loop = own_loop(*parts(optimizer, at), scaler, torch.float16)
    assert told(scaler) == before
    assert "step" not in vars(scaler)
    how = dict(scaler=scaler_of(), autocast=torch.float16, control_variate=False)
    in_call = find_lr(*parts(optimizer, at), **RANGE, **how)
    assert in_loop.curve == in_call.curve
    assert in_loop.stop is in_call.stop
    assert in_loop.cost.steps == in_call.cost.steps


def test_a_disabled_scaler_does_nothing():
    how = dict(**RANGE, control_variate=False)
    assert find_lr(*parts(), **how, scaler=GradScaler("cpu", enabled=False)).curve == find_lr(*parts(), **how).curve
    assert own_loop(*parts(), GradScaler("cpu", enabled=False)).curve == find_lr(*parts(), **how).curve


def test_bf16_without_a_scaler_is_swept():
    assert len(find_lr(*parts(), **RANGE, autocast=torch.bfloat16).curve) == 25


def test_what_is_no_scaler_is_refused():
    net, _, criterion, loader = parts()
    with pytest.raises(ConfigurationError, match=r"torch\.amp\.GradScaler, got bool"):
        find_lr(*parts(), scaler=True)
    with pytest.raises(ConfigurationError, match="takes a closure"):
        find_lr(net, optim.LBFGS(net.parameters()), criterion, loader, scaler=scaler_of())
