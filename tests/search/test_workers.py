"""Runs of a race in other processes: what they are at home, what becomes of one that is lost, what is refused."""

import importlib
import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from findlr import ConfigurationError, Plan, find
from findlr.analysis import runs
from findlr.search.batches import Batches
from findlr.search.memory import Memory
from findlr.search.run import train
from findlr.testing import Quadratic
from tests.at_home import HOME_ALONE

HOME = os.getpid()
PLAN = Plan("linear", total_steps=400)
POOR, RICH = 300, 1200  # steps

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def pool_of(method, workers=2):
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method))


@pytest.fixture(scope="module")
def spawned():
    with pool_of("spawn") as pool:
        yield pool


@pytest.fixture
def forked():
    with pool_of("fork") as pool:
        yield pool


def found(training, executor=None, budget=POOR, **how):
    how = {"control_variate": False, "progress": False, **how}
    return find(training, PLAN, verify=True, budget=budget, executor=executor, **how)


def noisy():
    return Quadratic(noise=0.05)


class Counted(Quadratic):
    """Counts its passes, and has a held-out loss."""

    forwards = backwards = 0

    def step(self, lr):
        self.forwards += 1
        self.backwards += 1
        return super().step(lr)

    def hold_out(self, batches, steps, total_steps):
        return batches

    def evaluate(self):
        self.forwards += runs.HELD_OUT_BATCHES
        return self.curvature * (self.weight * self.weight) / 2


class Passes:
    """Batches whose pass is a generator, which no pickle takes."""

    def __iter__(self):
        yield from (0.1, -0.1, 0.2)


class WithData(Quadratic):
    """Draws from a loader, and keeps a race's batches."""

    def __post_init__(self):
        super().__post_init__()
        self.batches = Batches(Passes())

    def step(self, lr):
        self.weight += lr * self.batches.next()
        return super().step(lr)

    def keep_batches(self, steps):
        self.batches.keep(steps, 1 << 20)

    def snapshot(self):
        memory = Memory()
        self.batches.remember(memory)
        return super().snapshot(), memory

    def restore(self, snapshot):
        super().restore(snapshot[0])
        snapshot[1].put_back()


class AtHome(Quadratic):
    """Does something in the steps of another process, or a child of it."""

    def step(self, lr):
        if os.getpid() != HOME:
            self.elsewhere()
        return super().step(lr)


class Killed(AtHome):
    def elsewhere(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Raises(AtHome):
    def elsewhere(self):
        raise LookupError("no such file on this machine")


class NeedsTwoError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class RaisesWhatCannotBeSent(AtHome):
    def elsewhere(self):
        raise NeedsTwoError(1, 2)


class Sleeps(AtHome):
    def elsewhere(self):
        time.sleep(0.005)


class Locked(Counted):
    def __post_init__(self):
        super().__post_init__()
        self.lock = threading.Lock()


@pytest.mark.parametrize("make", [noisy, Counted])
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_each_run_is_the_same_to_the_bit(method, make, spawned, forked):
    alone, training = found(make(), HOME_ALONE), make()
    before = training.snapshot()
    there = found(training, spawned if method == "spawn" else forked)
    assert there.race == alone.race
    assert (there.suggestion, there.cost) == (alone.suggestion, alone.cost)
    assert training.snapshot() == before


def test_an_open_pass_over_the_data_stays_at_home(spawned):
    alone, there = found(WithData(), HOME_ALONE), found(WithData(), spawned)
    assert there.race == alone.race


@pytest.mark.parametrize("budget", [POOR, RICH])
def test_the_runs_are_those_of_the_rates_and_the_budget_counts_them(budget, forked):
    finding = found(Counted(), forked, budget)
    assert len(finding.race.runs) == len(runs.AT_ONCE)
    steps = len(finding.curve)
    for run in finding.race.runs:
        training = Counted()
        end = train(training, training, run.lr * PLAN.shares(run.steps))
        assert end.loss == run.loss
        steps += training.backwards
    assert finding.cost.backwards == steps
    assert finding.cost.steps <= budget
    assert finding == found(Counted(), forked, budget)


def test_who_watches_sees_the_same_steps_in_the_same_order(forked):
    alone, there = [], []
    found(noisy(), HOME_ALONE, on_step=alone.append)
    found(noisy(), forked, on_step=there.append)
    assert there == alone
    assert {step.run for step in there} == {None, 1, 2, 3, 4}


def test_a_run_that_comes_back_as_something_else_is_made_here(caplog):
    task = Future()
    task.set_result(5)
    assert found(noisy(), Gives(task)).race.runs == found(noisy(), HOME_ALONE).race.runs
    assert "the executor gave int for the run at 1.9, so it is made here" in caplog.text


@pytest.mark.parametrize("training", [Killed, RaisesWhatCannotBeSent])
def test_a_run_that_is_lost_is_made_here(training, forked, caplog):
    with caplog.at_level(logging.WARNING, "findlr"):
        finding = found(training(noise=0.05), forked)
    assert finding.race.runs == found(noisy(), HOME_ALONE).race.runs
    assert "made here" in caplog.text


def test_what_a_worker_raises_is_raised_with_where_it_was_raised(forked):
    training = Raises()
    before = training.snapshot()
    with pytest.raises(LookupError, match="no such file") as raised:
        found(training, forked)
    assert training.snapshot() == before
    assert len(raised.value.finding.curve) > 0
    assert any("in elsewhere" in note and "in a worker" in note for note in raised.value.__notes__)


class Bursts(Quadratic):
    """Raises where the third step is at a high rate, as no sweep's is."""

    taken = 0

    def step(self, lr):
        self.taken += 1
        if self.taken == 3 and lr > 0.1:
            raise ArithmeticError("it burst")
        return super().step(lr)

    def restore(self, snapshot):
        super().restore(snapshot)
        self.taken = 0


def test_a_rate_that_a_worker_raises_at_has_diverged_as_it_has_here(forked):
    finding = found(Bursts(curvature=1.0), forked, RICH)
    ends = [train(Bursts(curvature=1.0), None, run.lr * PLAN.shares(run.steps), True) for run in finding.race.runs]
    assert [end.loss for end in ends] == [run.loss for run in finding.race.runs]
    assert any(run.loss == float("inf") for run in finding.race.runs)


def test_ctrl_c_cancels_what_waits_and_puts_back():
    taken = []

    class Watched(ProcessPoolExecutor):
        def submit(self, *args, **kwargs):
            taken.append(super().submit(*args, **kwargs))
            return taken[-1]

    training = Sleeps(noise=0.05)
    before = training.snapshot()

    def press():
        while len(taken) < 2 * len(runs.AT_ONCE) or not any(task.running() for task in taken):
            time.sleep(0.01)
        os.kill(HOME, signal.SIGINT)

    with Watched(1, mp_context=multiprocessing.get_context("fork")) as pool:
        threading.Thread(target=press).start()
        with pytest.raises(KeyboardInterrupt) as pressed:
            found(training, pool, RICH)
    assert training.snapshot() == before
    assert len(pressed.value.finding.curve) > 0
    assert taken[-1].cancelled()


def test_a_worker_that_was_forked_in_a_search_has_the_handlers_from_before_it(forked):
    found(noisy(), forked)
    assert forked.submit(signal.getsignal, signal.SIGINT).result() is signal.default_int_handler


def test_a_worker_is_as_it_was():
    with pool_of("fork", 1) as pool:
        pool.submit(random.seed, 3).result()
        before = pool.submit(random.getstate).result()
        found(noisy(), pool)
        assert pool.submit(random.getstate).result() == before


def test_nothing_is_left_on_disk(spawned, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert found(noisy(), spawned).race.path == "parallel"
    assert list(tmp_path.iterdir()) == []


# What is refused


class Here(Executor):
    """Calls a function at once, in this process."""

    def submit(self, fn, /, *args, **kwargs):
        task = Future()
        task.set_result(fn(*args, **kwargs))
        return task


class Gives(Executor):
    """Does nothing, and gives this in place of a task."""

    def __init__(self, task):
        self.task = task

    def submit(self, fn, /, *args, **kwargs):
        return self.task


def shut_down():
    pool = pool_of("spawn")
    pool.shutdown()
    return pool


@pytest.mark.parametrize(
    ("make", "how", "words"),
    [
        (lambda: 2, {}, "got int"),
        (lambda: ProcessPoolExecutor, {}, "got ProcessPoolExecutor"),
        (lambda: ThreadPoolExecutor(2), {}, "random states"),
        (lambda: pool_of("spawn"), {"verify": False, "budget": None}, "give verify=True"),
        (lambda: pool_of("spawn"), {"one_pass": True}, "one_pass"),
        (shut_down, {}, "takes no task"),
        (lambda: Gives(None), {}, "submit must return a Future, and returned NoneType"),
    ],
)
def test_what_cannot_make_runs_is_refused_before_the_first_step(make, how, words):
    training = Counted()
    with pytest.raises(ConfigurationError, match=words):
        find(training, PLAN, **{"verify": True, "budget": POOR, "executor": make(), **how})
    assert training.forwards == 0


def test_what_cannot_be_pickled_is_refused_before_the_first_step(spawned):
    training = Locked()
    with pytest.raises(ConfigurationError, match=r"can't be pickled.*lock"):
        found(training, spawned)
    assert training.forwards == 0


def test_an_executor_in_this_process_is_refused_and_everything_is_back():
    training = noisy()
    before = training.snapshot()
    with pytest.raises(ConfigurationError, match="in this process"):
        found(training, Here())
    assert training.snapshot() == before


MODULE = """
import random
from findlr.testing import Quadratic
from tests.at_home import HOME_ALONE

SCALE = 1.0
GENERATOR = random.Random(0)

class Scaled(Quadratic):
    def step(self, lr):
        return SCALE * super().step(lr)

class Draws(Quadratic):
    def step(self, lr):
        return super().step(lr) + GENERATOR.random() * 0
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "trained_here.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("trained_here")
    del sys.modules["trained_here"]


def test_a_global_that_is_another_number_in_a_worker_is_refused(module):
    with pool_of("spawn") as pool:
        assert found(module.Scaled(), pool).race.path == "parallel"
        module.SCALE = 2.0
        with pytest.raises(ConfigurationError, match=r"trained_here.SCALE, which is 2.0 here and 1.0 in a worker"):
            found(module.Scaled(), pool)


def test_a_global_that_draws_is_refused_before_the_first_step(module, spawned):
    with pytest.raises(ConfigurationError, match="uses the global GENERATOR"):
        found(module.Draws(), spawned)


# A checkpoint


class LeftError(Exception):
    pass


def test_a_race_by_workers_goes_on_with_its_checkpoint(forked, tmp_path):
    path = tmp_path / "race.json"
    whole = found(noisy(), forked, RICH)

    def leave(step):
        if step.run == 3:
            raise LeftError

    with pytest.raises(LeftError):
        found(noisy(), forked, RICH, checkpoint=path, on_step=leave)
    assert found(noisy(), forked, RICH, checkpoint=path) == whole
    with pytest.raises(ConfigurationError, match="executor"):
        found(noisy(), None, RICH, checkpoint=path)
