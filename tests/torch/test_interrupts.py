"""Ctrl-C at every place where it may come: everything is back, and what was measured is carried."""

import ctypes
import gc
import random
import signal
import time
import types
import weakref
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context

import pytest
import torch

from findlr import Finding, find_lr
from findlr.search import interrupts
from findlr.torch import compiled
from tests.interrupter import EVERY, Interrupter
from tests.torch.training import OwnLoop, Training, check, without_a_call

# A generator that Python closes can't raise: it says so.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SHORT = {"min_lr": 1e-6, "max_lr": 1e-3, "num_steps": 2}
RACE = {**SHORT, "num_steps": 12, "verify": True, "total_steps": 40, "budget": 48, "control_variate": False}


class OwnStep(Training):
    """The bare loop's step, as a ``train_step``."""

    def call(self, **how):
        step = lambda draw: self.pass_of(draw())  # noqa: E731
        return find_lr(self.model, self.optimizer, loader=self.loader, train_step=step, **how)


@cache
def pool():
    """Workers for all searches, which run already."""
    made = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    for waits in [made.submit(time.sleep, 0.2) for _ in range(2)]:
        waits.result()
    return made


@pytest.fixture(scope="module", autouse=True)
def _workers_end():
    yield
    if pool.cache_info().currsize:
        pool().shutdown()


class Sent(Training):
    """Without a hook that holds the loop's open loader, which can't be sent."""

    def __init__(self, **how):
        super().__init__(**how)
        self.optimizer._optimizer_step_post_hooks.clear()


def mixed(make):
    return partial(make, autocast=torch.bfloat16)


DOORS = {
    "find_lr": (mixed(Training), SHORT),
    "own-loop": (mixed(OwnLoop), SHORT),
    "train_step": (mixed(OwnStep), SHORT),
    "race": (Training, RACE),
    "race-workers": (Sent, {**RACE, "executor": True}),
}


class Search:
    """A training whose search is interrupted, again and again."""

    def __init__(self, door, snapshot):
        self.make, how = DOORS[door]
        self.how = {**how, "snapshot": snapshot}
        self.has_workers = "executor" in how
        if self.has_workers:
            self.how["executor"] = pool()
        self.never = without_a_call(self.make, 1, 2)
        for _ in range(2):  # what is imported and compiled when it is first needed is no place
            whole = Interrupter()
            assert isinstance(self.interrupted(whole), Finding)
        self.places = whole.places

    def interrupted(self, interrupter):
        self.read = read = []  # which alone is reached from the loop, because a RangeTest looks at all that is
        of_the_sweep = lambda step: read.append(step) if step.run is None else None  # noqa: E731
        how = {**self.how, "on_step": of_the_sweep}
        call = lambda training: interrupter.call(partial(training.call, **how))  # noqa: E731
        return check(self.make, 1, 2, call, self.never)

    def problem(self, interrupter):
        """What is not as it was, or ``None``."""
        try:
            error = self.interrupted(interrupter)
            if self.has_workers and not interrupter.pressed:
                return None  # this time it has looked for a worker's run fewer times
            assert type(error) is KeyboardInterrupt, f"the call gave {error!r}"
            found = getattr(error, "finding", None)
            assert found is not None or not self.read, "no Finding"
            assert not compiled._open, "a block without new graphs is still open"
            assert found is None or len(found.curve) - len(self.read) in (0, 1), "another Finding"
        except BaseException as error:  # noqa: BLE001 - it is told, with its place
            begin_anew()
            at = error.__traceback__
            while at.tb_next:
                at = at.tb_next
            return interrupter.pressed, f"{type(error).__name__} at {at.tb_lineno}: {error}"[:400]
        return None


def begin_anew():
    """After a failure, because the next place is not to fail for it."""
    torch.set_grad_enabled(True)
    torch.set_autocast_enabled("cpu", False)
    torch.compiler.set_stance("default")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.waiting.clear()
    compiled._open = 0


def first_of_each(places):
    """The number of each place, as it is passed for the first time."""
    return list({place: number for number, place in reversed(list(enumerate(places)))}.values())


@pytest.fixture(autouse=True)
def _few_objects():
    """A RangeTest looks at each object that there is: at those of the test alone."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


SAMPLES = {("find_lr", "device"): 160, ("own-loop", "device"): 120}  # of others 40


@pytest.mark.timeout(0 if EVERY else 300)
@pytest.mark.parametrize("snapshot", ["device", "disk"])
@pytest.mark.parametrize("door", DOORS)
def test_at_a_place(door, snapshot):
    search, drawn = Search(door, snapshot), random.Random(0)
    numbers = range(len(search.places))
    if not EVERY:
        numbers = drawn.sample(first_of_each(search.places), SAMPLES.get((door, snapshot), 40))
    assert [problem for number in numbers if (problem := search.problem(Interrupter(number)))] == []


@pytest.mark.parametrize("door", ["find_lr", "own-loop"])
def test_at_each_of_the_last_places(door):
    """Once the handlers are given back, a Ctrl-C would carry no Finding: nothing is done after that."""
    search = Search(door, "device")
    numbers = range(len(search.places) - 60, len(search.places))
    assert [problem for number in numbers if (problem := search.problem(Interrupter(number)))] == []


def test_at_each_place_of_a_run_of_a_race():
    """Its steps come from a generator; one that Python closes swallows what is raised in it."""
    search = Search("race", "device")
    numbers = [n for n in first_of_each(search.places) if search.places[n][0].endswith("search/run.py")]
    assert len(numbers) > 40
    assert [problem for number in numbers if (problem := search.problem(Interrupter(number)))] == []


@pytest.mark.timeout(0 if EVERY else 300)
@pytest.mark.parametrize("door", DOORS)
def test_at_two_places(door):
    search, drawn = Search(door, "disk"), random.Random(1)
    presses = [(drawn.randrange(len(search.places)), drawn.randrange(400)) for _ in range(250 if EVERY else 25)]
    assert [problem for both in presses if (problem := search.problem(Interrupter(*both)))] == []


class Timer(Interrupter):
    """Presses at two times, wherever the call then is."""

    def __init__(self, first, second):
        super().__init__()
        self.times = [first, second]

    def call(self, function):
        """Call ``function``; return what it gives, or the KeyboardInterrupt that ends it."""
        usual = signal.signal(signal.SIGVTALRM, self.rings)
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, self.times[0])
            return function()
        except KeyboardInterrupt as error:
            return error
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, usual)

    def rings(self, number, frame):
        """The timer's: press, and wind it up again."""
        self.pressed.append(self.times.pop(0))
        if self.times:
            signal.setitimer(signal.ITIMER_VIRTUAL, self.times[0])
        signal.raise_signal(signal.SIGINT)


@pytest.mark.posix
@pytest.mark.timeout(0 if EVERY else 300)
@pytest.mark.parametrize("door", ["find_lr", "own-loop"])
def test_at_two_random_times(door):
    """One that comes after the search has ended is the user's own, and carries nothing."""
    search, drawn = Search(door, "disk"), random.Random(2)
    search.interrupted(Timer(10.0, 10.0))  # never; the first one takes longer
    start = time.process_time()
    search.interrupted(Timer(10.0, 10.0))
    length = (time.process_time() - start) / 2
    problems, pressed = [], 0
    for i in range(500 if EVERY else 150):
        if not EVERY and i >= 15 and pressed:  # on a busy machine the first ones may all come too late
            break
        timer = Timer(drawn.uniform(1e-4, length), drawn.uniform(1e-5, length / 4))
        problem = search.problem(timer)
        pressed += bool(timer.pressed)
        if problem and timer.pressed and "no Finding" not in problem[1]:
            problems.append(problem)
    assert problems == []
    assert pressed


class Dying:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)


def finalized():
    gone = type("Gone", (), {})()
    weakref.finalize(gone, signal.raise_signal, signal.SIGINT)
    return gone


def collected():
    """Press as a pass of Python's over all objects ends, in a callback of it (JAX has one, and so has Hypothesis)."""

    def ends(phase, _):
        if phase == "stop":
            gc.callbacks.remove(ends)
            signal.raise_signal(signal.SIGINT)

    gc.callbacks.append(ends)
    gc.collect()


def called_by_c():
    """Press in a function that C calls."""
    ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))()


@pytest.mark.parametrize("make", [Dying, finalized, collected, called_by_c])
@pytest.mark.parametrize("door", ["find_lr", "own-loop", "train_step", "race"])
def test_where_python_drops_what_is_raised_it_waits_for_the_next_step(door, make):
    search, count = Search(door, "device"), 0

    def call(work):
        nonlocal count
        usual = torch.nn.functional.cross_entropy

        def dies(*given, **how):
            nonlocal count
            count += 1
            if count == 1:
                make()  # nobody has it
            return usual(*given, **how)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.functional, "cross_entropy", dies)
            try:
                return work()
            except KeyboardInterrupt as error:
                return error

    error = search.interrupted(types.SimpleNamespace(call=call))
    assert type(error) is KeyboardInterrupt
    assert error.finding.race is None
