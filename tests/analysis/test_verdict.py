"""What a curve can bear: on drawn curves whose truth is known, many seeds each."""

import math

import numpy as np
import pytest

from findlr import Curve, NoSuggestionError, Stop, Suggestion, Verdict, find, rules
from findlr.analysis.answer import answer
from findlr.analysis.curve import Ending
from findlr.analysis.plan import Plan
from findlr.analysis.race import Race, Run
from findlr.analysis.verdict import judge
from findlr.testing import Quadratic

LR = np.geomspace(1e-8, 10, 100)
X = np.arange(100)


def noise(seed, size=0.05, n=100):
    return np.random.default_rng(seed).normal(0, size, n)


def valley(at=75, depth=1.0, level=2.3):
    """Falls around ``at``, bottoms out, explodes."""
    return level - depth / (1 + np.exp(-(X - at) / 3)) + np.exp(np.clip((X - at - 14) / 2, -50, 3))


def share(curves, verdict):
    return np.mean([judge(curve).verdict is verdict for curve in curves])


@pytest.mark.parametrize("level", [2.3, 0.0, -50.0])
@pytest.mark.parametrize("depth", [0.3, 2.0])
def test_a_valley_is_clear_whatever_its_level(level, depth):
    assert share([Curve(LR, valley(depth=depth, level=level) + noise(s)) for s in range(100)], Verdict.CLEAR) >= 0.95


@pytest.mark.parametrize("loss", [np.full(100, 2.0) + noise(0), np.linspace(1, 3, 100) + noise(0)])
def test_an_order_of_the_batches_is_a_reason_only_where_nothing_tells_what_they_are_like_at_the_start(loss):
    alone, beside = judge(Curve(LR, loss)), judge(Curve(LR, loss, baseline=np.full(100, 2.0) + noise(1)))
    assert "the batches come in an order" in alone.why
    assert alone.verdict.refuses
    assert "order" not in beside.why


@pytest.mark.parametrize("end", ["stays", "explodes", "grows noisier"])
def test_a_curve_without_signal_is_hardly_ever_clear(end):
    def curve(seed):
        loss = 2.3 + noise(seed)
        if end == "explodes":
            loss = loss + np.exp(np.clip((X - 80) / 3, -50, 5))
        if end == "grows noisier":
            loss = 2.3 + noise(seed) * (1 + X / 10)
        return Curve(LR, loss)

    assert share([curve(seed) for seed in range(200)], Verdict.CLEAR) <= 0.05


@pytest.mark.parametrize("loss", [np.full(100, 2.3), np.zeros(100), np.full(100, -1e6)])
def test_a_constant_is_flat(loss):
    assert judge(Curve(LR, loss)).verdict is Verdict.FLAT


def test_float32_rounding_is_no_fall():
    loss = np.float32(2.3) + np.where(X > 50, -2e-7, 0.0)
    assert judge(Curve(LR, loss)).verdict is Verdict.FLAT


@pytest.mark.parametrize("size", [0.0, 0.02])
def test_a_curve_that_rises_from_the_start_says_so(size):
    curves = [Curve(LR, 2.0 + 0.02 * X + noise(seed, size)) for seed in range(50)]
    assert share(curves, Verdict.RISING) >= 0.95


def test_a_curve_that_still_falls_says_so():
    curves = [Curve(LR, 2.3 - np.clip(X - 60, 0, None) / 40 + noise(seed, 0.02)) for seed in range(50)]
    assert share(curves, Verdict.STILL_FALLING) >= 0.95


@pytest.mark.parametrize("n", [1, 5, 19])
def test_too_few_points_say_so(n):
    judgement = judge(Curve(LR[:n], valley()[:n]))
    assert judgement.verdict is Verdict.TOO_SHORT
    assert "num_steps" in judgement.why


def test_twenty_points_are_enough():
    assert judge(Curve(LR[::5], valley()[::5])).verdict is not Verdict.TOO_SHORT


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_at_once_says_so(bad):
    judgement = judge(Curve(LR[:1], [bad], diverged=True))
    assert judgement.verdict is Verdict.NOT_FINITE
    assert "data" in judgement.why


@pytest.mark.parametrize("scale", [1e152, 1e200, -1e200, 1e300])
@pytest.mark.parametrize("baseline", [False, True])
def test_losses_whose_squares_are_infinite_are_as_good_as_infinite(scale, baseline):
    curve = Curve(LR, valley() * scale, baseline=np.full(100, 2.3) * scale if baseline else None)
    judged = judge(curve)
    assert judged.verdict is Verdict.NOT_FINITE
    assert f"is {curve.loss[0]:.2g}, as good as infinite, before any step" in judged.why
    with pytest.raises(NoSuggestionError):
        rules.quick(curve)


def test_a_loss_as_good_as_infinite_ends_the_usable_part():
    loss = valley()
    loss[90] = 1.4e154
    assert len(Curve(LR, loss).usable()) == 90


def test_nan_later_ends_the_usable_part_and_no_more():
    loss = valley() + noise(0)
    loss[90:] = math.nan
    assert judge(Curve(LR, loss, diverged=True)).verdict is Verdict.CLEAR


def test_the_verdict_does_not_depend_on_scale_or_offset():
    loss = valley() + noise(3)
    for scale in (1e-6, 1.0, 1e6):
        assert judge(Curve(LR, loss * scale)).verdict is Verdict.CLEAR
        assert judge(Curve(LR, (loss - 5) * scale)).verdict is Verdict.CLEAR


def test_a_fall_that_is_small_against_the_batches_differences_is_noisy_and_its_interval_wider():
    batches = noise(0, 0.5)
    for depth, verdict in ((0.3, Verdict.NOISY), (6.0, Verdict.CLEAR)):
        curve = Curve(LR, depth * (valley() - 2.3) + batches, baseline=batches)
        suggestion, seen, why = answer(curve, Plan())
        assert seen is verdict
        assert ("batches differ by 0.48" in why) == (verdict is Verdict.NOISY)
        low, high = suggestion.interval
        assert low < suggestion.lr < high
        assert (np.log10(high / low) > 0.9) == (verdict is Verdict.NOISY)


@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize(("from_", "verdict"), [(45, Verdict.NO_EDGE), (97, Verdict.STILL_FALLING)])
def test_a_loss_that_never_rises_is_told_from_one_that_still_falls(from_, verdict, baseline):
    batches = noise(0, 0.02)
    loss = 2.3 - 1.5 / (1 + np.exp(-(X - from_) / 3)) + batches
    judged = judge(Curve(LR, loss, baseline=2.3 + batches if baseline else None))
    assert judged.verdict is verdict
    assert "raise max_lr" in judged.why


def drifts(shape, end, seed):
    """Falls from the first rate on, evenly or by ever less, and explodes in the end or not."""
    fall = {"evenly": X / 100, "by less and less": 1 - np.exp(-X / 40)}[shape]
    return 3.0 - 2.0 * fall + noise(seed) + (np.exp(np.clip((X - 92) / 2, -50, 3)) if end == "explodes" else 0.0)


@pytest.mark.parametrize("shape", ["evenly", "by less and less"])
@pytest.mark.parametrize("end", ["explodes", "stays"])
@pytest.mark.parametrize("measured", [False, True])
def test_a_loss_that_falls_by_itself_tells_no_rate(shape, end, measured):
    batches = [np.full(100, 3.0) + noise(seed) for seed in range(50)]
    losses = [drifts(shape, end, seed) for seed in range(50)]
    judged = [judge(Curve(LR, *pair[: 1 + measured])) for pair in zip(losses, batches, strict=True)]
    assert sum(each.verdict is Verdict.FLAT for each in judged) >= 48
    told = [each.why for each in judged if "falls by itself" in each.why]
    assert len(told) >= 48
    assert all(("hardest first" in why) == (not measured) and "param groups' lr" in why for why in told)


@pytest.mark.parametrize("from_", [45, 60, 75])
@pytest.mark.parametrize("width", [1, 3, 6])
def test_a_fall_of_two_decades_is_none_by_itself(from_, width):
    loss = 2.3 - 1.5 / (1 + np.exp(-(X - from_) / width))
    assert not any("by itself" in judge(Curve(LR, loss + noise(seed))).why for seed in range(50))


@pytest.mark.parametrize(("depth", "least", "most"), [(0.1, 0.9, 1.0), (0.0, 0.0, 0.1)])
def test_with_a_baseline_the_share_of_easier_batches_decides(depth, least, most):
    def curve(seed):
        batches, own = noise(seed, 0.5), noise(1000 + seed, 0.05) * np.linspace(0, 1, 100) ** 4
        return Curve(LR, depth * (valley() - 2.3) + 2.3 + batches + own, baseline=2.3 + batches)

    assert least <= share([curve(seed) for seed in range(100)], Verdict.NOISY) <= most


def test_an_explosion_does_not_hide_the_valley_beside_it():
    loss = valley() + noise(0)
    loss[85:] = 1e12
    assert judge(Curve(LR, loss)).verdict is Verdict.CLEAR


# What the batches do, and what is said of it


def zeroed_output(seed):
    """All batches begin at log 5; then each differs, and no rate helps."""
    rng = np.random.default_rng(seed)
    start = np.full(100, math.log(5))
    size = 1e-6 * np.exp(X / 7)
    walk = np.cumsum(rng.normal(0, size)) * 0.3 + rng.normal(0, size)
    return Curve(LR, start + walk + size**2, baseline=start)


def test_a_fall_that_chance_makes_where_all_batches_begin_alike_is_hardly_ever_clear():
    verdicts = [judge(zeroed_output(seed)).verdict for seed in range(300)]
    assert sum(not verdict.refuses for verdict in verdicts) <= 3


def test_a_real_fall_where_all_batches_begin_alike_is_clear():
    for seed in range(30):
        loss = valley() + noise(seed, 0.1) / (1 + np.exp(-(X - 60) / 3))
        assert judge(Curve(LR, loss, baseline=np.full(100, 2.3))).verdict is Verdict.CLEAR


def short(seed, depth, n=60):
    """Five batches on the way down, which hardly differ."""
    lr, x = np.geomspace(1e-8, 10, n), np.arange(n)
    batches = 4.5 + noise(seed, 0.05, n)
    fall = depth * np.interp(x, [43, 47, 52, 54], [0, 1, 0.9, 0])
    return Curve(lr, batches - fall + 2.0 * (x > 50) + noise(1000 + seed, 0.02, n) * (x > 40), baseline=batches)


def test_a_short_sweep_tells_by_how_far_it_falls_where_few_batches_lie_on_the_way():
    assert share([short(seed, 0.41) for seed in range(50)], Verdict.FLAT) <= 0.1
    assert share([short(seed, 0.0) for seed in range(50)], Verdict.FLAT) >= 0.9


def test_a_flat_curve_with_few_batches_on_the_way_says_so():
    rng = np.random.default_rng(0)
    loss = np.full(30, 2.0) + rng.normal(0, 0.3, 30)
    own = np.where(np.arange(30) == 25, -0.2, 0.0) + 0.5 * (np.arange(30) > 25)
    judgement = judge(Curve(LR[:30], loss + own, baseline=loss))
    assert judgement.verdict is Verdict.FLAT
    assert "only 1 batch lies on the way to the lowest point, too few to tell" in judgement.why


@pytest.mark.parametrize(
    ("stop", "todo"), [(Stop.LEFT, "let it run until the test is done"), (Stop.DATA_ENDED, "give more of them")]
)
def test_a_flat_curve_that_was_cut_short_says_first_to_let_it_go_on(stop, todo):
    judgement = judge(Curve(LR[:30], 2.0 + noise(0, n=30)), Ending(stop))
    assert judgement.verdict is Verdict.FLAT
    assert f"there): {todo}" in judgement.why


def test_a_flat_curve_tells_the_scatter_that_hid_a_fall():
    batches = 1.1 + noise(0, 0.2)
    loss = batches + noise(1, 0.5) / (1 + np.exp(-(X - 60) / 2)) + (X > 60) * 0.3
    judgement = judge(Curve(LR, loss, baseline=batches))
    assert judgement.verdict is Verdict.FLAT
    told = float(judgement.why.split("+/- ")[1].split(" per batch")[0])
    assert told >= 0.15


def test_why_names_losses_that_were_measured():
    rng = np.random.default_rng(3)
    batches = rng.gamma(1.0, 1.0, 100) + 0.1  # squared errors: batches that differ a lot, none below 0
    learned = 1 / (1 + np.exp(-(X - 60) / 3))
    loss = batches * (1 - 0.95 * learned) + np.exp(np.clip((X - 90) * 2, -50, 10))
    judgement = judge(Curve(LR, loss, baseline=batches))
    assert not judgement.verdict.refuses
    words = judgement.why.split()
    before, bottom = float(words[4]), float(words[6])
    assert words[3] == "from"
    assert 0 < bottom < before


def test_two_levels_are_told_with_as_many_digits_as_tell_them_apart():
    loss = 1e7 + 9 * (valley() - 2.3) + noise(0, 0.01)
    assert "from 1e+07 to 1e+07" not in judge(Curve(LR, loss)).why


@pytest.mark.parametrize("offset", [0.0, 1e5, 1e7, -1e7, 1e9, -1e11])
@pytest.mark.parametrize("known", [False, True])
def test_a_float64_loss_is_judged_by_its_own_rounding(offset, known):
    batches = noise(0, 0.3)
    curve = Curve(LR, 9 * (valley() - 2.3) + batches + offset, baseline=batches + offset if known else None)
    suggestion, verdict, _ = answer(curve, Plan())
    assert verdict is Verdict.CLEAR
    plain = answer(Curve(LR, 9 * (valley() - 2.3) + batches, baseline=batches if known else None), Plan())
    assert suggestion.lr == pytest.approx(plain.suggestion.lr, rel=0.05)


def test_a_float32_loss_with_a_large_constant_is_within_its_rounding():
    loss = (np.float32(1e7) + (3 * (valley() - 2.3)).astype(np.float32)).astype(np.float64)
    assert judge(Curve(LR, loss)).verdict is Verdict.FLAT


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_batch_that_has_no_loss_under_the_starting_weights_changes_little(bad):
    batches = 2.3 + noise(0, 0.1)
    baseline = batches.copy()
    baseline[40] = bad
    loss = batches + valley() - 2.3
    with_it, without = (answer(Curve(LR, loss, baseline=each), Plan()) for each in (baseline, batches))
    assert with_it.verdict is without.verdict is Verdict.CLEAR
    assert with_it.suggestion.lr == pytest.approx(without.suggestion.lr, rel=0.05)
    assert math.isfinite(Curve(LR, loss, baseline=baseline).spread())


CUTS = [stop for stop in Stop if stop not in (Stop.FINISHED, Stop.DIVERGED, Stop.NOT_FINITE, Stop.FAILED)]


@pytest.mark.parametrize("stop", CUTS)
@pytest.mark.parametrize("at", [15, 60, 85])
def test_a_sweep_that_was_cut_is_told_so_and_not_to_raise_max_lr(stop, at):
    curve = Curve(LR[:at], (valley(55, depth=2.0) + noise(0, 0.02))[:at], num_steps=100)
    why = judge(curve, Ending(stop)).why
    assert "max_lr" not in why
    if at < 85:
        assert any(word in why for word in ("caps", "skipped", "data ended", "left", "interrupt"))


def test_a_rule_that_answers_beyond_a_sweep_that_was_cut_is_not_told_to_raise_max_lr():
    def far(curve, plan):
        return Suggestion(5.0, "far", "")

    cut = Curve(LR[:80], (valley(55) + noise(0, 0.02))[:80], num_steps=100)
    assert "the sweep ended there" in answer(cut, Plan(), far).why


def test_a_training_that_fails_at_a_rate_has_found_an_edge():
    at = 78
    curve = Curve(LR[:at], (valley(70, depth=2.0) + noise(0, 0.02))[:at], num_steps=100)
    failed = Ending(Stop.FAILED, "ValueError: too far")
    assert judge(curve, Ending(Stop.FINISHED)).verdict is Verdict.STILL_FALLING
    judgement = judge(curve, failed)
    assert judgement.verdict is Verdict.CLEAR
    assert "ValueError: too far" in judgement.why
    for short_curve in (Curve(LR[:12], np.full(12, 2.0)), Curve(LR[:50], np.full(50, 2.0))):
        assert "ValueError: too far" in judge(short_curve, failed).why


def test_a_loss_that_is_not_finite_before_it_has_risen_may_be_its_batchs_and_gives_no_rate():
    loss = (valley(70, depth=2.0) + noise(0, 0.02))[:78]
    curve = Curve(LR[:78], [*loss[:-1], math.nan], diverged=True)
    judgement = judge(curve, Ending(Stop.NOT_FINITE))
    assert judgement.verdict.refuses
    assert "batch 77 of the sweep" in judgement.why


def test_only_a_baseline_tells_that_no_rate_has_acted_before_a_loss_that_is_not_finite():
    losses = 2.0 + noise(0, 0.5)[:60]
    without = judge(Curve(LR[:60], [*losses[:-1], math.inf], diverged=True), Ending(Stop.NOT_FINITE))
    assert without.verdict is Verdict.NOT_FINITE
    assert "no loss before it stood out from how batches differ" in without.why
    assert "the rate was too high" in without.why
    with_one = Curve(LR[:60], [*losses[:-1], math.inf], baseline=losses, diverged=True)
    assert "before any rate has acted" in judge(with_one, Ending(Stop.NOT_FINITE)).why


@pytest.mark.parametrize(("each", "words"), [(1, "batch 12 of"), (4, "one of the batches 48 to 51 of")])
def test_a_batch_is_named_by_its_place_among_all_that_were_drawn(each, words):
    curve = Curve(LR[:11], [2.0] * 10 + [math.nan], baseline=[2.0] * 10 + [math.nan], diverged=True)
    assert words in judge(curve, Ending(Stop.NOT_FINITE, skipped=2, batches_per_step=each)).why


def test_an_empty_sweep_says_that_it_has_no_point():
    judgement = judge(Curve([], []), Ending(Stop.INTERRUPTED))
    assert judgement.verdict is Verdict.TOO_SHORT
    assert "no point" in judgement.why


# The fault of the rule that fastai asks by default is the verdict's to catch; the port stays faithful.


def test_valley_on_a_rising_curve_answers_the_first_rate_and_the_verdict_refuses():
    curve = Curve(LR, 2.0 + 0.02 * X)
    assert rules.valley(curve).lr == LR[10]
    suggestion, verdict, why = answer(curve, Plan(), rules.valley)
    assert (suggestion, verdict) == (None, Verdict.RISING)
    assert "min_lr" in why


# Through find


def test_a_poor_curve_is_a_result_not_an_exception():
    finding = find(Quadratic(curvature=1e-6))
    assert finding.verdict is Verdict.FLAT
    assert finding.suggestion is None
    for ask in (
        lambda: finding.lr,
        lambda: finding.lrs,
        lambda: finding.interval,
        finding.search_space,
        lambda: finding.suggest(rules.valley),
        finding.code,
    ):
        with pytest.raises(NoSuggestionError) as error:
            ask()
        assert str(error.value) == finding.why


def test_an_answer_outside_the_swept_range_is_no_suggestion():
    def too_low(curve, plan):
        return Suggestion(float(curve.lr[0]) / 10, "too_low", "")

    finding = find(Quadratic(), rule=too_low)
    assert finding.verdict is Verdict.NO_ANSWER
    assert "lower min_lr" in finding.why
    with pytest.raises(NoSuggestionError, match="lower min_lr"):
        _ = finding.lr
    assert 1e-8 <= finding.suggest(rules.steep).lr <= 10.0


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_its_sentence(verdict):
    assert verdict.sentence.endswith(".")
    bearing = (
        Verdict.CLEAR, Verdict.NOISY, Verdict.NO_EDGE, Verdict.MANY_EPOCHS, Verdict.PRETRAINED, Verdict.DISAGREE,
        Verdict.RACED, Verdict.BROAD, Verdict.HORIZON_LIMITED,
    )  # fmt: skip
    assert verdict.refuses == (verdict not in bearing)


@pytest.mark.parametrize("stop", list(Stop))
def test_every_stop_has_its_sentence(stop):
    assert stop.sentence.endswith(".")


def test_a_race_that_learned_takes_the_place_of_a_refusals_advice():
    noise = 0.1 * np.random.default_rng(0).normal(size=100)
    flat, plan = Curve(10.0 ** np.linspace(-8, 1, 100), 2.3 + noise), Plan("constant", 1000, "AdamW")
    runs = tuple(Run(lr, 200, loss) for lr, loss in ((1e-4, 2.0), (1e-3, 1.0), (1e-2, 1.9)))
    alone, raced = answer(flat, plan), answer(flat, plan, race=Race(runs, 2.3, 1e-3, bracketed=True))
    assert "check that the loss depends on the parameters" in alone.why
    assert raced.verdict is Verdict.RACED
    assert raced.why.endswith(
        " at every rate up to 10. Short runs of the plan learn, though, and tell the rates apart."
    )


@pytest.mark.parametrize("seed", [2, 5, 6, 7])
def test_a_fall_on_too_few_points_is_not_said_to_be_noise(seed):
    loss = 4.0 + np.random.default_rng(seed).normal(0, 0.4, 30)
    loss[20:26] -= 1.0
    loss[26:] += [1.0, 3.0, 6.0, 12.0]
    judged = judge(Curve(np.geomspace(1e-6, 1, 30), loss))
    assert judged.verdict is Verdict.FLAT
    assert judged.why.startswith("The loss falls by ")
    assert "on too few points to be told from how batches differ, " in judged.why
    assert "within its noise" not in judged.why


@pytest.mark.parametrize("baseline", [None, [0.1] * 12])
def test_a_loss_that_rises_before_any_rate_can_have_acted_may_do_so_by_itself(baseline):
    loss = [*np.log1p(np.arange(11)), 40.0]
    judged = judge(Curve(np.geomspace(1e-8, 1e-7, 12), loss, baseline, diverged=True))
    assert judged.verdict is Verdict.TOO_SHORT
    assert ("if it rises by itself, as with a queue that still fills" in judged.why) is (baseline is None)
