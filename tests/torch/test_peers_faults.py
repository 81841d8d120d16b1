"""Where torch-lr-finder and Ignite break, reproduced there: the same situations, with the right outcome.

Others of their faults are tested beside their topic: a GradScaler that is not restored, a schedule that advances on
skipped steps, bf16 without a scaler (test_precision.py); the validation mean, a model left in eval mode after a
validation sweep, a frozen BatchNorm flipped to train (test_validation.py).
"""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from findlr import ConfigurationError, LoaderError, RangeTest, Stop, find_lr

RANGE = dict(min_lr=1e-5, max_lr=0.5, num_steps=20)


def parts(optimizer=lambda net: optim.Adam(net.parameters(), lr=1e-3)):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    inputs = torch.randn(160, 8)
    loader = DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(dim=1)), 16, shuffle=True)
    return net, optimizer(net), nn.CrossEntropyLoss(), loader


def train(net, optimizer, criterion, loader):
    for inputs, targets in loader:
        optimizer.zero_grad()
        criterion(net(inputs), targets).backward()
        optimizer.step()


def state(net, optimizer):
    told = copy.deepcopy([net.state_dict(), optimizer.state_dict(), [p.grad for p in net.parameters()]])
    return repr(told), [m.training for m in net.modules()], torch.get_rng_state().tolist()


def failing_at(step):
    calls = []

    def criterion(outputs, targets):
        calls.append(1)
        return nn.functional.cross_entropy(outputs, targets) * (torch.nan if len(calls) > step else 1.0)

    return criterion


def test_a_nan_stops_the_sweep_and_is_not_suggested():
    net, optimizer, _, loader = parts()
    finding = find_lr(net, optimizer, failing_at(60), loader, max_lr=1e-2, control_variate=False)
    assert finding.stop is Stop.NOT_FINITE
    assert len(finding.curve) == 61
    assert len(finding.curve.usable()) == 60
    assert finding.suggestion is None or finding.lr < finding.curve.lr[55]


def test_a_warm_adam_is_the_same_after_a_second_call():
    training = parts()
    train(*training)
    before = state(*training[:2])
    first = find_lr(*training, **RANGE)
    assert state(*training[:2]) == before
    assert find_lr(*training, **RANGE).curve == first.curve
    assert state(*training[:2]) == before


@pytest.mark.parametrize("warm", [False, True])
def test_no_gradient_is_left_behind_and_no_random_state_has_moved(warm):
    training = parts()
    if warm:
        train(*training)
    before, gradients = state(*training[:2]), [p.grad for p in training[0].parameters()]
    find_lr(*training, **RANGE)
    assert state(*training[:2]) == before
    assert all(p.grad is gradient for p, gradient in zip(training[0].parameters(), gradients, strict=True))
    assert all((gradient is not None) is warm for gradient in gradients)


@pytest.mark.parametrize("low", [1e-6, 0.0])
def test_param_groups_keep_their_ratio_and_all_of_them_are_told(low):
    training = parts(
        lambda net: optim.SGD([{"params": net[0].parameters(), "lr": low}, {"params": net[4].parameters()}], lr=1e-4)
    )
    rates = []
    training[1].register_step_pre_hook(lambda *_: rates.append([g["lr"] for g in training[1].param_groups]))
    finding = find_lr(*training, **RANGE)
    np.testing.assert_allclose([lower / high for lower, high in rates], low / 1e-4, rtol=1e-12)
    assert [high for _, high in rates] == finding.curve.lr.tolist()
    assert finding.facts["ratios"] == pytest.approx([low / 1e-4, 1.0])
    assert [g["lr"] for g in training[1].param_groups] == [low, 1e-4]


def test_after_a_run_that_raised_no_initial_lr_is_left_and_the_next_run_works():
    net, optimizer, criterion, loader = parts()
    with pytest.raises(LoaderError, match="can't take the first batch"):
        find_lr(net, optimizer, criterion, [(torch.ones(2, 3), torch.ones(2))])
    assert "initial_lr" not in optimizer.param_groups[0]
    assert len(find_lr(net, optimizer, criterion, loader, **RANGE).curve) == 20


def test_an_attached_scheduler_is_no_reason_to_refuse():
    net, optimizer, criterion, loader = parts()
    scheduler = StepLR(optimizer, 3)
    before = copy.deepcopy(scheduler.state_dict())
    assert len(find_lr(net, optimizer, criterion, loader, **RANGE).curve) == 20
    assert scheduler.state_dict() == before
    assert optimizer.param_groups[0]["initial_lr"] == 1e-3


@pytest.mark.parametrize("spacing", ["exponential", "linear"])
def test_a_sweep_from_zero_is_one_clear_error(spacing):
    training = parts()
    before = state(*training[:2])
    with pytest.raises(ConfigurationError, match="min_lr must be a finite rate above 0"):
        find_lr(*training, min_lr=0.0, spacing=spacing)
    assert state(*training[:2]) == before


def swept(own_loop, net, optimizer, criterion, loader):
    """The curve of a sweep by ``find_lr``, or around a loop of one's own."""
    if not own_loop:
        return find_lr(net, optimizer, criterion, loader, **RANGE).curve
    with RangeTest(net, optimizer, **RANGE) as test:
        for inputs, targets in test(loader):
            optimizer.zero_grad()
            loss = criterion(net(inputs), targets)
            loss.backward()
            optimizer.step()
            test.record(loss)
    return test.finding.curve


@pytest.mark.parametrize("own_loop", [False, True])
def test_a_tensor_rate_is_the_same_object_with_the_same_value(own_loop):
    rate = torch.tensor(1e-3)
    net, optimizer, criterion, loader = parts(lambda net: optim.Adam(net.parameters(), lr=rate))
    swept(own_loop, net, optimizer, criterion, loader)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == torch.tensor(1e-3).item()


def test_the_suggestion_needs_no_plot_and_the_package_no_matplotlib():
    code = "import sys, findlr, findlr.torch; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("own_loop", [False, True])
def test_the_first_step_is_at_the_first_rate_and_each_rate_is_recorded_with_its_own_step(own_loop):
    net, optimizer, criterion, loader = parts()
    acted = []
    hook = optimizer.register_step_post_hook(lambda *_: acted.append(optimizer.param_groups[0]["lr"]))
    curve = swept(own_loop, net, optimizer, criterion, loader)
    assert acted == curve.lr.tolist()
    assert acted[0] == RANGE["min_lr"]
    hook.remove()
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_no_weight_rate_or_handler_altered(error):
    net, optimizer, criterion, loader = parts()
    train(net, optimizer, criterion, loader)
    before = state(net, optimizer)

    def broken(step):
        if step.index == 9:
            raise error

    with pytest.raises(error) as caught:
        find_lr(net, optimizer, criterion, loader, **RANGE, on_step=broken)
    assert state(net, optimizer) == before
    assert len(caught.value.finding.curve) == 10
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_the_users_hooks_fire_and_remain():
    net, optimizer, criterion, loader = parts()
    fired = {"pre": 0, "post": 0, "gradient": 0, "forward": 0}

    def count(name):
        return lambda *_: fired.update({name: fired[name] + 1})

    optimizer.register_step_pre_hook(count("pre"))
    optimizer.register_step_post_hook(count("post"))
    net[0].weight.register_hook(count("gradient"))
    net[0].register_forward_hook(count("forward"))
    find_lr(net, optimizer, criterion, loader, **RANGE)
    assert set(fired.values()) == {20}
    train(net, optimizer, criterion, loader)
    assert set(fired.values()) == {30}
