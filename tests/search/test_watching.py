"""What those who watch a search see of its race."""

import io
import math
import re

import pytest
from rich.console import Console

from findlr import ConfigurationError, Plan, find
from findlr.analysis.curve import Step
from findlr.testing import Quadratic
from findlr.views.console import LiveSweep
from findlr.views.progress import Growing
from tests.search.test_race import Several
from tests.views.made import Clock, Timed

PLAN = Plan("linear", total_steps=400)


def watched(training, **how):
    steps = []
    finding = find(training, PLAN, verify=True, on_step=steps.append, **how)
    return finding, [step for step in steps if step.run is not None], [step for step in steps if step.run is None]


def test_every_step_of_every_run_is_seen_with_its_rate():
    finding, raced, swept = watched(Quadratic(noise=0.1))
    assert len(swept) == len(finding.curve)
    assert all((step.runs, step.peak, step.ended) == (None, None, ()) for step in swept)
    for number, run in enumerate(finding.race.runs, start=1):
        steps = [step for step in raced if step.run == number]
        assert [step.index for step in steps] == list(range(run.steps))
        assert [step.lr for step in steps] == [run.lr * share for share in PLAN.shares(run.steps)]
        assert {(step.num_steps, step.runs, step.peak) for step in steps} == {(run.steps, 3, run.lr)}
        assert all(step.ended == finding.race.runs[: number - 1] for step in steps[:-1])
        assert steps[-1].ended == finding.race.runs[:number]
        assert steps[0].smoothed == steps[0].loss
        assert steps[-1].best == min(step.smoothed for step in steps)


class Far(Quadratic):
    """Its losses are far away: each look is counted."""

    read_every = 10

    def __init__(self, **how):
        super().__init__(**how)
        self.reads = []

    def read(self, losses):
        self.reads.append(len(losses))
        return super().read(losses)


@pytest.mark.parametrize("evaluates", [False, True])
def test_losses_on_a_device_are_read_no_more_often_than_every_ten_steps(evaluates):
    class Evaluated(Far):
        def hold_out(self, batches, steps, total_steps):
            return batches

        def evaluate(self):
            return self.weight**2

    training = (Evaluated if evaluates else Far)(noise=0.1)
    finding, raced, swept = watched(training, num_steps=100)
    steps = finding.race.runs[0].steps
    assert len(raced) == 3 * steps
    looks = 1 + steps // 10 + (steps % 10 > 0) + (0 if evaluates else 2)  # those two make the score
    assert len(training.reads) == -(-len(swept) // 10) + 3 * looks


def test_a_run_that_diverges_or_fails_ends_so():
    class Fails(Quadratic):
        def step(self, lr):
            if abs(self.weight) > 1e3:
                raise ValueError("it exploded")
            return super().step(lr)

    finding, raced, _ = watched(Fails(noise=0.1), rule=lambda curve, plan: _at(0.4))
    diverged = [run for run in finding.race.runs if not math.isfinite(run.loss)]
    assert diverged
    last = next(step for step in raced if diverged[0] in step.ended)
    assert last.loss == math.inf
    assert last.index < last.num_steps - 1


def _at(lr):
    from findlr import Suggestion

    return Suggestion(lr, "mine", "")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_a_watcher_raises_is_raised_and_no_run_diverged(error):
    def on_step(step):
        if step.run == 2 and step.index == 3:
            raise error("mine")

    training = Quadratic()
    before = training.snapshot()
    with pytest.raises(error, match="mine"):
        find(training, PLAN, verify=True, on_step=on_step)
    assert training.snapshot() == before


def test_runs_in_one_pass_are_told_before_and_after():
    told, steps = [], []

    class Watcher:
        def tell(self, text):
            told.append(text)

        def __call__(self, step):
            steps.append(step)

    finding = find(
        Several(curvature=2.0), Plan(total_steps=1000), verify=True, budget=3000, one_pass=True, on_step=Watcher()
    )
    assert finding.race.path == "one pass"
    assert [text.partition(" of")[0] for text in told] == ["setting up a race", "a race: 4 runs"]
    assert {step.run for step in steps} - {None} <= {5}


class Shown(Several):
    """Takes runs together step by step, and shows them some at a time."""

    see_together, each, asked_for = None, 7, False

    def passed(self):
        """A few steps of all runs are made."""

    def run_together(self, snapshot, rates):
        self.asked_for = self.see_together is not None
        weights, rows = [], []
        for lrs in rates:
            self.restore(snapshot)
            rows.append([self.step(lr) for lr in lrs])
            end = self.evaluate()
            weights.append(end if math.isfinite(end) else math.inf)
        if self.asked_for:
            steps = [list(row) for row in zip(*rows, strict=True)]
            for at in range(0, len(steps), self.each):
                self.passed()
                try:
                    self.see_together(0, steps[at : at + self.each])
                except Exception:  # noqa: BLE001 - so does a training that takes any for its own
                    return "it failed"
        return weights


ONE_PASS = dict(verify=True, budget=3000, one_pass=True)


@pytest.mark.parametrize("each", [1, 7, 1000])
def test_runs_in_one_pass_show_their_steps_as_those_one_after_another_do(each):
    steps, training = [], Shown(curvature=2.0)
    training.each = each
    finding = find(training, Plan(total_steps=1000), **ONE_PASS, on_step=steps.append)
    raced = [step for step in steps if step.run is not None]
    assert training.see_together is None
    for number, run in enumerate(finding.race.runs, start=1):
        own = [step for step in raced if step.run == number]
        assert [step.index for step in own] == list(range(run.steps))
        assert {(step.num_steps, step.runs, step.peak, step.lr) for step in own} == {(run.steps, 5, run.lr, run.lr)}
        assert {step.together for step in own} == {4 if number <= 4 else 1}
        before = finding.race.runs[: number - 1] if number > 4 else ()
        assert all(step.ended == before for step in own[:-1])
        assert own[-1].ended == finding.race.runs[:number]
        assert own[0].smoothed == own[0].loss
        assert own[-1].best == min(step.smoothed for step in own)
    assert [step.run for step in raced[:8]] == [1, 2, 3, 4] * 2


def test_runs_in_one_pass_that_nobody_watches_are_read_by_nobody():
    training = Shown(curvature=2.0)
    find(training, Plan(total_steps=1000), **ONE_PASS)
    assert not training.asked_for


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_a_watcher_raises_in_one_pass_is_raised_too(error):
    def on_step(step):
        if step.run == 2 and step.index == 3:
            raise error("mine")

    training = Shown(curvature=2.0)
    before = training.snapshot()
    with pytest.raises(error, match="mine"):
        find(training, Plan(total_steps=1000), **ONE_PASS, on_step=on_step)
    assert training.snapshot() == before
    assert training.see_together is None


def test_an_on_step_that_is_a_context_manager_is_entered_and_left():
    class Stream:
        said = ()

        def __enter__(self):
            self.said += ("in",)

        def __exit__(self, *_):
            self.said += ("out",)

        def __call__(self, step):
            if not step.index:
                self.said += (step.run,)

    stream = Stream()
    find(Quadratic(), PLAN, verify=True, on_step=stream)
    assert stream.said == ("in", None, 1, 2, 3, "out")


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def shown(clock, **how):
    file = io.StringIO()
    finding = find(Timed(clock), PLAN, verify=True, progress=LiveSweep(Console(file=file, _environ={}, **how)))
    return finding, re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", file.getvalue())


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_terminal_shows_the_run_its_rate_its_loss_and_the_time_left_over_all(clock, width):
    finding, text = shown(clock, force_terminal=True, width=width)
    first, second, third = finding.race.runs
    steps, words = first.steps, " ".join(text.split())
    assert f"setting up a race of 3 runs of {steps} steps" in words
    assert f"run 1/3 lr {first.lr:.2g} step 10/{steps} smoothed loss" in words
    left = 2 * (3 * steps - 10)
    assert f"{left // 60} min {left % 60} s left" in words
    assert f"so far loss {first.loss:.4g} at {first.lr:.2g} loss {second.loss:.4g} at {second.lr:.2g}" in words
    assert f"race of 3 runs of {steps} steps" in words.rpartition("left")[2]
    assert f"loss {third.loss:.4g} at {third.lr:.2g}" in words.rpartition("left")[2]
    assert max(map(len, text.splitlines())) <= width


def test_a_log_has_a_line_for_each_run_that_ends_and_one_now_and_then(clock):
    finding, text = shown(clock, width=20)
    lines = [line for line in text.splitlines() if ": run " in line]
    ends = [line for line in lines if "ended at loss" in line]
    assert [line.partition("  ended at loss ")[2].split()[0] for line in ends] == [
        f"{run.loss:.4g}" for run in finding.race.runs
    ]
    assert 15 <= len(lines) <= 26
    assert len(set(lines)) == len(lines)
    assert "\x1b" not in text
    assert ends[-1].endswith("in all")


def shown_in_one_pass(clock, **how):
    class Slow(Shown):
        each = 1

        def passed(self):
            clock.now += 2.0

    file = io.StringIO()
    view = LiveSweep(Console(file=file, _environ={}, **how))
    finding = find(Slow(curvature=2.0), Plan(total_steps=1000), **ONE_PASS, progress=view)
    return finding, re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", file.getvalue())


@pytest.mark.parametrize("width", [40, 80])
def test_a_terminal_shows_the_runs_of_one_pass_together(clock, width):
    finding, text = shown_in_one_pass(clock, force_terminal=True, width=width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    *runs, last = finding.race.runs
    told = re.search(rf"runs 1-4/5 in one pass step 30/{last.steps} (\d+) min (\d+) s left so far loss", words)
    assert 60 * int(told[1]) + int(told[2]) == pytest.approx(2 * (2 * last.steps - 30), rel=0.1)
    assert re.search(" ".join(["so far", *(rf"loss \S+ at {run.lr:.2g}" for run in runs)]), words)
    assert f"race of 5 runs of {last.steps} steps" in words


def test_a_log_has_lines_of_a_pass_and_one_for_each_of_its_runs_that_ends(clock):
    finding, text = shown_in_one_pass(clock, width=80)
    lines = text.splitlines()
    for number, run in enumerate(finding.race.runs, start=1):
        end = f"ended at loss {run.loss:.4g}" if math.isfinite(run.loss) else "diverged"
        assert sum(f"run {number}/5  lr {run.lr:.2g}  {end}" in line for line in lines) == 1
    assert 5 <= sum("runs 1-4/5 in one pass  step " in line for line in lines) <= 21


def test_the_curve_of_a_pass_is_that_of_the_run_which_is_lowest_now():
    growing = Growing()
    for index in range(5):
        for run, loss in ((1, 1.0), (2, 0.5 if index < 4 else 2.0), (3, math.nan)):
            growing.add(Step(index, 9, 0.1, loss, loss, loss, run, 5, 0.1 * run, (), 3))
        assert len(growing.curve(60)[1]) == index + 1 if index else growing.curve(60) is None
        assert growing.curve(60) is None or set(growing.curve(60)[1]) == {0.5 if index < 4 else 1.0}
    assert growing.ended == ["so far", "loss 1 at 0.1", "loss 2 at 0.2", "diverged at 0.3"]


def test_the_curve_is_that_of_the_present_run():
    growing, seen = Growing(), []

    def on_step(step):
        growing.add(step)
        curve = growing.curve(60)
        seen.append((step.run, step.index, None if curve is None else curve[0][-1]))

    find(Quadratic(), PLAN, verify=True, on_step=on_step)
    assert all(share is None or share <= 1 for _, _, share in seen)
    assert [share for run, index, share in seen if run == 2 and index == 0] == [None]


class Swallows:
    """A context manager, whose exit says that what was raised is dealt with."""

    def __init__(self, at=-1):
        self.at = at

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return True

    def __call__(self, step):
        if step.index == self.at:
            raise ValueError("at a step")


class Fails(Swallows):
    def __enter__(self):
        raise ValueError("as it is entered")


@pytest.mark.parametrize("where", ["progress", "on_step"])
def test_a_context_manager_that_swallows_what_breaks_a_search_off_leaves_no_call_without_a_finding(where):
    assert find(Quadratic(), **{where: Swallows()}).lr
    training = Quadratic()
    with pytest.raises(ValueError, match="at a step") as caught:
        find(training, **{where: Swallows(at=3)})
    assert len(caught.value.finding.curve) == 4
    assert training.weight == 1.0


def test_a_display_that_swallows_what_entering_on_step_raises():
    with pytest.raises(ConfigurationError, match="let its __exit__ return None"):
        find(Quadratic(), progress=Swallows(), on_step=Fails())
