"""Everything that a step can change, remembered so that it can be put back in place.

Identity is kept: the same Parameter, the same buffer, the same tensor rate, the same state dict, with the old values
copied back into them. What a step added is removed again.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from findlr.errors import ConfigurationError
from findlr.torch.nesting import tensors_in
from findlr.torch.stores import Counter, Kept, Snapshot, Store, store_for

Undo = Callable[[], Any]
"""Puts something back as it was. May be called again and again."""


class Memory:
    """Copies of tensors, each made once however many names the tensor has, and the containers that hold them.

    Args:
        store: where the copies live; None is the tensors' own device.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or Store()
        self._copies: dict[int, tuple[torch.Tensor, Kept]] = {}
        self._undos: list[Undo] = []
        self._releases: list[Undo] = []
        self._closed = False

    def add(self, undo: Undo) -> None:
        """Call ``undo`` when everything is put back."""
        self._undos.append(undo)

    def on_close(self, release: Undo) -> None:
        """Call ``release`` when nothing will be put back any more."""
        self._releases.append(release)

    def close(self) -> None:
        """Let go of everything that is kept, wherever it is."""
        self._closed = True
        self._copies.clear()
        self._undos.clear()
        self.store.close()
        while self._releases:
            self._releases.pop()()

    def put_back(self) -> None:
        """Put back everything that was remembered; what can't be put back does not keep the rest from it.

        Raises:
            ConfigurationError: it was closed.
        """
        if self._closed:
            raise ConfigurationError("the snapshot was closed, so nothing can be put back: take a new one")
        undos: list[Undo] = [partial(_copy_back, *pair) for pair in self._copies.values()]
        errors: list[Exception] = []
        for undo in undos + self._undos:
            try:
                undo()
            except Exception as error:  # noqa: BLE001 - it is raised below
                errors.append(error)
        if errors:
            raise errors[0]

    def copy_of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The copy of a tensor that was remembered, in its shape; not to be written to."""
        saved = self._copies[id(tensor)][1].read()
        return saved if saved.shape == tensor.shape else saved.as_strided(tensor.shape, tensor.stride())

    def remember(self, value: Any, worth: Callable[[Any], bool] | None = None) -> None:
        """Copy ``value``, if it is of a kind that can change in place, and all that it holds.

        Args:
            value: a tensor, an array, a random generator, or a container of such; anything else can't be remembered.
            worth: tells which tensors and arrays to copy; None copies all.
        """
        if isinstance(value, torch.Tensor):
            if id(value) not in self._copies and (worth is None or worth(value)):
                self._copies[id(value)] = value, self.store.keep(_writable(value))
        elif isinstance(value, np.ndarray):
            if value.flags.writeable and (worth is None or worth(value)):
                self.add(partial(np.copyto, value, value.copy()))
        elif isinstance(value, (dict, list, set, deque, tuple)):
            if not isinstance(value, tuple):
                self.add(partial(_refill, value, copy(value)))
            for item in value.values() if isinstance(value, dict) else value:
                if not isinstance(item, (int, float, str)):  # a million indices are no million calls
                    self.remember(item, worth)
        elif (undo := _undo_of_generator(value)) is not None:
            self.add(undo)


def _copy_back(tensor: torch.Tensor, saved: Kept) -> None:
    with torch.no_grad():
        _writable(tensor).copy_(saved.read())


def _refill(target: Any, items: Any) -> None:
    """Give the container ``target`` back its items, in their order."""
    target.clear()
    (target.update if isinstance(target, (dict, set)) else target.extend)(items)


def _undo_of_generator(value: Any) -> Undo | None:
    """What puts a random generator back; None for anything else."""
    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if isinstance(value, random.Random):
        return partial(value.setstate, value.getstate())
    return None


def _writable(tensor: torch.Tensor) -> torch.Tensor:
    """A view that names each place in memory once: an expanded tensor can't be copied into."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided or not tensor.numel():
        return tensor
    reach, overlaps = 1, False
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        overlaps |= size > 1 and stride < reach
        reach += stride * (size - 1)
    return tensor.as_strided((reach,), (1,)) if overlaps else tensor


@contextmanager
def released_on_error(memory: Memory) -> Iterator[None]:
    """Close ``memory`` if the block raises: what could not be remembered whole will not be put back."""
    try:
        yield
    except BaseException:
        memory.close()
        raise


def memory_of(
    kind: Snapshot,
    devices: Iterable[torch.device],
    modules: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    statefuls: Sequence[Any],
) -> Memory:
    """A memory of these, kept where ``kind`` says.

    Args:
        kind: "device", "cpu", "disk"; or "auto", which goes by the free memory.
        devices: where the tensors are.
        modules: models, and criteria that are modules.
        optimizers: with their states.
        statefuls: see ``remember_stateful``.
    """

    def fill(memory: Memory) -> Memory:
        with released_on_error(memory):
            remember_modules(modules, memory)
            for optimizer in optimizers:
                remember_optimizer(optimizer, memory)
            for stateful in statefuls:
                remember_stateful(stateful, memory)
        return memory

    counter = Counter()
    if kind == "auto":
        fill(Memory(counter))
    return fill(Memory(store_for(kind, counter.nbytes, devices)))


def remember_modules(modules: Iterable[nn.Module], memory: Memory) -> None:
    """Parameters, buffers (non-persistent too), gradients and train flags of ``modules`` and all inside them."""
    for module in {id(m): m for root in modules for m in root.modules()}.values():
        memory.remember(module._parameters)
        memory.remember(module._buffers)
        memory.add(partial(setattr, module, "training", module.training))
        for parameter in module._parameters.values():
            if parameter is not None:
                _remember_gradient(parameter, memory)


def remember_optimizer(optimizer: torch.optim.Optimizer, memory: Memory) -> None:
    """Parameters, gradients, state, the groups with their rates, and the flags that schedulers read."""
    memory.remember(vars(optimizer))
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            _remember_gradient(parameter, memory)
    for inner in vars(optimizer).values():
        if isinstance(inner, torch.optim.Optimizer):
            remember_optimizer(inner, memory)


def _remember_gradient(parameter: torch.Tensor, memory: Memory) -> None:
    memory.remember(parameter.grad)
    memory.add(partial(setattr, parameter, "grad", parameter.grad))


def has_state(thing: Any) -> bool:
    """Whether ``thing`` can tell its state, and take it back."""
    return all(callable(getattr(thing, name, None)) for name in ("state_dict", "load_state_dict"))


def remember_stateful(stateful: Any, memory: Memory) -> None:
    """A scheduler, an EMA: a module, optimizer or GradScaler as such, anything else by its state dict.

    Raises:
        ConfigurationError: it has no state_dict and load_state_dict.
    """
    if isinstance(stateful, nn.Module):
        remember_modules([stateful], memory)
    elif isinstance(stateful, torch.optim.Optimizer):
        remember_optimizer(stateful, memory)
    elif isinstance(stateful, GradScaler):  # its state dict lacks what a half-done step left, and what is made lazily
        memory.remember(vars(stateful))
    elif has_state(stateful):
        theirs = stateful.state_dict()
        state = deepcopy(theirs, {id(tensor): memory.store.keep(tensor.detach()) for tensor in tensors_in(theirs)})
        memory.add(lambda: stateful.load_state_dict(deepcopy(state)))
    else:
        raise ConfigurationError(
            f"restore= takes objects with state_dict and load_state_dict, got {type(stateful).__name__}: give it both"
        )


def remember_rng(devices: Iterable[torch.device], memory: Memory) -> None:
    """The random states: Python's, NumPy's global one, torch's on the CPU, and on each of ``devices``."""
    memory.add(partial(random.setstate, random.getstate()))
    memory.add(partial(np.random.set_state, np.random.get_state()))  # noqa: NPY002 - users draw from it
    remember_torch_rng(devices, memory)


def remember_torch_rng(devices: Iterable[torch.device], memory: Memory) -> None:
    """Torch's random states: on the CPU, and on each of ``devices``."""
    memory.add(partial(torch.set_rng_state, torch.get_rng_state()))
    for device in devices:
        if device.type != "cpu":
            backend = torch.get_device_module(device)
            memory.add(partial(backend.set_rng_state, backend.get_rng_state(device), device))
