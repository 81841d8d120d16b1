"""A Finding in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from findlr.analysis.rules import RULES
from findlr.analysis.runs import Race
from findlr.errors import NoSuggestionError
from findlr.finding import Finding
from findlr.views.console.sketch import Sketch, printable


def show(finding: Finding, console: Console | None = None) -> None:
    """Print the summary of a Finding, and its curve.

    Args:
        finding: with or without a suggestion.
        console: where to; None is standard output.
    """
    (console or Console()).print(summary(finding), "", Sketch(finding), sep="\n")


def show_all(findings: Sequence[Finding], labels: Sequence[str], console: Console | None = None) -> None:
    """Print several Findings side by side.

    Args:
        findings: with or without suggestions.
        labels: a name for each.
        console: where to; None is standard output.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "suggestion", "interval", "verdict", "lowest loss", "steps"):
        table.add_column(heading, overflow="fold")
    for finding, label in zip(findings, labels, strict=True):
        suggestion, losses = finding.suggestion, finding.curve.smoothed().usable().loss
        interval = None if suggestion is None else suggestion.interval
        table.add_row(
            Text(printable(label)),
            Text("none", style="bold red") if suggestion is None else Text(f"{suggestion.lr:.2g}", style="bold green"),
            "" if interval is None else f"{interval[0]:.2g} to {interval[1]:.2g}",
            finding.verdict.name,
            f"{losses.min():.4g}" if len(losses) else "",
            f"{finding.cost.steps:.0f}",
        )
    (console or Console()).print(table)


def summary(finding: Finding) -> Table:
    """A Finding in a few lines: the suggestion, its interval and why, or why not; what other rules say; what it cost.

    Args:
        finding: with or without a suggestion.

    Returns:
        A table for rich to print.

    Example:
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> Console().print(summary(find(Quadratic())))  # doctest: +ELLIPSIS
        suggestion ... (quick)...
    """
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    suggestion = finding.suggestion
    if suggestion is None:
        table.add_row("suggestion", Text("none", style="bold red"))
    else:
        table.add_row("suggestion", Text(f"{suggestion.lr:.2g} ({printable(suggestion.rule)})", style="bold green"))
        if suggestion.interval is not None:
            low, high = suggestion.interval
            table.add_row("interval", Text(f"{low:.2g} to {high:.2g}"))
        table.add_row("rule", Text(printable(suggestion.why)))
    if finding.race is not None:
        table.add_row("race", Text(_told(finding.race)))
    table.add_row("verdict", Text(finding.verdict.name))
    table.add_row("why", Text(printable(finding.why)))
    table.add_row("stop", Text(finding.stop.sentence))
    for i, (names, answer) in enumerate(_other_answers(finding)):
        table.add_row("" if i else "other rules", Text(f"{names}: {answer}"))
    steps = round(finding.cost.steps)
    table.add_row("cost", f"{steps} step{'s' * (steps != 1)}, {finding.cost.seconds:.2g} s")
    if suggestion is not None and finding.facts.get("optimizer"):
        table.add_row("paste", Text(printable(finding.code())))
    return table


def _told(race: Race) -> str:
    """What the runs of a race ended at, by rate."""
    runs = sorted(race.runs, key=lambda run: run.lr)
    losses = ", ".join(f"{run.loss:.4g} at {run.lr:.2g}" for run in runs)
    return f"{len(runs)} runs of {race.steps} steps; loss {losses}"


def _other_answers(finding: Finding) -> Iterator[tuple[str, str]]:
    """Names of rules, and what they say; those that say the same share a line."""
    answers: dict[str, list[str]] = {}
    for name, rule in RULES.items():
        if finding.suggestion is not None and finding.suggestion.rule == name:
            continue
        try:
            answer = f"{finding.suggest(rule).lr:.2g}"
        except NoSuggestionError as error:
            answer = "refused, for the reason above" if str(error) == finding.why else f"refused: {error}"
        answers.setdefault(answer, []).append(name)
    return ((", ".join(names), answer) for answer, names in answers.items())
