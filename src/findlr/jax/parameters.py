"""What a step takes, as far as its signature tells."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from findlr.analysis.given import check_takes

RATE = re.compile(r"(^|_)(lr|rate|eta|alpha|step_size)$")  # the names that a rate goes by


def parameters_of(step: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a step; none if its signature can't be read."""
    try:
        return list(inspect.signature(step).parameters.values())
    except (TypeError, ValueError):
        return []


def by_position(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    """Those that may be given by their position."""
    return [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def takes_one_state(step: Callable[..., Any]) -> bool:
    """Whether a step takes a state and a batch, and perhaps a rate, and nothing else that must be given."""
    needed = [p.name for p in by_position(parameters_of(step)) if p.default is p.empty]
    return len(needed) == 2 or (len(needed) == 3 and RATE.search(needed[-1]) is not None)


def check_takes_state(function: Callable[..., Any], name: str, count: int, *more: str) -> None:
    """Refuse a function of the user's that can't be called as it will be: with the state, and more.

    Args:
        function: the user's.
        name: what it is called in the message.
        count: arguments that a state is given as, at least 1.
        more: the names of those that follow it.

    Raises:
        ConfigurationError: it takes something else.
    """
    check_takes(function, name, *(["state"] if count == 1 else [f"state[{i}]" for i in range(count)]), *more)


def check_functions(
    count: int,
    evaluate: Callable[..., Any] | None,
    loss: Callable[..., Any] | None,
    place: Callable[[Any], Any] | None,
) -> None:
    """Refuse those of ``find_lr``'s functions beside the step that can't be called as they will be.

    Args:
        count: arguments that a state is given as.
        evaluate: takes the state.
        loss: takes the state and a batch.
        place: takes a batch.

    Raises:
        ConfigurationError: there is one.
    """
    if evaluate is not None:
        check_takes_state(evaluate, "evaluate", count)
    if loss is not None:
        check_takes_state(loss, "loss", count, "batch")
    if place is not None:
        check_takes(place, "place", "batch")
