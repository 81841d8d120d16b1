"""PyTorch trainings raced by other processes: the same runs to the bit, and everything is back at home."""

import logging
import multiprocessing
import re
import subprocess
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import findlr
from findlr import ConfigurationError, find_lr
from findlr.torch import trainable as module_of_trainables
from tests.at_home import HOME_ALONE

HOW = dict(total_steps=300, schedule="one_cycle", verify=True, budget=260, num_steps=40, progress=False)
HEAD = nn.Linear(1, 1)  # a global, as a script may have it


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as made:
        yield made


class Net(nn.Module):
    """Draws in its forward pass, and counts its batches."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))

    def forward(self, x):
        return self.layers(x + 0.01 * torch.randn(8))


def data():
    inputs = torch.randn(400, 8)
    return TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))


def adam(**how):
    """A model, an optimizer with a scheduler and a hook, a criterion and a loader, the same every time."""
    torch.manual_seed(0)
    net = Net()
    optimizer = optim.AdamW(net.parameters(), lr=1e-3)
    optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    optimizer.register_step_pre_hook(centred)
    return dict(model=net, optimizer=optimizer, criterion=nn.MSELoss(), loader=DataLoader(data(), 20, True), **how)


def centred(optimizer, args, kwargs):
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None and p.ndim > 1:
                p.grad -= p.grad.mean(dim=1, keepdim=True)


def clipped():
    return adam(accumulation_steps=2, clip_grad_norm=1.0, validation_loader=DataLoader(data(), 50))


def half():
    return adam(autocast="bf16")


def mse(head, model, batch):
    inputs, targets = batch
    return (head(model(inputs)) - targets).square().mean() + 0.001 * torch.rand(())


def with_head():
    """What trains only in the closure of its loss."""
    torch.manual_seed(0)
    net, head = Net(), nn.Linear(1, 1)
    optimizer = optim.SGD([*net.parameters(), *head.parameters()], lr=0.01, momentum=0.9)
    return dict(model=net, optimizer=optimizer, loss_fn=partial(mse, head), loader=DataLoader(data(), 20, True))


class OwnStep:
    """Leaves gradients, which the next step goes on from."""

    def __init__(self, net, optimizer):
        self.net, self.optimizer = net, optimizer

    def __call__(self, draw):
        inputs, targets = draw()
        loss = (self.net(inputs) - targets).square().mean()
        loss.backward()
        self.optimizer.step()
        for p in self.net.parameters():
            p.grad *= 0.1
        return loss


def own_step():
    torch.manual_seed(0)
    net = Net()
    optimizer = optim.SGD(net.parameters(), lr=0.01)
    step = OwnStep(net, optimizer)
    inputs, targets = data()[:20]
    (net(inputs) - targets).square().mean().backward()
    loader = DataLoader(data(), 20, True, generator=torch.Generator().manual_seed(5))
    return dict(model=net, optimizer=optimizer, train_step=step, loader=loader)


def tied():
    """A parameter whose memory is another one's, too."""
    given = adam()
    flat = torch.zeros(16)
    given["model"].layers[1].weight.data, given["model"].layers[1].bias.data = flat.fill_(1)[:16], flat[:16]
    return given


def all_of(given):
    """What must be as it was."""
    tensors = [*given["model"].state_dict().values(), torch.get_rng_state()]
    tensors += [p.grad for p in given["model"].parameters() if p.grad is not None]
    return [t.clone() for t in tensors], str(given["optimizer"].state_dict())


CASES = [adam, clipped, half, with_head, own_step, tied]


@pytest.mark.parametrize("make", CASES)
def test_runs_and_finding_are_the_same_and_all_is_back(make, pool):
    alone = find_lr(**make(), **HOW, executor=HOME_ALONE)
    assert len(alone.race.runs) == 4
    given = make()
    tensors, state = all_of(given)
    there = find_lr(**given, **HOW, executor=pool)
    assert there.race == alone.race
    assert (there.suggestion, there.cost) == (alone.suggestion, alone.cost)
    after, now = all_of(given)
    assert all(map(torch.equal, after, tensors))
    assert now == state


THREADS = ThreadPoolExecutor(2)  # of a worker
BEGUN = []


def begin(function, args, kwargs):
    BEGUN.append(THREADS.submit(function, *args, **kwargs))
    return len(BEGUN) - 1


def ended(number):
    return (BEGUN[number].result(),) if BEGUN[number].done() else None


class WithThreads(Executor):
    """One process whose threads make the tasks, as Dask's workers do."""

    def __init__(self, worker):
        self.worker, self.waits = worker, ThreadPoolExecutor(4)

    def submit(self, function, /, *args, **kwargs):
        return self.waits.submit(self.result, self.worker.submit(begin, function, args, kwargs))

    def result(self, begun):
        while (results := self.worker.submit(ended, begun.result()).result()) is None:
            time.sleep(0.01)
        return results[0]


def test_a_worker_with_several_threads_makes_one_run_at_a_time():
    alone = find_lr(**adam(), **HOW, executor=HOME_ALONE)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as worker:
        there = find_lr(**adam(), **HOW, executor=WithThreads(worker))
    assert there.race == alone.race


def test_where_the_batches_are_too_many_to_keep_the_loader_is_sent(pool, monkeypatch):
    monkeypatch.setattr(module_of_trainables, "MOST_KEPT_BYTES", 0)
    alone, there = (find_lr(**adam(), **HOW, executor=each) for each in (HOME_ALONE, pool))
    assert there.race.path == "parallel"
    assert there.race.runs == alone.race.runs


class Stream(IterableDataset):
    def __iter__(self):
        return iter(data())


def test_where_the_place_in_the_data_cannot_be_sent_the_runs_are_made_here(pool, monkeypatch, caplog):
    monkeypatch.setattr(module_of_trainables, "MOST_KEPT_BYTES", 0)
    with caplog.at_level(logging.WARNING, "findlr"):
        finding = find_lr(**adam() | {"loader": DataLoader(Stream(), 20)}, **HOW, executor=pool)
    assert finding.race.path == "sequential"
    assert "can't be kept" in caplog.text


def test_the_script_on_the_page_runs_and_prints_what_stands_below_it(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "workers.md").read_text()
    code, shown = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, flags=re.DOTALL).groups()
    (tmp_path / "page.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "page.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == (shown, 0), done.stderr


def test_threads_and_modes_of_home_hold_in_a_worker_for_the_length_of_a_run(pool):
    before = pool.submit(torch.get_num_threads).result()
    threads = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        alone, there = (find_lr(**adam(), **HOW, executor=each) for each in (HOME_ALONE, pool))
    finally:
        torch.set_num_threads(threads)
    assert there.race.runs == alone.race.runs
    assert {pool.submit(torch.get_num_threads).result() for _ in range(6)} == {before}


MODES = {
    "deterministic algorithms": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 1),
    "float32's precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "high"),
    **{
        f"cudnn.{name}": (
            partial(getattr, torch.backends.cudnn, name),
            partial(setattr, torch.backends.cudnn, name),
            not getattr(torch.backends.cudnn, name),
        )
        for name in ("deterministic", "benchmark", "allow_tf32")
    },
}


class TellsModes(Net):
    """Its loss tells which of the modes are another one than usual."""

    usual = tuple(read() for read, *_ in MODES.values())

    def forward(self, x):
        others = [read() != usual for (read, *_), usual in zip(MODES.values(), self.usual, strict=True)]
        return super().forward(x) + sum(other * 2.0**i for i, other in enumerate(others))


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_of_home_holds_in_a_worker(pool, mode):
    read, put, other = MODES[mode]
    usual = read()

    def given():
        torch.manual_seed(0)
        net = TellsModes()
        optimizer = optim.AdamW(net.parameters(), lr=1e-3)
        return dict(model=net, optimizer=optimizer, criterion=nn.MSELoss(), loader=DataLoader(data(), 20, True))

    put(other)
    try:
        alone, there = (find_lr(**given(), **HOW, executor=each) for each in (HOME_ALONE, pool))
    finally:
        put(usual)
    assert there.race.path == alone.race.path == "parallel"
    assert there.race.runs == alone.race.runs


def test_forks_of_a_process_with_several_threads_are_refused():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        forks = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))
        with forks, pytest.raises(ConfigurationError, match="2 threads, with which a forked process hangs"):
            find_lr(**adam(), **HOW, executor=forks)
    finally:
        torch.set_num_threads(threads)


def test_a_compiled_model_is_refused(pool):
    given = adam()
    with pytest.raises(ConfigurationError, match="compiled"):
        find_lr(**given | {"model": torch.compile(given["model"], backend="eager")}, **HOW, executor=pool)


def by_a_global(model, batch):
    return mse(HEAD, model, batch)


def test_a_loss_that_trains_a_global_is_refused(pool):
    given = with_head()
    optimizer = optim.SGD([*given["model"].parameters(), *HEAD.parameters()], lr=0.1)
    with pytest.raises(ConfigurationError, match="by_a_global uses the global HEAD, a Linear"):
        find_lr(**given | {"loss_fn": by_a_global, "optimizer": optimizer}, **HOW, executor=pool)


def test_a_hook_that_no_pickle_takes_is_refused(pool):
    given = adam()
    given["model"].layers[0].weight.register_post_accumulate_grad_hook(print)
    with pytest.raises(ConfigurationError, match="a hook that runs once its gradient is there"):
        find_lr(**given, **HOW, executor=pool)


class Fails(Net):
    """Fails in the forward pass of another process."""

    home = None

    def forward(self, x):
        if findlr.search.parcel.here() != self.home:
            raise FileNotFoundError("weights.bin")
        return super().forward(x)


def test_what_a_worker_raises_is_raised_and_all_is_back(pool):
    given = adam()
    given["model"].__class__, given["model"].home = Fails, findlr.search.parcel.here()
    tensors, state = all_of(given)
    with pytest.raises(FileNotFoundError, match=r"weights\.bin"):
        find_lr(**given, **HOW, executor=pool)
    after, now = all_of(given)
    assert all(map(torch.equal, after, tensors))
    assert now == state
