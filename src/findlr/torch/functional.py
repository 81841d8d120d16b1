"""The same modules under other weights: all that lies between a batch and its loss, for ``functional_call``."""

# ruff: noqa: SLF001 - what a module holds by itself, and its hooks, have private names only

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from findlr.errors import LossError
from findlr.search.failure import told
from findlr.torch.ranks import is_fully_sharded


class WholeLoss(nn.Module):
    """All that lies between a batch and its loss, as one module; it borrows the modules, and changes no flag of theirs.

    Args:
        modules: the model, and the criterion where it is a module.
        loss: gives the loss of a batch under the modules' present weights.
    """

    def __init__(self, modules: list[nn.Module], loss: Callable[[Any], torch.Tensor]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self.kept: dict[str, torch.Tensor] = {}  # the buffers of these names, as the last loss has left them
        self._loss = loss

    def forward(self, batch: Any, raised: list[BaseException] | None = None) -> torch.Tensor:
        """The loss of a batch.

        Args:
            batch: of any nesting.
            raised: takes what the loss raises; None lets it through.
        """
        if raised is None:
            return self._loss(batch)
        try:
            return self._loss(batch)
        except BaseException as error:  # noqa: BLE001 - raised in ``under``
            raised.append(error)
            return torch.empty(())
        finally:
            if self.kept:  # the loss may have put others in their places
                buffers = dict(self.named_buffers())
                self.kept = {name: buffers.get(name, last) for name, last in self.kept.items()}

    def under(self, tensors: Any, batch: Any) -> torch.Tensor:
        """The loss of a batch with other tensors in the modules' places.

        What it raises does not pass through ``functional_call``: contextlib, which that is made with, would write into
        it, and a frozen exception would be lost.

        Raises:
            LossError: a module that had a tensor has it no more.
        """
        raised: list[BaseException] = []
        lost: Exception | None = None
        try:
            found: torch.Tensor = functional_call(self, tensors, (batch, raised))
        except (AttributeError, KeyError) as error:  # its own, because what the loss raises comes in the list
            lost = error
        if raised:
            raise raised.pop()
        if lost is not None:
            raise LossError(
                f"the model takes modules or parameters away, or replaces them, in its forward pass ({told(lost)}), so "
                "a batch has no loss under the starting weights: leave the control variate out, with "
                "control_variate=False"
            ) from lost
        return found


class NamesKept:
    """A block after which each name means the same tensor; a module with two names would keep functional_call's.

    Args:
        whole: holds all modules whose names are kept.
    """

    def __init__(self, whole: nn.Module) -> None:
        self._whole = whole

    def __enter__(self) -> None:
        inside = [module for module in self._whole.modules() if not isinstance(module, torch.jit.ScriptModule)]
        self._bound: list[Any] = [(own, dict(own)) for m in inside for own in (m._parameters, m._buffers)]

    def __exit__(self, *_: object) -> None:
        for own, tensors in self._bound:
            own.update(tensors)


def is_scripted(whole: nn.Module) -> bool:
    """Whether a part of it is TorchScript, which keeps its tensors to itself: ``functional_call`` can't change them."""
    return any(isinstance(module, torch.jit.ScriptModule) for module in whole.modules())


@contextmanager
def values_lent(whole: nn.Module, values: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Let the module's own tensors have other values' memory for a while; TorchScript sees that, too."""
    named = {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
    own = [(named[name], named[name].data) for name in values]
    try:
        for name, value in values.items():
            named[name].data = value.data
        yield
    finally:
        for tensor, data in own:
            tensor.data = data


def obstacle(model: nn.Module) -> str | None:
    """The reason why a model can't be run under other weights, or None."""
    if type(model).__name__ == "OptimizedModule" or any(m._compiled_call_impl is not None for m in model.modules()):
        return "a compiled model does not take weights from outside"
    if any(is_fully_sharded(module) for module in model.modules()):
        return "a sharded model does not take weights from outside"
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return "the model has forward hooks, which would run twice"
    return None
