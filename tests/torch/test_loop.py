"""RangeTest: the user's own loop, unchanged; and everything back on leaving it."""

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.optim.lr_scheduler import OneCycleLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

from findlr import ConfigurationError, LoaderError, LossError, OptimizerError, RangeTest, Stop, find_lr


def parts(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    inputs = torch.randn(160, 8)
    loader = DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(dim=1)), 16, shuffle=True)
    return net, optim.SGD(net.parameters(), lr=0.05, momentum=0.9), nn.CrossEntropyLoss(), loader


def train_step(net, optimizer, criterion, batch):
    inputs, targets = batch
    optimizer.zero_grad()
    loss = criterion(net(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss


def state_of(net, optimizer, *others):
    states = [net.state_dict(), optimizer.state_dict(), torch.get_rng_state(), *(o.state_dict() for o in others)]
    grads = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    return [repr(s) if not isinstance(s, torch.Tensor) else s.tolist() for s in states], repr(grads)


def own_loop(net, optimizer, criterion, loader, **settings):
    with RangeTest(net, optimizer, **settings) as test:
        for batch in test(loader):
            test.record(train_step(net, optimizer, criterion, batch))
    return test.finding


def test_an_own_loop_finds_what_find_lr_finds():
    with_loop, without = own_loop(*parts()), find_lr(*parts(), control_variate=False)
    assert with_loop.curve == without.curve
    assert with_loop.suggestion == without.suggestion
    assert with_loop.stop == without.stop
    assert with_loop.facts["batch_size"] == 16
    assert with_loop.cost == without.cost


def test_everything_is_back_after_it():
    net, optimizer, criterion, loader = parts()
    before = state_of(net, optimizer)
    own_loop(net, optimizer, criterion, loader)
    assert state_of(net, optimizer) == before
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize("exception", [RuntimeError, KeyboardInterrupt, SystemExit, torch.OutOfMemoryError])
def test_an_exception_in_the_loop_puts_everything_back_and_keeps_what_was_measured(exception, step):
    net, optimizer, criterion, loader = parts()
    before = state_of(net, optimizer)
    test = RangeTest(net, optimizer)

    def loop():
        with test:
            for i, batch in enumerate(test(loader)):
                test.record(train_step(net, optimizer, criterion, batch))
                if i == step:
                    raise exception

    with pytest.raises(exception) as error:
        loop()
    assert state_of(net, optimizer) == before
    assert test.finding.stop is Stop.INTERRUPTED
    assert len(test.finding.curve) == step
    assert error.value.finding is test.finding
    told = "test.finding" if step else "no loss was measured yet"
    assert any(told in note for note in error.value.__notes__)
    assert not optimizer._optimizer_step_pre_hooks


def test_leaving_early_is_a_result():
    net, optimizer, criterion, loader = parts()
    before = state_of(net, optimizer)
    with RangeTest(net, optimizer) as test:
        for i, batch in enumerate(test(loader)):
            test.record(train_step(net, optimizer, criterion, batch))
            if i == 30:
                break
    assert test.finding.stop is Stop.LEFT
    assert len(test.finding.curve) == 31
    assert state_of(net, optimizer) == before


def test_accumulation_by_hand_averages_the_losses_of_a_point():
    net, optimizer, criterion, loader = parts()
    seen = []
    with RangeTest(net, optimizer, num_steps=30) as test:
        for i, (inputs, targets) in enumerate(test(loader)):
            loss = criterion(net(inputs), targets)
            seen.append(loss.item())
            (loss / 4).backward()
            test.record(loss)
            if i % 4 == 3:
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
    assert len(test.finding.curve) == 30
    np.testing.assert_allclose(test.finding.curve.loss, np.reshape(seen, (30, 4)).mean(axis=1), rtol=1e-12)


def test_a_scheduler_in_the_loop_cannot_override_the_rate_and_is_put_back():
    net, optimizer, criterion, loader = parts()
    scheduler = OneCycleLR(optimizer, 0.3, total_steps=1000)
    other = StepLR(optim.SGD(net.parameters(), lr=1.0), 3)
    before = state_of(net, optimizer, scheduler)
    acted = []
    with RangeTest(net, optimizer, restore=[scheduler, other]) as test:
        for batch in test(loader):
            test.record(train_step(net, optimizer, criterion, batch))
            acted.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
    assert acted[: len(test.finding.curve)] == test.finding.curve.lr.tolist()
    assert state_of(net, optimizer, scheduler) == before


def test_a_gan_sweeps_the_optimizer_that_is_chosen():
    torch.manual_seed(0)
    nets = {"generator": nn.Linear(4, 2), "critic": nn.Linear(2, 1)}
    optimizers = {name: optim.Adam(net.parameters(), lr=1e-3) for name, net in nets.items()}
    real = DataLoader(torch.randn(64, 2), 16)
    before = [state_of(nets[name], optimizers[name]) for name in nets]
    critic_rates = set()
    with RangeTest(nets, optimizers, sweep="generator", num_steps=40) as test:
        for batch in test(real):
            for _ in range(2):  # the critic steps twice for each step of the generator
                fake = nets["generator"](torch.randn(len(batch), 4)).detach()
                loss = nets["critic"](fake).mean() - nets["critic"](batch).mean()
                optimizers["critic"].zero_grad()
                loss.backward()
                optimizers["critic"].step()
                critic_rates.add(optimizers["critic"].param_groups[0]["lr"])
            loss = -nets["critic"](nets["generator"](torch.randn(len(batch), 4))).mean()
            optimizers["generator"].zero_grad()
            loss.backward()
            optimizers["generator"].step()
            test.record(loss)  # negative at times
    assert critic_rates == {1e-3}
    assert len(test.finding.curve) > 20
    assert [state_of(nets[name], optimizers[name]) for name in nets] == before


def test_a_loop_without_a_loader():
    torch.manual_seed(0)
    policy = nn.Linear(3, 2)
    optimizer = optim.RMSprop(policy.parameters(), lr=0.01)
    before = state_of(policy, optimizer)
    with RangeTest(policy, optimizer, num_steps=30, max_lr=1e-2) as test:
        for _ in test.steps():
            states = torch.randn(20, 3)
            actions = torch.distributions.Categorical(logits=policy(states))
            action = actions.sample()
            reward = (action == (states[:, 0] > 0).long()).float()
            loss = -(actions.log_prob(action) * (reward - 0.5)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            test.record(loss)
    assert len(test.finding.curve) == 30
    assert state_of(policy, optimizer) == before


def test_lbfgs_with_its_closure():
    net, _, criterion, loader = parts()
    optimizer = optim.LBFGS(net.parameters(), max_iter=2)
    with RangeTest(net, optimizer, num_steps=25, max_lr=1.0) as test:
        for inputs, targets in test(loader):

            def closure(inputs=inputs, targets=targets):
                optimizer.zero_grad()
                loss = criterion(net(inputs), targets)
                loss.backward()
                return loss

            test.record(optimizer.step(closure))
    assert len(test.finding.curve) > 15


def test_several_passes_over_a_short_loader():
    net, optimizer, criterion, loader = parts()
    epochs = 0
    with RangeTest(net, optimizer, num_steps=25, max_lr=1e-3) as test:
        while not test.done:
            epochs += 1
            for batch in test(loader):  # starts over by itself
                test.record(train_step(net, optimizer, criterion, batch))
    assert epochs == 1
    assert len(test.finding.curve) == 25


def test_a_step_without_a_record_is_an_error_and_everything_is_back():
    net, optimizer, criterion, loader = parts()
    before = state_of(net, optimizer)

    def loop():
        with RangeTest(net, optimizer) as test:
            for batch in test(loader):
                train_step(net, optimizer, criterion, batch)

    with pytest.raises(ConfigurationError, match=r"call test\.record\(loss\)"):
        loop()
    assert state_of(net, optimizer) == before


@pytest.mark.parametrize("recorded", [True, False])
def test_a_loop_that_draws_no_item_is_an_error_and_never_endless(recorded):
    net, optimizer, criterion, loader = parts()
    before = state_of(net, optimizer)

    def loop():
        with RangeTest(net, optimizer) as test:
            for _ in range(20):
                if test.done:
                    return
                for batch in loader:
                    loss = train_step(net, optimizer, criterion, batch)
                    if recorded:
                        test.record(loss)

    with pytest.raises(ConfigurationError, match=r"before the first item.*test\.steps"):
        loop()
    assert state_of(net, optimizer) == before


def test_a_step_without_a_record_just_before_the_end_is_an_error_too():
    net, optimizer, criterion, loader = parts()
    before = state_of(net, optimizer)
    with pytest.raises(ConfigurationError, match="record"), RangeTest(net, optimizer):
        train_step(net, optimizer, criterion, next(iter(loader)))
    assert state_of(net, optimizer)[0][:2] == before[0][:2]


def test_what_cannot_be_is_refused():
    net, optimizer, _, loader = parts()
    test = RangeTest(net, optimizer)
    with pytest.raises(ConfigurationError, match="inside its with block"):
        test.record(1.0)
    with pytest.raises(ConfigurationError, match="inside its with block"):
        next(test(loader))
    with pytest.raises(ConfigurationError, match="not over"):
        _ = test.finding
    with test:
        with pytest.raises(LossError, match="one number"):
            test.record(torch.ones(3))
        with pytest.raises(LossError, match=r"a real number, got torch\.complex64"):
            test.record(torch.ones((), dtype=torch.complex64))
        with pytest.raises(LossError, match="a tensor without data"):
            test.record(torch.ones((), device="meta"))
        with pytest.raises(LossError, match="got str"):
            test.record("1")
        with pytest.raises(LossError, match="got ndarray"):
            test.record(np.ones(2))
        with pytest.raises(LoaderError, match="one-shot"):
            next(test(iter([1])))
        with pytest.raises(ConfigurationError, match="not over"):
            _ = test.finding
    with pytest.raises(ConfigurationError, match="entered once"), test:
        pass
    with pytest.raises(OptimizerError, match="one of 0, 1"):
        RangeTest([net, net], [optimizer, optim.SGD(net.parameters(), lr=0.1)])
    with pytest.raises(ConfigurationError, match="rule must be one of"):
        RangeTest(net, optimizer, rule="vale")
    with pytest.raises(ConfigurationError, match=r"model must be a torch\.nn\.Module"):
        RangeTest("net", optimizer)
    with pytest.raises(ConfigurationError, match="state_dict"), RangeTest(net, optimizer, restore=[3]):
        pass
    assert not optimizer._optimizer_step_pre_hooks


def test_a_stateful_criterion_and_an_ema_are_put_back_by_find_lr_too():
    class RunningScale:
        def __init__(self):
            self.calls, self.scale = 0, torch.ones(())

        def __call__(self, outputs, targets):
            self.calls += 1
            loss = nn.functional.cross_entropy(outputs, targets)
            self.scale = 0.9 * self.scale + 0.1 * loss.detach()
            ema.update_parameters(net)
            return loss / self.scale

        def state_dict(self):
            return {"calls": self.calls, "scale": self.scale}

        def load_state_dict(self, state):
            self.calls, self.scale = state["calls"], state["scale"]

    net, optimizer, _, loader = parts()
    ema = optim.swa_utils.AveragedModel(net)
    criterion = RunningScale()
    before = state_of(net, optimizer, ema, criterion)
    find_lr(net, optimizer, criterion, loader, restore=[criterion, ema])
    assert criterion.calls == 0
    assert state_of(net, optimizer, ema, criterion) == before


def test_a_loop_is_not_told_to_verify_itself():
    told = find_lr(*parts(), total_steps="200 epochs", control_variate=False).why
    assert "verify=True" in told
    why = own_loop(*parts(), total_steps="200 epochs").why
    assert why == told.replace("verify=True", "find_lr(..., train_step=..., verify=True)")
