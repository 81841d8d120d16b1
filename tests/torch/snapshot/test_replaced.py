"""What a step puts in the place of something, or adds to it: objects of the user's own, schedulers, functions."""

import copy
import functools
import multiprocessing
import threading
import weakref
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

from findlr import RangeTest, find_lr
from findlr.testing.bits import bits

QUICK = dict(num_steps=6, min_lr=1e-3, max_lr=0.1, progress=False)


@dataclass(frozen=True)
class Moments:
    mean: torch.Tensor
    count: int = 0


class State:
    """A dataclass that is replaced, as JAX's people write it, and a number beside it."""

    def __init__(self):
        self.moments, self.updates = Moments(torch.zeros(2)), 0

    def __call__(self, outputs):
        mean, self.updates = self.moments.mean.lerp(outputs.mean(0), 0.1), self.updates + 1
        self.moments = replace(self.moments, mean=mean, count=self.moments.count + 1)
        return mean.sum() * self.moments.count + self.updates

    def kept(self):
        return [self.moments.mean, self.moments.count, self.updates]


class Replay:
    """A memory of dataclasses, and one of such memories for each kind."""

    def __init__(self):
        self.seen, self.by_kind = [], defaultdict(list)

    def __call__(self, outputs):
        moments = Moments(outputs.mean(0), len(self.seen))
        self.seen.append(moments)
        self.by_kind[len(self.seen) % 3].append(moments)
        return sum(each.mean.sum() for each in self.seen) + len(self.by_kind[1])

    def kept(self):
        return [[each.mean for each in self.seen], {key: len(each) for key, each in self.by_kind.items()}]


class Switch(Enum):
    WARM, COLD = 0.5, 2.0


class Phases:
    """A member of an enumeration, a decimal, a set, bytes, and the method that is used, beside a tensor."""

    def __init__(self):
        self.mean, self.phase, self.sum = torch.zeros(2), Switch.WARM, Decimal(0)
        self.met, self.flags, self.used = set(), bytearray(4), self.warm

    def warm(self, outputs):
        return outputs.sum()

    def cold(self, outputs):
        return outputs.square().sum()

    def __call__(self, outputs):
        self.sum += Decimal("0.5")
        self.met.add(int(self.sum))
        self.flags[len(self.met) % 4] += 1
        self.phase, self.used = (Switch.COLD, self.cold) if self.sum > 2 else (Switch.WARM, self.warm)
        return self.used(outputs) * self.phase.value * len(self.met) + sum(self.flags)

    def kept(self):
        return [self.mean, self.phase.name, str(self.sum), sorted(self.met), bytes(self.flags), self.used.__name__]


class Restarts:
    """A scheduler, a loader and generators that are made anew every third step."""

    def __init__(self, optimizer):
        self.optimizer, self.steps = optimizer, 0
        self.again()

    def again(self):
        for group in self.optimizer.param_groups:
            group.pop("initial_lr", None)
            group["lr"] = 0.01
        self.scheduler = CosineAnnealingLR(self.optimizer, 3 + self.steps)
        self.loader = DataLoader(TensorDataset(torch.arange(8.0)), 2 + self.steps)
        self.noise, self.draws = torch.Generator().manual_seed(self.steps), np.random.default_rng(self.steps)

    def __call__(self, outputs):
        self.steps += 1
        if self.steps % 3 == 0:
            self.again()
        self.scheduler.step()
        noise = torch.randn((), generator=self.noise) + self.draws.normal()
        return outputs.mean() * noise + len(self.loader)

    def kept(self):
        return [self.scheduler.state_dict(), len(self.loader), self.noise.get_state(), self.steps]


class Own(MutableMapping):
    def __init__(self):
        self._items = {}

    def __getitem__(self, key):
        return self._items[key]

    def __setitem__(self, key, value):
        self._items[key] = value

    def __delitem__(self, key):
        del self._items[key]

    def __iter__(self):
        return iter(self._items)

    def __len__(self):
        return len(self._items)


class Named(dict):
    """A dict with attributes, one of which each step replaces."""

    def __init__(self):
        super().__init__()
        self.centre = torch.zeros(2)


class Mappings:
    """Mappings of all kinds."""

    def __init__(self):
        self.own, self.user, self.named = Own(), UserDict(), Named()
        self.shadow = {f"layer{i}.weight": torch.zeros(2) for i in range(1500)}

    def __call__(self, outputs):
        for each in (self.own, self.user):
            each["mean"] = each.get("mean", torch.zeros(2)).lerp(outputs.mean(0), 0.1)
        self.named.centre = self.named.centre.lerp(outputs.mean(0), 0.2)
        self.shadow["layer1400.weight"].lerp_(outputs.mean(0), 0.3)
        return (
            self.own["mean"].sum()
            + self.user["mean"].sum()
            + self.named.centre.sum()
            + self.shadow["layer1400.weight"].sum()
        )

    def kept(self):
        return [dict(self.own), dict(self.user), self.named.centre, self.shadow["layer1400.weight"]]


class Averaged:
    """An average of the weights behind a long list of data that the step names first."""

    def __init__(self):
        self.data = [
            {"nodes": (i,), "edges": [i], "name": str(i), "size": {i: i}, "more": [i], "less": [i]} for i in range(990)
        ]
        self.nested = {"a": {"b": {"c": {"d": {"mean": torch.zeros(2)}}}}}

    def __call__(self, outputs):
        average = self.nested["a"]["b"]["c"]["d"]
        average["mean"] = average["mean"].lerp(outputs.mean(0), 0.1)
        return average["mean"].sum() + len(self.data)

    def kept(self):
        return [self.nested]


def counted():
    """A function with a mean and a count as attributes, one that is replaced and one that is written into."""

    def called(outputs):
        called.mean, called.calls = called.mean.lerp(outputs.mean(0), 0.1), called.calls + 1
        called.last.copy_(outputs.mean(0))
        called.first = getattr(called, "first", called.calls)
        return called.mean.sum() * called.calls + called.last.sum() + called.first

    called.mean, called.last, called.calls = torch.zeros(2), torch.zeros(2), 0
    called.kept = lambda: [called.mean, called.last, called.calls, called.first]
    return called


class Elsewhere:
    """A mean and a count that stand for a thread, one for a context, and numbers that processes share."""

    def __init__(self):
        self.own, self.context = threading.local(), ContextVar("mean")
        self.shared, self.raw = multiprocessing.Value("d", 0.0), multiprocessing.RawArray("d", 2)
        self.own.mean, self.own.count = torch.zeros(2), 0
        self.context.set(torch.zeros(2))

    def __call__(self, outputs):
        self.own.mean, self.own.count = self.own.mean.lerp(outputs.mean(0), 0.1), self.own.count + 1
        self.context.set(self.context.get().lerp(outputs.mean(0), 0.2))
        self.shared.value += outputs.mean().item()
        self.raw[0] += 1
        return self.own.mean.sum() * self.own.count + self.context.get().sum() + self.shared.value + self.raw[0]

    def kept(self):
        return [self.own.mean, self.own.count, self.context.get(), self.shared.value, list(self.raw)]


def scalars():
    """A function that keeps single numbers in tensors: in a place of a list, in a ring."""
    last, ring = [torch.zeros(())], deque([torch.zeros(())], maxlen=5)

    def called(outputs):
        last[0] = last[0].lerp(outputs.mean(), 0.1)
        ring.append(outputs.mean())
        return last[0] + torch.stack(list(ring)).mean()

    called.kept = lambda: [last, list(ring)]
    return called


ALIVE = []


class Weakly:
    """What is held by weak references, and by weak keys."""

    def __init__(self):
        owner = State()
        ALIVE.append(owner)
        self.held, self.by_key = weakref.ref(owner), weakref.WeakKeyDictionary({owner: torch.zeros(2)})

    def __call__(self, outputs):
        owner = self.held()
        self.by_key[owner] = self.by_key[owner].lerp(outputs.mean(0), 0.1)
        return self.by_key[owner].sum() + owner(outputs)

    def kept(self):
        return [*self.by_key.values(), self.held().kept()]


class Meta(type):
    """Keeps a mean for its classes, with a count."""

    def __init__(cls, name, bases, body):
        super().__init__(name, bases, body)
        cls.mean = torch.zeros(2)

    def moved(cls, outputs):
        Meta.common = Meta.common.lerp(outputs.mean(0), 0.1)
        return Meta.common.sum()


Meta.common = torch.zeros(2)


def by_metaclass():
    """A class whose methods are its metaclass's, a cached static method, and a cached property."""
    Meta.common = torch.zeros(2)

    class Moved(metaclass=Meta):
        @staticmethod
        @functools.lru_cache
        def base(kind):
            return held[kind]

        @functools.cached_property
        def centre(self):
            return other[0]

    held, other, own = {"one": torch.zeros(2)}, [torch.zeros(2)], Moved()

    def called(outputs):
        Moved.base("one").lerp_(outputs.mean(0), 0.1)
        own.centre.lerp_(outputs.mean(0), 0.2)
        return Moved.moved(outputs) + Moved.base("one").sum() + own.centre.sum()

    called.kept = lambda: [type(Moved).common, Moved.base("one"), own.centre]
    return called


class Rows(list):
    """A list of numbers with attributes: a mean, and how many there were."""

    def __init__(self):
        super().__init__()
        self.mean, self.count = torch.zeros(2), 0

    def __call__(self, outputs):
        self.append(outputs.mean().item())
        self.mean, self.count = self.mean.lerp(outputs.mean(0), 0.1), self.count + 1
        return self.mean.sum() * self.count + sum(self)

    def kept(self):
        return [list(self), self.mean, self.count]


class Recent:
    """A memory in the order of its use, whose oldest part fades."""

    def __init__(self):
        self.seen = OrderedDict((i, torch.ones(2) * i) for i in range(4))

    def __call__(self, outputs):
        self.seen.move_to_end(next(iter(self.seen)))
        oldest = next(iter(self.seen))
        self.seen[oldest].mul_(0.9)
        return self.seen[oldest].sum()

    def kept(self):
        return [list(self.seen), list(self.seen.values())]


def owned():
    """A function that names a count before the object that has it beside a tensor."""
    count = Counter()
    owner = SimpleNamespace(count=count, mean=torch.zeros(2))

    def called(outputs):
        count["calls"] += 1
        owner.mean = owner.mean.lerp(outputs.mean(0), 0.1)
        return owner.mean.sum() * count["calls"]

    called.kept = lambda: [dict(count), owner.mean]
    return called


KINDS = {each.__name__: each for each in (State, Replay, Phases, Restarts, Mappings, Averaged, Elsewhere, counted)}
KINDS |= {each.__name__: each for each in (scalars, Weakly, by_metaclass, Rows, Recent, owned)}


def trained(kind, door):
    """The losses of eight steps, and the end, with a search after the third."""
    torch.manual_seed(0)
    net = nn.Linear(4, 2)
    optimizer, losses = optim.SGD(net.parameters(), lr=0.01), []
    thing = kind(optimizer) if kind is Restarts else kind()
    batches = [(torch.randn(6, 4), torch.randn(6, 2)) for _ in range(8)]

    def loss_of(inputs, targets):
        outputs = net(inputs)
        return (outputs - targets).square().mean() * (1 + 0.01 * thing(outputs.detach()))

    def stepped(inputs, targets):
        optimizer.zero_grad()
        loss = loss_of(inputs, targets)
        loss.backward()
        optimizer.step()
        return loss

    for i, batch in enumerate(batches):
        if i == 3 and door == "train_step":
            find_lr(net, optimizer, loader=batches, train_step=lambda draw: stepped(*draw()), **QUICK)
        elif i == 3 and door == "loss_fn":
            find_lr(net, optimizer, loader=batches, loss_fn=lambda _, batch: loss_of(*batch), **QUICK)
        elif i == 3 and door == "loop":
            with RangeTest(net, optimizer, **QUICK) as test:
                for each in test(batches):
                    test.record(stepped(*each))
        losses.append(stepped(*batch).item())
    return bits([losses, net.state_dict(), optimizer.state_dict(), thing.kept()])


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler")
@pytest.mark.parametrize("door", ["train_step", "loss_fn", "loop"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_a_step_replaces_is_put_back(kind, door):
    assert trained(kind, door) == trained(kind, None)


def warm(outputs, targets):
    return (outputs - targets).abs().mean()


def cold(outputs, targets):
    return (outputs - targets).square().mean()


criterion, scheduler, teacher = warm, StepLR(optim.SGD([torch.zeros(1)], 0.1), 1), nn.Linear(4, 2)


def test_what_a_global_name_stands_for():
    net = nn.Linear(4, 2)
    optimizer = optim.SGD(net.parameters(), lr=0.01)
    batches = [(torch.randn(6, 4), torch.randn(6, 2)) for _ in range(8)]

    def step(draw):
        global criterion, scheduler, teacher
        inputs, targets = draw()
        optimizer.zero_grad()
        loss = criterion(net(inputs), targets)
        loss.backward()
        optimizer.step()
        criterion, scheduler, teacher = cold, ExponentialLR(optimizer, 0.9), copy.deepcopy(teacher)
        return loss

    before = criterion, scheduler, teacher
    find_lr(net, optimizer, loader=batches, train_step=step, **QUICK)
    assert (criterion, scheduler, teacher) == before


class Attributes(dict):
    """A configuration whose items are attributes, as it is found in many repositories."""

    __getattr__ = dict.__getitem__


class Strict:
    """An object that answers an attribute that it has not with a KeyError."""

    def __init__(self):
        self.items = {"scale": 0.5}

    def __getattr__(self, name):
        return self.__dict__["items"][name]


def test_a_configuration_whose_missing_attributes_raise_a_key_error():
    config, strict, net = Attributes(scale=0.5), Strict(), nn.Linear(4, 2)
    optimizer = optim.SGD(net.parameters(), lr=0.01)
    net.config, net.strict = config, strict
    batches = [Attributes(x=torch.randn(6, 4), y=torch.randn(6, 2), more=Attributes(z=torch.ones(6))) for _ in range(8)]

    def loss_fn(model, batch):
        return (model(batch.x) * config.scale * strict.scale - batch.y).square().mean() * batch.more.z.mean()

    def step(draw):
        optimizer.zero_grad()
        loss = loss_fn(net, draw())
        loss.backward()
        optimizer.step()
        return loss

    by_loss = find_lr(net, optimizer, loader=batches, loss_fn=loss_fn, **QUICK)
    by_step = find_lr(net, optimizer, loader=batches, train_step=step, **QUICK)
    with RangeTest(net, optimizer, **QUICK) as test:
        for batch in test(batches):
            test.record(step(lambda batch=batch: batch))
    assert by_loss.curve.loss.tolist() == by_step.curve.loss.tolist() == test.finding.curve.loss.tolist()


class Drawing(Mapping):
    """Makes its items as they are asked for."""

    def __getitem__(self, key):
        return torch.randn(2)

    def __iter__(self):
        return iter("ab")

    def __len__(self):
        return 2


def test_the_items_of_a_mapping_that_makes_them_are_not_asked_for():
    items, net, states = Drawing(), nn.Linear(2, 2), []
    optimizer = optim.SGD(net.parameters(), lr=0.01)

    def step(draw):
        optimizer.zero_grad()
        loss = (net(draw()) * items["a"]).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    states.append(torch.get_rng_state())
    find_lr(net, optimizer, loader=[torch.ones(3, 2)] * 4, train_step=step, **QUICK)
    states.append(torch.get_rng_state())
    assert torch.equal(*states)
