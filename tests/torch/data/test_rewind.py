"""Data that can be read only once: what the search draws comes again, or is said to be used up."""

import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn, optim

from findlr import ConfigurationError, DataEndedError, LoaderError, RangeTest, Stop, find_lr, rewindable

CALM = {"max_lr": 1e-2, "num_steps": 20, "divergence_threshold": 1e9}
VERIFIED = {"verify": True, "schedule": "cosine", "total_steps": 200, "budget": 100} | {
    "max_lr": 10.0,
    "divergence_threshold": 4.0,
}


def stream(count=1000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        x = torch.randn(4, 3, generator=generator)
        yield x, x.sum(dim=1, keepdim=True)


def net_and_optimizer():
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    return net, optim.SGD(net.parameters(), lr=0.01)


def search(loader, **how):
    net, optimizer = net_and_optimizer()
    return find_lr(net, optimizer, nn.MSELoss(), loader, **{**CALM, **how})


def loop(loader):
    net, optimizer = net_and_optimizer()
    with RangeTest(net, optimizer, **CALM) as test:
        for _ in range(2):
            for x, y in test(loader):
                loss = (net(x) - y).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                test.record(loss)
                if len(test._recording._read_points) == 5:
                    break
    return test.finding


def failing_search(error, at):
    def call(loader):
        seen = []

        def criterion(outputs, targets):
            seen.append(1)
            if len(seen) > at:
                raise error
            return (outputs - targets).square().mean()

        net, optimizer = net_and_optimizer()
        with pytest.raises(error):
            find_lr(net, optimizer, criterion, loader, **CALM, control_variate=False)

    return call


def mutating(loader):
    def criterion(outputs, targets):
        loss = (outputs - targets).square().mean()
        targets.zero_()
        return loss

    net, optimizer = net_and_optimizer()
    find_lr(net, optimizer, criterion, loader, **CALM, control_variate=False)


def twice(call):
    def both(loader):
        assert call(loader) == call(loader)

    return both


def short_of_memory(loader):
    with pytest.raises(LoaderError, match="max_bytes"):
        search(loader, num_steps=500)


CALLS = {
    "sweep": search,
    "race": lambda s: search(s, **VERIFIED),
    "loop": loop,
    "twice": twice(search),
    "race-twice": twice(lambda s: search(s, **VERIFIED)),
    "batches-changed-in-place": mutating,
    "short-of-memory": short_of_memory,
    **{
        f"{error.__name__}-{at}": failing_search(error, at)
        for error in (ValueError, KeyboardInterrupt)
        for at in (0, 5)
    },
}


@pytest.mark.parametrize("drawn", [0, 7])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_batches_that_were_drawn_come_again(call, drawn):
    data = rewindable(stream(), max_bytes=400 * 64 if call is CALLS["short-of-memory"] else 1 << 20)
    first = [next(data) for _ in range(drawn)]
    call(data)
    seen = [*first, *data]
    assert len(seen) == 1000
    for ours, theirs in zip(seen, stream(), strict=True):
        assert all(map(torch.equal, ours, theirs))
    assert data.bytes_kept == 0


def test_the_race_runs_on_a_stream():
    data = rewindable(stream())
    assert search(data, **VERIFIED).race is not None


def test_batches_are_let_go_as_they_come_again():
    data = rewindable(stream())
    [next(data) for _ in range(5)]
    assert data.bytes_kept == 0
    search(data)
    assert data.bytes_kept == 20 * 64  # 4 x 3 numbers and 4, of 4 bytes
    for left in reversed(range(20)):
        next(data)
        assert data.bytes_kept == left * 64
    next(data)
    assert data.bytes_kept == 0


def test_past_max_bytes_the_error_says_what_to_do():
    data = rewindable(stream(), max_bytes=64 * 10)
    with pytest.raises(LoaderError, match=r"704 bytes, and max_bytes is 640.*none is lost.*larger max_bytes") as caught:
        search(data, control_variate=False)
    assert len(caught.value.finding.curve) == 10


@pytest.mark.parametrize("call", [search, loop])
def test_where_the_data_end_the_sweep_ends_with_its_points(call):
    data = rewindable(stream(9))
    finding = call(data)
    assert (finding.stop, len(finding.curve)) == (Stop.DATA_ENDED, 9)
    assert finding.stop.sentence.startswith("The data ended")
    assert len(list(data)) == 9


def test_where_the_data_end_in_the_race_the_sweep_stands(caplog):
    data = rewindable(stream(25))
    finding = search(data, **VERIFIED)
    assert finding.race is None
    assert len(finding.curve) == 20
    assert "there is no race: the data ended" in caplog.text
    assert len(list(data)) == 25


@pytest.mark.parametrize("call", [search, loop])
def test_data_that_had_ended_before(call):
    with pytest.raises(DataEndedError, match="the data ended"):
        call(rewindable(stream(0)))


def test_a_bare_iterator_is_used_up_if_that_is_asked_for(caplog):
    caplog.set_level("INFO", logger="findlr")
    with pytest.raises(LoaderError, match=r"one-shot iterator.*rewindable.*consume=True"):
        search(stream())
    data = stream(30)
    search(data, consume=True)
    assert len(list(data)) == 10
    assert "generator are used up" in caplog.text
    assert search(stream(8), consume=True).stop is Stop.DATA_ENDED


class StartsOver:
    """A loader of the user's own that shuffles where it is opened, and goes on as itself."""

    def __init__(self, passes=1000):
        self.order, self.at, self.passes = np.arange(12), 12, passes

    def __iter__(self):
        np.random.shuffle(self.order)
        self.at, self.passes = 0 if self.passes else 12, self.passes - 1
        return self

    def __next__(self):
        if self.at == 12:
            raise StopIteration
        self.at += 1
        return torch.full((2, 3), float(self.order[self.at - 1])), torch.zeros(2, 1)


class HandsOver(StartsOver):
    """The same, but what it gives where it is opened comes from another function."""

    begin = StartsOver.__iter__

    def __iter__(self):
        return self.begin()


@pytest.mark.parametrize("call", [search, loop])
@pytest.mark.parametrize("begun", [0, 3])
@pytest.mark.parametrize("kind", [StartsOver, HandsOver])
def test_an_iterator_that_starts_over_is_no_one_shot_one(call, begun, kind):
    after = []
    for searches in (False, True):
        np.random.seed(0)
        data = kind()
        list(zip(iter(data) if begun else (), range(begun), strict=False))
        if searches:
            call(data)
        after.append([data.at, data.order.tolist(), data.passes, *(int(batch[0, 0]) for batch, _ in (*data, *data))])
    assert after[0] == after[1]


def test_data_that_end_with_a_later_pass():
    assert search(StartsOver(passes=1)).stop is Stop.DATA_ENDED


def test_a_refusal_does_not_open_the_iterator():
    class Once(StartsOver):
        def __iter__(self):
            return self

    data = Once()
    data.at = 3
    with pytest.raises(LoaderError, match="one-shot iterator"):
        search(data)
    assert data.at == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3,), "got int"),
        ((torch.tensor(3.0),), "got Tensor"),
        ((list,), "got the class list"),
        (([], 0), "above 0, got 0"),
        (([], 1.5), "got 1.5"),
        (([], True), "got True"),
    ],
)
def test_what_cannot_be_made_rewindable(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        rewindable(arguments[0], **({"max_bytes": arguments[1]} if len(arguments) > 1 else {}))


def test_a_batch_that_cannot_be_copied_is_not_lost():
    batches = [(i for i in range(3)), 5]
    data = rewindable(iter(batches))
    net, optimizer = net_and_optimizer()
    with pytest.raises(LoaderError, match="can't be copied"):
        find_lr(net, optimizer, loader=data, loss_fn=lambda model, batch: model(torch.ones(1, 3)).sum())
    assert list(data) == batches


def test_a_view_is_kept_alone():
    whole = torch.arange(1 << 16).float()
    data = rewindable(whole[i : i + 3] for i in range(100))
    net, optimizer = net_and_optimizer()
    find_lr(net, optimizer, loader=data, loss_fn=lambda model, batch: model(batch).square().sum() * 1e-9, **CALM)
    assert data.bytes_kept == 20 * 12
    assert next(data).untyped_storage().nbytes() == 12


class Loader:
    """A loader that goes on where it stands, and tells where that is."""

    def __init__(self):
        self.place, self.batches = SimpleNamespace(at=0), list(stream(200))

    def __iter__(self):
        while self.place.at < len(self.batches):
            self.place.at += 1
            yield self.batches[self.place.at - 1]

    def state_dict(self):
        return {"at": self.place.at}

    def load_state_dict(self, state):
        self.place.at = state["at"]


class Reader(Loader):
    """The same, that can be read only once."""

    def __iter__(self):
        return self

    def __next__(self):
        if self.place.at == len(self.batches):
            raise StopIteration
        self.place.at += 1
        return self.batches[self.place.at - 1]


PLACES = weakref.WeakKeyDictionary()


class Elsewhere(Reader):
    """The same, whose place no attribute shows."""

    place = property(lambda self: PLACES[self], PLACES.__setitem__)


@pytest.mark.parametrize("kind", [Loader, Reader, Elsewhere])
@pytest.mark.parametrize("how", [{}, VERIFIED], ids=["sweep", "race"])
@pytest.mark.parametrize("drawn", [0, 7])
def test_a_loader_with_a_state_dict_is_put_back_by_it(drawn, how, kind):
    data = kind()
    opened = iter(data)
    first = [next(opened) for _ in range(drawn)]
    search(data, **how)
    assert len([*first, *opened]) == 200
    assert data.place.at == 200
