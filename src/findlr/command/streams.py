"""The command's standard streams, which whoever started it may have closed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from io import TextIOWrapper

from findlr.analysis.text import printable

_LONGEST = 2000  # letters of a line


def hold_descriptors() -> None:
    """Open the null device in place of each standard stream that is closed.

    A file that is opened later would take its number, and get what a subprocess prints.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free


def replace_letters() -> None:
    """Have standard output write what its encoding has no letter for as its number."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Print one clean line on standard error, if there is one: ``print`` would take standard output in its place."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # the training may have closed it
            print(f"findlr: {printable(text, _LONGEST)}", file=sys.stderr, flush=True)


def drop_closed() -> None:
    """Let a stream that the training has closed be none, as one is that was closed from the start."""
    for name in ("stdout", "stderr"):
        if getattr(getattr(sys, name), "closed", False):
            setattr(sys, name, None)


def finish() -> None:
    """Write out all that was printed, so that Python does not fail at it as it ends.

    Raises:
        OSError: standard output takes no more; nothing is left that could fail.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)
        raise


@contextmanager
def stdout_is_stderr() -> Iterator[None]:
    """What the training prints goes to standard error, its subprocesses' lines too."""
    if sys.stdout is not None:
        sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
