"""How processes fail, and what the others are told of it."""

from __future__ import annotations

from typing import NamedTuple

import torch.distributed as dist

from findlr.errors import RankError


class Failure(NamedTuple):
    """What ended a process's part of a search: its rank, the exception in a line, and whose that is."""

    rank: int
    text: str
    is_the_trainings: bool


def said(failures: list[Failure]) -> str:
    """All failures in a line, those of the same text together."""
    by_text: dict[str, list[str]] = {}
    for each in failures:
        by_text.setdefault(each.text, []).append(str(each.rank))
    return "; ".join(f"rank {' and '.join(ranks)} failed: {text}" for text, ranks in by_text.items())


def error_of(failures: list[Failure], own: BaseException | None) -> RankError:
    """What all processes raise."""
    error = RankError(said(failures))
    error.own, error.is_the_trainings = own, all(each.is_the_trainings for each in failures)
    error.__cause__ = own
    return error


def is_connection(error: BaseException) -> bool:
    """Whether an exception says that a connection to another process broke."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo/transport", "[gloo]"))
