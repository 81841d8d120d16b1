"""Which view shows a search as it runs; where none was asked for, only one that somebody sees."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from findlr.analysis.curve import Step
from findlr.errors import MissingExtraError


def live(asked: bool | None = None) -> AbstractContextManager[Callable[[Step], object] | None]:
    """The view for where Python runs: a notebook's, a terminal's, plain lines, or none.

    Args:
        asked: True shows it everywhere; None in a notebook, and in a terminal if rich is installed.

    Returns:
        A context manager; what it gives is called with each Step, or is None.

    Raises:
        MissingExtraError: it was asked for, and rich is not installed.
    """
    if os.environ.get("RANK", "0") != "0":  # torchrun's: one process of several tells
        return nullcontext()
    if in_notebook():
        from findlr.views import notebook

        return notebook.LiveSweep()
    err = sys.stderr
    if asked is None and (err is None or getattr(err, "closed", False) or not err.isatty()):
        return nullcontext()
    try:
        from findlr.views import console
    except MissingExtraError:
        if asked:
            raise
        return nullcontext()
    return console.LiveSweep()


@contextmanager
def undrawn() -> Iterator[None]:
    """Give back the random numbers that an import in this block draws, as rich's does: a training draws them, too."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"
