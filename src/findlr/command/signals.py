"""Signals that ask the command to end act as a Ctrl-C does, so that what was measured is kept."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGTERM", "SIGHUP")  # a time limit's, a cluster's; a terminal's that is closed
_NUMBERS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]  # not each on every system

_masks: list[set[signal.Signals | int]] = []  # of forks that have begun


@contextmanager
def end_as_by_ctrl_c() -> Iterator[None]:
    """Let such a signal raise KeyboardInterrupt, unless whoever started the command has had it ignored."""
    process = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() == process:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)  # in a fork, such as a worker of the data's, it means what it did
        signal.raise_signal(number)

    taken = [number for number in _NUMBERS if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            if signal.getsignal(number) is end:  # otherwise the training has put another one there
                signal.signal(number, signal.SIG_DFL)


def _block() -> None:
    _masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS))


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.pop())


if hasattr(os, "register_at_fork"):  # Python forgets a signal with a handler that comes to a fork as it begins
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_unblock)
