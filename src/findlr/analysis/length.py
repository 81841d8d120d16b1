"""How long a training is planned to be: in optimizer steps, or in epochs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from findlr.errors import ConfigurationError

_EPOCHS = re.compile(r"(\d+\.?\d*|\.\d+) *epochs?")


def epochs_in(total_steps: Any) -> float | None:
    """The epochs that a length names, such as "5 epochs"; None if it is no text.

    Raises:
        ConfigurationError: it is a text, and no number of epochs.

    Example:
        >>> epochs_in("5 epochs"), epochs_in("1 epoch"), epochs_in(1000)
        (5.0, 1.0, None)
    """
    if not isinstance(total_steps, str):
        return None
    found = _EPOCHS.fullmatch(total_steps.strip().lower())
    if found is None or not 0 < float(found[1]) < math.inf:
        raise ConfigurationError(
            f"total_steps must be a whole number of steps, or a text such as '5 epochs', got {total_steps[:60]!r}"
        )
    return float(found[1])


def steps_in(total_steps: Any, steps_per_epoch: Callable[[], int]) -> Any:
    """A length in optimizer steps, whether it was given in steps or in epochs.

    Raises:
        ConfigurationError: it is a text, and no number of epochs; or an epoch's steps are not known.
    """
    epochs = epochs_in(total_steps)
    if epochs is None:
        return total_steps
    try:
        return max(round(epochs * steps_per_epoch()), 1)
    except ConfigurationError:
        raise ConfigurationError(
            f"total_steps={total_steps!r} needs a loader with a length, and a step that says how many batches it "
            "draws: give the number of optimizer steps"
        ) from None
