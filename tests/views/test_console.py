import io
import math
import os
import random
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from findlr import ConfigurationError, Curve, Finding, Plan, find, rules
from findlr.analysis.curve import Step
from findlr.testing import Quadratic
from findlr.views.console import LiveSweep, Sketch, show, show_all, summary
from findlr.views.progress import Growing
from tests.views.made import Clock, Timed, finding_of

REFUSED = {"max_lr": 1e-4}
KNOWN = {"optimizer": {"name": "SGD", "module": "torch.optim.sgd", "arguments": {}, "groups": [{}]}}


def printed(renderable, width=80, encoding="utf-8", **options):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    Console(file=file, width=width, **options).print(renderable)
    file.flush()
    return raw.getvalue().decode(encoding)


class TestSummary:
    def test_says_the_suggestion_and_all_that_is_known_of_it(self):
        finding = find(Quadratic(noise=0.1))
        text = " ".join(printed(summary(finding), width=200).split())
        low, high = finding.interval
        assert f"suggestion {finding.lr:.2g} interval {low:.2g} to {high:.2g} " in text
        for said in (finding.suggestion.why, finding.verdict.name, finding.why, finding.stop.sentence, "100 steps"):
            assert said in text

    def test_other_rules_answer_and_the_one_that_was_used_is_not_among_them(self):
        finding = find(Quadratic(noise=0.1), rule=rules.valley)
        text = printed(summary(finding), width=200)
        for rule in (rules.quick, rules.article, rules.slide, rules.steep, rules.minimum):
            assert f"{rule.__name__}" in text
            assert f": {finding.suggest(rule).lr:.2g}" in text
        assert "valley:" not in text
        assert f"{finding.lr:.2g} (valley)" in text

    @pytest.mark.parametrize("width", [20, 24, 39])
    def test_a_terminal_of_few_columns_gets_whole_words(self, width):
        finding = find(Quadratic(noise=0.1))
        console = Console(file=io.StringIO(), width=width)
        show(finding, console)
        told = console.file.getvalue()[: console.file.getvalue().index("\n\n")]
        assert max(map(len, told.splitlines())) <= width
        assert set(finding.why.split()) | set(finding.stop.sentence.split()) <= set(told.split())

    def test_a_refusal_is_told_once(self):
        finding = find(Quadratic(), **REFUSED)
        text = " ".join(printed(summary(finding), width=300).split())
        assert "suggestion none" in text
        assert text.count(finding.why) == 1
        assert "quick, article, valley, slide, steep, minimum: refused, for the reason above" in text

    def test_a_rule_that_refuses_alone_says_why(self):
        losses = np.abs(np.linspace(-1, 1, 100)) + 1
        finding = finding_of(Curve(np.geomspace(0.1, 1, 100), losses), rules.steep)  # a tenth of any rate is outside
        text = printed(summary(finding), width=300)
        assert "suggestion    0." in text
        assert "article: refused: article answers 0.0" in text

    def test_a_rule_without_an_interval_has_no_row_for_it(self):
        assert "interval" not in printed(summary(find(Quadratic(), rule=rules.article)))

    def test_a_race_is_told_run_by_run_and_counted(self):
        finding = find(Quadratic(), Plan(total_steps=400), verify=True)
        text = " ".join(printed(summary(finding), width=300).split())
        runs = sorted(finding.race.runs, key=lambda run: run.lr)
        assert f"race {len(runs)} runs of {runs[0].steps} steps; loss {runs[0].loss:.4g} at {runs[0].lr:.2g}, " in text
        assert f"suggestion {finding.lr:.2g} interval" in text
        assert f"quick: {finding.suggest(rules.quick).lr:.2g}" in text
        assert f"cost {finding.cost.steps:.0f} steps, " in text

    def test_the_plan_stands_beside_the_number(self):
        text = " ".join(printed(summary(find(Quadratic(), Plan("one_cycle", 4000, "AdamW"))), width=200).split())
        assert "plan AdamW, one_cycle over 4,000 steps" in text
        assert "1,000 steps (assumed: no total_steps was given)" in printed(summary(find(Quadratic())), width=200)

    @pytest.mark.parametrize("width", [40, 80])
    def test_nothing_is_cut(self, width):
        finding = replace(find(Quadratic(), Plan("one_cycle", 400), verify=True), why="a" * 100 + "z", facts=KNOWN)
        text = "".join(printed(summary(finding), width=width).split())
        assert "a" * 20 in text
        assert "z" in text
        assert "\u2026" not in text

    def test_brackets_are_not_markup(self):
        finding = find(Quadratic())
        odd = Finding(**{**vars(finding), "why": "[red]odd[/red] [/bold]"})
        assert "[red]odd[/red] [/bold]" in printed(summary(odd))


class TestShow:
    @pytest.mark.parametrize("width", [40, 80, 200])
    def test_the_code_to_paste_is_there_and_its_lines_are_whole(self, width):
        finding = replace(find(Quadratic(), Plan("one_cycle", 400)), facts=KNOWN)
        file = io.StringIO()
        show(finding, Console(file=file, width=width))
        assert file.getvalue().endswith(f"to paste\n{finding.code()}\n")

    def test_without_a_known_optimizer_there_is_none(self):
        for finding in (find(Quadratic()), replace(find(Quadratic(), **REFUSED), facts=KNOWN)):
            file = io.StringIO()
            show(finding, Console(file=file, width=80))
            assert "paste" not in file.getvalue()


class TestShowAll:
    @pytest.mark.parametrize("width", [40, 80])
    def test_each_rate_has_its_plan(self, width):
        runs = [find(Quadratic(), Plan("one_cycle", 400)), find(Quadratic(), Plan("cosine", 500))]
        file = io.StringIO()
        show_all(runs, ["one", "two"], Console(file=file, width=width))
        said = " ".join(file.getvalue().split())
        for run in runs:
            assert f"{run.lr:.2g} " in said
            assert f"for {run.plan.schedule} over {run.plan.total_steps} steps" in said
        assert max(map(len, file.getvalue().splitlines())) <= width

    def test_one_plan_is_told_once(self):
        file = io.StringIO()
        show_all([find(Quadratic())] * 2, ["one", "two"], Console(file=file, width=200))
        assert file.getvalue().count("all for a constant rate over 1,000 steps (assumed") == 1


class TestSketch:
    def test_the_line_falls_and_the_mark_stands_under_its_name(self):
        finding = find(Quadratic())
        lines = printed(Sketch(finding)).splitlines()
        name = f"suggested {finding.lr:.2g}"
        assert lines[0].strip() == name
        column = {line.index("\u25cf") for line in lines if "\u25cf" in line}
        assert len(column) == 1
        assert lines[0].index(name) <= column.pop() < lines[0].index(name) + len(name)

    def test_every_row_is_an_axis_and_a_canvas(self):
        lines = printed(Sketch(find(Quadratic()), width=40, height=9), width=80).splitlines()
        assert len(lines) == 1 + 9 + 3
        assert sum("\u2502" in line for line in lines) == 9
        assert max(map(len, lines)) <= 40 + 8

    def test_rates_and_losses_are_written_at_the_axes(self):
        lines = printed(Sketch(find(Quadratic(), **REFUSED))).splitlines()
        assert "10⁻⁷" in lines[-2]
        assert "10⁻⁵" in lines[-2]
        top, bottom = (float(lines[i].split()[0]) for i in (0, 12))
        assert 5.09 < top < 5.2
        assert 5.0 < bottom < top

    def test_a_narrow_range_is_labelled_at_its_ends(self):
        finding = finding_of(Curve(np.geomspace(0.02, 0.09, 100), np.linspace(3, 2, 100)))
        line = printed(Sketch(finding)).splitlines()[-2]
        assert line.split() == ["0.023", "0.083"]

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
    def test_without_unicode_it_is_stars(self, encoding):
        finding = find(Quadratic())
        text = printed(Sketch(finding), encoding=encoding) + printed(summary(finding), encoding=encoding)
        assert text.isascii()
        assert "*" in text
        assert "o" in text

    @pytest.mark.parametrize("width", range(1, 90, 7))
    def test_it_is_never_wider_than_the_terminal(self, width):
        lines = printed(Sketch(find(Quadratic())), width=width).splitlines()
        assert max(map(len, lines)) <= width

    def test_its_caption_is_not_cut(self):
        assert printed(Sketch(find(Quadratic())), width=40).splitlines()[-1].strip() == "learning rate"

    def test_a_terminal_too_narrow_gets_a_word(self):
        assert "too narrow" in printed(Sketch(find(Quadratic())), width=20).replace("\n", " ")

    @pytest.mark.parametrize(
        "curve",
        [Curve([], []), Curve([1e-3], [2.0]), Curve([1e-3], [math.nan], diverged=True)],
        ids=["empty", "one point", "nan"],
    )
    def test_no_line_no_sketch(self, curve):
        assert "no curve to draw" in printed(Sketch(finding_of(curve)))

    @pytest.mark.parametrize("losses", [np.zeros(16), np.full(100, 2.3), np.geomspace(1, 3e38, 100), -np.arange(50.0)])
    def test_any_curve_can_be_drawn(self, losses):
        curve = Curve(np.geomspace(1e-8, 10, len(losses)), losses)
        assert "\u2514" in printed(Sketch(finding_of(curve)))

    def test_a_steep_line_has_no_holes(self):
        losses = np.where(np.arange(100) < 50, 3.0, 1.0)
        finding = finding_of(Curve(np.geomspace(1e-8, 10, 100), losses, smoothing=0.0))
        rows = [line for line in printed(Sketch(finding)).splitlines() if "\u2502" in line]
        drawn = [any("\u2800" < cell <= "\u28ff" for cell in row) for row in rows]
        first, last = drawn.index(True), len(drawn) - drawn[::-1].index(True)
        assert all(drawn[first:last])


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


class TestLiveSweep:
    def test_a_terminal_sees_the_steps_the_rate_the_losses_and_the_time_left(self, clock):
        file = io.StringIO()
        live = LiveSweep(Console(file=file, force_terminal=True, width=100, _environ={}))
        find(Timed(clock, 2.0), progress=live, num_steps=30, max_lr=1e-3)
        shown = file.getvalue()
        assert "step 30/30  lr 0.001  smoothed loss " in shown
        assert "step 16/30  " in shown
        assert "28 s left" in shown
        assert "  60 s" in shown
        assert "  best " in shown

    def test_the_curve_grows(self, clock):
        file = io.StringIO()
        find(Timed(clock, 1.0), progress=LiveSweep(Console(file=file, force_terminal=True, width=80, _environ={})))
        dotted = [sum("\u2800" < letter <= "\u28ff" for letter in each) for each in file.getvalue().split("step ")]
        assert dotted[5] < dotted[50] < dotted[90]
        assert dotted[-1] == 0  # a line stays

    def test_the_growing_curve_keeps_a_needle(self):
        growing = Growing()
        for i in range(5000):
            growing.add(Step(i, 5000, 1e-3, 1.0, 9.0 if i == 3333 else 1.0, 1.0))
        shares, losses, _ = growing.curve(60)
        assert len(losses) <= 62
        assert shares[losses.argmax()] == 3333 / 4999

    @pytest.mark.parametrize("width", [1, 2, 20, 40, 80])
    def test_it_is_never_wider_than_the_terminal(self, clock, width):
        file = io.StringIO()
        find(Timed(clock, 1.0), progress=LiveSweep(Console(file=file, force_terminal=True, width=width, _environ={})))
        lines = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", file.getvalue()).splitlines()  # a return begins one, too
        assert max(map(len, lines)) <= width

    @pytest.mark.parametrize(("seconds", "lines"), [(0.001, 1), (1.0, 21), (60.0, 21), (0.1, 3)])
    def test_a_log_gets_plain_lines_now_and_then_and_the_last(self, clock, seconds, lines):
        file = io.StringIO()
        find(Timed(clock, seconds), progress=LiveSweep(Console(file=file, width=20)), max_lr=0.1)
        written = file.getvalue().splitlines()
        assert abs(len(written) - lines) <= 1
        assert all(line.startswith("findlr: step ") for line in written)
        assert written[-1].startswith("findlr: step 100/100  lr 0.1  ")
        assert len(set(written)) == len(written)
        assert file.getvalue().isprintable() or set(file.getvalue()) - set("\n") == set("".join(written))
        assert "\x1b" not in file.getvalue()

    def test_a_terminal_that_can_do_nothing_gets_plain_lines(self, monkeypatch):
        file = io.StringIO()
        find(Quadratic(), progress=LiveSweep(Console(file=file, force_terminal=True, _environ={"TERM": "dumb"})))
        assert file.getvalue().startswith("findlr: step 100/100")
        assert "\x1b" not in file.getvalue()

    @pytest.mark.parametrize(
        ("last", "shown"), [(30, "step 30/100 lr "), (120, "run 1/3 lr ")]
    )  # in the sweep; in the race
    def test_what_ended_early_has_no_time_left(self, clock, last, shown):
        class Broken(Timed):
            def step(self, lr):
                if len(steps) >= last:
                    raise KeyboardInterrupt
                return super().step(lr)

        file, steps = io.StringIO(), []
        live = LiveSweep(Console(file=file, force_terminal=True, width=100, _environ={}))
        with pytest.raises(KeyboardInterrupt):
            find(Broken(clock, 1.0), Plan("one_cycle", 400), progress=live, on_step=steps.append, verify=True)
        words = " ".join(re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", " ", file.getvalue()).split())
        assert shown in words.rpartition(" left ")[2]
        assert words.endswith((" 30 s", " s in all"))

    def test_it_can_be_used_again(self):
        live = LiveSweep(Console(file=io.StringIO(), force_terminal=True))
        assert find(Quadratic(), progress=live) == find(Quadratic(), progress=live)

    def test_no_color_is_respected(self, monkeypatch):
        monkeypatch.setenv("NO_COLOR", "1")
        file = io.StringIO()
        Console(file=file, force_terminal=True, width=100).print(Sketch(find(Quadratic())))
        assert "\x1b[36m" not in file.getvalue()
        assert "\x1b[32m" not in file.getvalue()

    def test_an_error_in_the_sweep_closes_it(self):
        class Broken(Quadratic):
            def step(self, lr):
                if lr > 1e-3:
                    raise RuntimeError("broken")
                return super().step(lr)

        file = io.StringIO()
        live = LiveSweep(Console(file=file, force_terminal=True, width=100))
        with pytest.raises(RuntimeError, match="broken"):
            find(Broken(), progress=live)
        assert file.getvalue().endswith("\x1b[?25h")  # the cursor is back

    def test_the_finding_does_not_depend_on_it(self):
        shown = LiveSweep(Console(file=io.StringIO(), force_terminal=True))
        state = random.getstate()
        assert find(Quadratic(noise=0.1), progress=shown) == find(Quadratic(noise=0.1))
        assert random.getstate() == state


@pytest.mark.posix
class TestWhoSeesIt:
    """``progress=``, in real processes."""

    @staticmethod
    def seen(progress, terminal=True, **environment):
        """What a search writes to standard error."""
        code = (
            "import sys; from findlr import find; from findlr.testing import Quadratic; find(Quadratic()"
            + progress
            + ")"
        )
        import pty

        ours, theirs = pty.openpty() if terminal else os.pipe()
        known = {"TERM": "xterm-256color"} | {
            key: os.environ[key] for key in ("PATH", "HOME", "PYTHONPATH") if key in os.environ
        }
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, env=known | environment
        )
        os.close(theirs)
        read = b""
        try:
            while part := os.read(ours, 65536):
                read += part
        except OSError:  # how a terminal's end reads on Linux
            pass
        os.close(ours)
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, b"")
        return read.decode()

    def test_a_terminal_is_shown_it_unasked(self):
        seen = self.seen("")
        assert "step 100/100" in seen
        assert seen.endswith("\x1b[?25h")

    def test_false_shows_nothing(self):
        assert self.seen(", progress=False") == ""

    def test_a_file_gets_nothing_unasked_and_plain_lines_if_asked(self):
        assert self.seen("", terminal=False) == ""
        seen = self.seen(", progress=True", terminal=False)
        assert seen.startswith("findlr: step 100/100")
        assert "\x1b" not in seen

    def test_no_color(self):
        slowly = ", on_step=lambda step: __import__('time').sleep(0.005)"  # so that a curve is drawn
        assert "\x1b[36m" in self.seen(slowly)
        seen = self.seen(slowly, NO_COLOR="1")
        assert any("\u2800" < letter <= "\u28ff" for letter in seen)
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", seen)

    def test_one_process_of_several_tells(self):
        assert "step 100/100" in self.seen("", RANK="0")
        assert self.seen(", progress=True", RANK="1") == ""

    def test_anything_else_is_refused(self):
        with pytest.raises(ConfigurationError, match="progress must be True, False, None"):
            find(Quadratic(), progress="yes")

    @pytest.mark.parametrize(
        "breaks",
        [
            "ours, theirs = os.pipe(); os.dup2(theirs, 2); os.close(ours)",
            "os.dup2(os.open('/dev/full', os.O_WRONLY), 2)",
            "sys.stderr.close()",
            "sys.stderr = None",
            "ours, theirs = os.openpty(); os.dup2(theirs, 2); os.close(ours)",
        ],
        ids=["a closed pipe", "a full disk", "closed", "none", "a terminal that is gone"],
    )
    @pytest.mark.parametrize("at", [0, 50])
    def test_a_stream_that_takes_no_more_ends_no_search(self, breaks, at):
        code = (
            "import os, sys\nfrom findlr import find\nfrom findlr.testing import Quadratic\n"
            f"def on_step(step):\n    if step.index == {at}:\n        {breaks.replace('; ', chr(10) + ' ' * 8)}\n"
            "print(len(find(Quadratic(), progress=True, on_step=on_step).curve))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "100\n")

    @pytest.mark.parametrize("stream", ["stdout", "stderr"])
    @pytest.mark.parametrize("breaks", ["sys.{}.close()", "sys.{} = None"])
    def test_a_stream_may_be_closed_before_the_search(self, stream, breaks):
        seen = self.seen("); " + breaks.format(stream) + "; find(Quadratic()")
        assert seen.count("step 100/100") >= 1 + (stream == "stdout")
