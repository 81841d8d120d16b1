"""Schedulers, averages and criteria with a state: a search neither advances them nor makes them forget.

And a search may be made at any step of a run, as often as wished.
"""

import copy

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from findlr import RangeTest, find_lr

RANGE = dict(min_lr=1e-4, max_lr=0.3, num_steps=12)

SCHEDULERS = {
    "StepLR": lambda o: schedulers.StepLR(o, 3),
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda _: 0.95),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 30),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 4, 2),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.2, total_steps=200),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, step_size_up=5),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=1, cooldown=1),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, total_iters=5), schedulers.ExponentialLR(o, 0.95)], [5]
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.5, 4), schedulers.ExponentialLR(o, 0.95)], o
    ),
    "SWALR": lambda o: SWALR(o, 0.02, anneal_epochs=5),
}


class RunningScale:
    """A criterion that divides by a running mean of its losses."""

    def __init__(self):
        self.calls, self.scale = 0, torch.ones(())

    def __call__(self, outputs, targets):
        loss = nn.functional.cross_entropy(outputs, targets)
        if torch.is_grad_enabled():
            self.calls, self.scale = self.calls + 1, 0.9 * self.scale + 0.1 * loss.detach()
        return loss / self.scale

    def state_dict(self):
        return {"calls": self.calls, "scale": self.scale}

    def load_state_dict(self, state):
        self.calls, self.scale = state["calls"], state["scale"]


class Training:
    """A run with a scheduler, an EMA and a stateful criterion, a batch at a time."""

    def __init__(self, scheduler="StepLR", workers=0):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
        inputs = torch.randn(80, 8)
        data = TensorDataset(inputs, inputs[:, :3].argmax(dim=1))
        self.loader = DataLoader(data, 16, shuffle=True, num_workers=workers)
        self.optimizer = optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
        self.scheduler = SCHEDULERS[scheduler](self.optimizer)
        self.ema = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        self.criterion, self.seen = RunningScale(), []

    @property
    def statefuls(self):
        return [self.scheduler, self.ema, self.criterion]

    def step(self, inputs, targets):
        self.optimizer.zero_grad()
        loss = self.criterion(self.net(inputs), targets)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def advance(self, loss):
        if isinstance(self.scheduler, schedulers.ReduceLROnPlateau):
            self.scheduler.step(loss.item())
        else:
            self.scheduler.step()
        self.ema.update_parameters(self.net)

    def train(self, epochs=2, at=(), call=lambda _: None):
        """Train, and make ``call`` before those batches of each epoch that ``at`` names, its iterator open."""
        for _ in range(epochs):
            for i, batch in enumerate(self.loader):
                if i in at:
                    call(self)
                loss = self.step(*batch)
                self.advance(loss)
                self.seen.append((loss.item(), batch[1].tolist(), copy.deepcopy(self.rates())))
        return self

    def rates(self):
        return [{name: value for name, value in g.items() if name != "params"} for g in self.optimizer.param_groups]

    def state(self):
        tensors = [t.tolist() for m in (self.net, self.ema) for t in m.state_dict().values()]
        told = [
            repr({k: v for k, v in s.state_dict().items() if "fn" not in k}) for s in (self.scheduler, self.criterion)
        ]
        return self.seen, tensors, told, self.rates(), torch.get_rng_state().tolist()


def attached(training):
    """The scheduler stays out of it; what each pass changes is named."""
    find_lr(
        training.net, training.optimizer, training.criterion, training.loader, **RANGE, restore=[training.criterion]
    )


def stepping_in_the_loss(training):
    def loss_fn(_, batch):
        loss = training.criterion(training.net(batch[0]), batch[1])
        if torch.is_grad_enabled():
            training.optimizer._opt_called = True  # a scheduler warns where it is stepped before the optimizer
            training.advance(loss.detach())
        return loss

    how = dict(**RANGE, loss_fn=loss_fn, restore=training.statefuls, control_variate=False)
    find_lr(training.net, training.optimizer, loader=training.loader, **how)


def stepping_in_a_loop(training):
    with RangeTest(training.net, training.optimizer, **RANGE, restore=training.statefuls) as test:
        for batch in test(training.loader):
            loss = training.step(*batch)
            training.advance(loss)
            test.record(loss)
    assert test.finding.curve.lr[0] == RANGE["min_lr"]  # no scheduler overrode it
    assert len(test.finding.curve) == 12


def broken_off_in_a_loop(training):
    def loop():
        with RangeTest(training.net, training.optimizer, **RANGE, restore=training.statefuls) as test:
            for batch in test(training.loader):
                training.advance(training.step(*batch))
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()


def unmoved(call):
    """``call``, with a look right after it."""

    def looked_at(training):
        before = copy.deepcopy(training.state())
        call(training)
        assert training.state() == before

    return looked_at


CALLS = [attached, stepping_in_the_loss, stepping_in_a_loop, broken_off_in_a_loop]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
@pytest.mark.parametrize(("scheduler", "workers"), [*((name, 0) for name in SCHEDULERS), ("OneCycleLR", 2)])
def test_a_search_at_any_step_neither_advances_a_scheduler_nor_makes_it_forget(scheduler, workers, call):
    """As often as wished: at the very first step, and inside an epoch whose iterator is open."""
    without = Training(scheduler, workers).train().state()
    assert Training(scheduler, workers).train(at={0, 3}, call=unmoved(call)).state() == without
