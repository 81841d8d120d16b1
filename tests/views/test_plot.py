import io
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from findlr import ConfigurationError, Curve, MissingExtraError, Plan, Suggestion, Verdict, find, rules
from findlr.analysis.race import Race, Run
from findlr.testing import Quadratic
from findlr.views.drawing import describe
from findlr.views.plot import compare
from tests.views.made import finding_of

ALL_RULES = (rules.quick, rules.article, rules.valley, rules.slide, rules.steep, rules.minimum)


def article_like(n=200, explosion=(3.0, 10.0, 1e30)):
    """Flat at 2.3, falls to 0.4, explodes."""
    lrs = np.geomspace(1e-8, 10, n)
    losses = 0.4 + 1.9 / (1 + (lrs / 1e-3)) + 0.02 * np.sin(np.arange(n) * 2.4)
    losses[-len(explosion) :] = explosion
    return Curve(lrs, losses, diverged=True)


CURVES = {
    "empty": Curve([], []),
    "one point": Curve([1e-8], [2.3]),  # which a logarithm and back makes another number
    "nan at once": Curve([1e-8], [math.nan], diverged=True),
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
        assert drawing.points == finding.curve.usable()
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
        assert mark.suggested == f"suggested {finding.lr:.2g}"
        line = describe(finding).main
        at = int(np.searchsorted(line.lr, mark.lr))
        assert min(line.loss[at - 1 : at + 1]) <= mark.loss <= max(line.loss[at - 1 : at + 1])

    def test_a_suggestion_is_named_like_this(self):
        suggestion = Suggestion(0.1234, "article", "why")
        mark = describe(finding_of(article_like(), lambda curve, plan: suggestion)).suggestion
        assert (mark.suggested, mark.label) == ("suggested 0.12 (article)", "0.12 (article)")

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
        read = "what the rule reads, dip shaded"
        for label, curve in (("smoothed loss", drawing.line), ("raw loss", drawing.points), (read, drawing.read.line)):
            assert np.array_equal(lines[label].get_xdata(), curve.lr)
            assert np.array_equal(lines[label].get_ydata(), curve.loss)
        assert lines[drawing.others[0].label].get_xdata() == [drawing.others[0].lr]
        assert [text.get_text() for text in ax.texts] == [drawing.suggestion.suggested]
        assert [line for line in ax.lines if line.get_label() == drawing.signs[0].label]
        assert max(ax.lines, key=lambda line: line.get_linewidth()).get_label() == read  # it leads the eye
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
            assert ax.get_title().replace("\n", " ") == f"No suggestion. {finding.verdict.sentence}"
            assert not ax.texts

    def test_without_matplotlib_one_line_says_what_to_install(self, monkeypatch):
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(MissingExtraError, match=r"matplotlib is not installed; run: pip install 'findlr\[plot\]'"):
            find(Quadratic()).plot()

    def test_the_plan_stands_above_the_picture_and_leaves_the_title_free(self):
        ax = find(Quadratic(), Plan("one_cycle", 4000, "AdamW")).plot(Figure().subplots())
        assert ax.get_title(loc="left") == "for AdamW, one_cycle over 4,000 steps"
        assert ax.get_title() == ""

    @pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
    def test_the_plan_of_a_call_without_one_is_one_line(self, tmp_path, optimizer):
        ax = find(Quadratic(), Plan(optimizer=optimizer)).plot(tmp_path / "curve.png")
        title = ax.get_title(loc="left")
        assert "assumed" in title
        assert "\n" not in title

    def test_where_no_loss_is_a_number_the_axis_has_none_and_the_cross_is_named(self):
        ax = finding_of(CURVES["nan at once"]).plot(Figure(layout="constrained").subplots())
        assert len(ax.get_yticks()) == 0
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["stopped: diverged"]

    def test_in_small_axes_the_plan_keeps_to_them_and_no_legend_covers_the_curve(self):
        figure = Figure(figsize=(9, 3))
        axes = figure.subplots(1, 3)
        finding = find(Quadratic(), Plan("one_cycle", 400_000, "schedule-free AdamW", 0.9))
        for ax in axes:
            finding.plot(ax)
        figure.savefig(io.BytesIO())
        for ax in axes:
            title = next(text for text in ax.get_children() if getattr(text, "get_text", str)().startswith("for "))
            assert title.get_window_extent().width <= ax.get_window_extent().width
            assert ax.get_legend() is None
            assert len(ax.get_legend_handles_labels()[1]) > 1  # for the user's own legend

    @pytest.mark.parametrize("as_path", [str, Path])
    @pytest.mark.parametrize("name", ["curve.png", "curve.svg"])
    def test_a_path_is_drawn_and_saved_and_the_axes_come_back(self, tmp_path, name, as_path):
        open_before = plt.get_fignums()
        ax = find(Quadratic()).plot(as_path(tmp_path / name))
        assert (tmp_path / name).stat().st_size > 1000
        assert ax.get_xscale() == "log"
        assert plt.get_fignums() == open_before

    def test_a_picture_that_cannot_be_written_is_told_by_its_name(self, tmp_path):
        with pytest.raises(ConfigurationError, match=r"curve\.xyz is no picture that can be drawn; name one of .*png"):
            find(Quadratic()).plot(tmp_path / "curve.xyz")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("rules", ["valley", ["valley"], (rules.valley,)])
    def test_rules_are_asked_by_their_names_too(self, rules):
        finding = find(Quadratic(noise=0.1))
        labels = [line.get_label() for line in finding.plot(Figure().subplots(), rules=rules).lines]
        assert f"{finding.suggest('valley').lr:.2g} (valley)" in labels

    def test_an_unknown_name_is_told(self):
        with pytest.raises(ConfigurationError, match="rule must be one of quick, article, valley"):
            find(Quadratic()).plot(Figure().subplots(), rules=["valey"])


class TestRace:
    def test_runs_stand_on_an_axis_of_their_own(self):
        finding = find(Quadratic(), Plan("one_cycle", 400), verify=True, budget=1.0)
        figure = Figure()
        ax = finding.plot(figure.subplots())
        left, right = figure.axes
        assert left is ax
        assert right.get_ylabel() == f"loss after {finding.race.steps} steps"  # that a Quadratic trained on
        low, high = right.get_ylim()
        runs = {run.lr: run.loss for run in finding.race.runs}
        shown = dict(zip(*right.lines[0].get_data(), strict=True))
        assert shown == {lr: loss for lr, loss in runs.items() if low < loss < high}
        above = {lr for line in right.lines[1:] for lr in line.get_xdata()}
        assert above == runs.keys() - shown.keys()
        assert above
        assert not right.lines[1].get_clip_on()  # a mark at the edge is whole
        told = [text.get_text() for text in ax.get_legend().get_texts()]
        assert "short runs, on the right axis" in told
        assert describe(finding).race.told_above in told
        figure = Figure()
        finding.plot(figure.subplots(), race=False)
        assert len(figure.axes) == 1

    def test_runs_that_diverged_stand_at_its_top(self):
        runs = (Run(0.1, 9, math.inf), Run(0.2, 9, math.inf))
        figure = Figure()
        replace(find(Quadratic()), race=Race(runs, 3.0, 0.1, False)).plot(figure.subplots())
        crosses = figure.axes[1].lines[1]
        assert list(crosses.get_xdata()) == [0.1, 0.2]
        figure.savefig(io.BytesIO())


class TestLegend:
    """Where it stands."""

    def drawn(self, finding, **figure):
        made = Figure(figsize=(6.4, 4.2), **figure)
        ax = finding.plot(made.subplots(), rules=ALL_RULES)
        made.savefig(io.BytesIO())
        return made, ax

    @pytest.mark.parametrize("layout", ["constrained", "tight"])
    def test_it_stands_below_the_axes_and_inside_the_picture(self, layout):
        figure, ax = self.drawn(find(Quadratic(), Plan("one_cycle", 400, "SGD"), verify=True), layout=layout)
        legend, label = ax.get_legend().get_window_extent(), ax.xaxis.label.get_window_extent()
        assert legend.y1 <= label.y0
        assert legend.y0 >= 0
        assert figure.bbox.x0 <= legend.x0
        assert legend.x1 <= figure.bbox.x1

    def test_without_a_layout_it_stays_inside_the_axes(self):
        _, ax = self.drawn(find(Quadratic()))
        legend, axes = ax.get_legend().get_window_extent(), ax.get_window_extent()
        assert (axes.x0, axes.y0) <= (legend.x0, legend.y0)
        assert legend.y1 <= axes.y1

    def test_it_names_no_rule_that_nobody_asked_for(self):
        ax = find(Quadratic(), Plan("one_cycle", 400, "SGD"), verify=True).plot(Figure().subplots())
        texts = [text.get_text() for text in (*ax.get_legend().get_texts(), *ax.texts)]
        assert not [text for text in texts if "quick" in text or "(race)" in text]
        assert [text for text in texts if text.startswith("interval: ")]


HOSTILE = r"_$\frac{1$ </script> \n %s {0}"


class TestCompare:
    def test_each_run_has_its_line_mark_interval_and_name(self):
        runs = [find(Quadratic(curvature=curvature)) for curvature in (5.0, 10.0)] + [finding_of(CURVES["flat"])]
        ax = compare(runs, ["five", "ten", "flat"], Figure().subplots())
        names = [text.get_text() for text in ax.get_legend().get_texts()]
        assert names == [f"five: {runs[0].lr:.2g}", f"ten: {runs[1].lr:.2g}", "flat: no suggestion"]
        drawn = [line.get_data() for line in ax.lines]
        for run in runs:
            line = run.curve.smoothed().clipped()
            assert any(np.array_equal(lr, line.lr) and np.array_equal(loss, line.loss) for lr, loss in drawn)
        rates = [list(lr) for lr, _ in drawn]
        for run in runs[:2]:
            assert [run.lr] in rates
            assert list(run.interval) in rates

    def test_runs_that_all_have_one_are_drawn_by_what_the_rule_reads(self):
        runs = [find(Quadratic(curvature=curvature)) for curvature in (5.0, 10.0)]
        ax = compare(runs, ax=Figure().subplots())
        drawn = [line.get_data() for line in ax.lines]
        for run in runs:
            line = describe(run).read.line
            assert any(np.array_equal(lr, line.lr) and np.array_equal(loss, line.loss) for lr, loss in drawn)
            marks = [float(loss[0]) for lr, loss in drawn if list(lr) == [run.lr]]
            assert marks == [pytest.approx(np.interp(np.log10(run.lr), line.log10_lr, line.loss))]

    def test_each_number_has_its_plan(self, tmp_path):
        runs = [find(Quadratic(), Plan("one_cycle", 400)), find(Quadratic(), Plan("cosine", 500))]
        names = [text.get_text() for text in compare(runs, ["a", "b"], tmp_path / "both.png").get_legend().get_texts()]
        assert names[0] == f"a: {runs[0].lr:.2g}\nfor one_cycle over 400 steps"
        assert names[1] == f"b: {runs[1].lr:.2g}\nfor cosine over 500 steps"
        assert (tmp_path / "both.png").exists()
        same = compare(runs[:1] * 2, ["a", "b"], Figure().subplots())
        assert same.get_title(loc="left") == "for one_cycle over 400 steps"

    @pytest.mark.parametrize(
        ("given", "told"),
        [([1], "got int"), ({"a": 1}, "got int"), (["run.json"], "Finding.load"), ("run.json", "str")],
    )
    def test_what_is_no_finding_is_one_sentence(self, given, told):
        with pytest.raises(ConfigurationError, match=told):
            compare(given)

    def test_axes_that_are_none_are_refused(self):
        run = find(Quadratic())
        for draw in (run.plot, lambda ax: compare([run, run], ax=ax)):
            with pytest.raises(ConfigurationError, match="ax must be matplotlib's axes, or the path of a picture, got"):
                draw(ax=3)

    def test_a_single_one_is_told_to_plot_itself_and_a_generator_is_a_list(self):
        run = find(Quadratic())
        with pytest.raises(ConfigurationError, match=r"finding\.plot\(\)"):
            compare(run)
        assert len(compare((each for each in [run, run]), ax=Figure().subplots()).get_legend().get_texts()) == 2

    def test_up_to_seven_runs_differ_in_colour_dashes_and_marks(self):
        ax = compare([find(Quadratic())] * 7, ax=Figure().subplots())
        handles = ax.get_legend().legend_handles
        for look in ("get_color", "get_marker"):
            assert len({getattr(handle, look)() for handle in handles}) == 7
        assert len({str(handle._unscaled_dash_pattern) for handle in handles}) == 7

    def test_the_limits_hold_all_runs(self):
        runs = [find(Quadratic(floor=floor)) for floor in (0.1, 50.0)]
        low, high = compare(runs, ax=Figure().subplots()).get_ylim()
        assert low < min(run.curve.smoothed().clipped().loss.min() for run in runs)
        assert high > 50

    def test_it_is_exported_and_needs_matplotlib_only_when_asked(self):
        import findlr

        assert findlr.compare is compare

    def test_names_are_shown_as_they_are(self):
        figure = Figure()
        ax = compare([find(Quadratic())], [HOSTILE], figure.subplots())
        figure.savefig(io.BytesIO())
        assert HOSTILE in ax.get_legend().get_texts()[0].get_text()

    def test_a_rules_name_is_shown_as_it_is(self):
        named = finding_of(article_like(), lambda curve, plan: Suggestion(0.1, HOSTILE, "why"))
        figure = Figure()
        named.plot(figure.subplots(), rules=[lambda curve, plan: Suggestion(0.2, HOSTILE, "why")])
        figure.savefig(io.BytesIO())


def test_a_long_curve_is_drawn_without_a_warning():
    random = np.random.default_rng(0)
    curve = article_like(10_000)
    figure = Figure()
    finding_of(replace(curve, loss=curve.loss + 0.1 * random.random(10_000))).plot(figure.subplots())
    figure.savefig(io.BytesIO())


def test_a_long_name_leaves_room_for_the_curves(tmp_path):
    finding = find(Quadratic(), num_steps=30)
    compare({"x" * 100_000: finding, "y": finding}, ax=tmp_path / "both.png")  # matplotlib warns where none is left
    assert (tmp_path / "both.png").exists()
