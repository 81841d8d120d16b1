"""A scheduler in a loop whose rate the sweep writes: its end is not the sweep's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim.lr_scheduler import LRScheduler


@contextmanager
def endless(scheduler: LRScheduler) -> Iterator[None]:
    """Let ``scheduler.step()`` do nothing once it raises ``ValueError``, as OneCycleLR's does past its last step."""
    step = scheduler.step

    def stepped(*args: Any, **how: Any) -> None:
        try:
            step(*args, **how)
        except ValueError:
            vars(scheduler)["step"] = lambda *_, **__: None

    vars(scheduler)["step"] = stepped
    try:
        yield
    finally:
        vars(scheduler).pop("step", None)
