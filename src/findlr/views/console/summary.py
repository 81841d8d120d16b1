"""A Finding in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from findlr.analysis.rules import RULES
from findlr.analysis.text import interval_text, printable, rate_text
from findlr.errors import NoSuggestionError
from findlr.finding import Finding
from findlr.finding.given import the_finding
from findlr.finding.telling import code_lines, cost_text, none_text, plan_text, race_text
from findlr.views.console.sketch import Sketch, console_of
from findlr.views.drawing import findings_of, labels_of
from findlr.views.parts import OWN

_NARROW = 60  # columns; the table of several Findings needs more
_TIGHT = 40  # columns; beside the names of one Finding's lines there is too little left for words


def show(finding: Finding, console: Console | None = None) -> None:
    """Print the summary of a Finding, its curve, and the code to paste.

    Args:
        finding: with or without a suggestion.
        console: where to; None is standard output.
    """
    console = console_of(console)
    if console.width < _TIGHT:
        for name, text in _told(finding):
            console.print(Text.assemble((f"{name}  " if name else "", "bold"), text))
    else:
        console.print(summary(finding))
    console.print("", Sketch(finding), sep="\n")
    if code := code_lines(finding):
        console.print(Text("\nto paste", style="bold"))
        console.print(Text("\n".join(code)), soft_wrap=True)  # a line stays one, however narrow the terminal is


def show_all(findings: Sequence[Finding], labels: Sequence[str], console: Console | None = None) -> None:
    """Print several Findings side by side; in a narrow terminal below each other.

    Args:
        findings: with or without suggestions.
        labels: a name for each.
        console: where to; None is standard output.

    Raises:
        ConfigurationError: there is no Finding, or not one label for each.
    """
    console, findings = console_of(console), findings_of(findings)
    names = labels_of(findings, labels)
    rows = [_row(finding, name) for finding, name in zip(findings, names, strict=True)]
    if console.width < _NARROW:
        for name, lr, interval, verdict, loss, steps, plan in rows:
            told = [interval, verdict, f"best smoothed loss {loss}" * bool(loss), f"{steps} steps"]
            console.print(Text.assemble(name, "  ", lr), Text(", ".join(filter(None, told))), plan, "", sep="\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "suggestion", "interval", "verdict", "best smoothed loss", "steps"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row[:-1])
    console.print(table, "")
    plans = [plan for *_, plan in rows]
    if len(set(map(str, plans))) > 1:
        plans = [Text.assemble(name, ": ", plan) for name, *_, plan in rows]
    else:
        plans = [Text.assemble("all " if len(plans) > 1 else "", plan) for plan in plans[:1]]
    for each in plans:
        console.print(Padding(each, (0, 0, 0, 2)))


def _row(finding: Finding, label: str) -> tuple[Text, Text, str, str, str, str, Text]:
    suggestion, losses = finding.suggestion, finding.curve.smoothed().usable().loss
    interval = None if suggestion is None else suggestion.interval
    return (
        Text(printable(label)),
        Text("none", style="bold red") if suggestion is None else Text(rate_text(suggestion.lr), style="bold green"),
        "" if interval is None else interval_text(interval),
        finding.verdict.name,
        f"{losses.min():.4g}" if len(losses) else "",
        f"{finding.cost.steps:.0f}",
        Text(f"for {plan_text(finding.plan)}"),
    )


def summary(finding: Finding) -> Table:
    """A Finding in a few lines: the suggestion, its interval and plan, why, or why not; what other rules say; the cost.

    Example:
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> Console().print(summary(find(Quadratic())))  # doctest: +ELLIPSIS
        suggestion    0...
    """
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _told(finding):
        table.add_row(name, text)
    return table


def _told(finding: Finding) -> Iterator[tuple[str, Text]]:
    """What the summary says, line by line, and what each line is about; nothing where that is the line's before."""
    suggestion = the_finding(finding).suggestion
    if suggestion is None:
        yield "suggestion", Text(none_text(finding), style="bold red")
    else:
        named = rate_text(suggestion.lr) + (f" ({printable(suggestion.rule)})" if suggestion.rule not in OWN else "")
        yield "suggestion", Text(named, style="bold green")
        if suggestion.interval is not None:
            yield "interval", Text(interval_text(suggestion.interval))
    yield "plan", Text(plan_text(finding.plan))
    if suggestion is not None:
        yield "rule", Text(printable(suggestion.why))
    if finding.race is not None:
        yield "race", Text(race_text(finding.race))
    yield "verdict", Text(finding.verdict.name)
    yield "why", Text(printable(finding.why))
    yield "stop", Text(finding.stop.sentence)
    for i, (names, answer) in enumerate(_other_answers(finding)):
        yield "" if i else "other rules", Text(f"{names}: {answer}")
    yield "cost", Text(cost_text(finding.cost))


def _other_answers(finding: Finding) -> Iterator[tuple[str, str]]:
    """Names of rules, and what they say; those that say the same share a line."""
    answers: dict[str, list[str]] = {}
    for name, rule in RULES.items():
        if finding.suggestion is not None and finding.suggestion.rule == name:
            continue
        try:
            answer = rate_text(finding.suggest(rule).lr)
        except NoSuggestionError as error:
            answer = "refused, for the reason above" if str(error) == finding.why else f"refused: {error}"
        answers.setdefault(answer, []).append(name)
    return ((", ".join(names), answer) for answer, names in answers.items())
