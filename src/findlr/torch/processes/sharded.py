"""A sharded model's layers call the other processes: where one fails outside of them, it goes on without a loss."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import nn

from findlr.torch.data.nesting import tensors_in
from findlr.torch.ranks import is_fully_sharded, is_sharded


class StandIns:
    """Gives a loss of nothing, so that a process that has failed makes the calls that the others wait in."""

    def __init__(self, roots: Sequence[nn.Module]) -> None:
        self._roots = roots
        self._handles: list[Any] = []
        self._inputs: dict[nn.Module, Any] = {}  # of the last forward pass that went well
        self._outputs: dict[nn.Module, Any] = {}  # of those that have not gone backward
        self._within: set[nn.Module] = set()  # in their forward pass
        self._held_out: dict[nn.Module, Any] = {}  # inputs without gradients since ``begin_scoring``
        self._passed: set[nn.Module] = set()  # since ``begin_pass``
        shards: list[tuple[nn.Module, Any]] = [(r, p) for r in roots for p in r.parameters() if is_sharded(p)]
        self._sends_activations = any(not is_fully_sharded(r) or p.device_mesh.ndim > 1 for r, p in shards)

    def begin(self) -> None:
        """From here on, forward passes are watched."""
        for root in self._roots:
            self._handles.append(root.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True))
            self._handles.append(root.register_forward_hook(self._after, with_kwargs=True))

    def end(self) -> None:
        """From here on, they are not."""
        while self._handles:
            self._handles.pop().remove()
        self._inputs, self._outputs, self._within, self._held_out = {}, {}, set(), {}

    def reset(self) -> None:
        """Shard again what a pass that was broken off has left gathered, or half sent."""
        self._outputs, self._within = {}, set()
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
        self._within.add(module)

    def _after(self, module: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
        self._within.discard(module)
        if not torch.is_grad_enabled():
            self._held_out[module] = args, kwargs
            self._passed.add(module)
        else:
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
        if any(map(is_sharded, found)):
            return None  # a loss of shards makes calls of its own
        return sum((tensor.sum() * 0 for tensor in found), torch.zeros(())) if found else None

    def begin_scoring(self) -> None:
        """Passes of held-out batches follow."""
        self._held_out = {}

    def begin_pass(self) -> None:
        """A pass of a held-out batch follows."""
        self._passed.clear()

    def makes_pass(self) -> bool:
        """Make the pass of a held-out batch, unless this process has made it before it failed; whether it could."""
        if self._within:
            return False
        inputs = self._held_out
        if not inputs and len(self._roots) == 1 and not self._sends_activations:  # else who calls what is not known
            inputs = self._inputs
        with suppress(Exception), torch.no_grad():  # the connection is lost, and the next call tells
            for root in [root for root in inputs if root not in self._passed]:
                args, kwargs = inputs[root]
                root(*args, **kwargs)
        return bool(inputs)
