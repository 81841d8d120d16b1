"""The same modules under other weights: all that lies between a batch and its loss."""

# ruff: noqa: SLF001 - what a module holds by itself, and its hooks, have private names only

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from findlr.analysis.text import told
from findlr.errors import LossError
from findlr.torch.ranks import is_fully_sharded

_MARKS = {"make_inputs_require_grads", "make_inputs_require_grad"}  # transformers' hook, and its recipes': they do that


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

    def forward(self, batch: Any) -> torch.Tensor:
        """The loss of a batch, of any nesting."""
        try:
            return self._loss(batch)
        finally:
            if self.kept:  # the loss may have put others in their places
                buffers = dict(self.named_buffers())
                self.kept = {name: buffers.get(name, last) for name, last in self.kept.items()}


class Places:
    """Where a module and its parts hold their tensors: a block in which other tensors may be lent to them.

    After the block each name means the same tensor as before it, whatever a forward pass has put there.
    ``torch.func.functional_call`` does the same, but looks for all names each time, which takes longer than a small
    layer. Here they are looked for again only where a part was taken away, added or replaced.

    Args:
        whole: the module. Parts of it that are TorchScript are left alone.
    """

    def __init__(self, whole: nn.Module) -> None:
        self._whole = whole
        self._find()

    def _find(self) -> None:
        inside = [module for module in self._whole.modules() if not isinstance(module, torch.jit.ScriptModule)]
        self._parts = [(module._modules, module._modules.copy()) for module in inside]
        self._owners: list[dict[str, Any]] = [own for m in inside for own in (m._parameters, m._buffers)]
        # A tensor that is in several places has one name.
        names = {id(t): name for name, t in (*self._whole.named_parameters(), *self._whole.named_buffers())}
        self._held = [(own, key, names[id(t)]) for own in self._owners for key, t in own.items() if id(t) in names]
        self._is_checked = False  # whether each name that is lent to has its part

    def _found_again(self) -> bool:
        """Find the places again if the parts are not those of the last time; say whether that was so."""
        for parts, before in self._parts:
            if parts != before:
                self._find()
                return True
        return False

    def __enter__(self) -> None:
        self._found_again()
        self._bound = [(own, own.copy()) for own in self._owners]

    def __exit__(self, *_: object) -> None:
        for own, tensors in self._bound:
            own.update(tensors)

    def lend(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put tensors in the places of those with these names, until the block ends.

        Raises:
            LossError: a part that had a tensor is gone.
        """
        if self._found_again():  # what a forward pass within the block has added has tensors of its own, too
            bound = {id(own) for own, _ in self._bound}
            self._bound += [(own, own.copy()) for own in self._owners if id(own) not in bound]
        if not self._is_checked:
            for name in tensors.keys() - {name for _, _, name in self._held}:
                self._check(name)
            self._is_checked = True
        for own, key, name in self._held:
            if name in tensors and key in own:
                own[key] = tensors[name]

    def _check(self, name: str) -> None:
        try:
            self._whole.get_submodule(name.rpartition(".")[0])
        except AttributeError as lost:
            raise LossError(
                f"the model takes modules or parameters away, or replaces them, in its forward pass ({told(lost)}), so "
                "a batch has no loss under the starting weights: leave the control variate out, with "
                "control_variate=False"
            ) from lost


def is_scripted(whole: nn.Module) -> bool:
    """Whether a part of it is TorchScript, which keeps its tensors to itself: no others can be lent to it."""
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
    hooks = [hook for m in model.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    if any(getattr(hook, "__name__", "") not in _MARKS for hook in hooks):
        return "the model has forward hooks, which would run twice"
    return None
