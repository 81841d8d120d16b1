"""The parts of a picture, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from findlr.analysis.curve import Curve
from findlr.analysis.runs import Run
from findlr.analysis.text import printable, rate_text

Limits = tuple[float, float]


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
        """The rate and its rules, as in "0.12 (quick)"."""
        return f"{rate_text(self.lr)} ({printable(', '.join(self.rules))})"


@dataclass(frozen=True)
class StopPoint:
    """Where a sweep ended early: the rate, the raw loss (it may be NaN or infinite), and why."""

    lr: float
    loss: float
    why: str


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


@dataclass(frozen=True, eq=False)
class Drawing:
    """A curve over the logarithm of the rate, with marks.

    Args:
        line: the curve to draw as a line; empty where the sweep has too few points.
        points: the raw losses behind it, or None.
        ends: the raw losses that the line leaves out at its ends, or None.
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
    ends: Curve | None
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
