"""Torch's modes: a block that Ctrl-C breaks off as it ends may leave its own, for the rest of the process."""

# ruff: noqa: SLF001 - the stance of torch.compile can be read by a private name only

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch

from findlr.search.interrupts import signals_wait
from findlr.search.memory import Memory


def remember_modes(devices: Iterable[torch.device], memory: Memory) -> None:
    """Whether gradients and autocast are on, what autocast has cached, and torch.compile's stance."""
    memory.add(partial(torch.set_grad_enabled, torch.is_grad_enabled()), name="the grad mode")
    memory.add(partial(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled()), name="autocast's cache")
    for kind in sorted({"cpu", *(device.type for device in devices)}):
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        memory.add(partial(torch.set_autocast_enabled, kind, enabled), name=f"autocast on {kind}")
        memory.add(partial(torch.set_autocast_dtype, kind, dtype), name=f"autocast's type on {kind}")
    memory.add(partial(_put_nesting, _nesting()), name="autocast's blocks")
    memory.add(partial(_put_stance, _stance()), name="torch.compile's stance")


def _nesting() -> int:
    """How many autocast blocks are open; torch tells it only as it opens one."""
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def _put_nesting(blocks: int) -> None:
    """Let so many blocks be open, and drop the weights that autocast has cached: they may be the search's."""
    for _ in range(_nesting() - blocks):
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()


def _stance() -> Any:
    """The stance; None while torch.compile is not imported, which takes seconds."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return None if dynamo is None else dynamo._stance


def _put_stance(stance: Any) -> None:
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo is not None and dynamo._stance != (stance or dynamo.DynamoStance()):
        dynamo._set_stance(stance or dynamo.DynamoStance())


class WithGradients:
    """A block in which a training can take steps, whatever mode the caller is in.

    Its end can't be broken off: torch's guard would then act later, when an exception that holds it is let go.
    """

    @signals_wait
    def __enter__(self) -> None:
        self._modes = torch.inference_mode(False), torch.enable_grad()
        for mode in self._modes:
            mode.__enter__()

    @signals_wait
    def __exit__(self, *_: object) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(None, None, None)
