"""Searches of several threads take turns: random states, torch's modes and signals are the whole process's.

Two at once would each draw from the other's random numbers, so neither could be put back exactly.
"""

from __future__ import annotations

import logging
import os
import threading

from findlr.errors import ConfigurationError
from findlr.search import interrupts

logger = logging.getLogger("findlr")

_LOOK_SECONDS = 0.1  # between two looks for a signal that waits
_LOOKS_BEFORE_TELLING = 50

_changed = threading.Condition()
_open: list[Turn] = []  # all of one thread, which may search inside a search


class Turn:
    """The right to search, for one search of this thread; a search inside it takes one of its own.

    Args:
        is_block: the search is a block of the user's, of which nobody knows when it ends.
    """

    def __init__(self, *, is_block: bool = False) -> None:
        self.is_block = is_block
        self.thread = threading.current_thread()

    def take(self) -> None:
        """Wait until no other thread searches.

        Raises:
            ConfigurationError: another thread has a block open.
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
                _changed.wait(_LOOK_SECONDS)
            if interrupts.waiting:
                interrupts.deliver()
            looks += 1
            if looks == _LOOKS_BEFORE_TELLING:
                logger.warning("this search waits for that of another thread (%s) to end", names)

    def give(self) -> None:
        """Let the next search begin; nothing, if this one never had its turn."""
        with _changed:
            if self in _open:
                _open.remove(self)
                _changed.notify_all()


def _forget() -> None:
    """In a fork no other thread lives on, and one of them may have held the lock."""
    global _changed  # noqa: PLW0603 - there is one for the process
    _changed = threading.Condition()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
