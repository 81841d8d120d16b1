"""A step of the user's own: a GAN's, SAM's, a manual loop's; it is raced, put back, and refused where it can't be."""

import math
import re
from itertools import count

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from findlr import LossError, OptimizerError, RangeTest, Stop, TorchTrainable, find_lr
from findlr.testing import TrainableConformance, TrainingConformance
from findlr.torch import given
from tests.torch.training import copied

SNAPSHOTS = ["device", "cpu", "disk"]


def loader_of(seed=0):
    torch.manual_seed(seed)
    inputs = torch.randn(120, 4)
    order = torch.Generator().manual_seed(3)
    return DataLoader(TensorDataset(inputs, inputs[:, :1].sin()), 10, shuffle=True, generator=order)


class Gan:
    """A generator and a discriminator, an update of each a step; the generator's rate is swept."""

    sweep = "generator"

    def __init__(self):
        self.loader = loader_of()
        self.models = {"generator": nn.Linear(3, 4), "discriminator": nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2))}
        self.models["discriminator"].append(nn.Linear(8, 1))
        self.optimizers = {name: optim.Adam(model.parameters(), lr=1e-3) for name, model in self.models.items()}
        self.losses = []

    def step(self, draw):
        generator, discriminator = self.models.values()
        loss_d = 0.0
        for _ in range(2):  # two batches for one step of the generator
            real = draw()[0]
            fake = generator(torch.randn(len(real), 3)).detach()
            loss_d = functional.softplus(-discriminator(real)).mean() + functional.softplus(discriminator(fake)).mean()
            self.optimizers["discriminator"].zero_grad()
            loss_d.backward()
            self.optimizers["discriminator"].step()
        loss = functional.softplus(-discriminator(generator(torch.randn(10, 3)))).mean()
        self.optimizers["generator"].zero_grad()
        loss.backward()
        self.optimizers["generator"].step()
        self.losses.append(loss.item())
        return loss


class Sam:
    """Sharpness-aware minimization: the gradient is taken where the loss is worst near by."""

    sweep = None

    def __init__(self):
        self.loader = loader_of()
        self.models = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.optimizers = optim.SGD(self.models.parameters(), lr=0.1, momentum=0.9)
        self.losses = []

    def step(self, draw):
        inputs, targets = draw()
        parameters = list(self.models.parameters())
        loss = functional.mse_loss(self.models(inputs), targets)
        gradients = torch.autograd.grad(loss, parameters)
        norm = torch.stack([g.norm() for g in gradients]).norm() + 1e-12
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.add_(gradient, alpha=0.05 / norm.item())
        self.optimizers.zero_grad()
        functional.mse_loss(self.models(inputs), targets).backward()
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=0.05 / norm.item())
        self.optimizers.step()
        self.losses.append(loss.item())
        return loss


MAKES = {"gan": Gan, "sam": Sam}


def trainable_of(made, **how):
    return TorchTrainable(
        made.models, made.optimizers, loader=made.loader, train_step=made.step, sweep=made.sweep, **how
    )


def search(made, **how):
    settings = dict(loader=made.loader, train_step=made.step, sweep=made.sweep, progress=False)
    return find_lr(made.models, made.optimizers, **settings | how)


def listed(value):
    return list(value.values()) if isinstance(value, dict) else [value]


def state_of(made):
    models, optimizers = listed(made.models), listed(made.optimizers)
    return copied(
        [[m.state_dict() for m in models], [o.state_dict() for o in optimizers], made.loader.generator.get_state()]
    )


class Conformance(TrainableConformance):
    max_lr = 0.05

    def trainable(self):
        return trainable_of(self.make(), **self.how)

    def state(self, trainable):
        tensors = [p for model in trainable.training.models for p in model.parameters()]
        return copied([tensors, [o.state_dict() for o in trainable.training.optimizers], torch.get_rng_state()])


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
class TestOwnStep(Conformance):
    @pytest.fixture(autouse=True)
    def _given(self, make, snapshot):
        self.make, self.how = make, {"snapshot": snapshot}


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
class TestTrainingAroundIt(TrainingConformance):
    too_high = 1e37  # a GAN has no lowest loss to pass; it overflows

    @pytest.fixture(autouse=True)
    def _given(self, make, snapshot):
        self.make, self.snapshot = make, snapshot

    def training(self):
        made = self.make()
        made.batches = self.endless(made)
        return made

    def endless(self, made):
        for _ in count():
            yield from made.loader

    def train(self, training, steps):
        for _ in range(steps):
            training.step(lambda: next(training.batches))

    def search(self, training, **how):
        losses = list(training.losses)
        try:
            return search(training, snapshot=self.snapshot, control_variate=False, **how)
        finally:
            training.losses[:] = losses  # the user's own list: find_lr can't know it

    def state(self, training):
        return training.losses, state_of(training)


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_a_step_of_ones_own_is_raced_and_the_training_is_as_it_was(make):
    made = make()
    before = state_of(made)
    finding = search(made, schedule="cosine", total_steps=400, verify=True, budget=400, max_lr=1.0)
    assert finding.race is not None
    assert finding.cost.steps <= 400
    assert len(finding.race.runs) == 3
    assert state_of(made) == before


def test_sams_rate_is_near_the_one_of_a_plain_loss():
    made, plain = Sam(), Sam()
    plan = dict(schedule="cosine", total_steps=400)
    by_loss = find_lr(plain.models, plain.optimizers, nn.MSELoss(), plain.loader, control_variate=False, **plan)
    assert 1 / 3 < search(made, **plan).lr / by_loss.lr < 3


def test_nothing_inside_the_step_can_override_the_rate():
    made, acted = Sam(), []
    scheduler = optim.lr_scheduler.ConstantLR(made.optimizers, factor=0.5)
    made.optimizers.register_step_pre_hook(lambda optimizer, *_: acted.append(optimizer.param_groups[0]["lr"]))
    plain = made.step

    def step(draw):
        made.optimizers.param_groups[0]["lr"] = 123.0
        loss = plain(draw)
        scheduler.step()
        return loss

    made.step = step
    finding = search(made, num_steps=20, max_lr=1e-2, restore=[scheduler])
    assert finding.curve.lr[0] == 1e-8
    assert 123.0 in acted  # the user's own hook runs first; the rate is written after it
    assert np.isfinite(finding.curve.loss).all()


def test_the_rate_of_each_step_is_the_one_recorded():
    made, moved = Sam(), []
    made.optimizers = optim.SGD(made.models.parameters(), lr=0.1)

    def step(draw):
        draw()
        made.optimizers.zero_grad()
        loss = sum(p.sum() for p in made.models.parameters())
        loss.backward()
        before = next(made.models.parameters()).detach().clone()
        made.optimizers.param_groups[0]["lr"] = 7.0
        made.optimizers.step()
        moved.append((before - next(made.models.parameters())).mean().item())
        return loss.square()

    made.step = step
    finding = search(made, num_steps=30, min_lr=1e-3, max_lr=1e-1)
    np.testing.assert_allclose(moved[: len(finding.curve)], finding.curve.lr, rtol=1e-3)


def test_what_is_no_step_is_one_clear_error_and_nothing_is_lost():
    made = Sam()
    before = state_of(made)

    def never(draw):
        return functional.mse_loss(made.models(draw()[0]), torch.zeros(10, 1))

    def silent(draw):
        made.step(draw)

    def several(draw):
        made.step(draw)
        return torch.ones(3)

    for step, error, said in (
        (never, OptimizerError, r"took no step: let it call that optimizer's step\(\) once, and draw all batches"),
        (silent, LossError, "got NoneType: return loss"),
        (several, LossError, r"one number, got shape \(3,\)"),
    ):
        with pytest.raises(error, match=said):
            find_lr(made.models, made.optimizers, loader=made.loader, train_step=step)
        assert state_of(made) == before


class CriticFirst(Gan):
    """The generator, whose rate is swept, steps at some calls only."""

    def __init__(self, every):
        super().__init__()
        self.every = every
        self.models["discriminator"].register_buffer("calls", torch.zeros(()))

    def step(self, draw):
        generator, discriminator = self.models.values()
        discriminator.calls += 1
        fake = generator(torch.randn(10, 3))
        loss = functional.softplus(-discriminator[:3](draw()[0])).mean()
        loss = loss + functional.softplus(discriminator[:3](fake.detach())).mean()
        self.optimizers["discriminator"].zero_grad()
        loss.backward()
        self.optimizers["discriminator"].step()
        if discriminator.calls % self.every == 0:
            self.optimizers["generator"].zero_grad()
            functional.softplus(-discriminator[:3](fake)).mean().backward()
            self.optimizers["generator"].step()
        return loss


def test_a_swept_optimizer_that_waits_for_another_one():
    made = CriticFirst(every=5)
    before = state_of(made)
    finding = search(made, num_steps=12)
    assert len(finding.curve) == 12
    assert state_of(made) == before
    with pytest.raises(OptimizerError, match="took no step"):
        search(CriticFirst(every=1000))


@pytest.mark.parametrize("every", [2, 30])
@pytest.mark.parametrize("door", ["step", "loop"])
def test_an_optimizer_that_another_one_takes_the_place_of(door, every):
    net, loader = nn.Linear(4, 1), loader_of()
    given, calls = optim.SGD(net.parameters(), lr=0.01), count(1)
    kept = {"optimizer": given}

    def step(draw):
        if next(calls) % every == 0:
            kept["optimizer"] = optim.SGD(net.parameters(), lr=0.01)
        inputs, targets = draw()
        loss = functional.mse_loss(net(inputs), targets)
        kept["optimizer"].zero_grad()
        loss.backward()
        kept["optimizer"].step()
        return loss

    def loop():
        with RangeTest(net, given, progress=False) as test:
            for batch in test(loader):
                test.record(step(lambda batch=batch: batch))

    before = net.weight.detach().clone()
    with pytest.raises(OptimizerError, match=r"does not call step\(\) of .* if it makes new optimizers"):
        loop() if door == "loop" else find_lr(net, given, loader=loader, train_step=step, progress=False)
    assert torch.equal(net.weight, before)
    assert kept["optimizer"] is given


class OwnRate(optim.Optimizer):
    """Has its first rate as an attribute, and takes that of its groups."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})
        self.lr = lr

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad, alpha=-group["lr"])


class TakesOwnRate(OwnRate):
    """Takes that in its step."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad, alpha=-self.lr)


@pytest.mark.parametrize("kind", [OwnRate, TakesOwnRate])
@pytest.mark.parametrize("door", ["find_lr", "loop"])
def test_an_optimizer_that_takes_its_rate_from_an_attribute_is_named(door, kind, caplog):
    net, loader = nn.Linear(4, 1), loader_of()
    optimizer = kind(net.parameters(), 0.01)
    if door == "find_lr":
        find_lr(net, optimizer, nn.MSELoss(), loader, num_steps=5, progress=False)
    else:
        with RangeTest(net, optimizer, num_steps=5, progress=False) as test:
            for inputs, targets in test(loader):
                optimizer.zero_grad()
                loss = functional.mse_loss(net(inputs), targets)
                loss.backward()
                optimizer.step()
                test.record(loss)
    told = caplog.text.count("TakesOwnRate keeps a rate of its own, lr = 0.01, which its step() names")
    assert told == (kind is TakesOwnRate)
    assert "keeps a rate" not in caplog.text.replace("TakesOwnRate keeps a rate", "")


class Noisy(optim.Optimizer):
    """Makes the gradients that it steps with, as differential privacy has it; torch's constructor never ran for it."""

    def __init__(self, inner):
        self.original, self.skips = inner, False

    param_groups = property(lambda self: self.original.param_groups)
    state = property(lambda self: self.original.state)
    defaults = property(lambda self: self.original.defaults)

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.add_(torch.randn_like(p.grad), alpha=1e-3)
        return self.original.step(closure)


def test_an_optimizer_that_only_wraps_another_and_was_never_built():
    made = Sam()
    made.optimizers = Noisy(optim.SGD(made.models.parameters(), lr=0.1))
    before = [p.detach().clone() for p in made.models.parameters()]

    def step(draw):
        inputs, targets = draw()
        made.optimizers.original.zero_grad()
        loss = functional.mse_loss(made.models(inputs), targets)
        loss.backward()
        made.optimizers.step()
        return loss

    how = {"num_steps": 20, "min_lr": 1e-4, "max_lr": 1.0}
    finding = find_lr(made.models, made.optimizers, loader=made.loader, train_step=step, **how)
    with RangeTest(made.models, made.optimizers, **how) as test:
        for batch in test(made.loader):
            test.record(step(lambda batch=batch: batch))
    assert finding.curve.loss.tolist() == test.finding.curve.loss.tolist()
    assert all(map(torch.equal, before, made.models.parameters()))
    with pytest.raises(OptimizerError, match="the steps of Noisy can't be seen"):
        given.hooked(Noisy(None))


class InTwoHalves(optim.SGD):
    """Steps another optimizer, and is never stepped itself, as SAM's first_step and second_step do."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr)
        self.base_optimizer = optim.SGD(self.param_groups, lr)

    def second_step(self):
        self.base_optimizer.step()
        self.zero_grad()


def test_a_step_of_a_base_optimizer_says_what_to_give_and_that_works():
    made = Sam()
    outer = InTwoHalves(made.models.parameters(), 0.1)

    def step(draw):
        inputs, targets = draw()
        loss = functional.mse_loss(made.models(inputs), targets)
        loss.backward()
        outer.second_step()
        return loss

    with pytest.raises(OptimizerError, match="give that one, a base optimizer say, and the outer one in restore="):
        find_lr(made.models, outer, loader=made.loader, train_step=step)
    found = find_lr(made.models, outer.base_optimizer, loader=made.loader, train_step=step, restore=[outer])
    assert len(found.curve) > 20


def test_steps_that_a_scaler_skips_are_no_points():
    made = Sam()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    tries = []

    def step(draw):
        inputs, targets = draw()
        loss = functional.mse_loss(made.models(inputs), targets)
        made.optimizers.zero_grad()
        scaler.scale(loss).backward()
        tries.append(len(tries))
        if len(tries) in (3, 4):
            next(made.models.parameters()).grad[0, 0] = math.inf
        scaler.step(made.optimizers)
        scaler.update()
        return loss

    made.step = step
    finding = search(made, num_steps=10, max_lr=1e-3, restore=[scaler])
    assert finding.stop is Stop.FINISHED
    assert len(finding.curve) == 10
    assert len(tries) == 12
    assert scaler.get_scale() == 2.0**10


def guarded(made, bad, returned):
    """A step that leaves out what it finds no good: the batch or the loss of the calls that ``bad`` tells."""
    calls = []

    def step(draw):
        inputs, targets = draw()
        loss = functional.mse_loss(made.models(inputs), targets)
        calls.append(loss.item())
        if bad(len(calls)):
            loss = loss * math.nan
        if not torch.isfinite(loss):
            return returned(loss)
        made.optimizers.zero_grad()
        loss.backward()
        made.optimizers.step()
        return loss

    made.step = step
    return calls


@pytest.mark.parametrize("returned", [lambda loss: loss, lambda loss: loss.item(), lambda loss: None])
def test_steps_that_the_function_leaves_out_are_no_points(returned):
    made = Sam()
    calls = guarded(made, lambda call: call in (4, 5), returned)
    finding = search(made, num_steps=30, max_lr=1e-3)
    assert finding.stop is Stop.FINISHED
    assert len(finding.curve) == 30
    assert len(calls) == 32


@pytest.mark.parametrize(
    ("returned", "stop"), [(lambda loss: loss, Stop.NOT_FINITE), (lambda loss: None, Stop.OVERFLOW)]
)
def test_a_function_that_leaves_all_steps_out_from_some_rate_on_ends_the_sweep(returned, stop):
    made = Sam()
    calls = guarded(made, lambda call: call > 25, returned)
    finding = search(made, num_steps=60)
    assert finding.stop is stop
    assert len(calls) == 45


def test_a_run_of_a_race_whose_steps_are_left_out_has_diverged():
    made = Sam()
    guarded(made, lambda call: False, lambda loss: loss)
    finding = search(made, num_steps=40, min_lr=1e-2, max_lr=1e4, verify=True, total_steps=200)
    assert finding.race is None or all(run.lr < 100 for run in finding.race.runs if math.isfinite(run.loss))


def test_several_optimizers_are_swept_together_and_their_ratio_is_kept():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    matrices = [p for p in net.parameters() if p.dim() == 2]
    others = [p for p in net.parameters() if p.dim() < 2]
    seen = []
    pair = [optim.SGD(matrices, lr=0.2), optim.AdamW(others, lr=0.01)]
    for optimizer in pair:
        optimizer.register_step_post_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    finding = find_lr(net, pair, nn.MSELoss(), loader_of(), control_variate=False)
    np.testing.assert_allclose(np.array(seen[0::2]) / np.array(seen[1::2]), 20)
    assert finding.lrs == (finding.lr, pytest.approx(finding.lr / 20))
    assert [optimizer.param_groups[0]["lr"] for optimizer in pair] == [0.2, 0.01]
    assert finding.plan.optimizer == "SGD"


@pytest.mark.parametrize("sweep", [-1, 2, True, [0, 0], [0, -1], [1, True], slice(2), "critic", []])
def test_optimizers_to_sweep_are_named_by_their_index_each_once(sweep):
    made = Gan()
    pair = list(made.optimizers.values())
    told = "sweep must name the optimizer to sweep, one of 0, 1, or a list of them, each once, got "
    with pytest.raises(OptimizerError, match=re.escape(f"{told}{sweep!r}")):
        find_lr(made.models, pair, loader=made.loader, train_step=made.step, sweep=sweep)


def test_a_list_of_optimizers_without_a_word_which_is_swept_is_refused_for_a_step_of_ones_own():
    made = Gan()
    with pytest.raises(OptimizerError, match="sweep must name the optimizer to sweep, one of 'generator'"):
        find_lr(made.models, made.optimizers, loader=made.loader, train_step=made.step)


@pytest.mark.parametrize("how", [{}, {"verify": True, "total_steps": 400}])
def test_a_scheduler_in_the_step_that_is_shorter_than_the_sweep_does_not_end_it(how):
    loader = loader_of()
    net = nn.Linear(4, 1)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=30)

    def step(draw):
        inputs, targets = draw()
        loss = functional.mse_loss(net(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        return loss

    before = copied(scheduler.state_dict())
    finding = find_lr(net, optimizer, loader=loader, train_step=step, max_lr=0.1, progress=False, **how)
    assert finding.stop is Stop.FINISHED
    assert scheduler.state_dict() == before
    assert "step" not in vars(scheduler)
