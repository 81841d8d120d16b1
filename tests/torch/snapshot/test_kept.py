"""What a step or a loop of the user's own keeps beside its modules: pools and rings, and iterators that are open."""

import copy
import itertools
import random
from collections import deque
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from findlr import RangeTest, find_lr, rewindable
from findlr.testing.bits import bits

QUICK = dict(num_steps=9, min_lr=1e-3, max_lr=0.1, progress=False)


class Pool:
    """Outputs of earlier steps, as a GAN's critic is shown them; a number says how many there are."""

    def __init__(self):
        self.filled, self.images = 0, []

    def swapped(self, image):
        if self.filled < 5:
            self.filled += 1
            self.images.append(image)
            return image
        i = random.randrange(5)
        image, self.images[i] = self.images[i], image
        return image


class Ring:
    """Outputs of earlier steps in one tensor, which is written from a place on."""

    def __init__(self):
        self.images, self.at = torch.zeros(7, 2), 0

    def swapped(self, image):
        before = self.images[self.at].clone()
        self.images[self.at] = image
        self.at = (self.at + 1) % 7
        return before


class Worth:
    """What each of seven outputs is worth, in an array, as in prioritized replay; the highest is NumPy's number."""

    def __init__(self):
        self.each, self.most = np.ones(7), np.float64(1)

    def swapped(self, image):
        i = int(self.each.argmin())
        self.each[i] = image.sum().item() + self.most
        self.most = max(self.most, self.each[i])
        return image.new_full(image.shape, self.each.sum())


class Slotted:
    """The last output and how many there were, in slots."""

    __slots__ = ("count", "last")

    def __init__(self):
        self.count, self.last = 1, torch.zeros(2)

    def swapped(self, image):
        before, self.last, self.count = self.last / self.count, image, self.count + 1
        return before


class Rollout:
    """Outputs, what each was worth and whether it was the last, in lists side by side, as PPO scripts have them."""

    def __init__(self):
        self.images, self.worth, self.last, self.counts, self.runs = [], [], [], {"all": 0}, [[0], [0]]

    def swapped(self, image):
        self.images.append(image)
        self.worth.append(image.sum().item())
        self.last = [*self.last, len(self.images) % 3 == 0]
        self.counts["all"] += 1
        self.runs[0].append(len(self.images))
        return image + sum(self.worth) / len(self.worth) + len(self.runs[0]) + self.counts["all"] + sum(self.last)


class Long:
    """A replay memory of more steps than are looked at one by one."""

    def __init__(self):
        self.steps = deque(((torch.ones(2) * i, i) for i in range(3000)), maxlen=3000)

    def swapped(self, image):
        self.steps.append((image, len(self.steps)))
        return self.steps[random.randrange(3000)][0] + self.steps[-5][0]


class Tree:
    """Steps and what each is worth, in an array of objects and one of numbers, as in prioritized replay."""

    def __init__(self):
        self.steps, self.worth, self.at = np.zeros(8, dtype=object), np.zeros(8), 0

    def swapped(self, image):
        self.steps[self.at], self.worth[self.at] = (image, self.at), image.sum().item()
        self.at = (self.at + 1) % 8
        return sum(step[0] for step in self.steps if step != 0) * self.worth.max()


class Target:
    """A net that a copy of it takes the place of at every second step, as in deep Q-learning; and the best weights."""

    def __init__(self):
        self.steps, self.net, self.old, self.best = 0, nn.Linear(2, 2), [], None

    def swapped(self, image):
        self.steps += 1
        if self.steps % 2 == 0:
            self.old.append(self.net)
            self.net = copy.deepcopy(self.net)
            self.net.bias.data += image
            self.best = self.net.state_dict()
        return self.net(image).detach()

    def state_dict(self):
        return {"steps": self.steps, "nets": [net.state_dict() for net in (self.net, *self.old)], "best": self.best}


def kept_in(store):
    if isinstance(store, Slotted):
        return store.count, store.last
    return store.state_dict() if isinstance(store, Target) else vars(store)


def parts():
    random.seed(0)
    torch.manual_seed(0)
    net = nn.Linear(4, 2)
    return net, optim.SGD(net.parameters(), lr=0.1), DataLoader(TensorDataset(torch.randn(24, 4)), 4, shuffle=True)


def a_step(store, net, optimizer, batch):
    outputs = net(batch)
    optimizer.zero_grad()
    loss = (outputs - store.swapped(outputs.detach().mean(0))).square().mean()
    loss.backward()
    optimizer.step()
    return loss


def by_a_step(store, net, optimizer, loader, fails):
    steps = itertools.count()

    def train_step(draw):
        loss = a_step(store, net, optimizer, *draw())
        if fails and next(steps) == 5:
            raise KeyboardInterrupt
        return loss

    find_lr(net, optimizer, loader=loader, train_step=train_step, **QUICK)


def by_a_loop(store, net, optimizer, loader, fails):
    with RangeTest(net, optimizer, **QUICK) as test:
        for i, (batch,) in enumerate(test(loader)):
            test.record(a_step(store, net, optimizer, batch))
            if fails and i == 5:
                raise KeyboardInterrupt


def trained(kind, search, fails=False):
    """A training's losses and its end, with a search after its third step."""
    torch.manual_seed(1)
    store, (net, optimizer, loader) = kind(), parts()
    losses = [a_step(store, net, optimizer, batch).item() for (batch,), _ in zip(loader, range(3), strict=False)]
    if search is not None:
        with pytest.raises(KeyboardInterrupt) if fails else nullcontext():
            search(store, net, optimizer, loader, fails)
    losses += [a_step(store, net, optimizer, batch).item() for (batch,), _ in zip(loader, range(6), strict=False)]
    return bits([losses, net.state_dict(), optimizer.state_dict(), kept_in(store), torch.get_rng_state()])


@pytest.mark.parametrize("search", [by_a_step, by_a_loop], ids=["a step", "a loop"])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("kind", [Pool, Ring, Worth, Slotted, Rollout, Long, Tree, Target])
def test_what_an_object_keeps_of_tensors_and_how_many(kind, fails, search):
    assert trained(kind, search, fails) == trained(kind, None)


@pytest.mark.parametrize("search", [by_a_step, by_a_loop], ids=["a step", "a loop"])
def test_a_list_that_holds_itself(search):
    store, (net, optimizer, loader) = Pool(), parts()
    knot = [None]
    knot.append(knot)
    store.__dict__ = {"knot": knot, **vars(store)}  # before what would end the look
    search(store, net, optimizer, loader, fails=False)
    assert store.filled == 0
    assert store.knot[1] is store.knot is knot


def test_what_a_loop_writes_down_by_itself_stays():
    store, (net, optimizer, loader) = Pool(), parts()
    seen, losses, means, counts = torch.zeros(9), np.zeros(9), [], {"steps": 0}
    with RangeTest(net, optimizer, **QUICK) as test:
        for i, (batch,) in enumerate(test(loader)):
            test.record(loss := a_step(store, net, optimizer, batch))
            seen[i] = losses[i] = loss.item()
            means.append(net.weight.detach().mean(0))
            counts["steps"] += 1
    assert seen.all()
    assert losses.all()
    assert len(means) == counts["steps"] == 9
    assert store.filled == 0


QUEUE = []


def made_of(kind):
    """A function that keeps outputs of earlier steps: by name, in a list, in a dict, in a tensor, in a global."""
    mean, seen, last, rows = torch.zeros(2), [torch.zeros(2)], {"mean": torch.zeros(2)}, torch.zeros(3, 2)
    QUEUE[:] = [torch.zeros(2)]

    def by_name(image):
        nonlocal mean
        mean = mean.lerp(image, 0.1)
        return image - mean

    def in_list(image):
        seen.append(image)
        return image - torch.stack(seen).mean(0)

    def in_dict(image):
        last["mean"] = last["mean"].lerp(image, 0.1)
        return image - last["mean"]

    def in_place(image):
        rows[1:] = rows[:-1].clone()
        rows[0] = image
        return image - rows.mean(0)

    def in_global(image):
        QUEUE.append(image)
        return image - torch.stack(QUEUE).mean(0)

    def by_another(image):
        return by_name(in_list(image))

    function = locals()[kind]
    return SimpleNamespace(swapped=function), lambda: [mean, *seen, last["mean"], rows, *QUEUE]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("kind", ["by_name", "in_list", "in_dict", "in_place", "in_global", "by_another"])
def test_what_a_function_that_a_loop_calls_keeps(kind, fails):
    (store, state), (net, optimizer, loader) = made_of(kind), parts()
    for (batch,), _ in zip(loader, range(3), strict=False):
        a_step(store, net, optimizer, batch)
    before = bits(state())
    looped(store.swapped, net, optimizer, loader, fails)
    assert bits(state()) == before


def looped(swapped, net, optimizer, loader, fails):
    """A loop that names only the function."""
    with pytest.raises(KeyboardInterrupt) if fails else nullcontext(), RangeTest(net, optimizer, **QUICK) as test:
        for i, (batch,) in enumerate(test(loader)):
            outputs = net(batch)
            loss = (outputs - swapped(outputs.detach().mean(0))).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            test.record(loss)
            if fails and i == 5:
                raise KeyboardInterrupt


class Endless:
    """A loader's batches without an end, by an iterator that it holds."""

    def __init__(self, loader):
        self.stream = iter(loader)

    def next(self):
        return next(self.stream)[0]


def forever(loader):
    while True:
        yield from loader


STREAMS = {
    "a loader's": Endless,
    "a generator": lambda loader: Endless(forever(loader)),
    "of several": lambda loader: Endless(itertools.chain(forever(loader))),
}


def drawn_by_hand(kind, door, *, again=False):
    """A training that draws by itself, with a search in it or None: its losses before and after."""
    net, optimizer, loader = parts()
    batches, store = STREAMS[kind](loader), Ring()
    if again:
        batches.stream = rewindable(batches.stream)
    losses = [a_step(store, net, optimizer, batches.next()).item()]
    if door == "a loop":
        with RangeTest(net, optimizer, **QUICK | {"num_steps": 3}) as test:
            for _ in test.steps():
                test.record(a_step(store, net, optimizer, batches.next()))
    elif door == "a step":
        how = QUICK | {"num_steps": 3}
        find_lr(net, optimizer, loader=[0], train_step=lambda _: a_step(store, net, optimizer, batches.next()), **how)
    return [*losses, a_step(store, net, optimizer, batches.next()).item()]


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("door", ["a loop", "a step"])
def test_an_iterator_that_is_drawn_from_is_named(door, kind, caplog):
    assert drawn_by_hand(kind, door) != drawn_by_hand(kind, None)
    warned = [record.getMessage() for record in caplog.records if "rewindable" in record.getMessage()]
    assert len(warned) == 1
    assert warned[0].startswith("batches.stream is an open ")


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("door", ["a loop", "a step"])
def test_a_rewindable_stream_that_is_drawn_from_by_hand(door, kind, caplog):
    assert drawn_by_hand(kind, door, again=True) == drawn_by_hand(kind, None)
    assert "drawn from" not in caplog.text


def test_an_iterator_that_is_only_there_is_not_named(caplog):
    net, optimizer, loader = parts()
    epochs = iter(range(9))
    source = forever(loader)
    batches = rewindable(source)
    next(epochs), next(source)
    with RangeTest(net, optimizer, **QUICK) as test:
        for (batch,) in test(batches):
            test.record(a_step(Ring(), net, optimizer, batch))
    assert next(epochs) == 1
    assert "drawn from" not in caplog.text
