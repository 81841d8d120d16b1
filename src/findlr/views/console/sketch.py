"""The curve in characters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from findlr.analysis.given import of_kind
from findlr.analysis.smoothing import Array
from findlr.analysis.text import rate_text
from findlr.finding import Finding
from findlr.views.drawing import describe
from findlr.views.parts import Drawing, Mark

LINE, SUGGESTION = "cyan", "bold green"
NARROWEST = 16  # columns
_USUAL = 80  # columns


def console_of(given: Console | None, make: Callable[[], Console] = Console) -> Console:
    """The console that is given, or a new one.

    Raises:
        ConfigurationError: it is something else.
    """
    if given is None:
        made = make()
        made.width = made.width or _USUAL  # COLUMNS=0 says that it is not known, and rich would print nothing
        return made
    return of_kind(given, Console, "console", "give a console of rich's, such as rich.console.Console(file=file)")


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
        if self._drawing.limits is None or not len(self._drawing.main):
            yield Text("(no curve to draw: the sweep has too few usable points)", style="dim")
            return
        low, high = self._drawing.limits
        width, height = self._size
        digits = 3 + max(math.floor(math.log10(max(-low, high) / (high - low))), 0)
        losses = [f"{loss:.{digits}g}" for loss in np.linspace(high, low, height)]
        gutter = max(map(len, losses)) + 2
        width = min(width, options.max_width - gutter)
        if width < NARROWEST:
            yield Text("(the terminal is too narrow for the curve)", style="dim")
            return
        canvas = _Canvas(self._drawing, width, height, ink_of(options.ascii_only))
        if self._drawing.suggestion is not None:
            yield Text(" " * gutter + canvas.heading(self._drawing.suggestion), style=SUGGESTION)
        for i, row in enumerate(canvas.rows()):
            label = losses[i] if i % 4 == 0 or i == height - 1 else ""
            yield Text(f"{label:>{gutter - 2}} {canvas.ink.side}", style="dim").append_text(row)
        axis, rates = canvas.axis()
        yield Text(f"{' ' * (gutter - 1)}{canvas.ink.corner}{axis}", style="dim")
        yield Text(f"{' ' * gutter}{rates}", style="dim")
        what = self._drawing.loss_label if self._drawing.read is None else "what the rule reads,"
        said = f"{what} against learning rate"
        said = said if len(said) <= width else "learning rate"
        yield Text(f"{' ' * gutter}{said}", style="dim")


@dataclass(frozen=True)
class Ink:
    """The characters to draw with, and how many dots one of them holds."""

    dots: tuple[tuple[int, ...], ...]  # the bit of each dot, by row and column
    blank: int  # the code point that the bits are added to
    mark: str
    guide: str
    side: str
    corner: str
    base: str
    tick: str
    digits: str  # of an exponent; none where there are no small ones

    def power(self, power: int) -> str:
        """A power of ten, as in 10⁻³ or 1e-3."""
        return f"10{str(power).translate(str.maketrans('-0123456789', self.digits))}" if self.digits else f"1e{power}"


_UNICODE = Ink(((1, 8), (2, 16), (4, 32), (64, 128)), 0x2800, "●", "┊", "│", "└", "─", "┬", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_PLAIN = Ink(((ord("*") - ord(" "),),), ord(" "), "o", ":", "|", "+", "-", "+", "")


def ink_of(ascii_only: bool) -> Ink:
    """Braille dots, or stars where the terminal has no Unicode."""
    return _PLAIN if ascii_only else _UNICODE


def dots(
    places: Array,
    losses: Array,
    ends: tuple[float, float],
    limits: tuple[float, float],
    size: tuple[int, int],
    ink: Ink,
) -> list[str]:
    """A line in characters.

    Args:
        places: where each loss stands, rising, shape (n,).
        losses: shape (n,); what lies outside ``limits`` is cut.
        ends: the places of the first and the last dot.
        limits: the losses of the lowest and the highest dot.
        size: columns and rows of characters.
        ink: the characters.

    Returns:
        A string per row, the highest first.
    """
    bits, (low, high), (width, height) = np.array(ink.dots), limits, size
    tall, wide = bits.shape
    columns, rows = width * wide, height * tall
    drawn = np.interp(np.linspace(*ends, columns), places, losses, left=np.nan, right=np.nan)
    heights = (high - drawn) / ((high - low) or 1.0) * (rows - 1)
    canvas = np.zeros((rows, columns), dtype=np.int64)
    for column, (here, before) in enumerate(zip(heights, [heights[0], *heights[:-1]], strict=True)):
        if np.isfinite(here):
            # From the neighbour's height on, so that a steep line has no holes.
            start, end = sorted((here, before if np.isfinite(before) else here))
            canvas[max(math.ceil(start - 0.5), 0) : max(math.floor(end + 0.5) + 1, 0), column] = 1
    codes = ink.blank + np.einsum("itjw,tw->ij", canvas.reshape(height, tall, width, wide), bits)
    return ["".join(map(chr, row)) for row in codes.tolist()]


class _Canvas:
    """A drawing on a grid of characters."""

    def __init__(self, drawing: Drawing, width: int, height: int, ink: Ink) -> None:
        assert drawing.limits is not None
        self.ink = ink
        self._drawing, self._width, self._height = drawing, width, height
        self._low, self._high = drawing.limits
        ends: list[float] = drawing.main.log10_lr[[0, -1]].tolist()
        if drawing.suggestion is not None:
            ends.append(math.log10(drawing.suggestion.lr))
        self._first, self._last = min(ends), max(ends)

    def heading(self, mark: Mark) -> str:
        """The name of a mark, above its place."""
        label = mark.suggested
        start = self._column(math.log10(mark.lr)) - len(label) // 2
        return " " * max(min(start, self._width - len(label)), 0) + label

    def rows(self) -> Iterator[Text]:
        """The line, and the suggestion on it."""
        mark = self._drawing.suggestion
        at = None if mark is None else (self._row(mark.loss), self._column(math.log10(mark.lr)))
        line, ends, limits = self._drawing.main, (self._first, self._last), (self._low, self._high)
        drawn = dots(line.log10_lr, line.loss, ends, limits, (self._width, self._height), self.ink)
        for i, cells in enumerate(drawn):
            row = Text(cells.replace(chr(self.ink.blank), " "), style=LINE)
            if at is not None and (i == at[0] or (i < at[0] and row.plain[at[1]] == " ")):
                sign = self.ink.mark if i == at[0] else self.ink.guide
                row = row[: at[1]] + Text(sign, style=SUGGESTION) + row[at[1] + 1 :]
            yield row

    def axis(self) -> tuple[str, str]:
        """The line of ticks, and the rates under them: powers of ten, or the ends where they hold fewer than two."""
        powers = range(math.ceil(self._first), math.floor(self._last) + 1)
        ticks = {self._column(power): self.ink.power(power) for power in powers}
        if len(ticks) < 2:
            ticks = {self._column(end): rate_text(10**end) for end in (self._first, self._last)}
        axis, rates = [self.ink.base] * self._width, ""
        for column, label in ticks.items():
            start = min(column, self._width - len(label))
            if rates and start < len(rates) + 2:
                continue
            axis[column] = self.ink.tick
            rates = f"{rates:<{start}}{label}"
        return "".join(axis), rates

    def _column(self, log_lr: float) -> int:
        wide, share = len(self.ink.dots[0]), (log_lr - self._first) / ((self._last - self._first) or 1.0)
        return round(share * (self._width * wide - 1)) // wide

    def _row(self, loss: float) -> int:
        tall, share = len(self.ink.dots), (self._high - loss) / (self._high - self._low)
        return round(min(max(share, 0.0), 1.0) * (self._height * tall - 1)) // tall
