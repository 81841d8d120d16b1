"""What findlr can't put back, as docs/restore.md says: where one of these turns red, the page has become too modest."""

import copy
import functools
import io
import itertools
import mmap
import queue
from array import array

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from findlr import RangeTest, find_lr
from tests.torch.snapshot.test_reach import search_by
from tests.torch.training import Samples, Training, mlp


def test_an_array_in_a_dataset():
    class Counting(Samples):
        def __init__(self, bomb):
            super().__init__(bomb)
            self.reads = torch.zeros(len(self))

        def __getitem__(self, i):
            self.reads[i] += 1
            return super().__getitem__(i)

    training = Training()
    data = Counting(training.bomb)
    find_lr(training.model, training.optimizer, training.criterion, torch.utils.data.DataLoader(data, 8), num_steps=5)
    assert data.reads.sum() > 0


def test_a_stream_of_a_sampler(caplog):
    class Endless(torch.utils.data.Sampler):
        def __init__(self, n):
            self.n, self.stream = n, itertools.count()

        def __len__(self):
            return self.n

        def __iter__(self):
            return (i % self.n for i in itertools.islice(self.stream, self.n))

    training = Training()
    data = Samples(training.bomb)
    sampler = Endless(len(data))
    loader = torch.utils.data.DataLoader(data, 8, sampler=sampler)
    find_lr(training.model, training.optimizer, training.criterion, loader, num_steps=5)
    assert next(sampler.stream) > 0
    assert "stream of the loader's Endless is an open count" in caplog.text


class Lines(torch.utils.data.IterableDataset):
    """Its passes go on with one stream; or each has its own, which it keeps, too."""

    def __init__(self, *, anew):
        self.anew, self.stream = anew, itertools.count()

    def __iter__(self):
        if self.anew:
            self.stream = itertools.count()
        for i in itertools.islice(self.stream, 16):
            yield torch.full((16,), i % 16 / 16), i % 3


@pytest.mark.parametrize(("anew", "workers", "warns"), [(False, 0, 1), (True, 0, 0), (False, 1, 0)])
def test_a_stream_of_a_dataset(anew, workers, warns, caplog):
    training, data = Training(), Lines(anew=anew)
    stream = data.stream
    loader = torch.utils.data.DataLoader(data, 8, num_workers=workers)
    for times in (1, 2):
        find_lr(training.model, training.optimizer, training.criterion, loader, num_steps=5)
        assert caplog.text.count("stream of Lines is an open count that the search has drawn from") == times * warns
        assert data.stream is stream
    assert (next(stream) > 0) == bool(warns)  # a worker has a copy of it


def test_a_batch_that_is_written_into():
    training = Training()
    inputs, targets = next(iter(training.loader))
    before = inputs.clone()

    def loss_fn(model, batch):
        return training.criterion(model(batch[0].mul_(0.9)), batch[1])

    find_lr(training.model, training.optimizer, loss_fn=loss_fn, loader=[(inputs, targets)], num_steps=5)
    assert not torch.equal(inputs, before)


class Counter:
    """A loss that anneals by how often it was called."""

    def __init__(self):
        self.calls, self.log = 0, []

    def __call__(self, model, batch):
        self.calls += 1
        self.log.append(self.calls)
        return nn.functional.cross_entropy(model(batch[0]), batch[1]) * (1 + self.calls / 1000)


def test_what_pandas_or_a_queue_holds():
    training, waiting, worth = Training(), queue.Queue(), pd.DataFrame({"each": [0.0, 0.0]})

    def loss_fn(model, batch):
        outputs = model(batch[0])
        waiting.put(outputs.detach().mean(0))
        worth.loc[0, "each"] += 1
        return nn.functional.cross_entropy(outputs, batch[1])

    find_lr(training.model, training.optimizer, loss_fn=loss_fn, loader=training.loader, num_steps=5)
    assert not waiting.empty()
    assert worth.loc[0, "each"] > 0


@pytest.mark.parametrize("bound", [None, 8])
@pytest.mark.parametrize("before", [0, 1])
def test_what_a_cache_first_takes_in_a_search(before, bound, caplog):
    training = Training()

    @functools.lru_cache(maxsize=bound)
    def at_first(which):
        return copy.deepcopy(training.model)

    def loss_fn(model, batch):
        return nn.functional.cross_entropy(model(batch[0]) + at_first(0)(batch[0]), batch[1])

    for i in range(before):
        at_first(i + 1)
    find_lr(training.model, training.optimizer, loss_fn=loss_fn, loader=training.loader, num_steps=5)
    is_left = bool(bound and before)
    assert at_first.cache_info().currsize == before + is_left
    assert ("the cache of at_first has taken" in caplog.text) == is_left


def test_a_cache_with_a_bound_that_takes_nothing_new_is_not_named(caplog):
    training = Training()

    @functools.lru_cache
    def mask(rows):
        return torch.ones(rows, 1)

    def loss_fn(model, batch):
        return nn.functional.cross_entropy(model(batch[0]) * mask(len(batch[0])), batch[1])

    mask(3)
    mask(8)
    find_lr(training.model, training.optimizer, loss_fn=loss_fn, loader=training.loader, num_steps=3)
    assert mask.cache_info().currsize == 2
    assert "cache" not in caplog.text


@pytest.mark.parametrize("verify", [False, True])
def test_a_number_that_a_loss_function_keeps(verify, caplog):
    training, loss_fn = Training(), Counter()
    how = {"verify": True, "total_steps": 200, "num_steps": 30} if verify else {"num_steps": 5}
    find_lr(training.model, training.optimizer, loss_fn=loss_fn, loader=training.loader, **how)
    assert loss_fn.calls == len(loss_fn.log) > 0
    warned = [each.getMessage() for each in caplog.records if "keeps a number" in each.getMessage()]
    assert len(warned) == 1
    assert "not put back: calls was 0 and is " in warned[0]


def counting(function):
    @functools.wraps(function)
    def counted(*args):
        counted.calls += 1
        return function(*args) * (1 + counted.calls / 1000)

    counted.calls = 0
    return counted


def test_a_number_that_a_function_keeps_which_a_loop_calls(caplog):
    training, seen, steps = Training(), 0, 0
    loss_of = counting(nn.functional.cross_entropy)

    def scaled(loss):
        return loss * (1 + steps / 1000)

    def told():
        return steps

    with RangeTest(training.model, training.optimizer, num_steps=5) as test:
        for inputs, targets in test(training.loader):
            loss = scaled(loss_of(training.model(inputs), targets))
            training.optimizer.zero_grad()
            loss.backward()
            training.optimizer.step()
            test.record(loss)
            seen, steps = seen + len(inputs), steps + 1
    assert loss_of.calls == steps == told() == 5
    assert seen > 0  # and no function reads it
    warned = [each.getMessage() for each in caplog.records if "keeps a number" in each.getMessage()]
    assert ["cross_entropy.calls was 0 and is 5" in each for each in warned].count(True) == 1
    assert ["steps was 0 and is 5" in each for each in warned].count(True) == 1
    assert len(warned) == 2


@pytest.mark.parametrize("replaces", [True, False])
def test_a_tensor_that_a_loop_names_and_a_function_uses(replaces, caplog):
    training, mean, data, own = Training(), torch.zeros(()), torch.full((2,), torch.nan), torch.zeros(())
    loss = torch.zeros(())

    def loss_of(outputs, targets):
        return training.criterion(outputs, targets) * (1 + mean / 1000) + 0 * data[:0].sum()

    with RangeTest(training.model, training.optimizer, num_steps=5) as test:
        for inputs, targets in test(training.loader):
            loss = loss_of(training.model(inputs), targets)
            training.optimizer.zero_grad()
            loss.backward()
            training.optimizer.step()
            test.record(loss)
            own = own + loss.detach()
            mean = mean + loss.detach() if replaces else mean.add_(loss.detach())
    assert mean == own > 0
    assert caplog.text.count("that the loop itself has changed, and it is not put back: loss_of.mean.") == 1
    assert caplog.text.count("WARNING") == 1


@pytest.mark.parametrize("door", ["loss_fn", "train_step", "loop"])
def test_of_a_bar_nothing_is_named(door, caplog):
    tqdm = pytest.importorskip("tqdm").tqdm
    training, bar = Training(), tqdm(total=9, file=io.StringIO(), mininterval=0)

    def loss_fn(model, batch):
        loss = training.criterion(model(batch[0]), batch[1])
        bar.set_postfix(loss=loss.item())
        bar.update()
        return loss

    search_by(door, training.model, training.optimizer, training.loader, loss_fn)
    assert bar.n > 0
    assert not caplog.text


def test_a_flag_or_a_text_that_a_loss_function_keeps_is_named(caplog):
    training, began, phase, best, same = Training(), False, "warm", None, True

    def loss_fn(model, batch):
        nonlocal began, phase, best
        loss = training.criterion(model(batch[0]), batch[1]) * same
        began, phase, best = True, "cold", 3
        return loss

    find_lr(training.model, training.optimizer, loss_fn=loss_fn, loader=training.loader, num_steps=5)
    assert began is same
    for kind, change in (("flag", "began was False and is True"), ("number", "best was None and is 3")):
        assert f"keeps a {kind} that the search has changed, and that is not put back: {change}" in caplog.text
    assert "keeps a text that the search has changed, and that is not put back: phase was warm" in caplog.text
    assert caplog.text.count("has changed, and that") == 3


def test_of_a_list_or_a_dict_of_numbers_one_is_named(caplog):
    training, last, times = Training(), [0.0] * 3, {"first": 0, "second": 0}

    def loss_fn(model, batch):
        loss = training.criterion(model(batch[0]), batch[1])
        last[:] = [loss.item()] * 3
        times.update({kind: count + 1 for kind, count in times.items()})
        return loss

    find_lr(training.model, training.optimizer, loss_fn=loss_fn, loader=training.loader, num_steps=5)
    warned = [each.getMessage() for each in caplog.records if "keeps a number" in each.getMessage()]
    assert len(warned) == 2
    assert times == {"first": times["first"], "second": times["first"]}
    assert "last[0] was 0.0" in warned[0]
    assert "times['first'] was 0" in warned[1]


class Cell:
    def __init__(self):
        self.visits = 0


def test_of_objects_in_lists_one_is_named(caplog):
    training, grid, seen = Training(), [[Cell() for _ in range(5)] for _ in range(4)], {"a": Cell(), "b": Cell()}

    def loss_fn(model, batch):
        for place, row in enumerate(grid):
            row[int(batch[0][0, 0] > 0)].visits += place + 1
        seen["ab"[int(batch[0][0, 1] > 0)]].visits -= 1
        return training.criterion(model(batch[0]), batch[1])

    given = (training.model, training.optimizer)
    find_lr(*given, loader=training.loader, loss_fn=loss_fn, num_steps=8, total_steps=200, verify=True)
    named = [each.getMessage().split(": ")[1] for each in caplog.records if "keeps a number" in each.getMessage()]
    assert sorted(name.partition("[")[0] for name in named) == ["grid", "seen"]


def test_a_number_that_is_in_restore_is_put_back_and_not_named(caplog):
    training, loss_fn = Training(), Counter()
    loss_fn.state_dict = lambda: {"calls": loss_fn.calls}
    loss_fn.load_state_dict = lambda state: setattr(loss_fn, "calls", state["calls"])
    how = {"loss_fn": loss_fn, "loader": training.loader, "num_steps": 5}
    find_lr(training.model, training.optimizer, restore=[loss_fn], **how)
    assert loss_fn.calls == 0
    assert "keeps a number" not in caplog.text


def test_a_large_array_or_tensor(caplog):
    training, array, tensor = Training(), np.zeros(300_000), torch.zeros(300_000)
    same, bypassed, kept = np.ones((400_000, 2)), torch.zeros(500_000), torch.full((600_000,), torch.nan)

    def loss_fn(model, batch):
        batch = [batch[0] * same[0, 0] + 0 * kept[:0].sum(), batch[1]]
        array[0] += 1
        tensor[0] += 1
        bypassed.data += 1
        return training.criterion(model(batch[0]), batch[1])

    find_lr(training.model, training.optimizer, loader=training.loader, loss_fn=loss_fn, num_steps=5)
    assert array[0] == tensor[0] == 5
    assert "a tensor of shape (300000,)" in caplog.text
    assert "an array of shape (300000,)" in caplog.text
    assert "a tensor of shape (500000,)" in caplog.text
    assert "(600000,)" not in caplog.text
    assert "(400000, 2)" not in caplog.text


@pytest.mark.parametrize("door", ["loss_fn", "loop"])
def test_tensors_in_a_long_list(door, caplog):
    training = Training()
    averages, data = [torch.zeros(1) for _ in range(1001)], [torch.zeros(1) for _ in range(1001)]

    def loss_fn(model, batch):
        torch._foreach_add_(averages[:1000], 1)
        return training.criterion(model(batch[0] + data[0]), batch[1])

    search_by(door, training.model, training.optimizer, training.loader, loss_fn)
    assert averages[0] > 0
    warned = [each.getMessage() for each in caplog.records if "a list of more than 1,000" in each.getMessage()]
    assert len(warned) == 1
    assert warned[0].startswith("1000 tensors")


@pytest.mark.parametrize("kind", [bytearray(1), array("d", [0.0]), mmap.mmap(-1, 1)], ids=["bytes", "array", "memory"])
def test_numbers_in_a_buffer(kind):
    training = Training()

    def loss_fn(model, batch):
        kind[0] = 1
        return training.criterion(model(batch[0]), batch[1])

    find_lr(training.model, training.optimizer, loader=training.loader, loss_fn=loss_fn, num_steps=5)
    assert kind[0] == 1


class Replay:
    """Rows of what was seen, in a ring that is larger than what is put back."""

    def __init__(self):
        self.rows, self.at = np.zeros((100_000, 6)), 0

    def add(self, row):
        self.rows[self.at] = row
        self.at += 1


def test_a_replay_buffer_that_a_loop_fills(caplog):
    training, replay = Training(), Replay()
    with RangeTest(training.model, training.optimizer, num_steps=20, max_lr=1e-3) as test:
        for inputs, targets in test(training.loader):
            for row in inputs[:, :6]:
                replay.add(row.numpy())
            loss = training.criterion(training.model(inputs), targets)
            training.optimizer.zero_grad()
            loss.backward()
            training.optimizer.step()
            test.record(loss)
    assert replay.at == 0
    assert replay.rows.any()
    assert "an array of shape (100000, 6)" in caplog.text


class Environment:
    steps = 0

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


@pytest.mark.parametrize("restored", [False, True])
def test_an_environment(restored):
    training, environment = Training(), Environment()

    def loss_fn(model, batch):
        environment.steps += 1
        return training.criterion(model(batch[0]), batch[1])

    restore = [environment] if restored else []
    find_lr(training.model, training.optimizer, loader=training.loader, loss_fn=loss_fn, restore=restore, num_steps=5)
    assert (environment.steps == 0) == restored


def test_a_graph_from_before():
    training = Training(mlp)
    inputs, targets = training.batch()
    loss = training.criterion(training.model(inputs), targets)
    training.find()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
