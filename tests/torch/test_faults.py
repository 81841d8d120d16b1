"""Something breaks at every step of a short sweep: everything is back, and what was measured is kept."""

import linecache
import signal
import sys
from ctypes import c_bool, c_long
from functools import partial
from itertools import count

import pytest
import torch
from torch import optim

from findlr import Stop
from findlr.search import find, interrupts, memory, trainable
from findlr.torch import loop, training
from findlr.torch.snapshot import memory as tensors
from findlr.torch.snapshot import stores
from tests.interrupter import EVERY
from tests.torch.training import (
    STEPS,
    SWEEP,
    WORKERS,
    Bomb,
    Gan,
    OwnLoop,
    Training,
    check,
    cnn,
    copied,
    without_a_call,
)


def ctrl_c(_):
    """A real one: Python's own handler, or the user's, runs at once."""
    signal.raise_signal(signal.SIGINT)


ERRORS = {
    "error": RuntimeError,
    "out-of-memory": torch.OutOfMemoryError,
    "exit": SystemExit,
    "ctrl-c": ctrl_c,
}
errors = pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)


class HalfDone(optim.Optimizer):
    """Momentum that may break off between two parameters."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.05})
        self.passed = lambda: None

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for i, parameter in enumerate(group["params"]):
                if i == 1:
                    self.passed()
                velocity = self.state[parameter].setdefault("velocity", torch.zeros_like(parameter))
                velocity.mul_(0.9).add_(parameter.grad)
                parameter.sub_(group["lr"] * velocity)


class Mined(Training):
    """Training with a bomb in its hooks and in the middle of ``optimizer.step()``."""

    def __init__(self, **how):
        super().__init__(cnn, HalfDone, **how)
        self.optimizer.passed = lambda: self.bomb.passed("half-a-step")
        self.optimizer.register_step_pre_hook(lambda *_: self.bomb.passed("pre-hook"))
        self.model[-1].register_forward_hook(lambda *_: self.bomb.passed("forward-hook"))
        self.model[-1].register_full_backward_hook(lambda *_: self.bomb.passed("backward-hook"))


class MinedLoop(Mined, OwnLoop):
    """The same in a RangeTest."""


MAKES = {
    "find_lr": Mined,
    "own-loop": MinedLoop,
    "own-loop-scaler": partial(MinedLoop, autocast=torch.float16, scaled=True),
}


UNSCALED = (Mined, MinedLoop)
SOME = 1 if EVERY else 3
"""Every how many steps are tried where it takes long."""


def check_every_step(make, place, error, call=lambda training: training.find(), before=3, every=1):
    """Break at the first passing of ``place``, the ``every``-th after it, ... until it holds; give what each gave."""
    never_called, results = without_a_call(make, before), []
    for at in count(0, every):
        finding, raised = check(
            lambda at=at: make(bomb=lambda: Bomb(place, at, error)), before, call=call, never_called=never_called
        )
        if raised is None:
            break
        assert type(raised) is (KeyboardInterrupt if error is ctrl_c else error)
        assert finding.stop in (Stop.INTERRUPTED, Stop.FINISHED, Stop.DIVERGED)
        assert any("put back" in note for note in raised.__notes__)
        results.append(finding)
    return results, finding


@errors
@pytest.mark.parametrize(
    "place", ["loader", "criterion", "forward-hook", "backward-hook", "pre-hook", "half-a-step", "optimizer"]
)
@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_at_every_step(make, place, error):
    every = SOME if place in ("loader", "forward-hook", "backward-hook", "pre-hook") and make in UNSCALED else 1
    broken, whole = check_every_step(make, place, error, every=every)
    lengths = dict.fromkeys(len(finding.curve) for finding in broken)  # a scaler skips a few steps
    assert list(lengths) == list(STEPS[::every])
    assert whole.stop is Stop.FINISHED
    for finding in broken:
        assert finding.stop is Stop.INTERRUPTED
        assert finding.curve.loss.tolist() == whole.curve.loss[: len(finding.curve)].tolist()


@errors
def test_at_every_step_of_a_gan(error):
    broken, _ = check_every_step(Gan, "swept", error)
    assert [len(finding.curve) for finding in broken] == list(STEPS)


@errors
def test_in_every_pass_of_the_control_variate(error):
    broken, whole = check_every_step(lambda **how: Training(cnn, **how), "baseline", error)
    assert [len(finding.curve) for finding in broken] == [0, 0, *STEPS]  # its self-check takes two passes more
    assert whole.curve.baseline is not None


RACE = {"verify": True, "total_steps": 40, "budget": 48, "control_variate": False}


@errors
@pytest.mark.parametrize("place", ["criterion", "baseline", "half-a-step"], ids=["steps", "evaluations", "half-a-step"])
def test_in_every_step_and_evaluation_of_a_race(place, error):
    every = 1 if place == "baseline" else SOME
    broken, whole = check_every_step(Mined, place, error, lambda training: training.find(**RACE), every=every)
    runs = len(whole.race.runs)
    assert runs == 3
    if place == "baseline":  # before the first run and after each, on one batch: a fifth of six
        assert len(broken) == runs + 1
        assert all(finding.stop is Stop.FINISHED for finding in broken)
    else:
        assert len(broken) == -(-(len(STEPS) + sum(run.steps for run in whole.race.runs)) // every)
    assert all(finding.race is None for finding in broken)


@pytest.mark.parametrize("loader", WORKERS.values(), ids=WORKERS)
def test_a_dataset_that_raises_in_a_worker_at_every_batch(loader):
    for at in range(0, 23, 4 * SOME):  # each of two workers reads half of an epoch's 46 samples
        _, error = check(lambda at=at: Training(loader=loader, bomb=lambda: Bomb("dataset", at)))
        assert "boom" in str(error)


@pytest.mark.parametrize("loader", WORKERS.values(), ids=WORKERS)
@pytest.mark.parametrize("make", [Training, OwnLoop], ids=["find_lr", "own-loop"])
def test_no_worker_is_left_at_every_step(make, loader):
    broken, _ = check_every_step(lambda **how: make(loader=loader, **how), "criterion", ctrl_c, every=SOME)
    assert len(broken) == len(STEPS[::SOME])


# What is called with what was measured


class RuleError(RuntimeError):
    """A rule of the user's own fails."""


def broken_rule(curve, plan=None):
    raise RuleError


WIDE = {"min_lr": 1e-4, "max_lr": 10.0, "num_steps": 60, "rule": broken_rule}


@pytest.mark.parametrize("at", [30, None])
@pytest.mark.parametrize("make", [Training, OwnLoop], ids=["find_lr", "own-loop"])
def test_a_rule_that_raises_loses_nothing(make, at):
    bomb = partial(Bomb, None if at is None else "criterion", at or 0, KeyboardInterrupt)
    finding, error = check(partial(make, bomb=bomb), call=lambda training: training.find(**WIDE))
    assert type(error) is (RuleError if at is None else KeyboardInterrupt)
    assert len(finding.curve) >= 30
    assert any("put back" in note for note in error.__notes__)


@errors
@pytest.mark.parametrize("make", [Training, OwnLoop], ids=["find_lr", "own-loop"])
def test_a_watcher_that_raises_at_every_step(make, error):
    for at in STEPS:

        def on_step(step, at=at):
            if step.index == at:
                raise KeyboardInterrupt if error is ctrl_c else error

        finding, _ = check(make, call=lambda training, on_step=on_step: training.find(on_step=on_step))
        assert len(finding.curve) == at + 1


def test_every_signals_handler_is_back_and_what_has_none_in_python_is_left_alone():
    def handlers():
        return {number: signal.getsignal(number) for number in signal.valid_signals()}

    before, during = handlers(), []
    Training().find(on_step=lambda step: during.append(handlers()))
    assert handlers() == before
    others = [number for number, handler in before.items() if not callable(handler)]
    assert len(others) > 20
    assert all(seen[number] == before[number] for seen in during for number in others)


@pytest.mark.parametrize("make", [Training, OwnLoop])
def test_another_signals_handler_is_called_at_once_and_may_end_the_search(make):
    def stop(number, frame):
        raise TimeoutError(number)

    def ring(step):
        if step.index == 2:
            signal.raise_signal(signal.SIGUSR1)
            during.append("after the handler")

    during, users = [], signal.signal(signal.SIGUSR1, stop)
    try:
        trained = make()
        before = copied(trained.model.state_dict())
        with pytest.raises(TimeoutError) as raised:
            trained.find(on_step=ring)
        assert signal.getsignal(signal.SIGUSR1) is stop
    finally:
        signal.signal(signal.SIGUSR1, users)
    assert not during
    assert len(raised.value.finding.curve) == 3
    assert copied(trained.model.state_dict()) == before


# Ctrl-C while things are put back


class SecondCtrlC:
    """Presses Ctrl-C at the ``at``-th line of findlr's that runs once the first one was pressed.

    Lines with a call, that is: Python looks for signals when it calls.
    """

    FILES = frozenset(
        module.__file__ for module in (find, interrupts, loop, memory, stores, tensors, trainable, training)
    )

    def __init__(self, at):
        self.at, self.lines, self.counting = at, c_long(0), c_bool(False)  # which no search puts back

    def first(self, _):
        """The first one, for a bomb: from here on lines are counted, in the frames that are open, too."""
        frame = sys._getframe()
        while frame is not None:
            if frame.f_code.co_filename in self.FILES:
                frame.f_trace = self.count
            frame = frame.f_back
        self.counting.value = True
        return KeyboardInterrupt()

    def trace(self, frame, event, arg):
        return self.count if self.counting.value and frame.f_code.co_filename in self.FILES else None

    def count(self, frame, event, arg):
        if event == "line" and "(" in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
            self.lines.value += 1
            if self.lines.value == self.at:
                signal.raise_signal(signal.SIGINT)
        return self.count

    def call(self, snapshot, training):
        usual = sys.gettrace()
        training.bomb.armed = True
        sys.settrace(self.trace)
        try:
            return training.call(**SWEEP, snapshot=snapshot)
        except KeyboardInterrupt as error:
            return error
        finally:
            sys.settrace(usual)
            training.bomb.armed = False


# A generator that Python closes can't raise: it says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("make", "snapshot"), [(Training, "disk"), (OwnLoop, "device")], ids=["find_lr", "own-loop"])
def test_a_second_ctrl_c_at_every_line_that_puts_back(make, snapshot):
    never_called = without_a_call(make)
    for at in count(1, SOME):
        second = SecondCtrlC(at)
        bomb = partial(Bomb, "criterion", 5, second.first)
        error = check(partial(make, bomb=bomb), call=partial(second.call, snapshot), never_called=never_called)
        assert type(error) is KeyboardInterrupt
        if second.lines.value < at:
            break
    assert at > 50
