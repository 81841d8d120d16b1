"""What the page knows of a run: plain values for JSON, long arrays as the bytes that the browser reads as they are."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from findlr.analysis.curve import Curve
from findlr.analysis.rules import RULES
from findlr.analysis.text import duration, interval_text, rate_text
from findlr.errors import NoSuggestionError
from findlr.finding import Finding
from findlr.finding.code import ASSUMED_STEPS
from findlr.views.drawing import describe, flat_facts
from findlr.views.parts import Drawing
from findlr.views.thinning import extremes

_MOST = 20_000  # points of a curve that is shown whole
_STRETCHES = 500  # of a longer one: the chart is about twice as many pixels wide


def run_data(finding: Finding, label: str, betas: Sequence[float]) -> dict[str, Any]:
    """What the page shows of one run.

    Args:
        finding: with or without a suggestion.
        label: the run's name; "" for one that needs none.
        betas: the steps of the page's smoothing.

    Returns:
        Plain values, and every answer of a rule among them: the page asks none itself.
    """
    drawing = describe(finding)
    return {
        "label": label,
        "plan": drawing.plan,
        "message": drawing.message,
        "verdict": finding.verdict.name,
        "why": finding.why if finding.fallback is None else f"{finding.why} Until then, {finding.fallback.why}.",
        "suggestion": _suggestion(finding, drawing),
        "signs": [{"lr": sign.lr, "label": sign.label} for sign in drawing.signs],
        "answers": list(_answers(finding)),
        "betas": betas,
        "smoothing": finding.curve.smoothing,
        "limits": drawing.limits,
        **_points(finding.curve, drawing, betas),
        "stop": _stop(drawing),
        "race": _race(finding, drawing),
        "code": None if finding.suggestion is None else finding.code(),
        "facts": [[title, [list(pair) for pair in pairs]] for title, pairs in _facts(finding) if pairs],
    }


def _suggestion(finding: Finding, drawing: Drawing) -> dict[str, Any] | None:
    if finding.suggestion is None or drawing.suggestion is None:
        return None
    return {**vars(finding.suggestion), "label": drawing.suggestion.suggested}


def _answers(finding: Finding) -> Iterable[dict[str, Any]]:
    """What each rule says, or why it says nothing."""
    for name, rule in RULES.items():
        try:
            yield vars(finding.suggest(rule))
        except NoSuggestionError as error:
            yield {"rule": name, "lr": None, "why": str(error), "interval": None}


def _points(curve: Curve, drawing: Drawing, betas: Sequence[float]) -> dict[str, Any]:
    """The curve: whole losses, so that the page smooths them as Python does, and the rest as fine as a screen needs.

    Of all points the first ``usable`` are; the line goes from ``start`` to ``end``. Of a long curve the page gets the
    points where any of its lines has a peak, at the places ``kept``, and its averages ready made.
    """
    usable = len(curve.usable())
    start = min(10, usable) if len(drawing.line) else 0
    end = start + len(drawing.line)
    validation = None if drawing.validation is None else curve.validation
    corrected = read = dip = None
    if drawing.corrected is not None:
        corrected = np.full(len(curve), np.nan)
        corrected[: len(drawing.corrected)] = drawing.corrected.loss
    if drawing.read is not None:
        read = np.interp(curve.log10_lr, drawing.read.line.log10_lr, drawing.read.line.loss)
        places = drawing.read.dip.log10_lr
        dip = {"low": float(places[0]), "high": float(places[-1]), "top": float(drawing.read.dip.loss.max())}
    kept, averages = np.arange(len(curve)), None
    if len(curve) > _MOST:
        smoothed = [curve.smoothed(beta).loss for beta in betas]
        lines = [curve.loss, *(line for line in (corrected, validation, read) if line is not None), *smoothed]
        ends = [at for at in (start, end - 1, usable - 1) if at >= 0]
        kept = np.unique(np.concatenate([ends, *(extremes(line, _STRETCHES) for line in lines)]))
        averages = [_packed(line[kept], "<f4") for line in smoothed]
    return {
        "log10_lr": _packed(curve.log10_lr[kept], "<f4"),
        "loss": _packed(curve.loss[kept], "<f8"),
        "corrected": None if corrected is None else _packed(corrected[kept], "<f4"),
        "dip": dip,
        "read": None if read is None else _packed(read[kept], "<f4"),
        "validation": None if validation is None else _packed(validation[kept], "<f4"),
        "averages": averages,
        "kept": None if averages is None else _packed(kept, "<i4"),
        "points": len(curve),
        "usable": int(np.searchsorted(kept, usable)),
        "start": int(np.searchsorted(kept, start)),
        "end": int(np.searchsorted(kept, end)),
    }


def _packed(values: npt.ArrayLike, kind: Literal["<f4", "<f8", "<i4"]) -> str:
    with np.errstate(over="ignore"):  # beyond float32 is beyond any screen
        return b64encode(np.asarray(values).astype(kind).tobytes()).decode()


def _stop(drawing: Drawing) -> dict[str, Any] | None:
    if (stop := drawing.stop) is None:
        return None
    return {"lr": stop.lr, "text": f"{stop.why} at lr {rate_text(stop.lr)}, loss {stop.loss:.4g}"}


def _race(finding: Finding, drawing: Drawing) -> dict[str, Any] | None:
    if drawing.race is None or finding.race is None:
        return None
    return {
        "label": drawing.race.label,
        "limits": drawing.race.limits,
        "runs": [vars(run).copy() for run in drawing.race.runs],
        "start": finding.race.start,
        "best_lr": finding.race.best_lr,
        "bracketed": finding.race.bracketed,
    }


def _facts(finding: Finding) -> Iterable[tuple[str, list[tuple[str, str]]]]:
    """All that is known of a run, in groups."""
    curve, suggestion = finding.curve, finding.suggestion
    result = [("verdict", f"{finding.verdict.name}: {finding.verdict.sentence}"), ("why", finding.why)]
    if suggestion is not None:
        result += [("learning rate", rate_text(suggestion.lr)), ("rule", f"{suggestion.rule}: {suggestion.why}")]
        if suggestion.interval is not None:
            result.append(("interval", interval_text(suggestion.interval)))
        if len(finding.lrs) > 1:
            result.append(("rates of the groups", ", ".join(map(rate_text, finding.lrs))))
    yield "Result", result
    rates = interval_text((curve.lr[0], curve.lr[-1])) if len(curve) else "none"
    sweep = [
        ("points", f"{len(curve)} of {curve.num_steps} planned"),
        ("rates", rates),
        ("end", finding.stop.sentence),
        ("smoothing", f"{curve.smoothing:g}"),
        ("control variate", "used" if curve.baseline is not None else "not used"),
    ]
    yield "Sweep", sweep
    cost = [
        ("steps", f"{finding.cost.steps:,.0f}; a forward pass alone is a third"),
        ("forwards", f"{finding.cost.forwards:,}"),
        ("backwards", f"{finding.cost.backwards:,}"),
        ("time", duration(finding.cost.seconds)),
    ]
    yield "Cost", cost
    plan = finding.plan.to_dict()
    if not isinstance(plan["schedule"], str):
        scheduler = plan.pop("scheduler", "")
        plan["schedule"] = f"your {scheduler}" if scheduler else "a function of the progress"
    if plan["total_steps"] is None:
        plan["total_steps"] = f"{ASSUMED_STEPS}, assumed: none were given"
    yield "Plan", [(name, str(value)) for name, value in plan.items() if value not in (None, "")]
    yield "Training", [pair for pair in flat_facts(finding.facts) if pair[1] != ""]
