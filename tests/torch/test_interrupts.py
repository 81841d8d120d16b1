"""Ctrl-C at every place where it may come: everything is back, and what was measured is carried."""

import os
import signal
from functools import partial

import torch

from findlr import Finding, find_lr
from findlr.search import interrupts
from tests.interrupter import Interrupter
from tests.torch.training import OwnLoop, Training, check, without_a_call

EVERY = os.environ.get("FINDLR_PLACES") == "all"
"""Press at every place, however often it is passed; else at some, drawn from a seed."""

SHORT = {"min_lr": 1e-6, "max_lr": 1e-3, "num_steps": 2}
RACE = {**SHORT, "num_steps": 12, "verify": True, "total_steps": 40, "budget": 48, "control_variate": False}


class OwnStep(Training):
    """The bare loop's step, as a ``train_step``."""

    def call(self, **how):
        step = lambda draw: self.pass_of(draw())  # noqa: E731
        return find_lr(self.model, self.optimizer, loader=self.loader, train_step=step, **how)


def mixed(make):
    return partial(make, autocast=torch.bfloat16)


DOORS = {
    "find_lr": (mixed(Training), SHORT),
    "own-loop": (mixed(OwnLoop), SHORT),
    "train_step": (mixed(OwnStep), SHORT),
    "race": (Training, RACE),
}


class Search:
    """A training whose search is interrupted, again and again."""

    def __init__(self, door, snapshot):
        self.make, how = DOORS[door]
        self.how = {**how, "snapshot": snapshot}
        self.never = without_a_call(self.make, 1, 2)
        for _ in range(2):  # what is imported and compiled when it is first needed is no place
            whole = Interrupter()
            assert isinstance(self.interrupted(whole), Finding)
        self.places = whole.places

    def interrupted(self, interrupter):
        self.read = []
        how = {**self.how, "on_step": self.read.append}
        call = lambda training: interrupter.call(partial(training.call, **how))  # noqa: E731
        return check(self.make, 1, 2, call, self.never)

    def problem(self, interrupter):
        """What is not as it was, or ``None``."""
        try:
            error = self.interrupted(interrupter)
            assert type(error) is KeyboardInterrupt, f"the call gave {error!r}"
            found = getattr(error, "finding", None)
            assert found is not None or not self.read, "no Finding"
            assert found is None or len(found.curve) - len(self.read) in (0, 1), "another Finding"
        except BaseException as error:
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
