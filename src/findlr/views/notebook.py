"""The notebook's view of a Finding, and of a sweep that runs: HTML without a script."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from html import escape
from types import TracebackType
from typing import Self

import numpy as np

from findlr.analysis.curve import Step
from findlr.analysis.smoothing import Array
from findlr.analysis.text import interval_text, printable, rate_text
from findlr.finding import Finding
from findlr.finding.telling import cost_text, none_text, plan_text, race_text
from findlr.views.drawing import describe
from findlr.views.parts import Drawing
from findlr.views.progress import Growing
from findlr.views.thinning import extremes

_LINE, _SUGGESTION = "#2a8bd0", "#e0600f"  # stand out on white and on black; all else has the notebook's own colour
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 428, 22, 190  # of the frame, in a picture of 440 x 224
_MOST = 120  # points of a line: the whole stays below 10 kB
_LONGEST_CODE = 600  # letters; what is longer is for ``finding.code()``
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
        done, steps, ended = self._growing.place
        if (now := time.monotonic()) >= self._due or done == steps or ended > self._ended:
            self._handle.update(self._html(_running(self._growing)))
            self._due, self._ended = now + _REFRESH, ended

    def tell(self, text: str) -> None:
        """Show what is done until the next step."""
        self._growing.tell(text)
        self._handle.update(self._html(_running(self._growing)))


def html(finding: Finding) -> str:
    """A Finding as HTML: the suggestion, its interval and plan, the curve, the verdict and why, the code to paste.

    Args:
        finding: with or without a suggestion.

    Returns:
        Static HTML below 10 kB, without a script; it takes the colours of the page around it.

    Example:
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> html(find(Quadratic()))[:5]
        '<div>'
    """
    suggestion = finding.suggestion
    if suggestion is None:
        head = f"<b>No suggestion:</b> {_text(none_text(finding), 200)}"
    else:
        head = f'<b style="color:{_SUGGESTION}">{rate_text(suggestion.lr)}</b> ({_text(suggestion.rule, 40)})'
        if suggestion.interval is not None:
            head += f" &nbsp; interval {interval_text(suggestion.interval)}"
    how = "" if suggestion is None else f"<div>{_text(suggestion.why, 300)}</div>"
    race = "" if finding.race is None else f"<div>Race: {_text(race_text(finding.race), 300)}</div>"
    return (
        f'<div><div style="font-size:1.15em">{head}</div>'
        f"<div>for {_text(plan_text(finding.plan), 120)}</div>"
        f"{_picture(describe(finding))}"
        f"{how}{race}<div><b>{finding.verdict.name}</b> {_text(finding.why, 500)}</div>"
        f"{_code(finding)}"
        f'<div style="opacity:.7">{_text(finding.stop.sentence, 200)} {cost_text(finding.cost)}.</div></div>'
    )


def _code(finding: Finding) -> str:
    """The code to paste, where the optimizer is known and it is not very long."""
    if finding.suggestion is None or not (finding.facts.get("optimizer") or finding.facts.get("sets")):
        return ""
    code = finding.code()
    if len(code) > _LONGEST_CODE:
        return ""
    lines = "\n".join(escape(printable(line)) for line in code.splitlines())
    return f'<pre style="white-space:pre-wrap;margin:.4em 0">{lines}</pre>'


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
    shares, losses, limits = curve
    points = _points(shares * 300, _heights(losses, limits, 4, 56))
    return (
        f'{lines}<svg viewBox="0 0 300 60" width="300" height="60" role="img" aria-label="the loss so far">'
        f'<polyline points="{points}" fill="none" stroke="{_LINE}" stroke-width="2"/></svg>'
    )


def _picture(drawing: Drawing) -> str:
    """The curve, its suggestion, and two axes."""
    if drawing.limits is None or len(drawing.line) < 2:
        return ""
    line, limits = drawing.line, drawing.limits
    ends = [float(line.log10_lr[0]), float(line.log10_lr[-1])]
    mark = drawing.suggestion
    if mark is not None:
        ends = [min(ends[0], math.log10(mark.lr)), max(ends[1], math.log10(mark.lr))]

    def across(log_lr: Array | float) -> Array:
        share = (np.asarray(log_lr) - ends[0]) / ((ends[1] - ends[0]) or 1.0)
        return np.asarray(_LEFT + np.clip(share, 0.0, 1.0) * (_RIGHT - _LEFT))

    parts = []
    if drawing.interval is not None:
        low, high = across(np.log10(sorted(drawing.interval))).tolist()
        parts.append(
            f'<rect x="{low:.1f}" y="{_TOP}" width="{high - low:.1f}" height="{_BOTTOM - _TOP}" fill="{_SUGGESTION}" '
            'fill-opacity=".13"/>'
        )
    if drawing.points is not None and len(drawing.points):
        xs, ys = _thinned(across(drawing.points.log10_lr), _heights(drawing.points.loss, limits, _TOP, _BOTTOM))
        dots = "".join(f"M{x:.0f} {y:.0f}h0" for x, y in zip(xs, ys, strict=True))
        parts.append(f'<path d="{dots}" stroke="{_LINE}" stroke-opacity=".6" stroke-width="3" stroke-linecap="round"/>')
    points = _points(*_thinned(across(line.log10_lr), _heights(line.loss, limits, _TOP, _BOTTOM)))
    parts.append(f'<polyline points="{points}" fill="none" stroke="{_LINE}" stroke-width="2"/>')
    if (corrected := drawing.corrected) is not None:  # what the default rule reads
        points = _points(*_thinned(across(corrected.log10_lr), _heights(corrected.loss, limits, _TOP, _BOTTOM)))
        parts.append(f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-opacity=".5"/>')
    if mark is not None:
        x = float(across(math.log10(mark.lr)))
        y = float(_heights(np.array([mark.loss]), limits, _TOP, _BOTTOM)[0])
        anchor = "start" if x < 200 else "end" if x > 330 else "middle"
        parts.append(
            f'<path d="M{x:.1f} {_TOP}V{_BOTTOM}" stroke="{_SUGGESTION}" stroke-dasharray="2 3"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{_SUGGESTION}"/>'
            f'<text x="{x:.1f}" y="14" text-anchor="{anchor}" fill="{_SUGGESTION}" font-weight="bold">'
            f"{rate_text(mark.lr)}</text>"
        )
    ticks = _ticks(ends)
    labels = [(f"1e{tick:g}" if tick == int(tick) else rate_text(10**tick), float(across(tick))) for tick in ticks]
    parts += [f'<text x="{x:.0f}" y="{_BOTTOM + 15}" text-anchor="middle">{label}</text>' for label, x in labels]
    for loss, y in ((limits[1], _TOP + 8), (sum(limits) / 2, (_TOP + _BOTTOM) / 2), (limits[0], _BOTTOM)):
        parts.append(f'<text x="{_LEFT - 5}" y="{y}" text-anchor="end">{loss:.3g}</text>')
    said = f"{drawing.loss_label} against learning rate"
    return (
        f'<svg viewBox="0 0 440 224" width="440" style="max-width:100%" role="img" aria-label="{said}" '
        f'font-size="11" font-family="sans-serif" fill="currentColor">{"".join(parts)}'
        f'<path d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}" fill="none" stroke="currentColor" stroke-opacity=".6"/>'
        f'<text x="{(_LEFT + _RIGHT) / 2}" y="220" text-anchor="middle">{said}</text></svg>'
    )


def _ticks(ends: Sequence[float]) -> list[float]:
    """Powers of ten, not more than eight; the ends where they hold fewer than two."""
    powers = range(math.ceil(ends[0]), math.floor(ends[1]) + 1)
    return list(powers[:: max(math.ceil(len(powers) / 8), 1)]) if len(powers) > 1 else list(ends)


def _heights(losses: Array, limits: tuple[float, float], top: float, bottom: float) -> Array:
    low, high = limits
    share = (losses - low) / ((high - low) or 1.0)
    return np.asarray(bottom - np.clip(np.nan_to_num(share), -0.02, 1.02) * (bottom - top))


def _thinned(xs: Array, ys: Array) -> tuple[Array, Array]:
    kept = extremes(ys, _MOST // 2 - 1)
    return xs[kept], ys[kept]


def _points(xs: Array, ys: Array) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
