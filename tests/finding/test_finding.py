"""The result: its JSON, its views of itself, and what it writes into an optimizer."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from findlr import (
    Curve,
    FileFormatError,
    Finding,
    NoSuggestionError,
    Plan,
    Stop,
    Suggestion,
    Verdict,
    find,
    rules,
)
from findlr.analysis.answer import answer
from findlr.analysis.text import rate_text
from findlr.finding import Cost
from findlr.testing import Quadratic

anything = st.floats(allow_nan=True, allow_infinity=True)
text = st.text(max_size=20)


@st.composite
def findings(draw):
    n = draw(st.integers(0, 12))
    lr = sorted(draw(st.lists(st.floats(1e-12, 1e3), min_size=n, max_size=n)))
    column = st.lists(anything, min_size=n, max_size=n)
    curve = Curve(
        lr,
        draw(column),
        baseline=draw(st.none() | column),
        validation=draw(st.none() | column),
        diverged=draw(st.booleans()),
        num_steps=draw(st.integers(n, 1000)),
        smoothing=draw(st.floats(0, 0.999)),
    )
    rate = st.floats(1e-9, 10)
    suggestion = draw(st.none() | st.builds(Suggestion, rate, text, text, st.none() | st.tuples(rate, rate)))
    schedule = draw(st.sampled_from(["constant", "one_cycle", "cosine", "linear", "wsd"]) | st.just(math.exp))
    return Finding(
        suggestion,
        draw(st.sampled_from(Verdict)),
        draw(text),
        draw(st.sampled_from(Stop)),
        curve,
        Plan(
            schedule,
            draw(st.none() | st.integers(1, 10**6)),
            draw(text),
            draw(st.none() | st.floats(0, 0.99)),
            draw(st.none() | st.integers(1, 10**9)),
        ),
        Cost(draw(st.floats(0, 1e6)), draw(st.integers(0, 1000)), draw(st.integers(0, 1000)), draw(st.floats(0, 1e3))),
        {
            "batch_size": draw(st.none() | st.integers(1)),
            "momentum": draw(st.floats(allow_nan=False)),
            "name": draw(text),
        },
    )


@given(findings())
def test_json_round_trips_exactly(finding):
    written = json.dumps(finding.to_dict(), allow_nan=False)  # strict JSON
    back = Finding.from_dict(json.loads(written))
    assert back == finding
    assert back.cost.seconds == finding.cost.seconds
    assert json.dumps(back.to_dict(), allow_nan=False) == written


def test_a_million_points_with_all_that_can_be_measured_are_saved_and_loaded(tmp_path):
    n, draw = 10**6, np.random.default_rng(0)
    validation = np.where(np.arange(n) % 1000, math.nan, draw.random(n))
    curve = Curve(np.sort(10 ** draw.uniform(-8, 1, n)), draw.random(n), draw.random(n), validation)
    finding = replace(find(Quadratic()), curve=curve)
    finding.save(tmp_path / "finding.json")
    assert Finding.load(tmp_path / "finding.json") == finding


def test_a_file_round_trips(tmp_path):
    finding = find(Quadratic(noise=0.01))
    finding.save(tmp_path / "finding.json")
    assert Finding.load(tmp_path / "finding.json") == finding
    assert json.loads((tmp_path / "finding.json").read_text())["format"] == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[1, 2]", "no Finding"),
        ("{}", "no Finding"),
        ('{"format": 99}', "format 99"),
        ('{"format": 1}', "damaged"),
        ('"x"', "no Finding"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_a_file_that_is_no_finding_is_one_clear_error(tmp_path, content, words):
    (tmp_path / "finding.json").write_text(content)
    with pytest.raises(FileFormatError, match=words):
        Finding.load(tmp_path / "finding.json")


@given(st.data())
def test_a_damaged_finding_is_one_clear_error(data):
    good = find(Quadratic()).to_dict()
    key = data.draw(st.sampled_from(sorted(good)))
    good[key] = data.draw(st.none() | st.integers() | st.text() | st.lists(st.integers(), max_size=3))
    try:
        Finding.from_dict(good)
    except FileFormatError:
        pass
    else:
        assert key in {"suggestion", "race", "why"}  # None, or a text


def test_two_findings_are_equal_but_for_the_seconds():
    finding = find(Quadratic(noise=0.01))
    assert finding == find(Quadratic(noise=0.01))
    assert finding == replace(finding, cost=replace(finding.cost, seconds=99.0))
    assert finding != find(Quadratic(noise=0.02))
    assert finding != replace(finding, cost=replace(finding.cost, forwards=1))


def test_lrs_keep_the_groups_ratios():
    finding = replace(find(Quadratic()), facts={"ratios": [0.1, 1.0, 0.0]})
    assert finding.lrs == (finding.lr * 0.1, finding.lr, 0.0)


def test_another_rule_reads_the_same_curve():
    finding = find(Quadratic())
    assert finding.suggest(rules.quick) == finding.suggestion
    assert finding.interval == finding.suggestion.interval
    assert finding.interval[0] < finding.lr < finding.interval[1]
    assert finding.search_space() == {"low": finding.interval[0], "high": finding.interval[1], "log": True}
    assert find(Quadratic(), rule=rules.article).interval == finding.interval  # of the best rate, whoever suggests
    assert finding.suggest(rules.valley) == rules.valley(finding.curve, finding.plan)
    assert float(finding.suggest(rules.steep)) == rules.steep(finding.curve).lr

    def outside(curve, plan):
        return Suggestion(1e6, "mine", "")

    with pytest.raises(NoSuggestionError, match="raise max_lr"):
        finding.suggest(outside)


def test_to_pandas_has_a_row_per_point():
    table = find(Quadratic()).to_pandas()
    assert list(table.columns) == ["lr", "loss", "smoothed"]
    assert len(table) == 100


def test_an_exception_carries_what_was_measured():
    class Breaks(Quadratic):
        def step(self, lr):
            if lr > 1e-4:
                raise KeyboardInterrupt
            return super().step(lr)

    training = Breaks(noise=0.1)
    before = training.snapshot()
    with pytest.raises(KeyboardInterrupt) as error:
        find(training)
    partial = error.value.finding
    assert partial.stop is Stop.INTERRUPTED
    assert 0 < len(partial.curve) < 100
    assert partial.cost.steps == len(partial.curve)
    assert any(".finding" in note for note in error.value.__notes__)
    assert training.snapshot() == before


def test_watchers_see_each_point():
    seen, shown = [], []

    class Display:
        def __enter__(self):
            return shown.append

        def __exit__(self, *exception):
            shown.append("closed")

    finding = find(Quadratic(), progress=Display(), on_step=seen.append)
    assert [step.loss for step in seen] == finding.curve.loss.tolist()
    assert [step.lr for step in seen] == finding.curve.lr.tolist()
    assert [step.smoothed for step in seen] == pytest.approx(finding.curve.smoothed().loss.tolist(), rel=1e-12)
    assert shown == [*seen, "closed"]


FLAT = Curve(10.0 ** np.linspace(-8, 1, 100), [2.3] * 100)
FALLING = Curve(FLAT.lr, 2.3 - 1 / (1 + 0.5 / FLAT.lr), [2.3] * 100)  # up to the last rate


def refused(optimizer, curve=FLAT):
    """A Finding of a curve that bears no answer."""
    plan = Plan("linear", 1000, optimizer)
    swept = answer(curve, plan)
    return Finding(swept.suggestion, swept.verdict, swept.why, Stop.FINISHED, curve, plan, Cost(100, 100, 100, 1.0), {})


def test_a_refusal_tells_what_people_begin_with_and_gives_a_space_to_search():
    finding = refused("AdamW")
    with pytest.raises(NoSuggestionError):
        _ = finding.lr
    fallback = finding.fallback
    assert (fallback.rule, finding.belief.dip) == ("usual", None)
    assert 1e-3 < fallback.lr < 3e-2
    assert finding.search_space() == {"low": fallback.interval[0], "high": fallback.interval[1], "log": True}
    assert f"people begin at about {rate_text(fallback.lr)} with such a training" in str(finding)


def test_a_refusal_for_a_batch_leaves_what_is_usual():
    spoiled = Curve(FLAT.lr[:25], [*FLAT.loss[:24], math.nan], [*FLAT.loss[:24], math.nan], diverged=True)
    assert refused("AdamW", spoiled).verdict is Verdict.NOT_FINITE
    assert refused("AdamW", spoiled).fallback == refused("AdamW").fallback


def test_a_refusal_of_a_sweep_that_diverged_early_says_why_it_tells_less_than_is_usual():
    short = Curve(FLAT.lr[:15], [*FLAT.loss[:14], 99.0], diverged=True)
    finding, rate = refused("AdamW", short), rate_text(short.lr[-1])
    assert finding.fallback.lr == pytest.approx(short.lr[-1] / 10**0.3)
    assert f"begin at about {rate_text(finding.fallback.lr)}, because the sweep diverged at {rate}" in str(finding)


def test_a_refusal_of_a_loss_that_still_falls_tells_where_it_falls():
    finding = refused("SGD", FALLING)
    assert (finding.verdict, finding.fallback.rule) == (Verdict.STILL_FALLING, "usual")
    assert finding.fallback.lr > 0.5
    assert finding.search_space()["low"] == finding.fallback.interval[0]
    rate = re.escape(rate_text(finding.fallback.lr))
    assert re.search(
        rf"none .*; begin at about {rate}, because the loss still falls there, though [\d.]+ is usual\n", str(finding)
    )


def test_where_nothing_is_usual_there_is_no_fallback_either():
    finding = refused("Mine")
    assert (finding.fallback, finding.belief, finding.expected_regret) == (None, None, None)
    with pytest.raises(NoSuggestionError):
        finding.search_space()


def test_a_finding_says_what_it_believes_and_how_sure_it_is():
    finding = find(Quadratic())
    assert finding.fallback is None
    assert finding.belief.lr == finding.lr
    assert finding.expected_regret == sum(finding.belief.doubts.values())
