"""The processes of ``findlr run --workers``: none is left behind, and none prints where a Ctrl-C met it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread
from types import FrameType

from findlr.search.workers import make


@contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """So many processes, shut down on leaving."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin) as made:
        _mask_ctrl_c(block=True)  # which a process that starts has from this one
        try:
            for _ in range(workers):
                made.submit(os.getpid)
        finally:
            _mask_ctrl_c(block=False)
        yield made


def _mask_ctrl_c(*, block: bool) -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK if block else signal.SIG_UNBLOCK, [signal.SIGINT])


def _begin() -> None:
    """Begin a worker."""
    Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, _interrupted)
    _mask_ctrl_c(block=False)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _interrupted(_: int, frame: FrameType | None) -> None:
    """A Ctrl-C, which a terminal sends to all processes, ends a run; while there is none, nothing is to be ended."""
    while frame is not None:
        if frame.f_code is make.__code__:
            raise KeyboardInterrupt
        frame = frame.f_back
