"""What a step can change, and how each kind of thing is remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from findlr.errors import ConfigurationError
from findlr.search.batches import Remembers, has_state
from findlr.search.interrupts import signals_wait
from findlr.search.kept import in_order, kept_in, put_kept
from findlr.search.memory import Memory, Phase, remember_host_rng
from findlr.search.objects import CACHED, SMALL_BYTES, is_small, refill_if_changed
from findlr.torch.snapshot.counted import Counted, Named, warn_of_caches
from findlr.torch.snapshot.drawn import warn_of_draws
from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.snapshot.reach import NAMELESS, Reached, generators_in, generators_named, reached_from
from findlr.torch.snapshot.stores import bytes_of
from findlr.torch.snapshot.written import warn_of_changes, warn_of_many, warn_of_writes

# Where it was replaced, it is put back; and so are tensors, and NumPy's and Python's generators.
_KEPT = (nn.Module, torch.optim.Optimizer, LRScheduler, GradScaler, DataLoader, torch.Generator, np.ndarray)


def note_optimizer(optimizer: torch.optim.Optimizer, memory: TorchMemory) -> None:
    """Parameters, gradients, state, the groups with their rates, and the flags that schedulers read."""
    memory.note(vars(optimizer), objects=True)
    if type(optimizer) not in NAMELESS:
        memory.note(*generators_named([type(optimizer)]))
    memory.note_gradients([parameter for group in optimizer.param_groups for parameter in group["params"]])
    for inner in vars(optimizer).values():
        if isinstance(inner, torch.optim.Optimizer):
            note_optimizer(inner, memory)


def note_tensors(tensors: Iterable[torch.Tensor], memory: TorchMemory) -> None:
    """Tensors of no module that a function uses: those that are trained, and small ones; large ones are watched.

    A large one may be the user's data. If it was changed, a warning names it, because it could not be put back.
    """
    large: list[torch.Tensor] = []
    for tensor in tensors:
        if tensor.is_leaf and (tensor.requires_grad or bytes_of(tensor) <= SMALL_BYTES):
            memory.note(tensor)
            memory.note_gradients([tensor])
        elif not tensor.is_inference():
            large.append(tensor)
    if large:
        warn_of_changes(large, memory)


class Around:
    """Tensors and small arrays that functions and objects keep, and iterators that they draw from.

    Args:
        reached: what was found.
        owned: objects and classes that are put back with their numbers, whatever else they keep.
    """

    def __init__(self, reached: Reached, owned: Iterable[Any] = ()) -> None:
        self._reached, self._owned = reached, set(map(id, owned))

    def remember(self, memory: TorchMemory) -> None:
        """Put them back with ``memory``; warn of iterators that were drawn from, and of large arrays that changed."""
        if self._reached.arrays:
            memory.note(*filter(is_small, self._reached.arrays))
            warn_of_writes(self._reached.arrays, memory)
        holders, owned = in_order(self._reached.holders), set(self._owned)  # which grows
        memory.each(lambda each, kept: put_kept(each, kept, _is_kept, owned), holders, map(kept_in, holders))
        warn_of_draws(self._reached.iterators, memory)
        warn_of_many(self._reached.many, memory)
        warn_of_caches([each for each in holders if isinstance(each, CACHED)], _is_kept, memory)


def _is_kept(value: Any, least_dims: int) -> bool:
    return isinstance(value, _KEPT) or (isinstance(value, torch.Tensor) and value.dim() >= least_dims)


class Watched:
    """What a training's functions keep: their tensors are put back; a number that has changed is named in a warning.

    Numbers are not put back, because what a function of the user's own counts may be meant to stay.

    Args:
        functions: functions, objects and classes.
        own: whether they are a module's own, so that their numbers are put back, too.
    """

    def __init__(self, *functions: Any, own: bool = False) -> None:
        self._functions, self._own = functions, own
        self._numbers = Counted(*functions)

    def remember(self, memory: TorchMemory) -> None:
        """Put the tensors back with ``memory``, and look at the numbers again once all of it is."""
        reached = reached_from(*self._functions)
        Around(reached, self._functions if self._own else ()).remember(memory)
        self._numbers.look_again(memory, reached)


Watches = Around | Watched | Counted | Named
"""What functions keep, and is put back or told."""


def note_stateful(stateful: Any, memory: TorchMemory) -> None:
    """Note an object in ``restore=``: a module, optimizer or GradScaler as such, anything else by its state dict.

    What can remember itself, as a framework's step can, does.

    Raises:
        ConfigurationError: it has no state_dict and load_state_dict.
    """
    if isinstance(stateful, nn.Module):
        memory.note_modules([stateful])
    elif isinstance(stateful, torch.optim.Optimizer):
        note_optimizer(stateful, memory)
    elif isinstance(stateful, GradScaler):  # its state dict lacks what an unfinished step left, and what is made lazily
        memory.note(vars(stateful))
    elif isinstance(stateful, Remembers):
        stateful.remember(memory)
    else:
        check_stateful(stateful)
        if isinstance(stateful, LRScheduler):  # so that its lists stay the same objects, whatever it makes of its state
            memory.note(vars(stateful))
        memory.note_state(stateful.state_dict(), stateful.load_state_dict, f"the {type(stateful).__name__}")


def check_stateful(stateful: Any) -> None:
    """Refuse what can't be put back.

    Raises:
        ConfigurationError: it has no state_dict and load_state_dict.
    """
    if not has_state(stateful):
        raise ConfigurationError(
            f"restore= takes objects with state_dict and load_state_dict, got {type(stateful).__name__}: give it both"
        )


def remember_rng(devices: Iterable[torch.device], memory: Memory) -> None:
    """The random states: Python's, NumPy's global one, torch's on the CPU, and on each of ``devices``."""
    remember_host_rng(memory)
    remember_torch_rng(devices, memory)


def remember_torch_rng(devices: Iterable[torch.device], memory: Memory) -> None:
    """Torch's random states: on the CPU, and on each of ``devices``."""
    memory.add(partial(torch.set_rng_state, torch.get_rng_state()), Phase.RANDOM, "torch's random state")
    for device in devices:
        if device.type != "cpu":
            backend = torch.get_device_module(device)
            state = backend.get_rng_state(device)
            memory.add(partial(backend.set_rng_state, state, device), Phase.RANDOM, f"the random state of {device}")


class Attributes:
    """Objects that no state dict tells of, such as a trainer: their attributes are put back, by name.

    Containers among the values get their items back, and tensors in them their numbers. Modules, data and objects of
    other classes are left alone: a snapshot of the training has the first, and the last may be given here, too.

    Args:
        owners: the objects.
        but: names whose values are not looked into, because they may be data.
        worth: tells which tensors and arrays in them to copy; None copies all.
        structures: modules and optimizers, put back whole but for tensors with dimensions, which a search remembers.
        devices: whose random states are put back, beside Python's, NumPy's and torch's on the CPU.

    Example:
        >>> from types import SimpleNamespace
        >>> from findlr.search.restoring import restored
        >>> state = SimpleNamespace(iteration=3, losses=[0.5])
        >>> with restored(Attributes(state)):
        ...     state.iteration, state.epoch = 4, 1
        ...     state.losses.append(0.25)
        >>> state
        namespace(iteration=3, losses=[0.5])
    """

    def __init__(
        self,
        *owners: Any,
        but: Iterable[str] = (),
        worth: Callable[[Any], bool] | None = None,
        structures: Iterable[Any] = (),
        devices: Iterable[torch.device] = (),
    ) -> None:
        self._owners, self._but, self._worth = owners, frozenset(but), worth
        self._structures, self._devices = list(structures), list(devices)

    def remember(self, memory: TorchMemory) -> None:
        """Note them in a memory of a whole training."""
        for each in self._structures:  # first, so that their tensors are not copied where an owner holds them
            if isinstance(each, nn.Module):
                memory.note_modules([each], worth=_is_scalar)
            else:
                memory.note(vars(each), worth=_is_scalar, objects=True)
        for owner in self._owners:
            but = [value for name, value in vars(owner).items() if name in self._but]
            for value in memory.note_attributes(owner):
                if not (isinstance(value, nn.Module) or any(value is each for each in but)):
                    memory.note(value, worth=self._worth)

    def snapshot(self) -> TorchMemory:
        """What the attributes are now, and the random states."""
        memory = TorchMemory()
        self.remember(memory)
        memory.copy()
        remember_rng(self._devices, memory)
        return memory

    @signals_wait
    def restore(self, snapshot: TorchMemory) -> None:
        """Put everything back."""
        snapshot.put_back()


def _is_scalar(value: Any) -> bool:
    return bool(value.ndim == 0)


class Held:
    """What a user's objects hold that a framework calls while it prepares or draws, such as a split or a data module.

    However deep: the attributes of objects, containers, random generators, modules, optimizers; the numbers of small
    tensors and arrays. Large ones may be data, and so may containers of many items.

    Args:
        roots: the objects.
        but: objects inside them that somebody else puts back.

    Example:
        >>> import numpy as np
        >>> from types import SimpleNamespace
        >>> split, memory = SimpleNamespace(rng=np.random.RandomState(0), used=0), TorchMemory()
        >>> Held(split).remember(memory)
        >>> memory.copy()
        >>> first, split.used = split.rng.rand(), 1
        >>> memory.put_back()
        >>> split.rng.rand() == first, split.used
        (True, 0)
    """

    def __init__(self, *roots: Any, but: Iterable[Any] = ()) -> None:
        self._roots, self._but = list(roots), list(but)

    def remember(self, memory: TorchMemory) -> None:
        """Note it in a memory of a whole training."""
        holders: list[Any] = []
        memory.note(*generators_in(self._roots, holders, but=self._but))
        for holder in holders:
            memory.add(partial(refill_if_changed, holder, copy(holder)), name="an attribute or a container")
            for value in holder.values() if isinstance(holder, dict) else holder:
                if isinstance(value, (nn.Module, torch.optim.Optimizer)):
                    if not any(value is each for each in self._but):
                        note_stateful(value, memory)
                elif isinstance(value, (torch.Tensor, np.ndarray)) and bytes_of(value) <= SMALL_BYTES:
                    memory.note(value)
