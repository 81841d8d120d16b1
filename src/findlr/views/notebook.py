"""The notebook's view of a Finding, and of a search that runs: HTML without a script."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from findlr.analysis.curve import Step
from findlr.analysis.text import interval_text, printable, rate_text
from findlr.errors import MissingExtraError
from findlr.finding import Finding
from findlr.finding.given import the_finding
from findlr.finding.telling import code_lines, cost_text, plan_text, race_text
from findlr.views.figures import svg
from findlr.views.parts import OWN
from findlr.views.progress import Growing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINE, _SUGGESTION = "#2a8bd0", "#e0600f"  # stand out on white and on black; all else has the notebook's own colour
_MOST = 120  # points of the live curve
_REFRESH = 0.2  # seconds between two pictures


class LiveSweep:
    """A search as it runs, in a Jupyter notebook: a line, a small curve that grows, and what the runs ended at.

    Example:
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> finding = find(Quadratic(), progress=LiveSweep())  # doctest: +SKIP
    """

    def __enter__(self) -> Self:
        from IPython.display import HTML, display

        self._growing, self._due, self._ended = Growing(), 0.0, 0
        self._html: Callable[[str], object] = HTML
        self._handle = display(HTML(_running(self._growing)), display_id=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._handle.update(self._html(_line(self._growing.final)))

    def __call__(self, step: Step) -> None:
        """Show a step."""
        self._growing.add(step)
        place, now = self._growing.place, time.monotonic()
        if now >= self._due or place.done == place.steps or place.ended > self._ended:
            self._handle.update(self._html(_running(self._growing)))
            self._due, self._ended = now + _REFRESH, place.ended

    def tell(self, text: str) -> None:
        """Show what is done until the next step."""
        self._growing.tell(text)
        self._handle.update(self._html(_running(self._growing)))


def html(finding: Finding) -> str:
    """A Finding as HTML: the suggestion, its interval and plan, the curve, the verdict and why, the code to paste.

    Returns:
        Static HTML without a script; it takes the colours of the page around it.

    Example:
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> html(find(Quadratic()))[:5]
        '<div>'
    """
    suggestion, fallback = the_finding(finding).suggestion, finding.fallback
    head, how = "<b>No suggestion</b>", ""
    if suggestion is not None:
        head = f'<b style="color:{_SUGGESTION}">{rate_text(suggestion.lr)}</b>'
        if suggestion.interval is not None:
            head += f" &nbsp; interval {interval_text(suggestion.interval)}"
        named = "" if suggestion.rule in OWN else f"{_text(suggestion.rule, 40)}: "
        how = f"<div>{named}{_text(suggestion.why, 300)}</div>"
    elif fallback is not None:
        head += f": {_text(fallback.why, 200)}"
    race = "" if finding.race is None else f"<div>Race: {_text(race_text(finding.race), 300)}</div>"
    return (
        f'<div><div style="font-size:1.15em">{head}</div>'
        f"<div>for {_text(plan_text(finding.plan), 120)}</div>"
        f"{_picture(finding)}"
        f"{how}{race}<div><b>{finding.verdict.name}</b> {_text(finding.why, 500)}</div>"
        f"{_code(finding)}"
        f'<div style="opacity:.7">{_text(finding.stop.sentence, 200)} {cost_text(finding.cost)}.</div></div>'
    )


def _code(finding: Finding) -> str:
    """The code to paste, where there is some."""
    code = "\n".join(code_lines(finding))
    return code and f'<pre style="white-space:pre-wrap;margin:.4em 0">{escape(code)}</pre>'


def _text(text: str, most: int) -> str:
    return escape(printable(text, most))


def _line(parts: Sequence[str]) -> str:
    shown = escape("  ".join(map(printable, parts)))
    return f'<div style="font-family:monospace;white-space:pre-wrap">{shown}</div>'


def _running(growing: Growing) -> str:
    curve = growing.curve(_MOST)
    lines = _line(growing.parts) + (_line(growing.ended) if growing.ended else "")
    if curve is None:
        return lines
    shares, losses, (low, high) = curve
    heights = np.clip(np.nan_to_num((losses - low) / ((high - low) or 1.0)), -0.02, 1.02)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(shares * 300, 56 - heights * 52, strict=True))
    return (
        f'{lines}<svg viewBox="0 0 300 60" width="300" height="60" role="img" aria-label="the loss so far">'
        f'<polyline points="{points}" fill="none" stroke="{_LINE}" stroke-width="2"/></svg>'
    )


def _picture(finding: Finding) -> str:
    """The plot, less its titles, which stand above; a line of text where matplotlib is missing."""

    def draw(ax: Axes) -> None:
        finding.plot(ax).set_title("")
        ax.set_title("", loc="left")

    try:
        return svg(draw, "loss against learning rate")
    except MissingExtraError as error:
        return f"<div>(no picture: {escape(str(error))})</div>"
