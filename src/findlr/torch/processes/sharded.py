"""A sharded model's layers call the other processes: where one fails outside of them, it goes on without a loss."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import nn

from findlr.torch.data.nesting import tensors_in
from findlr.torch.ranks import is_fully_sharded


class StandIns:
    """Gives a loss of nothing, so that a process that has failed makes the calls that the others wait in."""

    def __init__(self, roots: Sequence[nn.Module]) -> None:
        self._roots = roots
        self._handles: list[Any] = []
        self._inputs: dict[nn.Module, Any] = {}  # of the last forward pass that went well
        self._outputs: dict[nn.Module, Any] = {}  # of those that have not gone backward
        self._within: set[nn.Module] = set()  # in their forward pass

    def begin(self) -> None:
        """From here on, forward passes are watched."""
        for root in self._roots:
            self._handles.append(root.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True))
            self._handles.append(root.register_forward_hook(self._after, with_kwargs=True))

    def end(self) -> None:
        """From here on, they are not."""
        while self._handles:
            self._handles.pop().remove()
        self._inputs, self._outputs, self._within = {}, {}, set()

    def reset(self) -> None:
        """Shard again what a pass that was broken off has left gathered, or half sent."""
        for root in self._roots:
            if hasattr(root, "reset_iter_state"):  # torch 2.10 has none
                # The connection is lost, and the shards are put back all the same; or the module was never called.
                with suppress(RuntimeError, AttributeError):
                    root.reset_iter_state()  # type: ignore[operator]
        self.reshard()

    def reshard(self) -> None:
        """Shard again what is gathered."""
        for root in self._roots:
            for module in filter(is_fully_sharded, root.modules()):
                module.reshard()  # type: ignore[operator]

    def _before(self, module: nn.Module, *_: Any) -> None:
        if torch.is_grad_enabled():
            self._within.add(module)

    def _after(self, module: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
        if torch.is_grad_enabled():
            self._within.discard(module)
            self._inputs[module], self._outputs[module] = (args, kwargs), outputs
            for tensor in tensors_in(outputs):
                if tensor.requires_grad:
                    tensor.register_hook(partial(self._gone_back, module))  # type: ignore[no-untyped-call]

    def _gone_back(self, module: nn.Module, _: torch.Tensor) -> None:
        self._outputs.pop(module, None)

    def loss(self) -> torch.Tensor | None:
        """A loss of 0 behind a forward pass of each module, the last one's or one made now; None if there is none."""
        if self._within or not self._inputs.keys() >= set(self._roots):
            return None
        for root in self._roots:
            if root not in self._outputs:
                args, kwargs = self._inputs[root]
                root(*args, **kwargs)
        found = [t for t in tensors_in(list(self._outputs.values())) if t.requires_grad]
        return sum((tensor.sum() * 0 for tensor in found), torch.zeros(())) if found else None
