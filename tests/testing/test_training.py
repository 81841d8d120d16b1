"""The suite for whole trainings: a right search passes it, and each thing that a search may leave turns it red."""

import random

import pytest

from findlr import find
from findlr.testing import Quadratic, TrainingConformance


class Logged:
    """A training with a log, and a draw a step."""

    def __init__(self):
        self.quadratic, self.log = Quadratic(noise=0.01), []

    def step(self):
        self.log.append(self.quadratic.step(0.01))
        random.random()


class TestLogged(TrainingConformance):
    def training(self):
        random.seed(0)
        return Logged()

    def train(self, training, steps):
        for _ in range(steps):
            training.step()

    def search(self, training, **how):
        return find(training.quadratic, **how)

    def state(self, training):
        return {
            "weight": training.quadratic.weight,
            "log": training.log,
            "draws": training.quadratic._random.getstate(),
        }


class Leaves(TestLogged):
    """A search that leaves something behind."""

    def __init__(self, what):
        self.what = what

    def search(self, training, **how):
        try:
            return super().search(training, **how)
        finally:
            self.what(training)


LEFT = {
    "a weight": (lambda training: setattr(training.quadratic, "weight", 0.5), "weight"),
    "a line in a log": (lambda training: training.log.append(1.0), "log"),
    "a draw": (lambda _: random.random(), "random"),
}


@pytest.mark.parametrize(("what", "named"), LEFT.values(), ids=LEFT)
def test_what_a_search_leaves_behind_is_named(what, named):
    suite = Leaves(what)
    with pytest.raises(AssertionError, match=f"the training is another one; these differ: .*{named}"):
        suite.test_a_search_that_diverges()
    with pytest.raises(AssertionError, match=f"{named}|two searches give two different Findings"):
        suite.test_a_search_that_finishes()
    with pytest.raises(AssertionError, match=named):
        suite.test_a_search_that_is_broken_off(KeyboardInterrupt)


def test_a_search_that_finds_another_thing_the_second_time_is_seen():
    class Moody(TestLogged):
        curvature = 5.0

        def search(self, training, **how):
            self.curvature += 1.0
            return find(Quadratic(curvature=self.curvature), **how)

    with pytest.raises(AssertionError, match="two different Findings"):
        Moody().test_a_search_that_finishes()


def test_an_exception_without_a_finding_is_seen():
    class Silent(TestLogged):
        def search(self, training, **how):
            on_step = how.pop("on_step", None)
            found = find(training.quadratic, **how)
            if on_step is not None:
                raise KeyboardInterrupt
            return found

    with pytest.raises(AssertionError, match="the exception carries no"):
        Silent().test_a_search_that_is_broken_off(KeyboardInterrupt)


def test_the_suite_asks_for_what_it_needs():
    suite = TrainingConformance()
    for ask in (suite.training, lambda: suite.train(None, 1), lambda: suite.search(None), lambda: suite.state(None)):
        with pytest.raises(NotImplementedError, match="give the suite a"):
            ask()
