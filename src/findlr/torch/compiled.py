"""Compiled code under a rate that changes at each step: existing graphs are used, and no new one is made."""

# ruff: noqa: SLF001 - whether a module is compiled, torch tells by a private name only

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from findlr.search.interrupts import signals_wait

_lock = threading.Lock()
_open = 0  # blocks of all threads, because the stance is the whole process's
_stance: Any = None  # the one that these blocks share


class NoNewGraphs:
    """A block in which torch.compile uses the graphs that it has made, and makes none.

    What has no graph for the case at hand runs eagerly. A rate that changes at each step would compile some optimizers
    again and again, up to a limit past which torch never compiles them again, not even in the training that follows.
    The last block to end, in any thread, goes back to the stance from before the first.
    """

    def __init__(self) -> None:
        self._own: Any = None  # made once, because making one at each step costs more

    @signals_wait
    def __enter__(self) -> None:
        global _open, _stance  # noqa: PLW0603 - as the stance is
        with _lock:
            if not _open:
                if self._own is None:
                    self._own = torch.compiler.set_stance("eager_on_recompile")  # which holds from now on
                else:
                    self._own.__enter__()
                _stance = self._own
            _open += 1

    @signals_wait
    def __exit__(self, *_: object) -> None:
        global _open  # noqa: PLW0603
        with _lock:
            _open -= 1
            if not _open:
                _stance.__exit__(None, None, None)


def may_compile(modules: Iterable[nn.Module], criterion: Any, optimizers: Iterable[torch.optim.Optimizer]) -> bool:
    """Whether a step may make a graph for its rate, or a first graph of compiled code.

    It can't where the optimizers are torch's own, with their own step, and neither the modules nor the criterion are
    compiled: then no compiled code sees the rate, and whatever compiled code a forward pass may call makes the graphs
    that the training would make.

    Args:
        modules: whose forward passes are in the step.
        criterion: of the outputs; None if the user gave a function in its place, which may call anything.
        optimizers: take the step.
    """
    if any(not type(each).__module__.startswith("torch.optim.") or "step" in vars(each) for each in optimizers):
        return True
    if criterion is None or hasattr(criterion, "_torchdynamo_orig_callable"):
        return True
    return compiled_in(modules)


def compiled_in(modules: Iterable[nn.Module]) -> bool:
    """Whether ``torch.compile`` has made one of the modules, or one inside them."""
    inner = [each for module in modules for each in module.modules()]
    return True in [type(m).__name__ == "OptimizedModule" or m._compiled_call_impl is not None for m in inner]
