"""What a picture of a Finding shows, as plain data: each view draws the same, with what it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from findlr.analysis.curve import Curve, Stop
from findlr.analysis.dip import reading_of
from findlr.analysis.families import QUASI_NEWTON, RATE_FREE
from findlr.analysis.given import check_flags
from findlr.analysis.rules import Rule
from findlr.errors import ConfigurationError, NoSuggestionError
from findlr.finding import Finding
from findlr.finding.given import the_finding
from findlr.finding.telling import plan_text
from findlr.views.parts import OWN, Drawing, Limits, Mark, RaceRuns, Read, Sign, StopPoint

_LARGEST = 1e150  # of a height: far above, a span is infinite


def describe(
    finding: Finding,
    *,
    smoothed: bool = True,
    raw: bool = True,
    rules: Sequence[Rule | str] | Rule | str = (),
    race: bool = True,
    read: bool = True,
) -> Drawing:
    """What to draw of a Finding.

    Args:
        finding: with or without a suggestion.
        smoothed: True is the article's plot: the smoothed losses without the first 10 and last 5 points; False is the
            raw losses, all that are usable.
        raw: whether the raw losses stand behind the smoothed ones, all that are usable, and those less their batches'
            differences.
        rules: other rules to ask, or their names; those that refuse are left out.
        race: whether the runs of a race are shown.
        read: whether what the default rule reads is shown beside the smoothed losses, and carries the suggestion.

    Raises:
        ConfigurationError: there is no such rule, or ``finding`` is none.

    Example:
        >>> from findlr import find, rules
        >>> from findlr.testing import Quadratic
        >>> drawing = describe(find(Quadratic()), rules=[rules.steep])
        >>> drawing.suggestion.rules, drawing.others[0].rules
        (('quick',), ('steep',))
    """
    check_flags(smoothed=smoothed, raw=raw, race=race)
    curve = the_finding(finding).curve
    line = curve.smoothed().clipped() if smoothed else curve.usable()
    points = corrected = None
    if smoothed and raw:
        points, corrected = curve.usable(), _corrected(curve.usable())
    validation = _measured(curve)
    reading = _read(finding) if smoothed and read else None
    named = _named(finding, rules)
    suggestion = None
    if finding.suggestion is not None:
        lr = finding.suggestion.lr
        suggestion = Mark(lr, _height(line if reading is None else reading.line, lr), named.pop(lr))
    return Drawing(
        line=line,
        points=points,
        read=reading,
        signs=() if reading is None else tuple(_signs(finding)),
        corrected=corrected,
        validation=validation,
        suggestion=suggestion,
        interval=None if finding.suggestion is None else finding.suggestion.interval,
        others=tuple(Mark(lr, _height(line, lr), names) for lr, names in named.items()),
        stop=_stop(finding),
        race=_race(finding) if race else None,
        limits=_limits(line, None if reading is None else reading.line, points, corrected, validation),
        plan=plan_text(finding.plan),
        message=f"No suggestion. {finding.verdict.sentence}" if suggestion is None else "",
        loss_label="smoothed loss" if smoothed else "loss",
    )


def describe_alike(findings: Sequence[Finding]) -> list[Drawing]:
    """What to draw of several Findings, each by one line of the same kind: what the rule reads, where all have that."""
    drawings = [describe(finding, raw=False, race=False) for finding in findings]
    lines = [drawing.read.line for drawing in drawings if drawing.read is not None]
    if len(lines) < len(drawings):
        return [describe(finding, raw=False, race=False, read=False) for finding in findings]
    return [replace(drawing, line=line) for drawing, line in zip(drawings, lines, strict=True)]


def findings_of(given: Any) -> list[Finding]:
    """Several runs as a list.

    Raises:
        ConfigurationError: they are none.
    """
    items = _items(given)
    findings = [given] if items is None else items
    for each in findings:
        if not isinstance(each, Finding):
            kind = type(each).__name__
            raise ConfigurationError(f"give a list of Findings, got {kind} among them; Finding.load(path) reads a file")
    if isinstance(given, Finding):
        raise ConfigurationError("give a list of Findings, got a single one: [finding], or finding.plot()")
    return findings


def _items(given: Any) -> list[Any] | None:
    """What can be iterated over and is no text, as a list; None if it can't."""
    with suppress(TypeError):
        return None if isinstance(given, (str, bytes)) else list(given)
    return None


def labels_of(findings: Sequence[Finding], labels: Sequence[str] | None = None) -> tuple[str, ...]:
    """A name for each of several runs: the ones given, or what the facts of the runs differ in.

    Args:
        findings: at least one.
        labels: one per Finding; None for what differs, or a number where nothing does.

    Raises:
        ConfigurationError: there is no Finding, or not one label for each.

    Example:
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> labels_of([find(Quadratic()), find(Quadratic(noise=1.0))])
        ('run 1', 'run 2')
    """
    if not findings:
        raise ConfigurationError("there is nothing to show: give at least one Finding")
    if labels is not None:
        given = _items(labels) or ()
        if len(given) != len(findings):
            raise ConfigurationError(f"labels must be a list with one for each of {len(findings)} runs, got {labels!r}")
        return tuple(map(str, given))
    facts = [dict(flat_facts({**finding.plan.to_dict(), **finding.facts})) for finding in findings]
    found = [""] * len(findings)
    for name in (name for name in dict.fromkeys(chain(*facts)) if _tells(name)):
        short = name.removesuffix(".name").split(".")[-1]
        longer = [f"{text}, {short}={each.get(name, 'default')}" for text, each in zip(found, facts, strict=True)]
        found = longer if len(set(longer)) > len(set(found)) else found
    if len(set(found)) == len(found) > 1:
        return tuple(text.removeprefix(", ") for text in found)
    return tuple(f"run {i + 1}" for i in range(len(findings)))


def flat_facts(facts: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each fact with its place in the tree, as in ("optimizer.name", "SGD")."""
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from flat_facts(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
            yield from flat_facts(dict(enumerate(value)), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _tells(name: str) -> bool:
    """Whether a fact names a run well: the plan's and the groups' settings stand in the optimizer's arguments, too."""
    return not name.startswith(("versions.", "optimizer.groups.", "optimizer.module", "momentum"))


def _read(finding: Finding) -> Read | None:
    """What the default rule reads, where the suggestion is its own, or that of a race, which begins at its."""
    suggestion, plan = finding.suggestion, finding.plan
    if suggestion is None or suggestion.rule not in OWN or plan.optimizer in (*RATE_FREE, *QUASI_NEWTON):
        return None
    try:
        reading = reading_of(finding.curve)
    except NoSuggestionError:
        return None
    line, dip = Curve(10**reading.places, reading.start - reading.fall), slice(reading.low, reading.high)
    return Read(line, Curve(line.lr[dip], line.loss[dip]))


def _signs(finding: Finding) -> Iterator[Sign]:
    """What the suggestion is made of: of a race, its runs; of the default rule, the dip and what is usual."""
    rule = None if finding.suggestion is None else finding.suggestion.rule
    if rule == "race" and finding.race is not None:
        yield Sign(finding.race.best_lr, "where short runs end best")
    elif rule == "quick" and (belief := finding.belief) is not None:
        if belief.dip is not None:
            yield Sign(belief.dip, "the dip, for this plan")
        if belief.usual is not None:
            yield Sign(belief.usual, "usual for such a training")


def _corrected(curve: Curve) -> Curve | None:
    """The losses less what makes a batch hard, as its loss under the starting weights shows."""
    if curve.baseline is None or not len(curve):
        return None
    known = curve.baseline[np.isfinite(curve.baseline)]  # a batch may give no number under the starting weights
    return Curve(curve.lr, curve.loss - curve.baseline + known.mean()) if len(known) else None


def _measured(curve: Curve) -> Curve | None:
    """The held-out losses where they were measured."""
    usable = curve.usable()
    if usable.validation is None:
        return None
    there = np.isfinite(usable.validation)
    return Curve(usable.lr[there], usable.validation[there]) if there.any() else None


def _stop(finding: Finding) -> StopPoint | None:
    curve = finding.curve
    if finding.stop is Stop.FINISHED or not len(curve):
        return None
    why = finding.stop.name.lower().replace("_", " ")
    return StopPoint(float(curve.lr[-1]), float(curve.loss[-1]), f"stopped: {why}")


def _race(finding: Finding) -> RaceRuns | None:
    if (race := finding.race) is None:
        return None
    runs = tuple(sorted(race.runs, key=lambda run: run.lr))
    losses = [run.loss for run in runs if np.isfinite(run.loss)]
    limits = None
    if losses:
        low, high = min(losses), max(losses)
        cut = 2 * race.start - low  # as much above the start as the best lies below
        limits = _with_margin(low, min(high, cut) if cut > low else high, 0.15)
    return RaceRuns(runs, limits, f"{'held-out ' * race.held_out}loss after {race.steps} steps")


def _named(finding: Finding, rules: Sequence[Rule | str] | Rule | str) -> dict[float, tuple[str, ...]]:
    """Each rate that is answered, the suggestion's and those of other rules, with the rules that answer it."""
    named: dict[float, tuple[str, ...]] = {}
    if finding.suggestion is not None:
        named[finding.suggestion.lr] = (finding.suggestion.rule,)
    asked: Any = rules
    items = None if callable(rules) else _items(rules)
    for rule in [asked] if items is None else items:
        try:
            answer = finding.suggest(rule)
        except NoSuggestionError:
            continue
        names = named.get(answer.lr, ())
        named[answer.lr] = names if answer.rule in names else (*names, answer.rule)
    return named


def _height(line: Curve, lr: float) -> float:
    return float(np.interp(np.log10(lr), line.log10_lr, line.loss)) if len(line) else np.nan


def _limits(line: Curve, *others: Curve | None) -> Limits | None:
    """All of the fall, and as much of the rise as the fall is high; never less than nine tenths of the points."""
    shown = [curve for curve in (line, *others) if curve is not None and len(curve)]
    if not shown:
        return None
    losses = shown[0].loss
    bottom = int(np.argmin(losses))
    low, start = float(losses[bottom]), float(losses[: bottom + 1].max())
    high = min(max(2 * start - low, float(np.quantile(losses, 0.9))), float(losses.max()))
    for curve in shown[1:]:  # what lies around the line, without rare high ones
        before = curve.loss[curve.lr <= max(shown[0].lr[bottom], np.median(shown[0].lr))]
        if len(before):
            low = min(low, float(before.min()))
            high = max(high, float(np.quantile(before, 0.98)))
    return _with_margin(low, high, 0.06)


def _with_margin(low: float, high: float, share: float) -> Limits:
    low, high = max(low, -_LARGEST), min(high, _LARGEST)
    margin = share * (high - low) or share * abs(high) or 1.0
    return low - margin, high + margin
