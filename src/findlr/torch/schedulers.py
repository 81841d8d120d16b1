"""A scheduler in a loop whose rate the sweep writes: its end is not the sweep's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim.lr_scheduler import LRScheduler


def make_endless(scheduler: LRScheduler) -> Callable[[], object]:
    """Let ``scheduler.step()`` do nothing once it raises ``ValueError``, as OneCycleLR's does past its last step.

    Returns:
        A function that ends this.
    """
    step = scheduler.step

    def stepped(*args: Any, **how: Any) -> None:
        try:
            step(*args, **how)
        except ValueError:
            vars(scheduler)["step"] = lambda *_, **__: None

    vars(scheduler)["step"] = stepped
    return partial(vars(scheduler).pop, "step", None)
