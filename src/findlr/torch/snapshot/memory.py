"""Everything that a step can change, remembered so that it can be put back in place.

Identity is kept: the same Parameter, the same buffer, the same tensor rate, the same state dict, with the old values
copied back into them. What a step added is removed again.
"""

from __future__ import annotations

import operator
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from findlr.errors import ConfigurationError
from findlr.torch.data.nesting import tensors_in
from findlr.torch.snapshot.stores import Kept, Snapshot, Store, nbytes_of, store_for

Undo = Callable[[], Any]
"""Puts something back as it was. May be called again and again."""

_FIXED = {bool, int, float, str, type(None)}  # what can't change in place
_USUAL = {torch.Tensor, nn.Parameter}  # other classes may not know the calls that take many tensors


class Memory:
    """Copies of tensors, each made once however many names the tensor has, and the containers that hold them.

    Things are noted first; then their tensors are copied together, once their bytes are counted and a store is chosen.
    For the sake of 10,000 small tensors there is a list for each kind of thing, and no closure for each thing.
    """

    def __init__(self) -> None:
        self.store = Store()
        self._noted: dict[int, torch.Tensor] = {}  # by id; not copied yet
        self._states: list[tuple[Any, Callable[[Any], Any]]] = []  # state dicts, not copied yet, and who takes them
        self._groups: list[tuple[list[torch.Tensor], list[Any]]] = []  # tensors, and their copies
        self._copied: set[int] = set()  # their ids
        self._seen: set[int] = set()  # the ids of containers, and of parameters whose gradient is noted
        self._undos: list[Undo] = []
        self._values: dict[Callable[[Any, Any], Any], tuple[list[Any], list[Any]]] = {}
        self._releases: list[Undo] = []
        self._closed = False

    def add(self, undo: Undo) -> None:
        """Call ``undo`` when everything is put back: in the order of adding, and before all else."""
        self._undos.append(undo)

    def each(self, put: Callable[[Any, Any], Any], owners: Iterable[Any], values: Iterable[Any]) -> None:
        """Call ``put(owner, value)`` for each pair when everything is put back."""
        all_owners, all_values = self._values.setdefault(put, ([], []))
        all_owners.extend(owners)
        all_values.extend(values)

    def on_close(self, release: Undo) -> None:
        """Call ``release`` when nothing will be put back any more."""
        self._releases.append(release)

    def close(self) -> None:
        """Let go of everything that is kept, wherever it is."""
        self._closed = True
        for kept in (self._noted, self._states, self._groups, self._undos, self._values):
            kept.clear()
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
        errors = _attempted(operator.call, self._undos)
        with torch.no_grad():
            for tensors, copies in self._groups:
                if len(tensors) == 1 or _attempted(self.store.copy_back, [tensors], [copies]):  # so one by one
                    errors += _attempted(self._copy_back, tensors, copies)
        for put, (owners, values) in self._values.items():
            errors += _attempted(put, owners, values)
        if errors:
            raise errors[0]

    def _copy_back(self, tensor: torch.Tensor, copy: Any) -> None:
        self.store.copy_back([_writable(tensor)], [copy])

    def copies_of(self, tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """The copies of tensors that were remembered, in their shapes; not to be written to."""
        copies = {id(t): copy for group in self._groups for t, copy in zip(*group, strict=True)}
        read = ((tensor, self.store.read(copies[id(tensor)])) for tensor in tensors)
        return [kept if kept.shape == t.shape else kept.as_strided(t.shape, t.stride()) for t, kept in read]

    def note(self, *values: Any, worth: Callable[[Any], bool] | None = None) -> None:
        """Note each of ``values`` that can change in place, and all that it holds; ``copy`` must follow.

        Args:
            values: tensors, arrays, random generators, and containers of such; anything else can't be remembered.
            worth: tells which tensors and arrays to copy; None copies all.
        """
        noted, seen, (containers, contents) = self._noted, self._seen, self._values.setdefault(_refill, ([], []))
        todo = list(values)
        for value in todo:  # which grows
            kind = type(value)
            if kind in _USUAL or isinstance(value, torch.Tensor):  # by its type: isinstance takes long where it isn't
                if worth is None or worth(value):
                    noted[id(value)] = value
            elif kind in _FIXED or id(value) in seen:
                pass
            elif isinstance(value, dict):
                seen.add(id(value))
                containers.append(value)
                contents.append(items := dict(value))
                todo += items.values()
            elif isinstance(value, (list, set, deque)):
                seen.add(id(value))
                containers.append(value)
                contents.append(members := list(value))
                todo += members
            elif isinstance(value, tuple):
                todo += value
            elif (undo := _undo_of(value, worth)) is not None:
                self.add(undo)

    def note_gradients(self, parameters: Iterable[torch.Tensor | None]) -> None:
        """Note the gradients of these parameters, present or None."""
        new = {id(p): p for p in parameters if p is not None and id(p) not in self._seen}
        self._seen.update(new)
        gradients = [parameter.grad for parameter in new.values()]
        self.each(_set_gradient, new.values(), gradients)
        self.note(*gradients)

    def note_state(self, state: Any, load: Callable[[Any], Any]) -> None:
        """Note a state dict, and what takes it back."""
        self._states.append((state, load))

    def copy(self, choose: Callable[[int], Store] | None = None) -> None:
        """Copy what was noted.

        Args:
            choose: gives the store for so many bytes; None is the one there is, at first the tensors' own device.
        """
        groups: dict[Any, list[torch.Tensor]] = defaultdict(list)
        for key, tensor in self._noted.items():
            if key in self._copied:
                continue
            if type(tensor) not in _USUAL or tensor.layout is not torch.strided or not tensor.is_contiguous():
                groups[key].append(tensor)
            elif tensor.is_cpu:  # there, all are one loop
                groups["cpu"].append(tensor)
            else:  # on a device, those of one type are one kernel
                groups[tensor.device, tensor.dtype].append(tensor)
        once = [tensors if len(tensors) > 1 else [_writable(tensors[0])] for tensors in groups.values()]
        states = [list(tensors_in(state)) for state, _ in self._states]
        if choose is not None:
            self.store = choose(sum(map(nbytes_of, once + states)))
        with torch.no_grad():
            kept = [self.store.keep(tensors) for tensors in once]
            memos = [{id(t): Kept(self.store, *self.store.keep([t])) for t in tensors} for tensors in states]
        self._groups += zip(groups.values(), kept, strict=True)
        self._copied.update(self._noted)
        for (state, load), memo in zip(self._states, memos, strict=True):
            self.add(partial(_load, load, deepcopy(state, memo)))
        self._noted.clear()
        self._states.clear()


def _attempted(function: Callable[..., Any], *columns: Iterable[Any]) -> list[Exception]:
    """Call ``function`` with each row of the columns; return what that raised."""
    errors: list[Exception] = []
    for row in zip(*columns, strict=True):
        try:
            function(*row)
        except Exception as error:  # noqa: BLE001 - put_back raises it
            errors.append(error)
    return errors


def _refill(target: Any, items: Any) -> None:
    """Give the container ``target`` back its items, in their order."""
    target.clear()
    (target.update if isinstance(target, (dict, set)) else target.extend)(items)


def _set_gradient(parameter: torch.Tensor, gradient: torch.Tensor | None) -> None:
    parameter.grad = gradient


def _set_mode(module: nn.Module, training: bool) -> None:
    if module.training is not training:  # setting it takes long
        module.training = training


def _load(load: Callable[[Any], Any], state: Any) -> None:
    load(deepcopy(state))


def _undo_of(value: Any, worth: Callable[[Any], bool] | None) -> Undo | None:
    """What puts an array or a random generator back; None for anything else, and for arrays not ``worth`` it."""
    if isinstance(value, np.ndarray):
        changes = value.flags.writeable and (worth is None or worth(value))
        return partial(np.copyto, value, value.copy()) if changes else None
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
    if tensor.layout is not torch.strided or tensor.is_contiguous():
        return tensor
    tensor = tensor.detach()
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
    devices: Sequence[torch.device],
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
        statefuls: see ``note_stateful``.
    """
    memory = Memory()
    with released_on_error(memory):
        note_modules(modules, memory)
        for optimizer in optimizers:
            note_optimizer(optimizer, memory)
        for stateful in statefuls:
            note_stateful(stateful, memory)
        memory.copy(lambda nbytes: store_for(kind, nbytes, devices))
    return memory


def note_modules(modules: Iterable[nn.Module], memory: Memory) -> None:
    """Parameters, buffers (non-persistent too), gradients and train flags of ``modules`` and all inside them."""
    inside = list({id(module): module for root in modules for module in root.modules()}.values())
    memory.note(*(module._parameters for module in inside))
    memory.note(*(module._buffers for module in inside))
    memory.note_gradients(parameter for module in inside for parameter in module._parameters.values())
    memory.each(_set_mode, inside, [module.training for module in inside])


def note_optimizer(optimizer: torch.optim.Optimizer, memory: Memory) -> None:
    """Parameters, gradients, state, the groups with their rates, and the flags that schedulers read."""
    memory.note(vars(optimizer))
    memory.note_gradients(parameter for group in optimizer.param_groups for parameter in group["params"])
    for inner in vars(optimizer).values():
        if isinstance(inner, torch.optim.Optimizer):
            note_optimizer(inner, memory)


def has_state(thing: Any) -> bool:
    """Whether ``thing`` can tell its state, and take it back."""
    return all(callable(getattr(thing, name, None)) for name in ("state_dict", "load_state_dict"))


def note_stateful(stateful: Any, memory: Memory) -> None:
    """A scheduler, an EMA: a module, optimizer or GradScaler as such, anything else by its state dict.

    Raises:
        ConfigurationError: it has no state_dict and load_state_dict.
    """
    if isinstance(stateful, nn.Module):
        note_modules([stateful], memory)
    elif isinstance(stateful, torch.optim.Optimizer):
        note_optimizer(stateful, memory)
    elif isinstance(stateful, GradScaler):  # its state dict lacks what a half-done step left, and what is made lazily
        memory.note(vars(stateful))
    elif has_state(stateful):
        memory.note_state(stateful.state_dict(), stateful.load_state_dict)
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
