"""What a Finding says of itself in words: the rate, what it is for, and what to do next."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from findlr.analysis.plan import Plan
from findlr.analysis.race import Race
from findlr.analysis.text import duration, interval_text, parted, printable, rate_text
from findlr.finding.code import ASSUMED_STEPS, LONG, one_line
from findlr.finding.cost import Cost

if TYPE_CHECKING:
    from findlr.finding.finding import Finding

_LONGEST_NAME = 40


def finding_text(finding: Finding) -> str:
    """A Finding in six lines: the rate, its interval, the verdict, the plan, what is next, the cost."""
    suggestion = finding.suggestion
    rows = (
        ("learning rate", none_text(finding) if suggestion is None else rate_text(suggestion.lr)),
        ("interval", "none" if suggestion is None else interval_text(finding.interval)),
        ("verdict", f"{finding.verdict.name}: {printable(_seen(finding))}"),
        ("plan", plan_text(finding.plan)),
        ("next", printable(next_text(finding))),
        ("cost", cost_text(finding.cost)),
    )
    return "\n".join(f"{name:<15}{text}" for name, text in rows)


def none_text(finding: Finding) -> str:
    """What is said in place of a rate: "none", and what is usual for such a training, where that is known."""
    fallback = finding.fallback
    return "none" if fallback is None else f"none from this curve; {fallback.why}"


def repr_text(finding: Finding) -> str:
    """A Finding in one line, for ``repr``."""
    found = "lr=None"
    if finding.suggestion is not None:
        low, high = map(rate_text, finding.interval)
        found = f"lr={rate_text(finding.suggestion.lr)}, interval=({low}, {high})"
    return f"Finding({found}, verdict={finding.verdict.name}, plan={plan_text(finding.plan)!r})"


def plan_text(plan: Plan) -> str:
    """The training that a rate is for: the optimizer, the schedule and its length.

    Example:
        >>> plan_text(Plan("one_cycle", 5000, "AdamW"))
        'AdamW, one_cycle over 5,000 steps'
        >>> plan_text(Plan("cosine", 5000, warmup=0.1))
        'cosine with a warmup of 10 %, over 5,000 steps'
        >>> plan_text(Plan())
        'a constant rate over 1,000 steps (assumed: no total_steps was given)'
    """
    own = f"your {printable(plan.scheduler, _LONGEST_NAME)}" if plan.scheduler else "a schedule of your own"
    schedule = plan.schedule if isinstance(plan.schedule, str) else own
    shape = "a constant rate" if schedule == "constant" else schedule
    if plan.warmup is not None:
        shape += f" with a warmup of {100 * plan.warmup:.2g} %,"
    optimizer = f"{printable(plan.optimizer, _LONGEST_NAME)}, " if plan.optimizer else ""
    if plan.total_steps is None:
        return f"{optimizer}{shape} over {ASSUMED_STEPS:,} steps (assumed: no total_steps was given)"
    return f"{optimizer}{shape} over {plan.total_steps:,} step{'s' * (plan.total_steps != 1)}"


def next_text(finding: Finding) -> str:
    """The line to paste; without a suggestion, what to change."""
    if finding.suggestion is None:
        return parted(finding.why)[1] or "change what the verdict names, and search again"
    code = one_line(finding.facts, finding.lrs, finding.plan)
    if code is not None:
        return code
    rate = rate_text(finding.suggestion.lr)
    if finding.plan.schedule == "constant":
        return f"train at {rate}"
    return f"train with {rate} as the peak of the schedule"


def cost_text(cost: Cost) -> str:
    """Steps and time.

    Example:
        >>> cost_text(Cost(steps=1333.3, forwards=2000, backwards=1000, seconds=0.0712))
        '1,333 steps, 0.071 s'
    """
    steps = f"{cost.steps:,.0f}" if cost.steps < 1e15 else f"{cost.steps:.3g}"
    return f"{steps} step{'s' * (steps != '1')}, {duration(cost.seconds)}"


def race_text(race: Race) -> str:
    """What the runs of a race ended at, by rate."""
    runs = sorted(race.runs, key=lambda run: run.lr)
    ends = (f"{run.loss:.4g}" if math.isfinite(run.loss) else "diverged" for run in runs)
    losses = ", ".join(f"{end} at {rate_text(run.lr)}" for end, run in zip(ends, runs, strict=True))
    return f"{len(runs)} run{'s' * (len(runs) != 1)} of {race.steps} steps; loss {losses}"


def code_lines(finding: Finding) -> list[str]:
    """The code to paste, or what does the same if it is long.

    No line where nothing is suggested, or nothing is known of the optimizer.
    """
    if finding.suggestion is None or not (finding.facts.get("optimizer") or finding.facts.get("sets")):
        return []
    code = finding.code()
    if len(code) > LONG:
        code = one_line(finding.facts, finding.lrs, finding.plan) or ""
    return [printable(line) for line in code.splitlines()] if len(code) <= LONG else []


def _seen(finding: Finding) -> str:
    """Why, less what to change where nothing is suggested: that is what is next."""
    return parted(finding.why)[0] if finding.suggestion is None else finding.why
