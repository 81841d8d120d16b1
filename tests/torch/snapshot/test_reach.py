"""What only a loss function, a loader or an optimizer reaches is found, and put back."""

import gc
import multiprocessing
import operator
import pickle
import random
import sys
import types
import weakref
from argparse import Namespace
from array import array
from collections import deque
from contextlib import nullcontext
from copy import copy, deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.utils.data import BatchSampler, DataLoader, Sampler, TensorDataset

from findlr import LossError, OptimizerError, RangeTest, find_lr, rewindable
from findlr.testing.bits import bits
from findlr.torch.snapshot.reach import generators_in, generators_named, reached_from
from tests.torch.training import loop

QUICK = dict(num_steps=6, min_lr=1e-3, max_lr=0.1, progress=False)


def net_and_batches(seed=0):
    torch.manual_seed(seed)
    inputs = torch.randn(32, 4)
    return nn.Linear(4, 2), [(inputs[i : i + 8], inputs[i : i + 8, :1]) for i in range(0, 32, 8)]


def search_by(door, net, optimizer, batches, loss_fn, **how):
    """A search with a ``loss_fn``, with a ``train_step`` that calls it, or around a loop that does."""

    def step(draw):
        optimizer.zero_grad()
        loss = loss_fn(net, draw())
        loss.backward()
        optimizer.step()
        return loss

    if door == "loop":
        with RangeTest(net, optimizer, **QUICK, **how) as test:
            for batch in test(batches):
                test.record(step(lambda batch=batch: batch))
    else:
        given = {door: loss_fn if door == "loss_fn" else step}
        find_lr(net, optimizer, loader=batches, **given, **{**QUICK, **how})


def test_a_module_that_only_the_loss_function_holds():
    net, batches = net_and_batches()
    head = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    before = {name: value.clone() for name, value in head.state_dict().items()}
    optimizer = optim.SGD([*net.parameters(), *head.parameters()], lr=0.1)
    find_lr(net, optimizer, loader=batches, loss_fn=lambda m, b: (head(m(b[0])) - b[1]).square().mean(), **QUICK)
    assert all(torch.equal(before[name], value) for name, value in head.state_dict().items())
    assert all(parameter.grad is None for parameter in head.parameters())


def test_a_tensor_that_only_the_loss_function_trains():
    net, batches = net_and_batches()
    scale = torch.zeros(1, requires_grad=True)
    optimizer = optim.SGD([*net.parameters(), scale], lr=0.1)
    found = find_lr(
        net, optimizer, loader=batches, loss_fn=lambda m, b: (m(b[0]) * scale.exp() - b[1]).square().mean(), **QUICK
    )
    assert scale.item() == 0
    assert scale.grad is None
    assert found.curve.baseline is None


@pytest.mark.parametrize("door", ["loss_fn", "train_step", "loop"])
def test_a_training_whose_tensors_are_no_modules(door):
    _, batches = net_and_batches()
    weights = {"matrix": torch.randn(4, 1, requires_grad=True), "bias": torch.zeros(1, requires_grad=True)}
    before = bits(weights)
    optimizer = optim.Adam(weights.values(), lr=0.1)
    search_by(
        door,
        nn.Identity(),
        optimizer,
        batches,
        lambda _, b: (b[0] @ weights["matrix"] + weights["bias"] - b[1]).square().mean(),
    )
    assert bits(weights) == before
    assert not optimizer.state
    with pytest.raises(OptimizerError, match="none of the optimizer's parameters are"):
        find_lr(nn.Identity(), optimizer, nn.MSELoss(), batches, **QUICK)


def test_a_tensor_that_only_the_loss_function_writes_into():
    net, batches = net_and_batches()
    mean = torch.zeros(1)

    def loss_fn(model, batch):
        loss = (model(batch[0]) - batch[1]).square().mean()
        mean.lerp_(loss.detach(), 0.1)
        return loss

    find_lr(net, optim.SGD(net.parameters(), lr=0.1), loader=batches, loss_fn=loss_fn, **QUICK)
    assert mean.item() == 0.0


class Slotted:
    __slots__ = ("average", "critic", "head", "rng", "scale", "teller")

    def __init__(self, **parts):
        for name, part in parts.items():
            setattr(self, name, part)


def outsiders(holder):
    """What a loop may hold beside its model: each with something that a step changes."""
    torch.manual_seed(1)
    head = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    critic = nn.Linear(2, 1)
    teller = optim.Adam(critic.parameters(), lr=0.1)
    average = optim.swa_utils.AveragedModel(head)
    scale = torch.zeros(1, requires_grad=True)
    return holder(
        head=head, critic=critic, teller=teller, average=average, scale=scale, rng=torch.Generator().manual_seed(0)
    )


def state_of(parts):
    gradients = [p.grad for p in (*parts.head.parameters(), *parts.critic.parameters(), parts.scale)]
    modules = [parts.head.state_dict(), parts.critic.state_dict(), parts.average.state_dict()]
    return bits([*modules, parts.teller.state_dict(), parts.scale, gradients, parts.rng.get_state()])


def a_loop_with(parts, fails):
    net, batches = net_and_batches()
    seen = torch.zeros(6)
    lazy, elsewhere = nn.LazyLinear(2), nn.Linear(2, 2, device="meta")  # which can't be copied
    with RangeTest(net, optim.SGD(net.parameters(), lr=0.1), **QUICK) as test:
        for i, (inputs, targets) in enumerate(test(batches)):
            features = net(inputs + torch.randn(inputs.shape, generator=parts.rng))
            parts.critic(features.detach()).mean().backward()
            parts.teller.step()
            loss = (parts.head(features) * parts.scale.exp() - targets).square().mean()
            loss.backward()
            test._training.swept[0].step()
            parts.average.update_parameters(parts.head)
            seen[i] = loss.item()
            if fails and i == 3:
                raise KeyboardInterrupt
            test.record(loss)
    assert seen.all()  # its own log stays
    return lazy, elsewhere


@pytest.mark.parametrize("holder", [SimpleNamespace, Slotted])
@pytest.mark.parametrize("fails", [False, True])
def test_what_a_loop_holds_beside_what_its_test_was_given(fails, holder):
    parts = outsiders(holder)
    before = state_of(parts)
    with pytest.raises(KeyboardInterrupt) if fails else nullcontext():
        a_loop_with(parts, fails)
    assert state_of(parts) == before


def test_a_block_holds_nothing_once_it_is_left():
    net, batches = net_and_batches()
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    with RangeTest(net, optimizer, **QUICK) as test:
        for inputs, targets in test(batches):
            loss = (net(inputs) - targets).square().mean()
            loss.backward()
            optimizer.step()
            test.record(loss)
    left = weakref.ref(net)
    del net, optimizer, test, loss
    gc.collect()
    assert left() is None


def test_a_block_in_code_with_names_of_its_own_leaves_them():
    names = {"net": nn.Linear(4, 1), "head": nn.BatchNorm1d(1)}
    code = """
from findlr import RangeTest
with RangeTest(net, __import__("torch").optim.SGD(net.parameters(), lr=0.1), num_steps=3, progress=False) as test:
    head(net(__import__("torch").ones(2, 4)))
"""
    exec(code, {}, names)
    assert {"net", "head", "RangeTest", "test"} <= names.keys()
    assert names["head"].num_batches_tracked == 0


def test_a_sparse_tensor_that_a_loss_function_uses():
    net, batches = net_and_batches()
    adjacency = torch.eye(8).to_sparse()

    def loss_fn(model, batch):
        return (adjacency @ model(batch[0]) - batch[1]).square().mean()

    find_lr(net, optim.SGD(net.parameters(), lr=0.1), loader=batches, loss_fn=loss_fn, **QUICK)
    assert torch.equal(adjacency.to_dense(), torch.eye(8))


class Centred:
    """A loss with all that one of the user's own may keep of tensors from step to step, and a log."""

    def __init__(self):
        self.centre, self.queue, self.log, self.cache = torch.zeros(2), deque(maxlen=3), [], {}
        self.state = (torch.zeros(2), torch.zeros(2))
        state = None

        def carried(outputs):
            nonlocal state
            state = outputs if state is None else (state + outputs) / 2
            return state

        self.carried = carried

    def __call__(self, model, batch):
        outputs = model(batch[0])
        self.centre = 0.9 * self.centre + 0.1 * outputs.detach().mean(0)
        self.queue.append(outputs.detach())
        self.state = tuple(each + self.centre for each in self.state)
        self.cache["last"] = outputs.detach()
        carried = self.carried(outputs.detach())
        loss = (outputs - self.centre - torch.stack(list(self.queue)).mean() - carried).square().mean()
        self.log.append(loss.item())
        return loss

    def kept(self):
        return [self.centre, *self.queue, *self.state, *self.cache.values(), self.carried.__closure__[0].cell_contents]


@pytest.mark.parametrize("door", ["loss_fn", "train_step", "disk", "verify"])
@pytest.mark.parametrize("steps", [0, 2])
def test_tensors_that_a_function_keeps_by_name_or_in_a_list(door, steps):
    net, batches = net_and_batches()
    loss_fn, optimizer = Centred(), optim.SGD(net.parameters(), lr=0.1)
    for batch in batches[:steps]:
        loss_fn(net, batch)
    before, logged = loss_fn.kept(), len(loss_fn.log)

    how = dict(QUICK, num_steps=20, verify=True, total_steps=50) if door == "verify" else QUICK
    how = how | ({"snapshot": "disk"} if door == "disk" else {})
    search_by("train_step" if door == "train_step" else "loss_fn", net, optimizer, batches, loss_fn, **how)
    assert len(before) == len(loss_fn.kept())
    assert all(map(operator.is_, before, loss_fn.kept()))
    assert len(loss_fn.log) == logged


@pytest.mark.parametrize("door", ["loss_fn", "train_step", "loop"])
def test_a_sobol_engine_and_a_namespace_of_the_users(door):
    net, batches = net_and_batches()
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    engine = torch.quasirandom.SobolEngine(4, scramble=True, seed=0)
    args = Namespace(centre=torch.zeros(2), generator=torch.Generator().manual_seed(0))

    def loss_fn(net, batch):
        outputs = net(engine.draw(8) + torch.rand(4, generator=args.generator))
        args.centre = 0.9 * args.centre + 0.1 * outputs.detach().mean(dim=0)
        return (outputs - args.centre).square().mean() + (net(batch[0])[:, :1] - batch[1]).square().mean()

    loss_fn(net, batches[0])
    before = bits([vars(engine), vars(args)])
    search_by(door, net, optimizer, batches, loss_fn)
    assert bits([vars(engine), vars(args)]) == before


class State:
    """Keeps what a training needs in attributes of its own, without an object."""

    centre, updates = torch.zeros(2), 0

    @classmethod
    def loss(cls, net, batch):
        outputs = net(batch[0])
        cls.centre, cls.updates = 0.9 * cls.centre + 0.1 * outputs.detach().mean(dim=0), cls.updates + 1
        cls.last = outputs.detach()
        return (outputs - cls.centre).square().mean()


def loss_of_a_class(net, batch):
    return State.loss(net, batch)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("door", ["loss_fn", "its-method", "train_step", "loop"])
def test_what_a_class_of_the_users_keeps(door, steps, monkeypatch):
    for name in ("centre", "updates"):
        monkeypatch.setattr(State, name, vars(State)[name])
    net, batches = net_and_batches()
    optimizer = optim.SGD(net.parameters(), lr=0.1)

    for batch in batches[:steps]:
        State.loss(net, batch)
    before = bits({name: vars(State).get(name) for name in ("centre", "updates", "last")})
    loss_fn = loss_of_a_class if door == "loss_fn" else State.loss
    search_by("loss_fn" if door == "its-method" else door, net, optimizer, batches, loss_fn)
    assert bits({name: vars(State).get(name) for name in ("centre", "updates", "last")}) == before
    if steps:
        del State.last


class OfItsClass:
    """Its class keeps the centre, and its method names a module: only an instance of it leads to both."""

    centre = torch.zeros(2)

    def __call__(self, outputs, targets):
        moving.step(outputs)
        type(self).centre = 0.9 * self.centre + 0.1 * outputs.detach().mean(dim=0)
        return (outputs - targets - self.centre).square().mean()


class Moving(OfItsClass):
    """What it changes is named by the class below it, by a property and by a static method."""

    @property
    def mean(self):
        return noises["mean"]

    @staticmethod
    def trained():
        return follower

    def step(self, outputs):
        self.mean.lerp_(outputs.detach().mean(), 0.1)
        with torch.no_grad():
            self.trained().weight.mul_(0.9)


noises, follower, moving = {"mean": torch.zeros(())}, nn.Linear(2, 2), Moving()


@pytest.mark.parametrize("door", ["criterion", "loss_fn", "train_step", "loop"])
def test_what_the_methods_of_an_object_name_and_what_its_class_keeps(door, monkeypatch):
    monkeypatch.setattr(OfItsClass, "centre", torch.zeros(2))
    net, batches = net_and_batches()
    optimizer, loss = optim.SGD(net.parameters(), lr=0.1), OfItsClass()
    before = bits([OfItsClass.centre, noises, follower.state_dict()])
    if door == "criterion":
        find_lr(net, optimizer, loss, batches, **QUICK)
    else:
        search_by(door, net, optimizer, batches, lambda m, b: loss(m(b[0]), b[1]))
    assert bits([OfItsClass.centre, noises, follower.state_dict()]) == before


def test_a_queue_is_filled_once_a_step():
    net, batches = net_and_batches()
    queue, lengths = [], array("i")  # which nothing looks into

    def loss_fn(model, batch):
        if torch.is_grad_enabled():
            lengths.append(len(queue))
        outputs = model(batch[0])
        queue.append(outputs.detach())
        return (outputs - batch[1]).square().mean()

    finding = find_lr(net, optim.SGD(net.parameters(), lr=0.1), loader=batches, loss_fn=loss_fn, **QUICK)
    assert lengths.tolist() == list(range(6))
    assert finding.curve.baseline is not None
    assert not queue


class Holder:
    def __init__(self):
        self.head, self.rng = nn.Linear(2, 1), random.Random(0)

    def loss(self, model, batch):
        return (self.head(model(batch[0])) - batch[1]).square().mean() * self.rng.random()


def test_what_the_object_of_a_bound_method_holds():
    holder = Holder()
    found = reached_from(holder.loss)
    assert found.modules == [holder.head]
    assert found.generators == [holder.rng]
    state = holder.rng.getstate()
    net, batches = net_and_batches()
    find_lr(net, optim.SGD(net.parameters(), lr=0.1), loader=batches, loss_fn=holder.loss, **QUICK)
    assert holder.rng.getstate() == state


def test_a_teacher_that_the_loss_function_moves_is_moved_once_a_step():
    net, batches = net_and_batches()
    teacher, calls = nn.Linear(4, 2), []

    def loss_fn(model, batch):
        calls.append(1)
        with torch.no_grad():
            teacher.weight.lerp_(model.weight, 0.1)
        return (model(batch[0]) - teacher(batch[0])).square().mean()

    def search(**how):
        how = dict(loader=batches, loss_fn=loss_fn, **QUICK, **how)
        return find_lr(net, optim.SGD(net.parameters(), lr=0.1), **how)

    before = teacher.weight.clone()
    curve = search().curve
    assert len(calls) == 6
    assert torch.equal(teacher.weight, before)
    assert curve.baseline is None
    assert list(curve.loss) == list(search(control_variate=False).curve.loss)


class Restless(nn.Linear):
    """Changes what a module can change in its forward pass."""

    def __init__(self):
        super().__init__(4, 2)
        self.passes = 0
        self.register_buffer("queue", torch.zeros(1))

    def forward(self, inputs):
        self.passes += 1
        if self.passes == 2:
            self.add_module("late", nn.Linear(2, 2))
            self.register_forward_hook(lambda *_: None)
        if self.passes >= 2:
            self.bias.requires_grad_(False)
        with torch.no_grad():
            self.queue.resize_(self.passes + 1).fill_(self.passes)
        return super().forward(inputs)


def swept_restless():
    _, batches = net_and_batches()
    net = Restless()
    find_lr(net, optim.SGD(net.parameters(), lr=0.1), nn.MSELoss(), [(x, x[:, :2]) for x, _ in batches], **QUICK)
    return net


def test_attributes_submodules_and_hooks_of_a_module():
    net = swept_restless()
    assert net.passes == 0
    assert not list(net.children())
    assert not net._forward_hooks


def test_a_tensor_that_was_made_in_inference_mode():
    """Such as a cache of an evaluation, which can be written to in that mode only."""

    class Watching(nn.Linear):
        def forward(self, inputs):
            with torch.inference_mode():
                self.seen.add_(1)
            return super().forward(inputs)

    _, batches = net_and_batches()
    net = Watching(4, 1)
    with torch.inference_mode():
        net.seen = torch.zeros(2)
    seen = net.seen
    find_lr(net, optim.SGD(net.parameters(), lr=0.1), nn.MSELoss(), batches, **QUICK)
    assert net.seen is seen
    assert seen.tolist() == [0, 0]


def test_whether_a_parameter_is_trained():
    assert swept_restless().bias.requires_grad


def test_a_buffer_that_a_forward_pass_resizes():
    assert torch.equal(swept_restless().queue, torch.zeros(1))


class Shedding(nn.Sequential):
    """A pass, counted from 1, takes a layer of it away."""

    def __init__(self, at):
        super().__init__(nn.Linear(4, 2))
        self.start, self.left = nn.Linear(1, 1), at

    def forward(self, inputs):
        self.left -= 1
        if self.left == 0:
            del self.start
        return self[0](inputs)


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 6, 7])
def test_a_module_that_a_forward_pass_takes_away(at, caplog):
    """In the first pass there is no control variate; in a later one that is an error which says how to leave it out."""
    caplog.set_level("INFO")
    _, batches = net_and_batches()
    net = Shedding(at)
    start = net.start
    given = net, optim.SGD(net.parameters(), lr=0.1), lambda x, y: (x - y).square().mean(), batches
    with pytest.raises(LossError, match="control_variate=False") if at > 2 else nullcontext():
        found = find_lr(*given, **QUICK)
    assert net.start is start
    assert net.left == at
    if at <= 2:
        assert found.curve.baseline is None
        assert "no control variate: the model takes modules or parameters away" in caplog.text
    find_lr(*given, **QUICK, control_variate=False)
    assert net.start is start


class Counted(optim.SGD):
    class Count:
        steps = 0

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.1)
        self.count = self.Count()

    def step(self, closure=None):
        self.count.steps += 1
        return super().step(closure)


def test_an_object_in_an_optimizer():
    net, batches = net_and_batches()
    optimizer = Counted(net.parameters())
    find_lr(net, optimizer, loader=batches, loss_fn=lambda m, b: m(b[0]).square().mean(), **QUICK)
    assert optimizer.count.steps == 0


class Mix:
    """A collate function with a generator of its own."""

    def __init__(self, generator):
        self.generator = generator

    def __call__(self, samples):
        (inputs,) = torch.utils.data.default_collate(samples)
        if isinstance(self.generator, torch.Generator):
            return inputs * torch.rand(1, generator=self.generator)
        return inputs * self.generator.random()


class Noisy(TensorDataset):
    def __init__(self, tensor, generator):
        super().__init__(tensor)
        self.transforms = [lambda x: x * generator.random()]

    def __getitem__(self, i):
        (inputs,) = super().__getitem__(i)
        return (self.transforms[0](inputs),)


GENERATORS = {
    "numpy": lambda: np.random.default_rng(0),
    "numpy-old": lambda: np.random.RandomState(0),
    "python": lambda: random.Random(0),
    "torch": lambda: torch.Generator().manual_seed(0),
}


def batches_of(loader, search):
    """The batches of a pass, after a search on others if one is wanted."""
    if search:
        net = nn.Linear(4, 1)
        loss = dict(loader=loader, loss_fn=lambda m, b: m(b).square().mean())
        find_lr(net, optim.SGD(net.parameters(), lr=0.1), **loss, **QUICK)
    return torch.stack(list(loader))


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_in_a_collate_function(kind):
    def batches(search):
        torch.manual_seed(0)
        loader = DataLoader(TensorDataset(torch.ones(32, 4)), 8, collate_fn=Mix(GENERATORS[kind]()))
        return batches_of(loader, search)

    assert torch.equal(batches(False), batches(True))


DRAWS, BITS = random.Random(0), np.random.PCG64(0)
helper = types.ModuleType("helper")
exec("import random\ngenerator = random.Random(0)\ndef drawn(): return generator.random()", vars(helper))


class Shared:
    drawn = random.Random(0)


class Ones(torch.utils.data.Dataset):
    """Its examples are noisy by a generator that its code names, and that no object holds."""

    generators = (random.Random(0),)

    def __init__(self, noise):
        self.noise = noise

    def __len__(self):
        return 16

    def __getitem__(self, i):
        return torch.ones(4) * self.noise(self)

    @staticmethod
    def drawn():
        return DRAWS.random()

    @property
    def generator(self):
        return DRAWS


def by_an_attribute(_):
    return by_an_attribute.generator.random()


by_an_attribute.generator = random.Random(0)

NAMED = {
    "global": (lambda data: DRAWS.random(), DRAWS),
    "static-method": (lambda data: data.drawn(), DRAWS),
    "property": (lambda data: data.generator.random(), DRAWS),
    "class": (lambda data: data.generators[0].random(), Ones.generators[0]),
    "another-class": (lambda data: Shared.drawn.random(), Shared.drawn),
    "attribute-of-a-function": (by_an_attribute, by_an_attribute.generator),
    "module": (lambda data: helper.generator.random(), helper.generator),
    "function-of-a-module": (lambda data: helper.drawn(), helper.generator),
    "bits": (lambda data: BITS.random_raw() % 97, BITS),
    "bound-method-in-c": (lambda data, draw=DRAWS.random: draw(), DRAWS),
}


@pytest.mark.parametrize("kind", NAMED)
def test_a_generator_that_code_of_a_dataset_names(kind):
    noise, generator = NAMED[kind]
    loader = DataLoader(Ones(noise), 8)
    before = pickle.dumps(generator)
    batches_of(loader, search=True)
    after_search_and_pass = pickle.dumps(generator)
    generator.__setstate__(pickle.loads(before).__getstate__())
    batches_of(loader, search=False)
    assert pickle.dumps(generator) == after_search_and_pass != before


class Drawing(nn.Linear):
    """Its forward pass draws from a generator that its code names."""

    def __init__(self, draw=DRAWS.random):
        super().__init__(4, 1)
        self.draw = draw

    def forward(self, inputs):
        return super().forward(inputs) * (1 + self.draw() + DRAWS.random())


class StepsDrawing(optim.SGD):
    def step(self, closure=None):
        DRAWS.random()
        return super().step(closure)


class Criterion:
    def __call__(self, outputs, targets):
        return (outputs - targets).square().mean() * DRAWS.random()


@pytest.mark.parametrize("drawing", ["model", "model-holds-the-method", "optimizer", "criterion"])
@pytest.mark.parametrize("door", ["find_lr", "loop"])
def test_a_generator_that_code_of_a_training_names(drawing, door):
    _, batches = net_and_batches()
    mine = random.Random(0)
    net = Drawing(mine.random) if drawing == "model-holds-the-method" else Drawing() if drawing == "model" else None
    net = net or nn.Linear(4, 1)
    optimizer = (StepsDrawing if drawing == "optimizer" else optim.SGD)(net.parameters(), lr=0.1)
    criterion = Criterion() if drawing == "criterion" else nn.MSELoss()
    before = mine.getstate(), DRAWS.getstate()
    (find_lr if door == "find_lr" else loop)(net, optimizer, criterion, batches, **QUICK)
    assert (mine.getstate(), DRAWS.getstate()) == before


class Outer(optim.Optimizer):
    """Steps the one inside it, as a Lookahead does."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner, self.param_groups = inner, inner.param_groups

    def step(self, closure=None):
        return self.inner.step(closure)


@pytest.mark.parametrize("door", [find_lr, loop])
def test_a_generator_that_code_of_an_inner_optimizer_names(door):
    _, batches = net_and_batches()
    net, before = nn.Linear(4, 1), DRAWS.getstate()
    door(net, Outer(StepsDrawing(net.parameters(), lr=0.1)), nn.MSELoss(), batches, **QUICK)
    assert DRAWS.getstate() == before


class Passes(Sampler):
    """Counts its passes, and shuffles by their number."""

    def __init__(self, length):
        self.length, self.passes = length, 0

    def __iter__(self):
        self.passes += 1
        return iter(torch.randperm(self.length, generator=torch.Generator().manual_seed(self.passes)).tolist())

    def __len__(self):
        return self.length


class Jittered:
    """A data set that counts and draws by itself."""

    def __init__(self):
        self.random, self.reads = random.Random(0), 0

    def __getitem__(self, i):
        self.reads += 1
        return torch.full((4,), i + self.random.random())

    def __len__(self):
        return 16


def named_data(kind):
    """Data that a step names beside its loader's, and what tells its state."""
    if kind == "generator":
        generator = torch.Generator().manual_seed(0)
        return DataLoader(Jittered(), 4, shuffle=True, generator=generator), lambda: generator.get_state().tolist()
    if kind == "sampler":
        sampler = Passes(16)
        return DataLoader(Jittered(), 4, sampler=sampler), lambda: sampler.passes
    if kind == "batch-sampler-alone":
        sampler, data = Passes(16), Jittered()
        rows = BatchSampler(sampler, 4, drop_last=False)
        return SimpleNamespace(__iter__=lambda: (torch.stack([data[i] for i in each]) for each in rows), rows=rows), (
            lambda: sampler.passes
        )
    data = Jittered()
    return DataLoader(data, 4), lambda: (data.random.getstate(), data.reads)


@pytest.mark.parametrize("held", ["alone", "in-a-list"])
@pytest.mark.parametrize("kind", ["generator", "sampler", "batch-sampler-alone", "dataset"])
@pytest.mark.parametrize("door", ["train_step", "loss_fn", "loop"])
def test_a_second_loader_that_a_step_draws_from(door, kind, held):
    net, batches = net_and_batches()
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    second, state = named_data(kind)
    seconds = [second] if held == "in-a-list" else second

    def loss_of(net, batch):
        more = seconds[0] if isinstance(seconds, list) else seconds
        inputs = next(iter(more.__iter__() if isinstance(more, SimpleNamespace) else more))
        return (net(batch[0])[:, :1] - batch[1]).square().mean() + 1e-3 * net(inputs).square().mean()

    loss_of(net, batches[0])
    before = state()
    how = dict(verify=True, total_steps=20, budget=60) if door == "train_step" else {}
    search_by(door, net, optimizer, batches, loss_of, **how)
    assert state() == before


def test_a_loader_that_the_code_of_the_loader_names():
    inner = DataLoader(Jittered(), 4, shuffle=True, generator=torch.Generator().manual_seed(0))

    class Pairs:
        def __iter__(self):
            return ((inputs, inputs[:, :2]) for inputs in inner)

    net, _ = net_and_batches()
    before = inner.generator.get_state()
    find_lr(net, optim.SGD(net.parameters(), lr=0.1), nn.MSELoss(), Pairs(), **QUICK)
    assert torch.equal(inner.generator.get_state(), before)


def test_a_loader_that_its_loop_names_is_told_of_once(caplog):
    class Endless(Passes):
        def __init__(self):
            super().__init__(32)
            self.stream = iter(range(10**6))

        def __iter__(self):
            return (next(self.stream) % 32 for _ in range(32))

    net, batches = net_and_batches()
    data = TensorDataset(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    loader, optimizer = DataLoader(data, 8, sampler=Endless()), optim.SGD(net.parameters(), lr=0.1)
    with RangeTest(net, optimizer, **QUICK) as test:
        for inputs, targets in test(loader):
            loss = (net(inputs)[:, :1] - targets).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            test.record(loss)
    assert sum("whose place can't be put back" in line for line in caplog.messages) == 1


def test_the_systems_generator_has_no_state():
    data, system = [torch.ones(4)] * 16, random.SystemRandom()
    loader = DataLoader(data, 8, collate_fn=lambda samples: torch.stack(samples) * system.random())
    batches_of(loader, search=True)


class Sealed:
    """Slots that can't be set from outside; one is private, one is new after a step."""

    __slots__ = ("__count", "late")

    def __init__(self):
        object.__setattr__(self, "_Sealed__count", 0)

    def __setattr__(self, name, value):
        raise AttributeError(name)

    def steps(self):
        return self.__count, hasattr(self, "late")

    def step(self):
        object.__setattr__(self, "_Sealed__count", self.__count + 1)
        object.__setattr__(self, "late", True)


def test_slots_of_an_object_in_an_optimizer():
    class Holding(optim.SGD):
        def __init__(self, parameters):
            super().__init__(parameters, lr=0.1)
            self.held = Sealed()

        def step(self, closure=None):
            self.held.step()
            return super().step(closure)

    net, batches = net_and_batches()
    optimizer = Holding(net.parameters())
    find_lr(net, optimizer, loader=batches, loss_fn=lambda m, b: m(b[0]).square().mean(), **QUICK)
    assert optimizer.held.steps() == (0, False)


def test_a_generator_in_a_transform_of_a_dataset_inside_a_subset():
    generator = np.random.default_rng(0)
    data = torch.utils.data.Subset(Noisy(torch.ones(16, 4), generator), range(8))
    assert generators_in(DataLoader(data, 4)) == [generator]


class Counts(torch.utils.data.IterableDataset):
    """It knows how often it was passed over, and what it gave."""

    def __init__(self):
        self.epoch, self.cache, self.last = 0, {}, []

    def __iter__(self):
        self.epoch += 1
        for i in range(16):
            self.cache[i] = self.cache.get(i, 0) + 1
            self.last = [*self.last[-2:], i]
            yield torch.full((4,), 0.1 * self.epoch + self.cache[i])


def test_what_a_dataset_counts_and_keeps_is_put_back():
    data = Counts()
    loader = DataLoader(data, 4)
    whole = torch.stack(list(loader))
    before, last = {**vars(data), "cache": dict(data.cache)}, data.last
    net = nn.Linear(4, 1)
    loss = dict(loader=loader, loss_fn=lambda m, b: m(b).square().mean())
    find_lr(net, optim.SGD(net.parameters(), lr=0.1), **loss, **QUICK)
    assert vars(data) == before
    assert data.last is last
    assert torch.allclose(torch.stack(list(loader)), whole + 1.1)


class FewerAtFirst:
    """A collate function that leaves out less and less, by a count that workers share."""

    def __init__(self, kind):
        self.count = multiprocessing.Value("i", 0) if kind == "number" else multiprocessing.Array("i", 2)
        if kind == "raw array":
            self.count = multiprocessing.RawArray("i", 2)

    def values(self):
        return np.frombuffer(getattr(self.count, "get_obj", lambda: self.count)(), np.int32)

    def __call__(self, rows):
        with getattr(self.count, "get_lock", nullcontext)():
            values = self.values()
            values += 1
            return torch.stack(rows)[:, : 1 + values[-1] // 4]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["number", "array", "raw array"])
def test_a_count_that_workers_share_is_put_back(kind, workers):
    collate = FewerAtFirst(kind)
    loader = DataLoader(torch.randn(64, 99), 8, collate_fn=collate, num_workers=workers)
    net = nn.Linear(1, 1)
    loss = dict(loader=loader, loss_fn=lambda m, b: m(b.mean().view(1, 1)).square().mean())
    find_lr(net, optim.SGD(net.parameters(), lr=0.1), **loss, **QUICK)
    assert not collate.values().any()


class Reorders(torch.utils.data.IterableDataset):
    """It shuffles an order in place at each pass."""

    def __init__(self, order, held):
        self.order, self.held = order, held

    def __iter__(self):
        random.shuffle(self.order)
        yield from (torch.full((4,), float(i)) for i in self.order[:16])


@pytest.mark.parametrize("held", [None, {"train": []}, SimpleNamespace()], ids=["alone", "in a dict", "in an object"])
@pytest.mark.parametrize(
    "order", [list(range(2000)), np.arange(2000), np.arange(99.0)], ids=["list", "array", "floats"]
)
def test_an_order_that_a_dataset_shuffles_in_place_is_put_back(order, held):
    def batches(search):
        random.seed(0)
        data = Reorders(copy(order), deepcopy(held))
        if held is not None:
            (data.held if isinstance(held, dict) else vars(data.held)).update(train=data.order)
        loader = DataLoader(data, 4)
        list(loader)
        return batches_of(loader, search)

    assert torch.equal(batches(False), batches(True))


def test_a_file_that_is_mapped_is_data_and_no_order(tmp_path):
    tokens = np.memmap(tmp_path / "tokens", np.int64, "w+", shape=2000)
    holders = []
    generators_in(Reorders(tokens, np.arange(3)), holders, orders=True)
    assert [type(each) for each in holders] == [dict, np.ndarray]


class Hooked(nn.Linear):
    def __init__(self, change):
        super().__init__(4, 1)
        self.inner, self.change = nn.Linear(1, 1), change
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.change(self)
        return super().forward(x)


OF_PARAMETERS = {
    "a hook on its gradient": lambda m: m.weight.register_hook(lambda gradient: 2 * gradient),
    "a hook after its gradient": lambda m: m.weight.register_post_accumulate_grad_hook(lambda _: None),
    "an attribute": lambda m: setattr(m.weight, "tag", m.weight),
    "the class": lambda m: "weight" in m.inner._parameters and nn.utils.parametrizations.weight_norm(m.inner),
    "what is not saved": lambda m: m._non_persistent_buffers_set.add("seen"),
}


@pytest.mark.parametrize("change", OF_PARAMETERS)
def test_hooks_and_attributes_of_parameters_and_the_class_of_a_module(change):
    net = Hooked(OF_PARAMETERS[change])
    own = net.weight.register_hook(lambda gradient: gradient)
    loss = dict(loader=[torch.ones(2, 4)], loss_fn=lambda m, b: m(b).square().mean())
    find_lr(net, optim.SGD(net.parameters(), lr=0.1), **loss, **QUICK)
    assert list(net.weight._backward_hooks) == [own.id]
    assert not net.weight._post_accumulate_grad_hooks
    assert vars(net.weight) == {}
    assert type(net.inner) is nn.Linear
    assert net.inner(torch.ones(1, 1)).shape == (1, 1)
    assert list(net.state_dict()) == ["weight", "bias", "seen", "inner.weight", "inner.bias"]


def test_long_containers_are_data_and_are_not_looked_into():
    data = TensorDataset(torch.ones(4, 1))
    data.extra = [random.Random(i) for i in range(2000)]
    assert generators_in(DataLoader(data)) == []


def cycle(loader):
    while True:
        yield from loader


def test_what_a_stream_draws_from_the_global_generators():
    def first_loss(search):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 1))
        stream = rewindable(cycle(DataLoader(TensorDataset(torch.randn(32, 4), torch.randn(32, 1)), 8, shuffle=True)))
        if search:
            find_lr(net, optim.SGD(net.parameters(), lr=0.1), nn.MSELoss(), stream, **QUICK)
        losses = [
            nn.functional.mse_loss(net(inputs), targets).item() for inputs, targets in (next(stream) for _ in range(9))
        ]
        return losses, torch.rand(1).item()

    assert first_loss(False) == first_loss(True)


def test_a_stream_that_comes_again_to_other_random_states_warns(caplog):
    torch.manual_seed(0)
    net = nn.Linear(4, 1)
    stream = rewindable(cycle(DataLoader(TensorDataset(torch.randn(32, 4)), 8, shuffle=True)))
    loss = dict(loader=stream, loss_fn=lambda m, b: m(b[0]).square().mean())
    find_lr(net, optim.SGD(net.parameters(), lr=0.1), **loss, **QUICK)
    torch.rand(1)
    for _ in range(5):
        next(stream)
    assert sum("draws random numbers" in record.message for record in caplog.records) == 1


class Opened:
    """Knows the loaders that are open, for a whole process."""

    def __init__(self):
        self.loaders = []


class Prepared:
    """A loader around another one, as packages that train on several devices make them."""

    def __init__(self, loader, opened):
        self.base_dataloader, self.gradient_state = loader, opened

    __class__ = property(lambda self: DataLoader)

    def __getattr__(self, name):
        if name == "base_dataloader":
            raise AttributeError(name)
        return getattr(self.base_dataloader, name)

    def __len__(self):
        return len(self.base_dataloader)

    def __iter__(self):
        self.gradient_state.loaders.append(self)
        yield from self.base_dataloader
        self.gradient_state.loaders.pop()


def prepared(seen=None, **how):
    """A loader that notes the examples in ``seen``; without it, its dataset is one of torch's, for workers."""

    class Seen(TensorDataset):
        def __getitem__(self, i):
            seen.append(i)
            return super().__getitem__(i)

    torch.manual_seed(0)
    inputs = torch.randn(64, 4)
    data = (TensorDataset if seen is None else Seen)(inputs, inputs[:, :1])
    return Prepared(DataLoader(data, 8, shuffle=True, **how), Opened())


class Turned(Sampler):
    """Turns its order round in place."""

    def __init__(self, order):
        self.order = order

    def __len__(self):
        return len(self.order)

    def __iter__(self):
        first, *others = self.order.tolist()
        for i, index in enumerate([*others, first]):
            self.order[i] = index
        return iter([*others, first])


@pytest.mark.parametrize("order", [torch.arange, np.arange], ids=["tensor", "array"])
def test_an_order_that_a_nested_sampler_turns_in_place_is_put_back(order):
    net, inputs, sampler = nn.Linear(4, 1), torch.randn(64, 4), Turned(order(64))
    data = TensorDataset(inputs, inputs[:, :1])
    loader = DataLoader(data, batch_sampler=BatchSampler(sampler, 8, drop_last=False))
    find_lr(net, optim.SGD(net.parameters(), lr=0.1), nn.MSELoss(), loader, **QUICK)
    assert sampler.order.tolist() == list(range(64))


class Adaptive(Sampler):
    """Draws by weights, and lowers those of what it has drawn."""

    def __init__(self, weights):
        self.weights = weights

    def __len__(self):
        return len(self.weights)

    def __iter__(self):
        for index in torch.multinomial(torch.as_tensor(self.weights), len(self)).tolist():
            self.weights[index] *= 0.5
            yield index


@pytest.mark.parametrize("weights", [torch.ones, np.ones], ids=["tensor", "array"])
def test_weights_that_a_sampler_lowers_in_place_are_put_back(weights):
    net, inputs, sampler = nn.Linear(4, 1), torch.randn(64, 4), Adaptive(weights(64))
    loader = DataLoader(TensorDataset(inputs, inputs[:, :1]), 8, sampler=sampler)
    find_lr(net, optim.SGD(net.parameters(), lr=0.1), nn.MSELoss(), loader, **QUICK)
    assert sampler.weights.tolist() == [1.0] * 64


def test_the_loaders_that_a_package_knows_to_be_open():
    net, loader = nn.Linear(4, 1), prepared([])
    find_lr(net, optim.SGD(net.parameters(), lr=0.1), nn.MSELoss(), loader, **QUICK)
    assert loader.gradient_state.loaders == []


def test_examples_held_out_of_a_wrapped_loader_are_not_trained_on():
    from findlr.torch.data.batches import TorchBatches

    seen = []
    batches = TorchBatches(prepared(seen))
    batches.hold_out(1, 100, 1.0)
    held = set(seen)
    seen.clear()
    for _ in range(20):
        batches.next()
    assert held
    assert not held & set(seen)


def test_an_open_pass_of_a_wrapped_loader_with_persistent_workers_goes_on():
    def batches(search):
        loader = prepared(num_workers=1, persistent_workers=True)
        given = []
        for i, (inputs, _) in enumerate(loader):
            given.append(inputs)
            if search and i == 2:
                net = nn.Linear(4, 1)
                find_lr(net, optim.SGD(net.parameters(), lr=0.1), nn.MSELoss(), loader, **QUICK)
        return torch.stack(given)

    assert torch.equal(batches(False), batches(True))


class Shuffled(Prepared):
    """Shuffles by the number of passes that it has ended, as Accelerate's with a seedable sampler."""

    def __init__(self):
        torch.manual_seed(0)
        generator = torch.Generator()
        super().__init__(DataLoader(TensorDataset(torch.arange(12.0)), 4, shuffle=True, generator=generator), Opened())
        self.iteration = 0

    def __iter__(self):
        self.generator.manual_seed(self.iteration)
        yield from super().__iter__()
        self.iteration += 1

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_a_wrapped_loader_that_counts_its_passes():
    from findlr.torch.data.batches import TorchBatches

    loader = Shuffled()
    batches = TorchBatches(loader)
    given = torch.stack([batches.next()[0] for _ in range(9)])
    assert loader.iteration == 0
    assert torch.equal(given, torch.stack([batch for _ in range(3) for (batch,) in loader]))


@pytest.mark.parametrize("drawn", [0, 2, 5, 6, 7])
def test_the_passes_that_a_wrapped_loader_has_counted_are_put_back(drawn):
    from findlr.torch.data.batches import TorchBatches

    batches = TorchBatches(Shuffled())
    for _ in range(drawn):
        batches.next()
    place = batches.new_memory()
    batches.remember(place)
    first = torch.stack([batches.next()[0] for _ in range(8)])
    place.put_back()
    assert torch.equal(torch.stack([batches.next()[0] for _ in range(8)]), first)


class Wrapped:
    """Steps an optimizer through a scaler, and says whether that skipped the last step."""

    def __init__(self, optimizer, scaler=None):
        self.optimizer, self.scaler, self.param_groups = optimizer, scaler, optimizer.param_groups
        self.steps, self.shared = 0, Opened()

    def step(self):
        self.steps += 1
        self.shared.loaders.append(self.steps)
        self.optimizer.step()


def test_what_a_wrapper_around_an_optimizer_knows():
    net, batches = net_and_batches()
    wrapped = Wrapped(optim.SGD(net.parameters(), lr=0.1))
    with RangeTest(net, wrapped, num_steps=6, progress=False) as test:
        for inputs, _ in test(batches):
            loss = net(inputs).square().mean()
            loss.backward()
            wrapped.step()
            test.record(loss)
    assert (wrapped.steps, wrapped.shared.loaders) == (0, [])


def test_the_scaler_of_a_wrapper_around_the_optimizer():
    def search(wrap):
        net, batches = net_and_batches()
        scaler, scales = torch.amp.GradScaler("cpu", init_scale=2.0**127), []  # at first each step is skipped
        optimizer = optim.SGD(net.parameters(), lr=0.1)
        how = {} if wrap else {"scaler": scaler}
        found = find_lr(
            net,
            Wrapped(optimizer, scaler) if wrap else optimizer,
            loader=batches,
            loss_fn=lambda m, b: 100 * m(b[0]).square().mean(),
            on_step=lambda _: scales.append(scaler.get_scale()),
            **QUICK,
            **how,
        )
        assert scaler.get_scale() == 2.0**127
        return found, scales

    found, scales = search(True)
    assert scales[0] < 2.0**127
    assert (found, scales) == search(False)


def test_the_batches_that_an_accelerator_has_counted(monkeypatch):
    class Accelerator:
        step = 0

    counting = Accelerator()
    counting.step = 2
    monkeypatch.setitem(sys.modules, "accelerate", types.SimpleNamespace(Accelerator=Accelerator))
    net, batches = net_and_batches()
    optimizer = optim.SGD(net.parameters(), lr=0.1)

    def train_step(draw):
        counting.step += 1
        loss = net(draw()[0]).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    find_lr(net, optimizer, train_step=train_step, loader=batches, **QUICK)
    assert counting.step == 2


def test_what_a_library_names_is_left_alone_and_what_it_wraps_is_found():
    library = {"__name__": "matplotlib.drawing", "named": random.Random(0)}
    exec("def wraps(function):\n    return lambda: (named.random(), function())", library)
    mine = random.Random(1)
    assert generators_named([library["wraps"](mine.random)]) == [mine]


@pytest.mark.parametrize("door", ["loss_fn", "train_step", "loop"])
def test_a_generator_that_others_are_spawned_from(door):
    net, batches = net_and_batches()
    generator = np.random.default_rng(0)

    def loss_fn(model, batch):
        return (model(batch[0]) * generator.spawn(1)[0].normal()).square().mean()

    search_by(door, net, optim.SGD(net.parameters(), lr=0.1), batches, loss_fn)
    assert generator.bit_generator.seed_seq.n_children_spawned == 0
    assert generator.spawn(1)[0].normal() == np.random.default_rng(0).spawn(1)[0].normal()


def test_an_array_of_records_that_a_step_writes_into():
    net, batches = net_and_batches()
    seen = np.recarray(4, dtype=[("sums", "f8"), ("hits", "i8")])
    seen.sums, seen.hits = 0, 0

    def loss_fn(model, batch):
        seen.sums[0] += batch[0].mean().item()
        seen[1] = (1.0, 2)
        return model(batch[0]).square().mean() * (1 + seen.hits[1])

    find_lr(net, optim.SGD(net.parameters(), lr=0.1), loader=batches, loss_fn=loss_fn, **QUICK)
    assert not seen.sums.any()
    assert not seen.hits.any()
