"""An exception that a training raises: whose it is, what it says of the rate, and what it carries to the user."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from traceback import walk_tb
from types import TracebackType
from typing import Any, TypeVar

from findlr.analysis.text import rate_text, told
from findlr.errors import FindlrError, RankError, RestoreError
from findlr.finding import Finding
from findlr.search import interrupts

logger = logging.getLogger("findlr")

_Error = TypeVar("_Error", bound=BaseException)

_HOME = str(Path(__file__).parents[1])
_OF_MEMORY = ("out of memory", "can't allocate memory", "resource_exhausted")  # as torch on a CPU and JAX tell it


def is_the_trainings(error: BaseException) -> bool:
    """Whether an exception is the training's own: neither findlr's nor one of memory, nor an interrupt.

    Example:
        >>> is_the_trainings(ValueError("the loss exploded")), is_the_trainings(MemoryError())
        (True, False)
    """
    if isinstance(error, RankError):
        return error.is_the_trainings
    if not isinstance(error, Exception) or isinstance(error, FindlrError):
        return False
    return not (interrupts.is_a_signals(error) or is_of_memory(error))  # a signal: of a time limit, say


def is_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there was too little memory, on the host or on a device.

    Example:
        >>> is_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory")), is_of_memory(ValueError("no"))
        (True, False)
    """
    names = (kind.__name__ for kind in type(error).__mro__)  # torch's and JAX's, without importing either
    text = told(error, 10_000).lower()
    return isinstance(error, MemoryError) or "OutOfMemoryError" in names or any(words in text for words in _OF_MEMORY)


def is_the_rates(baseline: Callable[[], Any] | None, read: Callable[[list[Any]], list[float]]) -> bool:
    """Whether the batch whose step has just failed is sound under the starting weights, as far as that can be told.

    Args:
        baseline: gives the last batch's loss under the starting weights; None where it isn't measured.
        read: turns losses into numbers.

    Returns:
        False where that fails, too, or is no finite number: then the batch is at fault.
    """
    if baseline is None:
        return True
    try:
        under_start = baseline()
        return under_start is not None and all(map(math.isfinite, read([under_start])))
    except Exception:  # noqa: BLE001 - the step's own exception is the one to raise
        return False


def carry(
    error: BaseException,
    finding: Finding | None,
    where: str = "this exception's .finding",
    snapshot: Any = None,
) -> None:
    """Let an exception carry what was measured, and say where else it is; one that can't carry it stays as it is.

    It lets go of what the search had in hand: see ``let_go``. A RestoreError takes the place of the exception that
    broke the search off, so that one carries it, too.

    Args:
        error: on its way to the user.
        finding: what was measured; None carries nothing.
        where: the place to name.
        snapshot: what the training was put back from, if there was one; see ``Memory.left`` and ``Memory.relief``.
    """
    relief = getattr(snapshot, "relief", "")
    if relief and is_of_memory(error):
        note(error, relief)
    let_go(error)
    if finding is None:
        return
    said = f"what was measured is in {where}" if len(finding.curve) else "no loss was measured yet"
    if not any(isinstance(each, RestoreError) for each in _chain(error)):
        left = getattr(snapshot, "left", ())
        but = f"everything but {', '.join(left)}" if left else "everything"
        said = f"{but} was put back; {said}"
    if isinstance(error, SystemExit) and error.code and len(finding.curve) and not interrupts.is_a_signals(error):
        logger.warning(
            "the training ends the process by itself (%s) after lr %s, as scripts do where a loss is no number, so "
            "nothing shows what was found (%s): catch SystemExit around the search; %s",
            *(told(error), rate_text(float(finding.curve.lr[-1])), finding.verdict.name, said),
        )
    carriers = [error, error.__context__] if isinstance(error, RestoreError) else [error]
    for each in carriers:
        try:
            if each is not None:
                each.finding = finding  # type: ignore[attr-defined]
                note(each, said)
        except Exception:  # noqa: BLE001 - it is frozen, say
            logger.debug("%s can't carry the Finding", type(each).__name__)


def let_go(error: BaseException) -> None:
    """Empty findlr's own frames that have ended: whoever keeps the exception, a notebook say, would keep their tensors.

    The frames of other code stay as they are, so that a debugger shows what it had.
    """
    for each in _chain(error):
        for frame, _ in walk_tb(each.__traceback__):
            if frame.f_code.co_filename.startswith(_HOME):
                with suppress(RuntimeError):  # it has not ended
                    frame.clear()


def note(error: BaseException, text: str) -> None:
    """Add a note of findlr's to an exception on its way to the user; one that can't carry it stays as it is."""
    with suppress(Exception):
        error.add_note(f"findlr: {text}")


def short(error: _Error, traceback: TracebackType | None) -> _Error:
    """An exception whose traceback lacks findlr's own frames at its head; the whole one, if there are no others."""
    inner = traceback
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(_HOME):
        inner = inner.tb_next
    return BaseException.with_traceback(error, inner or traceback)


def _chain(error: BaseException) -> list[BaseException]:
    """An exception, and those that it came from."""
    found = [error]
    for each in found:  # which grows
        before = (each.__cause__, each.__context__)
        found += [one for one in before if one is not None and not any(one is other for other in found)]
    return found
