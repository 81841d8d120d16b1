"""What a picture of a Finding shows, as plain data: each view draws the same, with what it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from findlr.curve import Curve
from findlr.errors import NoSuggestionError
from findlr.finding import Finding
from findlr.rules import Rule


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
        return f"{self.lr:.2g} ({', '.join(self.rules)})"


@dataclass(frozen=True, eq=False)
class Drawing:
    """A curve over the logarithm of the rate, with marks.

    Args:
        line: the curve to draw as a line; empty where the sweep has too few points.
        points: the raw losses behind it, or None.
        validation: the held-out losses over the line's rates, as a curve of their own; None if there are none.
        suggestion: the rate that is suggested, or None.
        interval: where the suggestion's rule says that the best rate lies; None if it does not tell.
        others: what other rules say.
        limits: the lowest and the highest loss to show: an explosion beyond them is cut. None: nothing is there.
        message: why nothing is suggested; empty if something is.
        loss_label: what the losses are.
    """

    line: Curve
    points: Curve | None
    validation: Curve | None
    suggestion: Mark | None
    interval: tuple[float, float] | None
    others: tuple[Mark, ...]
    limits: tuple[float, float] | None
    message: str
    loss_label: str


def describe(finding: Finding, *, smoothed: bool = True, raw: bool = True, rules: Sequence[Rule] = ()) -> Drawing:
    """What to draw of a Finding.

    Args:
        finding: with or without a suggestion.
        smoothed: True is the article's plot: the smoothed losses without the first 10 and last 5 points; False is the
            raw losses, all that are usable.
        raw: whether raw losses stand behind the smoothed ones.
        rules: other rules to ask; those that refuse are left out.

    Returns:
        The Drawing.

    Example:
        >>> from findlr import find, rules
        >>> from findlr.testing import Quadratic
        >>> drawing = describe(find(Quadratic()), rules=[rules.steep])
        >>> drawing.suggestion.rules, drawing.others[0].rules
        (('quick',), ('steep',))
    """
    curve = finding.curve
    line = curve.smoothed().clipped() if smoothed else curve.usable()
    points = None
    if smoothed and raw:
        points = curve.clipped() if len(line) else curve.usable()
    validation = _validation(line)
    named = _named(finding, rules)
    marks = [_mark(lr, line, names) for lr, names in named.items()]
    suggested = finding.suggestion is not None  # named first, then
    return Drawing(
        line=line,
        points=points,
        validation=validation,
        suggestion=marks[0] if suggested else None,
        interval=None if finding.suggestion is None else finding.suggestion.interval,
        others=tuple(marks[suggested:]),
        limits=_limits(line, points, validation),
        message="" if suggested else f"No suggestion. {finding.verdict.sentence}",
        loss_label="smoothed loss" if smoothed else "loss",
    )


def _named(finding: Finding, rules: Sequence[Rule]) -> dict[float, tuple[str, ...]]:
    """Each rate that is answered, the suggestion first, with the rules that answer it."""
    named: dict[float, tuple[str, ...]] = {}
    if finding.suggestion is not None:
        named[finding.suggestion.lr] = (finding.suggestion.rule,)
    for rule in rules:
        try:
            answer = finding.suggest(rule)
        except NoSuggestionError:
            continue
        names = named.get(answer.lr, ())
        named[answer.lr] = names if answer.rule in names else (*names, answer.rule)
    return named


def _mark(lr: float, line: Curve, names: tuple[str, ...]) -> Mark:
    height = np.interp(np.log10(lr), line.log10_lr, line.loss) if len(line) else np.nan
    return Mark(lr, float(height), names)


def _validation(line: Curve) -> Curve | None:
    """The held-out losses at those rates of the line where they were measured."""
    if line.validation is None:
        return None
    measured = np.isfinite(line.validation)
    return Curve(line.lr[measured], line.validation[measured]) if measured.any() else None


def _limits(line: Curve, points: Curve | None, validation: Curve | None) -> tuple[float, float] | None:
    """All of the fall, and as much of the rise as the fall is high; never less than nine tenths of the points."""
    shown = [curve.loss for curve in (line, points) if curve is not None and len(curve)]
    if not shown:
        return None
    bottom = int(np.argmin(shown[0]))
    low, start = float(shown[0][bottom]), float(shown[0][: bottom + 1].max())
    high = min(max(2 * start - low, float(np.quantile(shown[0], 0.9))), float(shown[0].max()))
    for losses in shown[1:]:  # raw losses around the line: without rare high ones
        low = min(low, float(losses[: bottom + 1].min()))
        high = max(high, float(np.quantile(losses[: bottom + 1], 0.98)))
    if validation is not None:
        falling = validation.loss[validation.lr <= line.lr[bottom]]
        low, high = min(low, falling.min(initial=low)), max(high, falling.max(initial=high))
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    return low - margin, high + margin
