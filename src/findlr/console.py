"""The terminal's view of a Finding, and of a sweep that runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from findlr import rules
from findlr.drawing import Drawing, Mark, describe
from findlr.errors import MissingExtraError, NoSuggestionError
from findlr.finding import Finding
from findlr.race import Race
from findlr.rules import Rule
from findlr.sweep import Step

try:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Table
    from rich.text import Text
except ImportError:
    raise MissingExtraError.of("rich", "cli") from None

_RULES: tuple[Rule, ...] = (rules.quick, rules.article, rules.valley, rules.slide, rules.steep, rules.minimum)
_LINE, _SUGGESTION = "cyan", "bold green"
_NARROWEST = 16  # columns
_REFRESH = 0.1  # seconds


class LiveSweep:
    """A live progress bar for ``find_lr(..., progress=LiveSweep())``; silent where there is no terminal.

    Args:
        console: where to show it; None is standard error.

    Example:
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> finding = find(Quadratic(), progress=LiveSweep())
    """

    def __init__(self, console: Console | None = None) -> None:
        console = Console(stderr=True) if console is None else console
        self._progress = Progress(
            TextColumn("sweep"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
            auto_refresh=False,  # it would be a thread's, and a loader with workers forks
        )
        self._due = 0.0
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Callable[[Step], None]:
        self._progress.start()
        return self._show

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def _show(self, step: Step) -> None:
        text = f"lr {step.lr:.1e}  smoothed loss {step.smoothed:.4g}"
        self._progress.update(self._task, total=step.num_steps, completed=step.index + 1, description=text)
        if (now := time.monotonic()) >= self._due:
            self._progress.refresh()
            self._due = now + _REFRESH


def show(finding: Finding, console: Console | None = None) -> None:
    """Print the summary of a Finding, and its curve.

    Args:
        finding: with or without a suggestion.
        console: where to; None is standard output.
    """
    (console or Console()).print(summary(finding), "", Sketch(finding), sep="\n")


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
        table.add_row("suggestion", Text(f"{suggestion.lr:.2g} ({suggestion.rule})", style="bold green"))
        if suggestion.interval is not None:
            low, high = suggestion.interval
            table.add_row("interval", Text(f"{low:.2g} to {high:.2g}"))
        table.add_row("rule", Text(suggestion.why))
    if finding.race is not None:
        table.add_row("race", Text(_told(finding.race)))
    table.add_row("verdict", Text(finding.verdict.name))
    table.add_row("why", Text(finding.why))
    table.add_row("stop", Text(finding.stop.sentence))
    for i, (names, answer) in enumerate(_other_answers(finding)):
        table.add_row("" if i else "other rules", Text(f"{names}: {answer}"))
    steps = round(finding.cost.steps)
    table.add_row("cost", f"{steps} step{'s' * (steps != 1)}, {finding.cost.seconds:.2g} s")
    if suggestion is not None and finding.facts.get("optimizer"):
        table.add_row("paste", Text(finding.code()))
    return table


def _told(race: Race) -> str:
    """What the runs of a race ended at, by rate."""
    runs = sorted(race.runs, key=lambda run: run.lr)
    losses = ", ".join(f"{run.loss:.4g} at {run.lr:.2g}" for run in runs)
    return f"{len(runs)} runs of {race.steps} steps; loss {losses}"


def _other_answers(finding: Finding) -> Iterator[tuple[str, str]]:
    """Names of rules, and what they say; those that say the same share a line."""
    answers: dict[str, list[str]] = {}
    for rule in _RULES:
        name = rule.__name__
        if finding.suggestion is not None and finding.suggestion.rule == name:
            continue
        try:
            answer = f"{finding.suggest(rule).lr:.2g}"
        except NoSuggestionError as error:
            answer = "refused, for the reason above" if str(error) == finding.why else f"refused: {error}"
        answers.setdefault(answer, []).append(name)
    return ((", ".join(names), answer) for answer, names in answers.items())


class Sketch:
    """The article's plot in characters, for rich to print: braille dots, or stars where the terminal has no Unicode.

    Args:
        finding: with or without a suggestion.
        width: columns of the drawing, without its labels; fewer in a narrow terminal.
        height: rows of the drawing, without its labels.

    Example:
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> Console(width=80).print(Sketch(find(Quadratic(), max_lr=1e-4)))  # doctest: +ELLIPSIS
        5.1...smoothed loss against learning rate
    """

    def __init__(self, finding: Finding, width: int = 60, height: int = 13) -> None:
        self._drawing = describe(finding, raw=False)
        self._size = width, height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines, as wide as ``options`` allow."""
        if self._drawing.limits is None:
            yield Text("(no curve to draw: the sweep has too few usable points)", style="dim")
            return
        low, high = self._drawing.limits
        width, height = self._size
        digits = 3 + max(math.floor(math.log10(max(-low, high) / (high - low))), 0)
        losses = [f"{loss:.{digits}g}" for loss in np.linspace(high, low, height)]
        gutter = max(map(len, losses)) + 2
        width = min(width, options.max_width - gutter)
        if width < _NARROWEST:
            yield Text("(the terminal is too narrow for the curve)", style="dim")
            return
        canvas = _Canvas(self._drawing, width, height, _PLAIN if options.ascii_only else _UNICODE)
        if self._drawing.suggestion is not None:
            yield Text(" " * gutter + canvas.heading(self._drawing.suggestion), style=_SUGGESTION)
        for i, row in enumerate(canvas.rows()):
            label = losses[i] if i % 4 == 0 or i == height - 1 else ""
            yield Text(f"{label:>{gutter - 2}} {canvas.ink.side}", style="dim").append_text(row)
        axis, rates = canvas.axis()
        yield Text(f"{' ' * (gutter - 1)}{canvas.ink.corner}{axis}", style="dim")
        yield Text(f"{' ' * gutter}{rates}", style="dim")
        yield Text(f"{' ' * gutter}{self._drawing.loss_label} against learning rate"[: options.max_width], style="dim")


@dataclass(frozen=True)
class _Ink:
    """The characters to draw with, and how many dots one of them holds."""

    dots: tuple[tuple[int, ...], ...]  # the bit of each dot, by row and column
    blank: int  # the code point that the bits are added to
    mark: str
    guide: str
    side: str
    corner: str
    base: str
    tick: str


_UNICODE = _Ink(((1, 8), (2, 16), (4, 32), (64, 128)), 0x2800, "●", "┊", "│", "└", "─", "┬")
_PLAIN = _Ink(((ord("*") - ord(" "),),), ord(" "), "o", ":", "|", "+", "-", "+")


class _Canvas:
    """A drawing on a grid of characters."""

    def __init__(self, drawing: Drawing, width: int, height: int, ink: _Ink) -> None:
        assert drawing.limits is not None
        self.ink = ink
        self._drawing, self._width, self._height = drawing, width, height
        self._low, self._high = drawing.limits
        ends: list[float] = drawing.line.log10_lr[[0, -1]].tolist()
        if drawing.suggestion is not None:
            ends.append(math.log10(drawing.suggestion.lr))
        self._first, self._last = min(ends), max(ends)

    def heading(self, mark: Mark) -> str:
        """The name of a mark, above its place."""
        start = self._column(math.log10(mark.lr)) - len(mark.label) // 2
        return " " * max(min(start, self._width - len(mark.label)), 0) + mark.label

    def rows(self) -> Iterator[Text]:
        """The line, and the suggestion on it."""
        mark = self._drawing.suggestion
        at = None if mark is None else (self._row(mark.loss), self._column(math.log10(mark.lr)))
        for i, cells in enumerate(self._cells()):
            row = Text(cells.replace(chr(self.ink.blank), " "), style=_LINE)
            if at is not None and (i == at[0] or (i < at[0] and row.plain[at[1]] == " ")):
                sign = self.ink.mark if i == at[0] else self.ink.guide
                row = row[: at[1]] + Text(sign, style=_SUGGESTION) + row[at[1] + 1 :]
            yield row

    def axis(self) -> tuple[str, str]:
        """The line of ticks, and the rates under them: powers of ten, or the ends where they hold fewer than two."""
        powers = range(math.ceil(self._first), math.floor(self._last) + 1)
        ticks = {self._column(power): f"1e{power}" for power in powers}
        if len(ticks) < 2:
            ticks = {self._column(end): f"{10**end:.2g}" for end in (self._first, self._last)}
        axis, rates = [self.ink.base] * self._width, ""
        for column, label in ticks.items():
            start = min(column, self._width - len(label))
            if rates and start < len(rates) + 2:
                continue
            axis[column] = self.ink.tick
            rates = f"{rates:<{start}}{label}"
        return "".join(axis), rates

    def _cells(self) -> list[str]:
        """The line in characters, a string per row."""
        bits = np.array(self.ink.dots)
        (tall, wide), line = bits.shape, self._drawing.line
        columns, rows = self._width * wide, self._height * tall
        places = np.linspace(self._first, self._last, columns)
        losses = np.interp(places, line.log10_lr, line.loss, left=np.nan, right=np.nan)
        heights = (self._high - losses) / (self._high - self._low) * (rows - 1)
        dots = np.zeros((rows, columns), dtype=np.int64)
        for column, (here, before) in enumerate(zip(heights, [heights[0], *heights[:-1]], strict=True)):
            if np.isfinite(here):
                # From the neighbour's height on, so that a steep line has no holes.
                start, end = sorted((here, before if np.isfinite(before) else here))
                dots[max(math.ceil(start - 0.5), 0) : max(math.floor(end + 0.5) + 1, 0), column] = 1
        codes = self.ink.blank + np.einsum("itjw,tw->ij", dots.reshape(self._height, tall, self._width, wide), bits)
        return ["".join(map(chr, row)) for row in codes.tolist()]

    def _column(self, log_lr: float) -> int:
        wide, share = len(self.ink.dots[0]), (log_lr - self._first) / ((self._last - self._first) or 1.0)
        return round(share * (self._width * wide - 1)) // wide

    def _row(self, loss: float) -> int:
        tall, share = len(self.ink.dots), (self._high - loss) / (self._high - self._low)
        return round(min(max(share, 0.0), 1.0) * (self._height * tall - 1)) // tall
