"""Torch's modes: a step may set one for the whole process, and a block that Ctrl-C breaks off may leave its own."""

# ruff: noqa: SLF001 - the stance of torch.compile can be read by a private name only

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from operator import attrgetter, call
from typing import Any

import torch
from torch.backends import cudnn
from torch.nn.modules import module as of_modules

from findlr.search.interrupts import signals_wait
from findlr.search.memory import Memory
from findlr.search.objects import refill
from findlr.torch.snapshot.hooks import GLOBAL


def _precision() -> str | None:
    """Of products of matrices; None where a newer setting than this one is in use, which torch then does not read."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


_FLAGS = ("enabled", "benchmark", "deterministic")
_SWITCHES: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    (torch.is_anomaly_check_nan_enabled, lambda check: torch.set_anomaly_enabled(torch.is_anomaly_enabled(), check)),
    (torch.is_anomaly_enabled, lambda on: torch.set_anomaly_enabled(on, torch.is_anomaly_check_nan_enabled())),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.get_default_dtype, torch.set_default_dtype),
    (_precision, lambda before: torch.set_float32_matmul_precision(before) if before else None),
    (
        partial(getattr, of_modules, "_global_is_full_backward_hook"),
        partial(setattr, of_modules, "_global_is_full_backward_hook"),
    ),
    *((partial(getattr, cudnn, flag), partial(setattr, cudnn, flag)) for flag in _FLAGS),
    *((hooks.copy, partial(refill, hooks)) for hooks in GLOBAL),
]
"""What tells of a mode, or of the hooks of all modules, and what sets it."""
_GETS = [get for get, _ in _SWITCHES]


def remember_modes(devices: Iterable[torch.device], memory: Memory) -> None:
    """What a step or a block may set for the whole process: torch's modes, and hooks of all modules and optimizers."""
    memory.add(partial(_put_switches, [*map(call, _GETS)]), name="torch's modes and global hooks")
    for kind in sorted({"cpu", *map(attrgetter("type"), devices)}):
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        memory.add(partial(torch.set_autocast_enabled, kind, enabled), name=f"autocast on {kind}")
        memory.add(partial(torch.set_autocast_dtype, kind, dtype), name=f"autocast's type on {kind}")
    memory.add(partial(_put_nesting, _nesting()), name="autocast's blocks")
    memory.add(partial(_put_stance, _stance()), name="torch.compile's stance")


def _put_switches(before: list[Any]) -> None:
    for (get, put), value in zip(_SWITCHES, before, strict=True):
        if get() != value:
            put(value)


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
