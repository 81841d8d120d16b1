"""A sweep in the terminal while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from findlr.analysis.curve import Step
from findlr.views.console.sketch import LINE, dots, ink_of
from findlr.views.progress import Growing

_REFRESH = 0.1  # seconds between two pictures
_LINE_EVERY = 5.0  # seconds between two lines of a log, at least
_LINES = 20  # of a log, at most, the last one aside
_WIDTH, _HEIGHT = 60, 5  # of the small curve, in characters


class LiveSweep:
    """A sweep as it runs: step, rate, smoothed loss, best loss, time left, and a small curve that grows.

    Where there is no terminal, such as in a log file, it is a plain line every few seconds.

    Args:
        console: where to show it; None is standard error.

    Example:
        >>> from findlr import find
        >>> from findlr.testing import Quadratic
        >>> finding = find(Quadratic(), progress=LiveSweep())
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = Console(stderr=True) if console is None else console
        self._live: Live | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                console=self._console,
                auto_refresh=False,  # it would be a thread's, and a loader with workers forks
                redirect_stdout=sys.stdout.isatty(),  # what the training prints into a file stays there
            )

    def __enter__(self) -> Callable[[Step], None]:
        self._growing, self._told = Growing(), -1
        self._due = 0.0
        if self._live is None:
            self._due = time.monotonic() + _LINE_EVERY
        else:
            self._live.start()
            self._live.update(self._picture(), refresh=True)
        return self._show

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        step = self._growing.step
        if self._live is not None:
            self._live.update(Text("" if step is None else self._growing.line), refresh=True)
            self._live.stop()
        elif step is not None and step.index != self._told:
            self._print(step)

    def _show(self, step: Step) -> None:
        self._growing.add(step)
        now, last = time.monotonic(), step.index + 1 == step.num_steps  # after which a race may run for long
        if now < self._due and not last:
            return
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)
            self._due = now + _REFRESH
        elif last or (step.index - self._told) * _LINES >= step.num_steps:
            self._print(step)
            self._due = now + _LINE_EVERY

    def _print(self, step: Step) -> None:
        self._told = step.index
        self._console.print(Text(f"findlr: {self._growing.line}"), soft_wrap=True)

    def _picture(self) -> Group:
        line = Text(self._growing.line, style="bold")
        width = min(self._console.width - 1, _WIDTH)
        ink = ink_of(self._console.options.ascii_only)
        curve = self._growing.curve(width * len(ink.dots[0]))
        if curve is None:
            return Group(line)
        places, losses, limits = curve
        rows = dots(places, losses, (0.0, 1.0), limits, (width, _HEIGHT), ink)
        return Group(line, *(Text(row, style=LINE, no_wrap=True) for row in rows))
