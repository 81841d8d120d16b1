"""Signals wait while things are remembered or put back: a Ctrl-C there would leave a training half restored.

No order of ``try`` and ``finally`` can promise that: CPython looks for signals at the entry of every function, so one
may come after the last line that is protected and before the first one that puts back. So the handler decides, by the
functions that it finds running: a signal acts at once where a training runs, and waits where findlr itself does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from types import CodeType, FrameType
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

waiting: list[int] = []
"""The numbers of the signals that wait. A loop in which they may act looks here, and calls ``deliver``."""

_raised: list[tuple[int, BaseException]] = []  # by the handlers of these signals, in this search
_dropped: dict[int, BaseException] = {}  # those of them that Python could not pass on: they are raised again

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGBREAK")  # that people have handlers for
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]  # not each on every system

_WAITS: set[CodeType] = set()
_ACTS: set[CodeType] = set()


def signals_wait(function: Function) -> Function:
    """Mark a function under which signals wait, except inside what it calls that ``signals_act`` marks."""
    _WAITS.add(function.__code__)
    return function


def signals_act(function: Function) -> Function:
    """Mark a function in which a training runs: under it signals act at once, as they do outside a search."""
    _ACTS.add(function.__code__)
    return function


def is_a_signals(error: BaseException) -> bool:
    """Whether a handler has raised an exception in this search: then it is none of the training's own."""
    return _number_of(error) is not None


def _number_of(error: BaseException | None) -> int | None:
    """The signal whose handler has raised this."""
    return next((number for number, each in _raised if each is error), None)


def deliver(handlers: Mapping[int, Callable[[int, FrameType | None], Any]] | None = None) -> None:
    """Let the waiting signals act, each once; in the main thread, which alone runs handlers.

    Args:
        handlers: what to call; None are those that are in place.
    """
    is_agreed = handlers is not None or not HeldSignals.joint
    if is_agreed and threading.current_thread() is threading.main_thread():
        numbers = list(dict.fromkeys(waiting))
        waiting.clear()
        _handle([(number, handlers[number] if handlers else signal.getsignal(number)) for number in numbers])


def act() -> None:
    """Let the waiting signals act, which several processes have agreed on."""
    outermost = HeldSignals.outermost
    if outermost is not None:
        deliver({number: outermost.handler_of(number) for number in waiting})


def _handle(handlers: list[tuple[int, Any]]) -> None:
    """Call the handlers, whatever they raise."""
    if not handlers:
        return
    number, handler = handlers[0]
    try:
        if number in _dropped:
            raise _dropped.pop(number)
        if callable(handler):
            handler(number, sys._getframe())  # noqa: SLF001 - what Python itself would give it
    finally:
        _handle(handlers[1:])


class HeldSignals:
    """Takes the place of each signal's handler, and calls that at once or later, as the running functions are marked.

    Outside the main thread, where Python runs no handlers, nothing is done.

    Args:
        together: several processes train together. Then a signal waits until all have agreed on it, wherever it falls;
            the second one of its kind acts as it would in one process. And one that asks to end the process waits, too,
            because what starts them sends it to all as soon as one has failed.
    """

    outermost: HeldSignals | None = None
    """That of the outermost search: a search may run inside another one's step."""

    joint = 0
    """How many of them several processes share."""

    def __init__(self, *, together: bool = False) -> None:
        self.together = together
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._formers: dict[int, Any] = {}  # what is given back, which may be no handler of Python's
        self._hook = sys.unraisablehook  # what Python told of exceptions that it drops, before the search

    @property
    def are_of_another_thread(self) -> bool:
        """Whether the handlers can't be given back here: the main thread holds them, which alone may."""
        return bool(self._handlers) and threading.current_thread() is not threading.main_thread()

    def handler_of(self, number: int) -> Any:
        """What a signal calls."""
        return self._handlers.get(number) or signal.getsignal(number)

    @signals_wait
    def hold(self) -> None:
        """Take the handlers' places."""
        if threading.current_thread() is not threading.main_thread():
            return
        if HeldSignals.outermost is None:
            for left in (waiting, _raised, _dropped):  # by a search whose end was broken off
                left.clear()
            HeldSignals.outermost = self
            self._hook, sys.unraisablehook = sys.unraisablehook, self._drops
        HeldSignals.joint += self.together
        for number in _SIGNALS:
            former = handler = signal.getsignal(number)
            if self.together and number == signal.SIGTERM and former is signal.SIG_DFL:
                handler = _end
            if callable(handler):  # otherwise Python does not run it
                self._handlers[number], self._formers[number] = handler, former
                signal.signal(number, self._arrived)

    @signals_wait
    def release(self, tell: Callable[[BaseException], object]) -> None:
        """Let those that wait act, while others still wait; then give the handlers their places back, SIGINT's last.

        Args:
            tell: is given what a handler raises, before the user is.
        """
        late: BaseException | None = None
        HeldSignals.joint -= self.together and bool(self._handlers)
        try:
            if HeldSignals.outermost is self and waiting:  # otherwise the search around this one delivers
                deliver(self._handlers)
        except BaseException as error:  # noqa: BLE001 - raised below
            tell(error)
            late = error
        if HeldSignals.outermost is self:
            HeldSignals.outermost = None
            _raised.clear()
            is_own = sys.unraisablehook == self._drops  # otherwise the training has put another one there
            sys.unraisablehook = self._hook if is_own else sys.unraisablehook
        try:
            for number in sorted(self._handlers, key=lambda number: number == signal.SIGINT):
                if signal.getsignal(number) == self._arrived:  # otherwise the training has put another one there
                    signal.signal(number, self._formers[number])
            if waiting and HeldSignals.outermost is None:  # came meanwhile
                deliver()
            if late is not None:
                raise late  # noqa: TRY301 - a Ctrl-C may come here, too
        except BaseException as error:
            if error is not late:
                tell(error)
            raise

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if not _acts_in(frame) or (self.together and number not in waiting):
            waiting.append(number)
            return
        waiting[:] = [other for other in waiting if other != number]
        try:
            self._handlers[number](number, frame)
        except BaseException as error:
            _raised.append((number, error))
            raise

    def _drops(self, unraisable: Any) -> None:
        """Python drops an exception: of a ``__del__``, or of a callback of weakref's, of gc's or of ctypes'."""
        number = _number_of(unraisable.exc_value)
        if number is None:
            self._hook(unraisable)
            return
        _dropped[number] = unraisable.exc_value
        waiting.append(number)


def _forget() -> None:
    """In a fork no search goes on, so each signal has the handler again that it had before the outermost one."""
    held, HeldSignals.outermost = HeldSignals.outermost, None
    for left in (waiting, _raised, _dropped):
        left.clear()
    if held is not None:
        sys.unraisablehook = held._hook  # noqa: SLF001 - its own
        for number, former in held._formers.items():  # noqa: SLF001 - its own
            signal.signal(number, former)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _end(number: int, _: FrameType | None) -> None:
    """End the process as a shell tells it: by its signal."""
    raise SystemExit(128 + number)


def _acts_in(frame: FrameType | None) -> bool:
    """Whether a signal acts at once: the innermost function that is marked decides."""
    while frame is not None:
        code = frame.f_code
        if code in _WAITS:
            return False
        if code in _ACTS:
            return True
        frame = frame.f_back
    return True
