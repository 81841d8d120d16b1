"""A search in the terminal while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import IO, Any, Self, cast

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from findlr.analysis.curve import Step
from findlr.views.console.sketch import LINE, NARROWEST, console_of, dots, ink_of
from findlr.views.progress import Growing, Place

_REFRESH = 0.1  # seconds between two pictures
_LINE_EVERY = 5.0  # seconds between two lines of a log, at least
_LINES = 20  # of a log, at most, the last one aside
_WIDTH, _HEIGHT = 60, 5  # of the small curve, in characters


class _Unfailing:
    """A stream that drops what it can't write: a pipe may be closed, a disk full, a terminal gone."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        """Write what can be written."""
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush, if that can be done."""
        with suppress(OSError, ValueError):
            self._stream.flush()


class _Errors(Console):
    """A console that never ends a search; at a closed pipe rich's would close standard output and end the process."""

    @property  # type: ignore[misc]
    def file(self) -> IO[str]:
        """Where it writes."""
        return cast("IO[str]", _Unfailing(super().file))


class LiveSweep:
    """A search as it runs: step, rate, smoothed loss, best loss, time left, and a small curve that grows.

    A race is shown run by run: which of how many, its rate, its loss so far, what the runs before it ended at, and the
    time left for all of them. Where there is no terminal, such as in a log file, it is a plain line every few seconds,
    and one for each run that ends.

    Args:
        console: where to show it; None is standard error.

    Example:
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> finding = find(Quadratic(), progress=LiveSweep())
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console_of(console, partial(_Errors, stderr=True))
        self._live: Live | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                console=self._console,
                auto_refresh=False,  # it would be a thread's, and a loader with workers forks
                redirect_stdout=bool(
                    sys.stdout and not sys.stdout.closed and sys.stdout.isatty()
                ),  # what the training prints into a file stays there
            )

    def __enter__(self) -> Self:
        self._growing = Growing()
        self._last = Place()  # what was shown last
        self._due = 0.0
        if self._live is None:
            self._due = time.monotonic() + _LINE_EVERY
        else:
            self._live.start()
            self._live.update(self._picture(), refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.update(self._lines(self._growing.final), refresh=True)
            self._live.stop()
        elif self._growing.step is not None and self._growing.place != self._last:
            self._print(self._growing.final)

    def __call__(self, step: Step) -> None:
        """Show a step."""
        before = self._growing.step
        if before is not None and before.run is None and step.run is not None:
            self._last = Place()
        self._growing.add(step)
        place = self._growing.place
        now = time.monotonic()
        told = place.done == place.steps or place.ended > self._last.ended  # after which there may be none for long
        if now < self._due and not told:
            return
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)
            self._last, self._due = place, now + _REFRESH
        elif told or (place.done - self._last.done) * _LINES >= place.steps:
            self._print(self._growing.parts)
            self._due = now + _LINE_EVERY

    def tell(self, text: str) -> None:
        """Show what is done until the next step."""
        self._growing.tell(text)
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)
        else:
            self._print(self._growing.parts)

    def _print(self, parts: Sequence[str]) -> None:
        self._last = self._growing.place
        self._console.print(Text(f"findlr: {'  '.join(parts)}"), soft_wrap=True)

    def _lines(self, parts: Sequence[str]) -> Text:
        """The parts in as many lines as they need, each part whole if it fits into one."""
        lines: list[str] = []
        for part in parts:
            if lines and len(lines[-1]) + 2 + len(part) < self._console.width:
                lines[-1] += f"  {part}"
            else:
                lines.append(part)
        return Text("\n".join(lines))

    def _picture(self) -> Group:
        line = self._lines(self._growing.parts)
        line.stylize("bold")
        shown: list[Text] = [line]
        if self._growing.ended:
            shown.append(self._lines(self._growing.ended))
        width = min(self._console.width - 1, _WIDTH)
        ink = ink_of(self._console.options.ascii_only)
        curve = self._growing.curve(width * len(ink.dots[0]))
        if curve is not None and width >= NARROWEST:
            places, losses, limits = curve
            rows = dots(places, losses, (0.0, 1.0), limits, (width, _HEIGHT), ink)
            shown += [Text(row, style=LINE, no_wrap=True) for row in rows]
        return Group(*shown)
