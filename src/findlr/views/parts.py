"""The parts of a picture, as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from findlr.analysis.curve import Curve
from findlr.analysis.race import Run
from findlr.analysis.text import printable, rate_text

_LONGEST = 40  # letters of rules' names
Limits = tuple[float, float]
OWN = ("quick", "race")  # the rules that nobody need have asked for


@dataclass(frozen=True)
class Mark:
    """A rate to point at.

    Args:
        lr: the rate.
        loss: the line's height there; NaN where there is no line.
        rules: the names of the rules that answer with it.
    """

    lr: float
    loss: float
    rules: tuple[str, ...]

    @property
    def label(self) -> str:
        """The rate and its rules, as in "0.12 (valley)"."""
        return f"{rate_text(self.lr)} ({_named(self.rules)})"

    @property
    def suggested(self) -> str:
        """The rate as the one that is suggested, with the rules that were asked for by name."""
        rules = [rule for rule in self.rules if rule not in OWN]
        return f"suggested {rate_text(self.lr)}" + (f" ({_named(rules)})" if rules else "")


@dataclass(frozen=True, eq=False)
class Read:
    """What the default rule reads of a curve.

    Args:
        line: the loss, smoothed without lag.
        dip: the part of it that the rule takes the middle of.
    """

    line: Curve
    dip: Curve


@dataclass(frozen=True)
class Sign:
    """A rate at the foot of a picture, and what it is."""

    lr: float
    text: str

    @property
    def label(self) -> str:
        """What it is, and the rate."""
        return f"{self.text}: {rate_text(self.lr)}"


@dataclass(frozen=True)
class StopPoint:
    """Where a sweep ended early: the rate, the raw loss (it may be NaN or infinite), and why."""

    lr: float
    loss: float
    why: str


def outcome(run: Run) -> str:
    """What a run ended at, as in "loss 3.2 at 0.87"."""
    end = f"loss {run.loss:.4g}" if math.isfinite(run.loss) else "diverged"
    return f"{end} at {rate_text(run.lr)}"


@dataclass(frozen=True)
class RaceRuns:
    """The runs of a race by rate, on an axis of their own: what a run ends at is no loss of the sweep.

    Args:
        runs: every run, the lowest rate first; the loss of one that diverged is infinite.
        limits: the lowest and the highest loss to show: an explosion is cut. None if every run diverged.
        label: what the losses are.
    """

    runs: tuple[Run, ...]
    limits: Limits | None
    label: str

    @property
    def inside(self) -> tuple[Run, ...]:
        """The runs within the limits."""
        return tuple(run for run in self.runs if self.limits is not None and run.loss <= self.limits[1])

    @property
    def above(self) -> tuple[Run, ...]:
        """The runs that ended above them, or diverged."""
        return tuple(run for run in self.runs if run not in self.inside)

    @property
    def told_above(self) -> str:
        """What those ended at, as in "above: loss 3.2 at 0.87"."""
        return "above: " + ", ".join(map(outcome, self.above))


@dataclass(frozen=True, eq=False)
class Drawing:
    """A curve over the logarithm of the rate, with marks.

    Args:
        line: the curve to draw as a line; empty where the sweep has too few points.
        points: the raw losses behind it, or None.
        read: what the default rule reads, where the suggestion is its own or a race's; None otherwise.
        signs: rates that such a suggestion is made of.
        corrected: the raw losses less what makes their batch hard or easy; None where that was not measured.
        validation: the held-out losses, where they were measured, or None.
        suggestion: the rate that is suggested, or None.
        interval: where the suggestion's rule says that the best rate lies; None if it does not tell.
        others: what other rules say.
        stop: where the sweep ended early; None if it did not.
        race: the runs that verified the suggestion, or None.
        limits: the lowest and the highest loss to show: an explosion beyond them is cut. None: nothing is there.
        plan: the training that the suggestion is for.
        message: why nothing is suggested; empty if something is.
        loss_label: what the losses are.
    """

    line: Curve
    points: Curve | None
    read: Read | None
    signs: tuple[Sign, ...]
    corrected: Curve | None
    validation: Curve | None
    suggestion: Mark | None
    interval: tuple[float, float] | None
    others: tuple[Mark, ...]
    stop: StopPoint | None
    race: RaceRuns | None
    limits: Limits | None
    plan: str
    message: str
    loss_label: str

    @property
    def main(self) -> Curve:
        """The line that the suggestion stands on."""
        return self.line if self.read is None else self.read.line


def _named(rules: Sequence[str]) -> str:
    return printable(", ".join(rules), _LONGEST)
