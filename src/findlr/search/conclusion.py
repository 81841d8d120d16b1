"""The Finding of a sweep that is over, a search's or a loop's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from findlr.analysis.answer import answer
from findlr.analysis.plan import Plan
from findlr.analysis.race import Race
from findlr.analysis.rules import Rule
from findlr.errors import ConfigurationError
from findlr.finding import Cost, Finding
from findlr.search.failure import carry
from findlr.search.recording import Recording
from findlr.search.trainable import ChecksVerify


def conclude(
    recording: Recording,
    smoothing: float,
    plan: Plan,
    rule: Rule | None,
    cost: Cost,
    facts: Mapping[str, Any],
    race: Race | None = None,
) -> Finding:
    """The Finding of a sweep that is over, and of the race that may have followed it.

    Raises:
        Exception: what a rule of the user's own raises; it carries what was measured, read by ``rules.quick``.
    """
    assert recording.stop is not None
    curve = recording.curve(smoothing)
    try:
        found = answer(curve, plan, rule, race, recording.ending(facts.get("accumulation_steps") or 1))
    except Exception as error:  # a rule of the user's own
        if rule is None:
            raise
        carry(error, conclude(recording, smoothing, plan, None, cost, facts, race))
        raise
    return Finding(*found, recording.stop, curve, plan, cost, facts, race)


def may_verify(training: Any) -> bool:
    """Whether a race can be made of a training, as far as that is known."""
    try:
        if isinstance(training, ChecksVerify):
            training.check_verify()
    except ConfigurationError:
        return False
    return True
