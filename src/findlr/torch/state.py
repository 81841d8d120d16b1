"""Everything that a step can change, remembered so that it can be put back in place.

Identity is kept: the same Parameter, the same buffer, the same tensor rate, the same state dict, with the old values
copied back into them. What a step added is removed again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

Undo = Callable[[], Any]
"""Puts something back as it was, and returns it. May be called again and again."""


class Memory:
    """Copies of tensors, each made once however many names the tensor has, and the containers that hold them."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._undos: list[Undo] = []

    def add(self, undo: Undo) -> None:
        """Call ``undo`` when everything is put back."""
        self._undos.append(undo)

    def put_back(self) -> None:
        """Put back everything that was remembered."""
        with torch.no_grad():
            for tensor, copy in self._copies.values():
                _writable(tensor).copy_(copy)
        for undo in self._undos:
            undo()

    def remember(self, value: Any) -> Undo:
        """Copy ``value`` and all that it holds; return what gives it back, its tensors being put back by then."""
        if isinstance(value, torch.Tensor):
            if id(value) not in self._copies:
                self._copies[id(value)] = value, _writable(value).clone()
            return lambda: value
        if isinstance(value, torch.Generator):
            state = value.get_state()
            return lambda: value.set_state(state)
        if isinstance(value, dict):
            items = {key: self.remember(item) for key, item in value.items()}
            return lambda: _refill_dict(value, {key: undo() for key, undo in items.items()})
        if isinstance(value, list):
            undos = [self.remember(item) for item in value]
            return lambda: _refill_list(value, [undo() for undo in undos])
        if isinstance(value, tuple):
            parts = [self.remember(item) for item in value]
            return lambda: (tuple(undo() for undo in parts), value)[1]
        return lambda: value


def _refill_dict(target: dict[Any, Any], items: dict[Any, Any]) -> dict[Any, Any]:
    target.clear()
    target.update(items)
    return target


def _refill_list(target: list[Any], items: list[Any]) -> list[Any]:
    target[:] = items
    return target


def _writable(tensor: torch.Tensor) -> torch.Tensor:
    """A view that names each place in memory once: an expanded tensor can't be copied into."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        return tensor
    if all(stride or size <= 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        return tensor
    return tensor[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in tensor.stride())]


def remember_modules(modules: Iterable[nn.Module], memory: Memory) -> None:
    """Parameters, buffers (non-persistent too), gradients and train flags of ``modules`` and all inside them."""
    for module in {id(m): m for root in modules for m in root.modules()}.values():
        memory.add(memory.remember(module._parameters))
        memory.add(memory.remember(module._buffers))
        memory.add(partial(setattr, module, "training", module.training))
        for parameter in module._parameters.values():
            if parameter is not None:
                _remember_gradient(parameter, memory)


def remember_optimizer(optimizer: torch.optim.Optimizer, memory: Memory) -> None:
    """Parameters, gradients, state, the groups with their rates, and the flags that schedulers read."""
    memory.add(memory.remember(optimizer.state))
    for group in optimizer.param_groups:
        memory.add(memory.remember(group))
        for parameter in group["params"]:
            _remember_gradient(parameter, memory)
    flags = _flags(optimizer)

    def put() -> None:
        for name in _flags(optimizer).keys() - flags.keys():
            delattr(optimizer, name)
        vars(optimizer).update(flags)

    memory.add(put)


def _flags(optimizer: torch.optim.Optimizer) -> dict[str, bool | int | float]:
    return {name: value for name, value in vars(optimizer).items() if isinstance(value, (bool, int, float))}


def _remember_gradient(parameter: torch.Tensor, memory: Memory) -> None:
    gradient = memory.remember(parameter.grad)
    memory.add(lambda: setattr(parameter, "grad", gradient()))


def remember_rng(devices: Iterable[torch.device], memory: Memory) -> None:
    """The random states: Python's, NumPy's global one, torch's on the CPU, and on each of ``devices``."""
    memory.add(partial(random.setstate, random.getstate()))
    memory.add(partial(np.random.set_state, np.random.get_state()))  # noqa: NPY002 - users draw from it
    memory.add(partial(torch.set_rng_state, torch.get_rng_state()))
    for device in devices:
        if device.type != "cpu":
            backend = torch.get_device_module(device)
            memory.add(partial(backend.set_rng_state, backend.get_rng_state(device), device))
