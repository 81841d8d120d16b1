"""Signals wait while things are remembered or put back: a Ctrl-C there would leave a training half restored.

No order of ``try`` and ``finally`` can promise that: CPython looks for signals at the entry of every function, so one
may come after the last line that is protected and before the first one that puts back. Here it is the handler that
decides, by the frames that it finds: it raises where a training runs, and waits where findlr itself does.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

_WAITS: set[CodeType] = set()
_RAISES: set[CodeType] = set()


def signals_wait(function: Function) -> Function:
    """Mark a function, while which and under which signals wait, but for the functions that ``signals_raise`` marks."""
    _WAITS.add(function.__code__)
    return function


def signals_raise(function: Function) -> Function:
    """Mark a function in which a training runs: signals act in it, as everywhere outside a search."""
    _RAISES.add(function.__code__)
    return function


class HeldSignals:
    """Every signal that has a handler in Python goes to it at once, or later, as the running functions are marked.

    What waits is delivered by ``release``, once for each signal. Outside the main thread, where Python runs no
    handlers, nothing is done.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._waiting: list[int] = []

    @signals_wait
    def hold(self) -> None:
        """Take the handlers' places."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler):  # else Python does not run it
                self._handlers[number] = handler
                signal.signal(number, self._arrived)

    @signals_wait
    def release(self) -> None:
        """Give the handlers their places back, then deliver what waits."""
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._arrived:  # else the training has put another there
                signal.signal(number, handler)
        waiting, self._waiting = self._waiting, []
        for number in dict.fromkeys(waiting):
            signal.raise_signal(number)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if _acts_in(frame):
            self._handlers[number](number, frame)
        else:
            self._waiting.append(number)


def _acts_in(frame: FrameType | None) -> bool:
    """Whether a signal acts at once: by the innermost function that is marked."""
    while frame is not None:
        if frame.f_code in _WAITS:
            return False
        if frame.f_code in _RAISES:
            return True
        frame = frame.f_back
    return True
