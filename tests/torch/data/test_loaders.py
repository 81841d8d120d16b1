"""The batches after a search, and their order, are those of a training without one, whatever loads them."""

import multiprocessing
import random

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from findlr import find_lr
from findlr.torch.data.batches import TorchBatches

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it

WEIGHTS = torch.arange(1.0, 47.0)


class Numbers(Dataset):
    """46 examples; each is told by its first number, and noisy by the worker's or the training's random state."""

    def __len__(self):
        return 46

    def __getitem__(self, i):
        return torch.tensor([float(i), random.random(), float(np.random.rand()), torch.rand(()).item()])


class Streamed(IterableDataset):
    """The same, shuffled; each worker reads its part."""

    def __iter__(self):
        order, worker, numbers = torch.randperm(46).tolist(), get_worker_info(), Numbers()
        part = order if worker is None else [i for i in order if i % worker.num_workers == worker.id]
        return (numbers[i] for i in part)


class Buckets(BatchSampler):
    """Batches of neighbours, in an order that its own state decides."""

    def __init__(self):
        super().__init__(SequentialSampler(Numbers()), 8, drop_last=False)
        self.starts, self.rng, self.epoch = list(range(0, 46, 8)), np.random.default_rng(3), 0

    def __iter__(self):
        self.epoch += 1
        self.rng.shuffle(self.starts)
        return iter([[(start + self.epoch + k) % 46 for k in range(8)] for start in self.starts])


def generator():
    return torch.Generator().manual_seed(5)


SAMPLERS = {
    "random": lambda: dict(sampler=RandomSampler(Numbers()), batch_size=8),
    "random-own-generator": lambda: dict(sampler=RandomSampler(Numbers(), generator=generator()), batch_size=8),
    "replacement": lambda: dict(sampler=RandomSampler(Numbers(), replacement=True, num_samples=50), batch_size=8),
    "weighted": lambda: dict(sampler=WeightedRandomSampler(WEIGHTS, 40), batch_size=8),
    "weighted-own-generator": lambda: dict(
        sampler=WeightedRandomSampler(WEIGHTS, 40, generator=generator()), batch_size=8
    ),
    "subset": lambda: dict(sampler=SubsetRandomSampler(range(3, 40)), batch_size=8),
    "distributed": lambda: dict(sampler=DistributedSampler(Numbers(), num_replicas=2, rank=1, seed=3), batch_size=4),
    "batch-sampler": lambda: dict(batch_sampler=BatchSampler(RandomSampler(Numbers()), 8, drop_last=True)),
    "batch-sampler-of-ones-own": lambda: dict(batch_sampler=Buckets()),
    "shuffle": lambda: dict(shuffle=True, batch_size=8),
    "shuffle-own-generator": lambda: dict(shuffle=True, batch_size=8, generator=generator()),
}


def map_style(kind, sampler, **how):
    return lambda: kind(Numbers(), **SAMPLERS[sampler](), **how)


def stream_style(kind, **how):
    return lambda: kind(Streamed(), batch_size=8, **how)


PERSISTENT = dict(num_workers=2, persistent_workers=True)
PROCESSES = ["shuffle", "random-own-generator", "distributed", "batch-sampler-of-ones-own"]
LOADERS = {
    **{name: map_style(DataLoader, name) for name in SAMPLERS},
    "iterable": stream_style(DataLoader),
    **{f"stateful-{name}": map_style(StatefulDataLoader, name) for name in SAMPLERS},
    "stateful-iterable": stream_style(StatefulDataLoader),
}
WORKERS = {
    **{f"{name}-2-workers": map_style(DataLoader, name, num_workers=2) for name in PROCESSES},
    **{f"{name}-persistent": map_style(DataLoader, name, **PERSISTENT) for name in PROCESSES[:2]},
    "iterable-2-workers": stream_style(DataLoader, num_workers=2),
    "iterable-persistent": stream_style(DataLoader, **PERSISTENT),
    "stateful-2-workers": map_style(StatefulDataLoader, "shuffle", num_workers=2),
    "stateful-persistent": map_style(StatefulDataLoader, "shuffle", **PERSISTENT),
}


def batches(make, before, call):
    """Train for ``before`` batches, search, train on for two epochs; every batch, and the random states after them."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    loader, seen, first = make(), [], True
    net = nn.Linear(4, 1)
    optimizer = optim.SGD(net.parameters(), lr=1e-9)
    for epoch in range(3):
        if isinstance(loader.sampler, DistributedSampler):
            loader.sampler.set_epoch(epoch)
        if first and before == 0:
            first = False
            call(net, optimizer, loader)
        iterator = iter(loader)
        for batch in iterator:
            seen.append(batch.tolist())
            if first and len(seen) == before:
                first = False
                call(net, optimizer, loader)
        del iterator
    end = [random.random(), np.random.rand(), torch.rand(1).item()]
    kept = getattr(loader, "_iterator", None)
    if hasattr(kept, "_shutdown_workers"):
        kept._shutdown_workers()
    return seen, end


def search(net, optimizer, loader):
    find_lr(net, optimizer, loader=loader, loss_fn=lambda model, batch: model(batch).mean(), num_steps=9)


def race(net, optimizer, loader):
    find_lr(
        net,
        optimizer,
        loader=loader,
        loss_fn=lambda model, batch: (model(batch / 46) - 1).square().mean(),
        num_steps=20,
        verify=True,
        schedule="cosine",
        total_steps=100,
        budget=100,
    )


def state(net, optimizer, loader):
    loader.state_dict()


@pytest.mark.parametrize("before", [0, 2, 5], ids=["fresh", "open", "nearly-over"])
@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_the_order_of_the_batches(make, before):
    assert batches(make, before, search) == batches(make, before, lambda *_: None)


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_the_order_of_the_batches_after_a_race(make):
    assert batches(make, 2, race) == batches(make, 2, lambda *_: None)


@pytest.mark.parametrize("before", [0, 2], ids=["fresh", "open"])
@pytest.mark.parametrize("make", WORKERS.values(), ids=WORKERS)
def test_the_order_of_the_batches_of_workers(make, before):
    children = set(multiprocessing.active_children())
    assert batches(make, before, search) == batches(make, before, lambda *_: None)
    assert set(multiprocessing.active_children()) <= children


@pytest.mark.parametrize("before", [0, 2], ids=["fresh", "open"])
@pytest.mark.parametrize("how", [{}, {"num_workers": 2}], ids=["0-workers", "2-workers"])
def test_a_loader_that_was_asked_for_its_state_before(how, before):
    make = map_style(StatefulDataLoader, "shuffle", **how)
    both = lambda *given: (state(*given), search(*given))  # noqa: E731
    assert batches(make, before, both) == batches(make, before, state)


def test_a_loader_that_will_go_on_where_a_checkpoint_was_made():
    def resumed():
        torch.manual_seed(2)
        first = map_style(StatefulDataLoader, "shuffle")()
        iterator = iter(first)
        for _ in range(2):
            next(iterator)
        loader = map_style(StatefulDataLoader, "shuffle")()
        loader.load_state_dict(first.state_dict())
        return loader

    assert batches(resumed, 0, search) == batches(resumed, 0, lambda *_: None)


def test_what_a_loader_tells_of_its_state_is_the_same_after_a_search():
    torch.manual_seed(2)
    loader = map_style(StatefulDataLoader, "shuffle")()
    iterator = iter(loader)
    next(iterator)
    before = loader.state_dict()
    net = nn.Linear(4, 1)
    search(net, optim.SGD(net.parameters(), lr=1e-9), loader)
    after = loader.state_dict()
    assert str(before) == str(after)


def numbers_in(batches):
    return {number for (batch,) in batches for number in batch.flatten().tolist()}


@pytest.mark.parametrize(("examples", "size"), [(20, 20), (20, 7), (28, 7), (5, 5)])
def test_a_loader_of_few_batches_sets_a_fifth_of_its_examples_aside(examples, size):
    data = TensorDataset(torch.arange(float(examples))[:, None])
    batches = TorchBatches(DataLoader(data, size, shuffle=True, generator=torch.Generator().manual_seed(0)))
    held = numbers_in(batches.hold_out(8, 100, 0.3))
    trained = [batches.next() for _ in range(40)]
    assert len(held) == examples // 5
    assert numbers_in(trained) == set(range(examples)) - held
    assert {len(batch) for (batch,) in trained} == {size}


def test_of_four_examples_none_is_to_spare():
    batches = TorchBatches(DataLoader(TensorDataset(torch.arange(4.0)[:, None]), 4))
    assert numbers_in(batches.hold_out(1, 100, 1.0)) == numbers_in([batches.next()]) == set(range(4))


class Endless:
    """A loader that tells a length which no ``len`` can give."""

    def __len__(self):
        return 10**30

    def __iter__(self):
        return iter([(torch.ones(8, 4), torch.ones(8, 1))] * 40)


def test_a_length_that_is_too_large_is_none():
    net = nn.Linear(4, 1)
    how = dict(verify=True, total_steps=60, max_lr=0.1, progress=False)
    assert find_lr(net, optim.SGD(net.parameters(), 0.1), nn.MSELoss(), Endless(), **how).race is not None
