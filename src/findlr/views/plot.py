"""The picture of a Finding, or of several, by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from os import PathLike
from textwrap import fill
from typing import TYPE_CHECKING, Any

from findlr.analysis.curve import Curve
from findlr.analysis.rules import Rule
from findlr.analysis.text import interval_text, printable, rate_text
from findlr.finding import Finding
from findlr.views.drawing import describe, describe_alike, findings_of, labels_of
from findlr.views.figures import drawn, inches, lines
from findlr.views.parts import Drawing, Mark, RaceRuns

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_LEGEND_WIDTH = 44  # letters
_MANY = 500  # points
_LONGEST_NAME = 80  # letters; a legend of more would leave the axes no room
_LEAST_INCHES = 2.6  # of axes that have room for a legend

# Okabe and Ito's, for the colour-blind; the first two lightened or darkened to stand out on white and on black. Shapes
# and dashes differ as well, for a picture in grey.
_LINE, _SUGGESTION = "#2a8bd0", "#e0600f"
_OTHERS = (("#009e73", "s"), ("#cc79a7", "^"), ("#e69f00", "D"), ("#8c8c8c", "v"))
_RACE, _VALIDATION, _GREY = "#cc79a7", "#009e73", "#8c8c8c"
_RUNS = (
    (_LINE, "-", "o"),
    (_SUGGESTION, (0, (5, 1.5)), "s"),
    ("#009e73", (0, (1.5, 1)), "^"),
    ("#cc79a7", (0, (7, 1.5, 1.5, 1.5)), "D"),
    ("#c99700", (0, (3, 1, 1, 1, 1, 1)), "v"),
    ("#56b4e9", (0, (9, 3)), "P"),
    (_GREY, (0, (1.5, 3)), "X"),
)


def draw(
    finding: Finding,
    ax: Axes | str | PathLike[str] | None = None,
    *,
    smoothed: bool = True,
    raw: bool = True,
    rules: Sequence[Rule | str] | Rule | str = (),
    race: bool = True,
) -> Axes:
    """Draw the loss against the rate, with the suggestion, the plan that it is for, and its interval as a light band.

    Args:
        finding: with or without a suggestion; the title says why there is none.
        ax: where to draw; a path is a picture to write, such as "curve.png"; None makes a new figure. Nothing is
            shown: that is the caller's, or the notebook's.
        smoothed: True is the article's plot: the smoothed losses without the first 10 and last 5 points; False is the
            raw losses. An explosion on the right is cut, so that the fall is seen.
        raw: whether raw losses stand faintly behind the smoothed ones and, as a thin line, those less what their
            batches differ in, where that was measured.
        rules: other rules to mark, such as ``findlr.rules.valley`` or "valley"; those that refuse are left out.
        race: whether the runs that verified the suggestion are shown, on an axis of their own on the right.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ConfigurationError: no rule has that name, or matplotlib writes no such picture.
        OSError: the picture can't be written; names the file, and one that was there stays whole.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> draw(find(Quadratic()), Figure().subplots()).get_xscale()
        'log'
    """
    drawing = describe(finding, smoothed=smoothed, raw=raw, rules=rules, race=race)
    return drawn(lambda axes: _draw(drawing, axes), ax)


def compare(
    findings: Sequence[Finding] | Mapping[str, Finding],
    labels: Sequence[str] | None = None,
    ax: Axes | str | PathLike[str] | None = None,
) -> Axes:
    """Draw several runs over each other: weight decays, batch sizes, optimizers.

    Args:
        findings: at least one, in a list, or in a dict by its label; each is drawn by its suggestion, its
            interval, and the line that the rule reads; by its smoothed losses if one of them has no such line.
        labels: one per Finding; None names them by what their facts differ in.
        ax: where to draw; a path is a picture to write; None makes a new figure, which is not shown.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ConfigurationError: there is no Finding, not one label for each, or matplotlib writes no such picture.
        OSError: the picture can't be written; names the file, and one that was there stays whole.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> runs = [find(Quadratic(curvature=curvature)) for curvature in (1.0, 10.0)]
        >>> ax = compare(runs, ["flat", "steep"], Figure().subplots())
        >>> len(ax.get_legend().get_texts())
        2

    Source: Smith 2018 (arXiv:1803.09820), who chooses the weight decay so.
    """
    if isinstance(findings, Mapping):
        labels = list(findings) if labels is None else labels
        findings = list(findings.values())
    findings = findings_of(findings)
    names = labels_of(findings, labels)
    drawings = describe_alike(findings)
    return drawn(lambda axes: _draw_all(drawings, names, axes), ax)


def _draw_all(drawings: Sequence[Drawing], names: Sequence[str], ax: Axes) -> None:
    _style(ax)
    shown_limits = [drawing.limits for drawing in drawings if drawing.limits is not None]
    if shown_limits:
        ax.set_ylim(min(low for low, _ in shown_limits), max(high for _, high in shown_limits))
    one_plan = len({drawing.plan for drawing in drawings}) == 1
    if one_plan:
        _tell_plan(drawings[0], ax)
    handles: list[Artist] = []
    for drawing, name, (colour, dashes, shape) in zip(drawings, names, cycle(_RUNS), strict=False):
        mark = drawing.suggestion
        label = f"{printable(name, _LONGEST_NAME)}: {'no suggestion' if mark is None else rate_text(mark.lr)}"
        if not one_plan:
            label += "\n" + fill(f"for {drawing.plan}", _LEGEND_WIDTH)
        sign = "" if mark is None else shape
        paper = ax.get_facecolor()
        handles += ax.plot([], [], color=colour, ls=dashes, lw=2, marker=sign, ms=8, mec=paper, label=label)
        ax.plot(drawing.line.lr, drawing.line.loss, color=colour, ls=dashes, lw=2)
        if mark is not None:
            if drawing.interval is not None:
                ax.plot(drawing.interval, [mark.loss] * 2, "|-", color=colour, lw=1, ms=9, alpha=0.8)
            ax.plot(mark.lr, mark.loss, shape, color=colour, ms=9, mec=paper, zorder=4)
    _legend(ax, handles)


def _draw(drawing: Drawing, ax: Axes) -> None:
    _style(ax)
    if drawing.limits is not None:
        ax.set_ylim(*drawing.limits)  # first, so that no explosion reaches the axes
    handles = [*_curves(drawing, ax), *_marks(drawing, ax)]
    if drawing.race is not None:
        handles += _draw_race(drawing.race, ax)
    handles += _signs(drawing, ax)
    left, right = ax.dataLim.intervalx
    if math.isclose(left, right):  # a single point has no width of its own
        ax.set_autoscalex_on(False)  # which would warn of it
        ax.set_xlim(left / 10, right * 10)
    if drawing.message:
        ax.set_title(lines(drawing.message, ax, "large"), parse_math=False)
    else:
        _tell_plan(drawing, ax)
    if drawing.limits is None:  # no loss was a number
        ax.set_yticks([])
    if handles:
        _legend(ax, handles)


def _curves(drawing: Drawing, ax: Axes) -> Iterator[Artist]:
    """The lines and points; those further down lie over those before."""
    read = drawing.read
    # Drawn one by one, so many points would make a vector picture very large.
    many: dict[str, Any] = {"rasterized": len(drawing.line) > _MANY}
    dots: dict[str, Any] = {"color": _LINE, "ls": "", "marker": "o", "ms": 3, "mew": 0, "alpha": 0.5, **many}
    layers: tuple[tuple[str, Curve | None, dict[str, Any]], ...] = (
        ("raw loss", drawing.points, dots),
        ("raw loss less batch differences", drawing.corrected, {"color": _GREY, "lw": 0.8, **many}),
        (drawing.loss_label, drawing.line, {"color": _LINE, "lw": 2} if read is None else {"color": _LINE, "lw": 1}),
        ("what the rule reads, dip shaded", None if read is None else read.line, {"color": _LINE, "lw": 2.8}),
        ("validation loss", drawing.validation, {"color": _VALIDATION, "ls": "--", "lw": 1.6, "marker": "."}),
    )
    for label, curve, how in layers:
        if curve is not None and len(curve):
            yield from ax.plot(curve.lr, curve.loss, label=label, **how)
    if read is not None:
        dip = read.dip
        ax.fill_between(dip.lr, dip.loss, dip.loss.max(), color=_LINE, alpha=0.2, lw=0, zorder=1)


def _marks(drawing: Drawing, ax: Axes) -> Iterator[Artist]:
    """The suggestion and its interval, other rules, and where the sweep stopped: what is named in the legend."""
    from matplotlib.colors import to_rgba

    paper = ax.get_facecolor()
    if drawing.interval is not None:
        alpha = 0.12 if sum(to_rgba(paper)[:3]) > 1.5 else 0.25  # a band needs more colour on black
        label = f"interval: {interval_text(drawing.interval)}"
        yield ax.axvspan(*drawing.interval, color=_SUGGESTION, alpha=alpha, lw=0, zorder=0, label=label)
    if drawing.suggestion is not None:
        _point_at(drawing.suggestion, ax)
    for mark, (colour, shape) in zip(drawing.others, cycle(_OTHERS), strict=False):
        yield from ax.plot(mark.lr, mark.loss, shape, color=colour, ms=8, mec=paper, label=mark.label, zorder=3)
    if drawing.stop is not None:  # at the top, because the loss there lies far above, or is no number
        ink = ax.xaxis.label.get_color()
        yield from ax.plot(drawing.stop.lr, 1.0, "X", color=ink, ms=8, label=drawing.stop.why, **_at_edge(ax))


def _signs(drawing: Drawing, ax: Axes) -> Iterator[Artist]:
    """What the suggestion is made of, at the foot: its own line falls between them."""
    raced = drawing.suggestion is not None and "race" in drawing.suggestion.rules
    for sign, colour in zip(drawing.signs, (_RACE if raced else _LINE, _GREY), strict=False):
        yield from ax.plot(
            sign.lr, 0.0, "^", color=colour, ms=9, mec=ax.get_facecolor(), label=sign.label, **_at_edge(ax)
        )


def _at_edge(ax: Axes) -> dict[str, Any]:
    """For a mark at the top or the foot of a picture, whole."""
    return {"transform": ax.get_xaxis_transform(), "clip_on": False, "zorder": 5}


def _tell_plan(drawing: Drawing, ax: Axes) -> None:
    """What the rate is for, above the picture on the left: a title of the user's own has its place."""
    ax.set_title(lines(f"for {drawing.plan}", ax, "small"), loc="left", fontsize="small", parse_math=False)


def _style(ax: Axes) -> None:
    ax.set_xscale("log")
    ax.set_xlabel("learning rate (log scale)")
    ax.set_ylabel("loss")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.grid(alpha=0.25, lw=0.6)


def _legend(ax: Axes, handles: Sequence[Artist]) -> None:
    """Below the axes, where a layout makes room for it; else where it covers least, if they are large enough."""
    from matplotlib.transforms import ScaledTranslation

    names = [str(handle.get_label()) for handle in handles]
    figure, size = ax.get_figure(root=True), float(ax.xaxis.label.get_fontsize())
    look: dict[str, Any] = {"framealpha": 0.8, "edgecolor": "none", "fontsize": "small"}
    if figure is not None and figure.get_layout_engine() is not None:
        widest = max(len(line) for name in names for line in name.splitlines())
        width = 79 * inches(ax)[0]  # points, and a tenth for the layout to add
        below = ax.transAxes + ScaledTranslation(0, -3.4 * size / 72, figure.dpi_scale_trans)
        look |= {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": below, "borderpad": 0}
        look |= {"ncols": max(int(width / (0.45 * size * (widest + 7))), 1), "columnspacing": 1.5}
    elif min(inches(ax)) < _LEAST_INCHES:
        return  # it would cover the curve; the user's own ax.legend() still knows the names
    elif max((len(line.get_path()) for line in ax.lines), default=0) > _MANY:
        look |= {"loc": "lower left"}  # to look for the best place would take long
    for text in ax.legend(handles, names, **look).get_texts():  # no formulas
        text.set_parse_math(False)


def _draw_race(race: RaceRuns, ax: Axes) -> Iterator[Artist]:
    """The runs on an axis of their own; those that diverged, or ended far above, stand at its top."""
    right = ax.twinx()
    right.set_ylabel(race.label, color=_RACE)
    right.tick_params(axis="y", labelcolor=_RACE, color=_RACE)
    for name, spine in right.spines.items():
        spine.set_visible(name == "right")
        spine.set_color(_RACE)
    rates, losses = [run.lr for run in race.inside], [run.loss for run in race.inside]
    name = "short runs, on the right axis"
    yield from right.plot(rates, losses, "D:", color=_RACE, lw=1.2, ms=6, mec=ax.get_facecolor(), label=name)
    if race.above:
        rates, top = [run.lr for run in race.above], [1.0] * len(race.above)
        yield from right.plot(rates, top, "x", color=_RACE, ms=9, mew=2.5, label=race.told_above, **_at_edge(right))
    right.set_ylim(*(race.limits or (0.0, 1.0)))
    if race.limits is None:
        right.set_yticks([])


def _point_at(mark: Mark, ax: Axes) -> None:
    """Mark the suggestion with a dot, a line at its rate, and its name."""
    from matplotlib.patheffects import withStroke

    ax.axvline(mark.lr, color=_SUGGESTION, lw=1, ls=":", zorder=1)
    ax.plot(mark.lr, mark.loss, "o", color=_SUGGESTION, ms=9, mec=ax.get_facecolor(), zorder=4)
    # A curve falls from the left above, so below on the left its name has room; a mark far on the left has it above.
    left = mark.lr > math.sqrt(math.prod(ax.get_xlim()))
    name = ax.annotate(
        mark.suggested,
        (mark.lr, mark.loss),
        xytext=(-9, -9) if left else (9, 9),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top" if left else "bottom",
        color=_SUGGESTION,
        weight="bold",
        parse_math=False,
        zorder=6,
    )
    name.set_in_layout(False)  # a long one must not squeeze the axes
    name.set_path_effects([withStroke(linewidth=3, foreground=ax.get_facecolor())])  # readable across the curve
