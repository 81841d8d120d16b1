"""The picture of a Finding, by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from findlr.drawing import Drawing, Mark, describe
from findlr.errors import MissingExtraError
from findlr.finding import Finding
from findlr.rules import Rule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's, for the colour-blind; the first two lightened or darkened to stand out on white and on black.
_LINE, _SUGGESTION = "#2a8bd0", "#e0600f"
_VALIDATION = "#8a6fd1"
_OTHERS = (("#009e73", "s"), ("#cc79a7", "^"), ("#e69f00", "D"), ("#8c8c8c", "v"))


def draw(
    finding: Finding,
    ax: Axes | None = None,
    *,
    smoothed: bool = True,
    raw: bool = True,
    rules: Sequence[Rule] = (),
) -> Axes:
    """Draw the loss against the rate, with the suggestion marked and named, and its interval as a light band.

    Args:
        finding: with or without a suggestion; the title says why there is none.
        ax: where to draw; None makes a new figure. Nothing is shown: that is the caller's, or the notebook's.
        smoothed: True is the article's plot: the smoothed losses without the first 10 and last 5 points; False is the
            raw losses. An explosion on the right is cut, so that the fall is seen.
        raw: whether raw losses stand faintly behind the smoothed ones.
        rules: other rules to mark, such as ``findlr.rules.valley``; those that refuse are left out.

    Returns:
        The Axes.

    Raises:
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> draw(find(Quadratic()), Figure().subplots()).get_xscale()
        'log'
    """
    if ax is None:
        try:
            from matplotlib import pyplot as plt
        except ImportError:
            raise MissingExtraError.of("matplotlib", "plot") from None
        ax = plt.subplots(figsize=(7, 4.5), layout="constrained")[1]
    _draw(describe(finding, smoothed=smoothed, raw=raw, rules=rules), ax)
    return ax


def _draw(drawing: Drawing, ax: Axes) -> None:
    ax.set_xscale("log")
    if drawing.points is not None:
        ax.plot(drawing.points.lr, drawing.points.loss, "o", color=_LINE, ms=3.5, mew=0, alpha=0.45, label="raw loss")
    if len(drawing.line):
        ax.plot(drawing.line.lr, drawing.line.loss, color=_LINE, lw=2, label=drawing.loss_label)
    if drawing.validation is not None:
        ax.plot(
            drawing.validation.lr, drawing.validation.loss, "--", color=_VALIDATION, lw=1.5, label="validation loss"
        )
    if drawing.interval is not None:
        ax.axvspan(*drawing.interval, color=_SUGGESTION, alpha=0.1, lw=0, zorder=0, label="interval")
    if drawing.suggestion is not None:
        _point_at(drawing.suggestion, ax)
    for mark, (colour, shape) in zip(drawing.others, cycle(_OTHERS), strict=False):
        ax.plot(mark.lr, mark.loss, shape, color=colour, ms=8, label=mark.label, zorder=3)
    ax.set_xlabel("learning rate (log scale)")
    ax.set_ylabel("loss")
    if drawing.message:
        ax.set_title(drawing.message)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.grid(alpha=0.25, lw=0.6)
    if drawing.limits is not None:
        ax.set_ylim(*drawing.limits)
        ax.legend(frameon=False)


def _point_at(mark: Mark, ax: Axes) -> None:
    """Mark the suggestion with a dot, a line at its rate, and its name."""
    from matplotlib.patheffects import withStroke

    ax.axvline(mark.lr, color=_SUGGESTION, lw=1, ls=":", zorder=1)
    ax.plot(mark.lr, mark.loss, "o", color=_SUGGESTION, ms=9, zorder=4)
    # A curve falls from the left above, so below on the left its name has room; a mark far on the left has it above.
    left = mark.lr > math.sqrt(math.prod(ax.get_xlim()))
    name = ax.annotate(
        mark.label,
        (mark.lr, mark.loss),
        xytext=(-9, -9) if left else (9, 9),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top" if left else "bottom",
        color=_SUGGESTION,
        weight="bold",
        zorder=5,
    )
    name.set_path_effects([withStroke(linewidth=3, foreground=ax.get_facecolor())])  # readable across the curve
