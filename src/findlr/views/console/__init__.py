"""The terminal's view of a Finding, and of a sweep that runs."""

from findlr.errors import MissingExtraError
from findlr.views.live import undrawn

try:
    with undrawn():
        import rich.style as _rich  # noqa: F401
except ImportError:
    raise MissingExtraError.of("rich", "cli") from None

from findlr.views.console.live import LiveSweep
from findlr.views.console.sketch import Sketch
from findlr.views.console.summary import show, show_all, summary

__all__ = ["LiveSweep", "Sketch", "show", "show_all", "summary"]
