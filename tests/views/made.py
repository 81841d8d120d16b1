"""What the tests of the views show: Findings of curves that were made up, and searches by a clock that is set."""

from findlr import Finding, Plan, Stop
from findlr.analysis.answer import answer
from findlr.finding import Cost
from findlr.testing import Quadratic


def finding_of(curve, rule=None):
    suggestion, verdict, why = answer(curve, Plan(), rule)
    stop = Stop.DIVERGED if curve.diverged else Stop.FINISHED
    return Finding(suggestion, verdict, why, stop, curve, Plan(), Cost(1, 1, 1, 0.0), {})


class Clock:
    """The live views' time."""

    now = 1000.0

    def __init__(self, monkeypatch):
        monkeypatch.setattr("findlr.views.console.live.time", self)
        monkeypatch.setattr("findlr.views.progress.time", self)

    def monotonic(self):
        return self.now


class Timed(Quadratic):
    """Sets a clock forward at each step."""

    def __init__(self, clock, seconds=2.0):
        super().__init__(noise=0.1)
        self.clock, self.seconds = clock, seconds

    def step(self, lr):
        self.clock.now += self.seconds
        return super().step(lr)
