"""What a search costs, in what does not depend on the machine: operations, reads, calls, memory."""

import gc
import itertools
import json
import subprocess
import sys
import tracemalloc
from collections import Counter

import pytest
import torch
from torch import nn, optim
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

import findlr
from findlr import TorchTrainable, find_lr

RANGE = dict(min_lr=1e-8, max_lr=1e-4)  # nothing diverges
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: optim.AdamW(p, lr=1e-3),
}
NO_MATTER = {"detach.default", "alias.default"}  # they compute nothing
MARKS = ("profiler._record_function_enter_new.default", "profiler._record_function_exit._RecordFunction")


class Operations(TorchDispatchMode):
    """Counts every operation, the backward pass's too."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).removeprefix("aten.")
        if name.startswith("_foreach_c"):  # as many as the tensors that it is given
            self.counts[name.removeprefix("_foreach_")] += len(args[0])
        else:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


def parts(optimizer="sgd", trained=0):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    inputs = torch.randn(160, 8)
    loader = DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(dim=1)), 16)
    given = net, OPTIMIZERS[optimizer](net.parameters()), nn.CrossEntropyLoss(), loader
    bare_loop(*given, trained)
    return given


def bare_loop(net, optimizer, criterion, loader, steps):
    batches = iter([batch for _ in range(-(-steps // len(loader))) for batch in loader])
    losses = []
    for _ in range(steps):
        inputs, targets = next(batches)
        optimizer.param_groups[0]["lr"] = 1e-5
        optimizer.zero_grad()
        loss = criterion(net(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())


def operations(work):
    with Operations() as seen:
        work()
    return Counter({name: count for name, count in seen.counts.items() if name not in NO_MATTER})


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_is_a_bare_loops_operations_and_no_more(optimizer):
    def sweep(steps):
        given = parts(optimizer, trained=10)
        return operations(lambda: find_lr(*given, **RANGE, num_steps=steps, control_variate=False))

    def loop(steps):
        given = parts(optimizer, trained=10)
        return operations(lambda: bare_loop(*given, steps))

    fifty_steps = sweep(100)
    fifty_steps.subtract(sweep(50))
    bare = loop(100)
    bare.subtract(loop(50))
    for mark in MARKS:
        bare[mark] -= 50  # zero_grad's, for the profiler
    assert +fifty_steps == +bare
    assert bare["_local_scalar_dense.default"] >= 50  # a read of the loss each


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_control_variate_is_a_forward_pass_and_a_read_more(optimizer):
    def sweep(steps, control_variate):
        given = parts(optimizer, trained=10)
        return operations(lambda: find_lr(*given, **RANGE, num_steps=steps, control_variate=control_variate))

    more = sweep(100, True) - sweep(50, True) - (sweep(100, False) - sweep(50, False))
    buffers = 3  # BatchNorm's, which the pass writes into
    assert more["clone.default"] == 50 * buffers
    assert more["_local_scalar_dense.default"] == 50
    assert not [name for name in more if "backward" in name]
    assert more["addmm.default"] == 50 * 2


def grouped(optimizer, modules, groups=True):
    """A warm training of many small modules, a param group each."""
    net = nn.Sequential(*(nn.LayerNorm(4) for _ in range(modules)))
    optimizer = OPTIMIZERS[optimizer]([{"params": m.parameters()} for m in net] if groups else net.parameters())
    net(torch.randn(2, 4)).square().sum().backward()
    optimizer.step()
    return TorchTrainable(net, optimizer, loader=[torch.ones(2, 4)], loss_fn=lambda net, x: net(x).sum())


def tensors_of(training):
    """Each tensor that a step can change."""
    tensors = [*training.model.parameters(), *training.model.buffers(), *(p.grad for p in training.model.parameters())]
    return tensors + [v for state in training.optimizer.state.values() for v in state.values() if torch.is_tensor(v)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "make",
    [lambda optimizer: TorchTrainable(*parts(optimizer, trained=3)), lambda optimizer: grouped(optimizer, 1000)],
    ids=["small", "thousand-groups"],
)
def test_a_snapshot_clones_each_tensor_once_and_a_restore_copies_it_once(make, optimizer):
    training = make(optimizer)
    made = []
    assert operations(lambda: made.append(training.snapshot())) == {"clone.default": len(tensors_of(training))}
    for _ in range(2):
        assert operations(made[0].put_back) == {"copy_.default": len(tensors_of(training))}


@pytest.mark.parametrize("groups", [False, True], ids=["one-group", "many-groups"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_snapshot_makes_few_python_calls_a_tensor(optimizer, groups):
    def counted(modules):
        training, made = grouped(optimizer, modules, groups), []
        return calls(lambda _: made.append(training.snapshot())), calls(lambda _: made[0].put_back())

    snapshot, restore = (more - less for more, less in zip(counted(100), counted(50), strict=True))
    assert snapshot <= 50 * 8  # a module has two parameters, two gradients, and their momenta
    assert restore <= 50 * 10


class Group(dict):
    """A param group that counts what is written into it."""

    writes = 0

    def __setitem__(self, key, value):
        self.writes += key == "lr"
        super().__setitem__(key, value)


def test_a_rate_is_written_once_a_step():
    given = parts()
    group = given[1].param_groups[0] = Group(given[1].param_groups[0])
    find_lr(*given, **RANGE, num_steps=50)
    assert group.writes == 50


def calls(work):
    """The Python calls of findlr's own that ``work`` makes, which is given a look at the count."""
    home = str(findlr.__path__[0])
    count = 0

    def profile(frame, event, _):
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(home)

    sys.setprofile(profile)
    try:
        work(lambda: count)
    finally:
        sys.setprofile(None)
    return count


def test_findlr_makes_few_python_calls_a_step_and_no_more_as_the_sweep_goes_on():
    find_lr(*parts(), **RANGE, control_variate=False)  # which imports, and looks at signatures
    given, marks = parts(), []
    whole = calls(
        lambda so_far: find_lr(*given, **RANGE, control_variate=False, on_step=lambda _: marks.append(so_far()))
    )
    steps = [later - earlier for earlier, later in itertools.pairwise(marks)]
    opening, others = steps[9::10], [count for step, count in enumerate(steps) if step % 10 != 9]
    assert len(set(opening)) == len(set(others)) == 1
    assert others[0] <= 25
    assert opening[0] <= 80  # a new pass over the data, whose place is remembered
    assert whole - sum(steps) <= 525  # set-up, snapshot, the first step, restore, verdict, rule


class Node:
    def __init__(self):
        self.count, self.losses, self.table = 0, [0.5], {"a": 1}


def function():
    return lambda: range(len(MARKS))


@pytest.mark.parametrize("make", [Node, function])
def test_what_a_loss_reaches_and_does_not_change_takes_few_calls_a_step(make):
    def counted(objects):
        net, optimizer, criterion, loader = parts()
        nodes = [Node(), *(make() for _ in range(objects))]

        def loss_fn(model, batch):
            nodes[0].count += 1  # so that the control variate's call of it is undone
            return criterion(model(batch[0]), batch[1])

        marks = []
        given = dict(loss_fn=loss_fn, loader=loader, on_step=lambda _: marks.append(so_far()))
        so_far = None

        def search(look):
            nonlocal so_far
            so_far = look
            find_lr(net, optimizer, **given, **RANGE, num_steps=20)

        calls(search)
        assert nodes[0].count == 20  # and a step's own is not
        return marks[-1] - marks[-2]

    more = counted(90) - counted(40)
    assert more <= 50 * 3  # an object is one, and has a list and a dict


def memory_at(*steps, control_variate):
    """Tensors alive, and bytes that Python has allocated, at these steps of a sweep."""
    seen = []

    def look(step):
        if step.index in steps:
            gc.collect()
            tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
            seen.append((tensors, tracemalloc.get_traced_memory()[0]))

    given = parts()
    tracemalloc.start()
    find_lr(*given, **RANGE, control_variate=control_variate, on_step=look)
    return seen


@pytest.mark.parametrize("control_variate", [False, True])
def test_memory_does_not_grow_with_the_steps(control_variate):
    # In a process of its own: what other tests left behind comes and goes.
    done = subprocess.run(
        [sys.executable, __file__, str(int(control_variate))], capture_output=True, text=True, check=True
    )
    (tensors, traced), (tensors_later, traced_later) = json.loads(done.stdout)
    assert tensors_later == tensors
    assert traced_later - traced < 50 * 400  # bytes: a point is a few numbers


if __name__ == "__main__":
    sys.stdout.write(json.dumps(memory_at(49, 99, control_variate=sys.argv[1] == "1")))
