"""A Finding as plain values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from findlr.analysis.curve import Curve, Stop
from findlr.analysis.given import of_kind
from findlr.analysis.plan import Plan
from findlr.analysis.race import Race
from findlr.analysis.rules import Suggestion
from findlr.analysis.verdict import Verdict
from findlr.finding.cost import Cost
from findlr.finding.facts import plain_facts
from findlr.finding.saved import FORMAT, checked, damaged, marked, strict

if TYPE_CHECKING:
    from findlr.finding.finding import Finding

_PARTS: dict[str, type] = {
    "suggestion": Suggestion,
    "verdict": Verdict,
    "why": str,
    "stop": Stop,
    "curve": Curve,
    "plan": Plan,
    "cost": Cost,
    "facts": Mapping,
    "race": Race,
}


def keep_parts(finding: Finding) -> None:
    """Keep a new Finding's facts as plain values, and refuse one that no view could show or that could not be saved.

    Raises:
        ConfigurationError: a part is of another kind.
    """
    for name, kind in _PARTS.items():
        part = getattr(finding, name)
        if not (isinstance(part, kind) or (part is None and name in ("suggestion", "race"))):
            of_kind(part, kind, f"a Finding's {name}", "change one that find_lr returned with dataclasses.replace")
    object.__setattr__(finding, "facts", plain_facts(finding.facts))  # its class is frozen


def plain_of(finding: Finding) -> dict[str, Any]:
    """The Finding as plain values; NaN and infinity become the strings "nan", "inf", "-inf", as JSON has none."""
    return {
        "format": FORMAT,
        "suggestion": None if finding.suggestion is None else strict(vars(finding.suggestion)),
        "verdict": finding.verdict.name,
        "why": finding.why,
        "stop": finding.stop.name,
        "curve": strict(finding.curve.to_dict()),
        "plan": finding.plan.to_dict(),
        "cost": vars(finding.cost).copy(),
        "facts": strict(finding.facts, marked),
        "race": None if finding.race is None else strict(finding.race.to_dict()),
    }


def fields_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the Finding that ``plain_of`` described.

    Raises:
        FileFormatError: it is of another format, or damaged.
    """
    fields = checked(data)
    try:
        return {
            "suggestion": None if fields["suggestion"] is None else Suggestion.from_dict(fields["suggestion"]),
            "verdict": Verdict[fields["verdict"]],
            "why": fields["why"],
            "stop": Stop[fields["stop"]],
            "curve": Curve(**fields["curve"]),
            "plan": Plan.from_dict(fields["plan"]),
            "cost": Cost(**fields["cost"]),
            "facts": fields["facts"],
            "race": None if fields["race"] is None else Race.from_dict(fields["race"]),
        }
    except (LookupError, ValueError, ArithmeticError) as error:
        raise damaged(error) from error
