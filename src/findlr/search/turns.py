"""Searches of several threads take turns: random states, torch's modes and signals are the whole process's.

Two at once would each draw from the other's random numbers, so neither could be put back exactly.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakMethod

from findlr.errors import ConfigurationError
from findlr.search import interrupts

logger = logging.getLogger("findlr")

_LOOK_SECONDS = 0.1  # between two looks for a signal that waits
_LOOKS_BEFORE_TELLING = 50

_RESULTS = ("_base.py:result", "_base.py:exception")  # of concurrent.futures
_SEVERAL = ("_base.py:wait", "_base.py:as_completed")

_changed = threading.Condition()
_open: list[Turn] = []  # all of one thread, which may search inside a search


class Turn:
    """The right to search, for one search of this thread; a search inside it takes one of its own.

    Args:
        is_block: the search is a block of the user's, of which nobody knows when it ends.
    """

    def __init__(self, *, is_block: bool = False) -> None:
        self.is_block = is_block
        self.leave: WeakMethod[Callable[[], object]] | None = None
        """Leaves the block."""
        self.thread = threading.current_thread()

    def take(self) -> None:
        """Wait until no other thread searches.

        Raises:
            ConfigurationError: another thread has a block open, or waits in its search for this thread to end.
        """
        self.thread = threading.current_thread()
        looks = 0
        while True:
            with _changed:
                others = [turn for turn in _open if turn.thread is not self.thread and turn.thread.is_alive()]
                if not others:
                    _open.append(self)
                    return
                names = ", ".join(turn.thread.name for turn in others)
                if any(turn.is_block for turn in others):
                    raise ConfigurationError(
                        f"a RangeTest is open in another thread ({names}), and random states are the whole process's, "
                        "so neither search could be put back: leave its block first, or search in another process"
                    )
                joiner = next((turn.thread for turn in others if _waits_for(turn.thread, self.thread)), None)
                if joiner is not None:
                    raise ConfigurationError(
                        f"this search was started in a thread ({self.thread.name}) for which the search of another one "
                        f"({joiner.name}) waits, so neither could go on: call it where that waits, in the same thread, "
                        "or search in another process"
                    )
                _changed.wait(_LOOK_SECONDS)
            if interrupts.waiting:
                interrupts.deliver()
            looks += 1
            if looks == _LOOKS_BEFORE_TELLING:
                logger.warning(
                    "this search waits for that of another thread (%s) to end; if a step of that waits for this one, "
                    "call this one in the step's own thread",
                    names,
                )

    def inside(self) -> list[Callable[[], object]]:
        """What leaves the blocks that were entered since, in this thread, and are still open; the innermost first."""
        later = [turn.leave and turn.leave() for turn in _open[_open.index(self) + 1 :]]
        return [leave for leave in reversed(later) if leave is not None]

    def give(self) -> None:
        """Let the next search begin; nothing, if this one never had its turn."""
        with _changed:
            if self in _open:
                _open.remove(self)
                _changed.notify_all()


def _waits_for(waiting: threading.Thread, thread: threading.Thread) -> bool:
    """Whether one thread surely waits, without a limit, until another one or what that works on has ended.

    That is seen by its stack: it joins the thread, or asks for the result of a task of a pool that the thread has
    taken; or it does so with a third one, which does so in turn.
    """
    stacks = {each.ident: each for each in threading.enumerate()}
    frames = {stacks[ident]: frame for ident, frame in sys._current_frames().items() if ident in stacks}  # noqa: SLF001 - there is no other way
    works = {each: _works_on(frame) for each, frame in frames.items()}
    found = [waiting]
    for each in found:  # which grows
        awaited = _awaited(frames.get(each))
        found += [
            other
            for other in frames
            if other not in found and any(task is other or task in works[other] for task in awaited)
        ]
    return thread in found[1:]


def _awaited(frame: FrameType | None) -> list[Any]:
    """The threads and tasks that the code of a stack waits for."""
    for code, given in _calls(frame):
        owner, awaited = given.get("self"), None
        if code == "threading.py:join" or (code in _RESULTS and isinstance(owner, Future)):
            awaited = [owner]
        elif code in _SEVERAL:
            awaited = list(given["fs"])
        elif code.startswith("pool.py:") and (job := getattr(owner, "_job", None)) is not None:
            awaited = [job]  # its worker has nothing else
        if awaited is not None:
            return awaited if given.get("timeout") is None else []
    return []


def _works_on(frame: FrameType | None) -> list[Any]:
    """The tasks of a pool that the thread of a stack has taken."""
    tasks = []
    for code, given in _calls(frame):
        if code == "thread.py:run":
            tasks.append(getattr(given.get("self"), "future", None))
        elif code == "pool.py:worker":
            tasks.append(given.get("job"))
    return [task for task in tasks if task is not None]


def _calls(frame: FrameType | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Of each call on a stack, the innermost first: its file and function, and its variables."""
    while frame is not None:
        yield f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}", frame.f_locals
        frame = frame.f_back


def _forget() -> None:
    """In a fork no other thread lives on, and one of them may have held the lock."""
    global _changed  # noqa: PLW0603 - there is one for the process
    _changed = threading.Condition()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
