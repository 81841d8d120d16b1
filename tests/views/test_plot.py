import math
import sys

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from findlr import Curve, Finding, MissingExtraError, Plan, Stop, Suggestion, Verdict, find, rules
from findlr.drawing import describe
from findlr.finder import choose
from findlr.finding import Cost
from findlr.testing import Quadratic

ALL_RULES = (rules.quick, rules.article, rules.valley, rules.slide, rules.steep, rules.minimum)


def finding_of(curve, rule=None):
    suggestion, verdict, why = choose(curve, Plan(), rule)
    stop = Stop.DIVERGED if curve.diverged else Stop.FINISHED
    return Finding(suggestion, verdict, why, stop, curve, Plan(), Cost(1, 1, 1, 0.0), {})


def article_like(n=200, explosion=(3.0, 10.0, 1e30)):
    """Flat at 2.3, falls to 0.4, explodes."""
    lrs = np.geomspace(1e-8, 10, n)
    losses = 0.4 + 1.9 / (1 + (lrs / 1e-3)) + 0.02 * np.sin(np.arange(n) * 2.4)
    losses[-len(explosion) :] = explosion
    return Curve(lrs, losses, diverged=True)


CURVES = {
    "empty": Curve([], []),
    "one point": Curve([1e-3], [2.3]),
    "nan at once": Curve([1e-3], [math.nan], diverged=True),
    "short": Curve(np.geomspace(1e-3, 1, 17), np.linspace(2, 1, 17)),
    "flat": Curve(np.geomspace(1e-8, 10, 100), np.full(100, 2.3)),
    "zero": Curve(np.geomspace(1e-8, 10, 100), np.zeros(100)),
    "rising": Curve(np.geomspace(1e-8, 10, 100), np.geomspace(1, 3.9, 100)),
    "still falling": Curve(np.geomspace(1e-8, 1e-4, 100), np.linspace(3, 2, 100)),
    "huge": Curve(np.geomspace(1e-8, 10, 100), np.geomspace(1, 3e38, 100)),
}


class TestDrawing:
    def test_smoothed_leaves_out_the_first_10_and_last_5_usable_points(self):
        finding = finding_of(article_like())
        drawing = describe(finding)
        assert drawing.line == finding.curve.smoothed().clipped()
        assert drawing.points == finding.curve.clipped()
        assert drawing.line.lr.tolist() == finding.curve.lr[10:-6].tolist()  # the one that tripped is not usable

    def test_raw_shows_every_usable_point(self):
        finding = finding_of(article_like())
        drawing = describe(finding, smoothed=False)
        assert drawing.line == finding.curve.usable()
        assert drawing.points is None

    def test_raw_points_can_be_left_out(self):
        assert describe(finding_of(article_like()), raw=False).points is None

    def test_the_suggestion_is_marked_on_the_line_and_named(self):
        finding = finding_of(article_like())
        mark = describe(finding).suggestion
        assert mark.lr == finding.lr
        assert mark.label == f"{finding.lr:.2g} (quick)"
        line = finding.curve.smoothed().clipped()
        at = int(np.searchsorted(line.lr, mark.lr))
        assert min(line.loss[at - 1 : at + 1]) <= mark.loss <= max(line.loss[at - 1 : at + 1])

    def test_a_suggestion_is_named_like_this(self):
        suggestion = Suggestion(0.1234, "article", "why")
        assert describe(finding_of(article_like(), lambda curve, plan: suggestion)).suggestion.label == "0.12 (article)"

    def test_the_interval_is_the_rules_own(self):
        curve = article_like()
        finding = finding_of(curve)
        low, high = describe(finding).interval
        assert (low, high) == finding.interval
        assert low < finding.lr < high
        assert describe(finding_of(curve, rules.article)).interval is None
        assert describe(finding_of(CURVES["flat"])).interval is None

    def test_other_rules_are_marked_and_those_that_agree_share_a_mark(self):
        finding = find(Quadratic(noise=0.1), rule=rules.valley)
        drawing = describe(finding, rules=ALL_RULES)
        named = {name: mark.lr for mark in (drawing.suggestion, *drawing.others) for name in mark.rules}
        assert named == {rule.__name__: finding.suggest(rule).lr for rule in ALL_RULES}
        rates = [mark.lr for mark in (drawing.suggestion, *drawing.others)]
        assert len(set(rates)) == len(rates)
        assert drawing.suggestion.rules[0] == "valley"

    def test_rules_that_refuse_are_left_out(self):
        def outside(curve, plan):
            return Suggestion(1e9, "outside", "never")

        drawing = describe(finding_of(article_like()), rules=(outside, rules.steep))
        assert [mark.rules for mark in drawing.others] == [("steep",)]

    def test_without_an_answer_of_its_own_other_rules_are_still_marked(self):
        def outside(curve, plan):
            return Suggestion(1e9, "outside", "never")

        finding = finding_of(article_like(), outside)
        drawing = describe(finding, rules=(rules.steep,))
        assert finding.verdict is Verdict.NO_ANSWER
        assert drawing.suggestion is None
        assert [mark.rules for mark in drawing.others] == [("steep",)]

    @pytest.mark.parametrize("smoothed", [True, False])
    def test_the_explosion_is_cut_and_the_fall_is_seen(self, smoothed):
        drawing = describe(finding_of(article_like()), smoothed=smoothed)
        low, high = drawing.limits
        assert low < drawing.line.loss.min()
        assert drawing.line.loss[:50].max() < high < 2 * 2.3
        # The fall takes a good part of the height.
        assert drawing.line.loss[:50].mean() - drawing.line.loss.min() > 0.4 * (high - low)

    def test_a_curve_without_an_explosion_is_shown_whole(self):
        drawing = describe(finding_of(CURVES["still falling"]), smoothed=False)
        low, high = drawing.limits
        assert low < 2 < 3 < high

    @pytest.mark.parametrize("name", ["short", "flat", "rising", "still falling", "nan at once", "empty"])
    def test_a_refusal_marks_nothing_and_says_why(self, name):
        finding = finding_of(CURVES[name])
        drawing = describe(finding, rules=ALL_RULES)
        assert drawing.suggestion is None
        assert drawing.others == ()
        assert drawing.message == f"No suggestion. {finding.verdict.sentence}"

    def test_too_short_for_a_line_still_shows_its_points(self):
        drawing = describe(finding_of(CURVES["one point"]))
        assert len(drawing.line) == 0
        assert drawing.points.loss.tolist() == [2.3]


class TestAxes:
    def test_axes_in_axes_out(self):
        ax = Figure().subplots()
        open_before = plt.get_fignums()
        assert find(Quadratic()).plot(ax) is ax
        assert plt.get_fignums() == open_before

    def test_without_axes_a_figure_is_made_and_not_shown(self, monkeypatch):
        monkeypatch.setattr(plt, "show", lambda *args, **kwargs: pytest.fail("shown"))
        ax = find(Quadratic()).plot()
        assert ax.figure.number in plt.get_fignums()
        plt.close(ax.figure)

    def test_the_lines_are_what_the_drawing_says(self):
        finding = finding_of(article_like())
        ax = finding.plot(Figure().subplots(), rules=(rules.steep,))
        drawing = describe(finding, rules=(rules.steep,))
        lines = {line.get_label(): line for line in ax.lines}
        for label, curve in (("smoothed loss", drawing.line), ("raw loss", drawing.points)):
            assert np.array_equal(lines[label].get_xdata(), curve.lr)
            assert np.array_equal(lines[label].get_ydata(), curve.loss)
        assert lines[drawing.others[0].label].get_xdata() == [drawing.others[0].lr]
        assert [text.get_text() for text in ax.texts] == [drawing.suggestion.label]
        assert ax.texts[0].xy == (drawing.suggestion.lr, drawing.suggestion.loss)
        (band,) = ax.patches
        assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx(finding.interval)
        assert band.get_alpha() <= 0.15  # on white
        assert ax.get_ylim() == drawing.limits
        assert (ax.get_xscale(), ax.get_xlabel(), ax.get_ylabel()) == ("log", "learning rate (log scale)", "loss")
        assert ax.get_title() == ""

    @pytest.mark.parametrize("style", ["default", "dark_background"])
    @pytest.mark.parametrize("smoothed", [True, False])
    @pytest.mark.parametrize("name", CURVES)
    def test_any_finding_can_be_drawn(self, name, smoothed, style, tmp_path):
        finding = finding_of(CURVES[name])
        with plt.style.context(style):
            figure = Figure()
            ax = finding.plot(figure.subplots(), smoothed=smoothed, rules=ALL_RULES)
            figure.savefig(tmp_path / "any.png", dpi=40)
        if finding.suggestion is None:
            assert ax.get_title() == f"No suggestion. {finding.verdict.sentence}"
            assert not ax.texts

    def test_without_matplotlib_one_line_says_what_to_install(self, monkeypatch):
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(MissingExtraError, match=r"matplotlib is not installed; run: pip install 'findlr\[plot\]'"):
            find(Quadratic()).plot()
