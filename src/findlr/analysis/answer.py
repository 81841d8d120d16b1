"""The answer: one pure step from a curve, a plan, a rule and a race to a rate, or to why there is none."""

from __future__ import annotations

import math
from typing import NamedTuple

from findlr.analysis.acting import batch_is_at_fault
from findlr.analysis.belief import Belief, believe, believe_at_least, believe_the_usual
from findlr.analysis.curve import Curve, Ending
from findlr.analysis.families import QUASI_NEWTON, RATE_FREE, rate_free
from findlr.analysis.numbers import real
from findlr.analysis.plan import Plan
from findlr.analysis.race import Race
from findlr.analysis.rules import Rule, Suggestion, quick, suggestion_of
from findlr.analysis.runs import decide, end_alike, learned, own_budget
from findlr.analysis.text import interval_text, parted, rate_text
from findlr.analysis.verdict import Judgement, Verdict, judge
from findlr.errors import ConfigurationError, NoSuggestionError

_SURE = 0.05  # of the regret, at most expected of a clear answer
_APART = 1.5  # decades between the two sources


class Answer(NamedTuple):
    """What a search says.

    Args:
        suggestion: the rate and how it was found; None where the verdict refuses.
        verdict: whether the curve gives a suggestion, and with which reservation.
        why: the verdict's reason, and what to change where it refuses.
    """

    suggestion: Suggestion | None
    verdict: Verdict
    why: str


def answer(
    curve: Curve, plan: Plan, rule: Rule | None = None, race: Race | None = None, ending: Ending | None = None
) -> Answer:
    """Judge a curve, ask a rule if the verdict allows it, and let a race that learned have the last word.

    Args:
        curve: the raw losses of a sweep.
        plan: the training that is planned.
        rule: how the rate is chosen; None is ``rules.quick``.
        race: the runs that verify the suggestion; None if there were none.
        ending: how the sweep ended; None where only the curve is known.

    Raises:
        Exception: what a rule of the user's own raises.

    Example:
        >>> rates = [10.0 ** (i / 10 - 5) for i in range(60)]
        >>> answer(Curve(rates, [1.0] * 60), Plan()).verdict.name
        'FLAT'
    """
    swept = _of_the_sweep(curve, plan, rule, ending)
    start = None if race is None else swept.suggestion or starting_point(curve, plan, rule)
    if race is None or start is None or not learned(race):
        return swept
    verdict, why = swept.verdict, swept.why
    if verdict not in (Verdict.CLEAR, Verdict.NOT_FINITE):
        why, _ = parted(why)  # its advice was to verify, or to mend what the runs show to be sound
    if end_alike(race):
        lrs = sorted(run.lr for run in race.runs)
        verdict = Verdict.BROAD
        why = f"{why} Short runs of the plan end equally well at all rates from {interval_text((lrs[0], lrs[-1]))}."
    elif not race.bracketed:
        verdict = Verdict.HORIZON_LIMITED
        best = rate_text(race.best_lr)
        why = f"{why} The best short run, at {best}, is at an end of the rates tried: raise the budget."
    elif verdict is not Verdict.CLEAR:
        verdict, why = Verdict.RACED, f"{why} Short runs of the plan learn, though, and tell the rates apart."
    return Answer(decide(race, start, plan), verdict, why)


def _of_the_sweep(curve: Curve, plan: Plan, rule: Rule | None, ending: Ending | None = None) -> Answer:
    judgement = judge(curve, ending)
    if judgement.verdict.refuses:
        advice = f" But {rate_free(plan.optimizer)}." if plan.optimizer in RATE_FREE else ""
        return Answer(None, judgement.verdict, judgement.why + advice)
    by_belief = rule in (None, quick) and plan.optimizer not in QUASI_NEWTON
    try:
        belief = believe(curve, plan) if by_belief else None
        suggested = (rule or quick)(curve, plan) if belief is None else suggestion_of(belief, plan)
        suggestion = if_swept(suggested, curve)
    except NoSuggestionError as error:
        return Answer(None, Verdict.NO_ANSWER, f"{judgement.why} But {error}.")
    if belief is not None and judgement.verdict is Verdict.CLEAR and plan.optimizer not in RATE_FREE:
        judgement = _doubted(judgement, belief, curve, plan)
    return Answer(suggestion, judgement.verdict, judgement.why)


def _doubted(clear: Judgement, belief: Belief, curve: Curve, plan: Plan) -> Judgement:
    """A clear curve, unless what it can't show may cost more than a clear one should."""
    worst = max(belief.doubts, key=belief.doubts.__getitem__)
    cost = "" if plan.total_steps is None else f", which costs at most {own_budget(plan.total_steps):,.0f} steps"
    if belief.dip and belief.usual and abs(math.log10(belief.dip / belief.usual)) > _APART:
        verdict = Verdict.DISAGREE
        more = f"But the dip says {rate_text(belief.dip)}, and {rate_text(belief.usual)} is usual"
    elif plan.pretrained:
        verdict = Verdict.PRETRAINED
        more = "But the weights are trained already, and what a rate costs them shows late"
    elif belief.expected_regret <= _SURE:
        return clear
    elif worst == "epochs":
        verdict = Verdict.MANY_EPOCHS
        more = f"But the plan sees each example {plan.epochs:.0f} times, and overfitting shows late"
    else:
        verdict = Verdict.NOISY
        more = f"But batches differ by {curve.paired().spread():.2g}, which hides where the dip is"
    return Judgement(verdict, f"{clear.why} {more}: use verify=True{cost}.")


def starting_point(curve: Curve, plan: Plan, rule: Rule | None = None) -> Suggestion | None:
    """What the rule says whatever the verdict is: where a race may start; None if it says nothing.

    A sweep that ended where a bad batch happened to lie gives no start, unless it tells a rate by itself.
    """
    if batch_is_at_fault(curve):
        return _of_the_sweep(curve, plan, rule).suggestion
    if rule in (None, quick) and judge(curve).verdict is Verdict.STILL_FALLING:
        more = usual_rate(curve, plan, still_falling=True)
        if more is not None:
            return more
    try:
        return if_swept((rule or quick)(curve, plan), curve) if len(curve.usable()) else None
    except NoSuggestionError:
        return None


def usual_rate(curve: Curve, plan: Plan, *, still_falling: bool = False) -> Suggestion | None:
    """What people begin with in such a training; None if nothing is usual, and the curve tells nothing in its place.

    Args:
        curve: the raw losses of a sweep.
        plan: the training that is planned.
        still_falling: the loss falls up to the end of the sweep, so that what is usual is raised to what the dip says.
    """
    belief = (believe_at_least if still_falling else believe_the_usual)(curve, plan)
    if belief is None:
        return None
    rate = rate_text(belief.lr)
    why = f"people begin at about {rate} with such a training"
    if belief.usual is None:
        why = f"begin at about {rate}, because the loss still falls there; nothing is usual for such a training"
    elif belief.dip is not None:
        why = f"begin at about {rate}, because the loss still falls there, though {rate_text(belief.usual)} is usual"
    elif belief.lr < belief.usual / 2:
        at = rate_text(float(curve.lr[-1]))
        why = f"begin at about {rate}, because the sweep diverged at {at}, though {rate_text(belief.usual)} is usual"
    return Suggestion(belief.lr, "quick" if belief.usual is None else "usual", why, belief.interval)


def if_swept(suggestion: Suggestion, curve: Curve) -> Suggestion:
    """``suggestion``, if it lies among the rates that were swept.

    Raises:
        NoSuggestionError: it does not.
        ConfigurationError: a rule of the user's own gave something else.
    """
    if not isinstance(suggestion, Suggestion):
        raise ConfigurationError(
            f"a rule must return a findlr.Suggestion, got {type(suggestion).__name__}: return "
            "Suggestion(lr, rule, why), or raise NoSuggestionError"
        )
    if real(suggestion.lr) is None or not 0 < suggestion.lr < math.inf:
        raise ConfigurationError(f"a rule must suggest a finite rate above 0; {suggestion.rule} gave {suggestion.lr!r}")
    low, high = float(curve.lr[0]), float(curve.lr[-1])
    if not low <= suggestion.lr <= high:
        more = "lower min_lr" if suggestion.lr < low else "raise max_lr"
        if suggestion.lr > high and len(curve) < (curve.num_steps or 0):
            more = "the sweep ended there, before max_lr"
        raise NoSuggestionError(
            f"{suggestion.rule} answers {rate_text(suggestion.lr)}, outside the swept rates, "
            f"{interval_text((low, high))}: {more}"
        )
    return suggestion
