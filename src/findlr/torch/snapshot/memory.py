"""A memory of tensors: copies made once, and put back in place.

Identity is kept: the same Parameter, the same buffer, the same tensor rate, the same state dict, with the old values
copied back into them. What a step added is removed again.
"""

# ruff: noqa: SLF001 - what a module holds by itself has private names only

from __future__ import annotations

import operator
from array import array
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from findlr.analysis.text import told
from findlr.errors import ConfigurationError
from findlr.search.memory import Memory, Phase, errors_of, undo_of_generator
from findlr.search.objects import refill, set_slots, slots_of
from findlr.search.whose import is_plain
from findlr.torch.data.nesting import tensors_in
from findlr.torch.snapshot.hooks import STANDARD
from findlr.torch.snapshot.modules import attributes_of_scripted, extras_of, put_classes, put_extras, put_scripted
from findlr.torch.snapshot.reach import NAMELESS, generators_named
from findlr.torch.snapshot.stores import RELIEF, Kind, Store, Stored, keep_all, named, nbytes_of, put_kinds, writable

_FIXED = {bool, int, float, str, type(None)}  # what can't change in place
_USUAL = {torch.Tensor, nn.Parameter}  # other classes may not know the calls that take many tensors
_DICTS = {dict, OrderedDict}


class TorchMemory(Memory):
    """Copies of tensors, each made once however many names the tensor has, and the containers that hold them.

    Things are noted first; then their tensors are copied together, once their bytes are counted and a store is chosen.
    For the sake of 10,000 small tensors there is a list for each kind of thing, and no closure for each thing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self._noted: dict[int, torch.Tensor] = {}  # by id; not copied yet
        self._states: list[tuple[Any, Callable[[Any], Any], str]] = []  # state dicts, who takes them, and its name
        self._groups: list[tuple[list[torch.Tensor], list[Any], list[Kind]]] = []  # tensors, copies, what they were
        self._copied: set[int] = set()  # their ids
        self._seen: set[int] = set()  # the ids of containers, and of parameters whose gradient is noted
        self._values: dict[Callable[[Any, Any], Any], tuple[list[Any], list[Any]]] = {}

    def each(self, put: Callable[[Any, Any], Any], owners: Iterable[Any], values: Iterable[Any]) -> None:
        """Call ``put(owner, value)`` for each pair when everything is put back."""
        owners, values = list(owners), list(values)
        all_owners, all_values = self._values.setdefault(put, ([], []))
        all_values.extend(values)  # first: a signal between the two leaves no owner without its value
        all_owners.extend(owners)

    def close(self) -> None:
        """Let go of everything that is kept, wherever it is."""
        for kept in (self._noted, self._states, self._groups, self._values):
            kept.clear()
        self.store.close()
        super().close()

    def _put(self, phase: Phase) -> list[tuple[str, BaseException]]:
        failures = super()._put(phase)
        if phase is not Phase.VALUES:
            return failures
        with torch.no_grad():
            for tensors, copies, kinds in self._groups:
                errors = errors_of(put_kinds, [tensors], [kinds])
                failures += [("the type, the device or the shape of a tensor", error) for error in errors]
                if len(tensors) == 1 or errors_of(self.store.copy_back, [tensors], [copies]):  # so one by one
                    for tensor, copy in zip(tensors, copies, strict=True):
                        failures += [(named(tensor), error) for error in errors_of(self._copy_back, [tensor], [copy])]
        for put, (owners, values) in self._values.items():
            rows = owners, values[: len(owners)]
            failures += [("a flag, a gradient or a container", error) for error in errors_of(put, *rows)]
        return failures

    def _copy_back(self, tensor: torch.Tensor, copy: Any) -> None:
        with torch.inference_mode() if tensor.is_inference() else nullcontext():  # else it can't be written to
            self.store.copy_back([writable(tensor)], [copy])

    def _check(self, tensor: torch.Tensor, copy: Any) -> None:
        """Put the copy of an unusual tensor back into a second one, because that must not fail in the end.

        Raises:
            ConfigurationError: it can't be put back.
        """
        try:
            self.store.copy_back([tensor.detach().clone()], [copy])
        except Exception as error:
            raise ConfigurationError(
                f"{named(tensor)} could not be put back ({told(error)}); nothing was changed. Let its class have "
                "clone and copy_, or replace it by a plain tensor"
            ) from error

    def copies_of(self, tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """The copies of tensors that were remembered, in their shapes; not to be written to."""
        copies = {id(t): copy for group in self._groups for t, copy in zip(*group[:2], strict=True)}
        read = ((tensor, self.store.read(copies[id(tensor)])) for tensor in tensors)
        return [kept if kept.shape == t.shape else kept.as_strided(t.shape, t.stride()) for t, kept in read]

    def note(self, *values: Any, worth: _Worth = None, objects: bool = False) -> None:
        """Note each of ``values`` that can change in place, and all that it holds; ``copy`` must follow.

        Args:
            values: tensors, arrays, random generators, modules, and containers of such.
            worth: tells which tensors and arrays to copy; None copies all.
            objects: note the attributes of objects of other classes, too; else those are left alone.
        """
        noted, seen, (containers, contents) = self._noted, self._seen, self._values.setdefault(refill, ([], []))
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
                contents.append(items := dict(value))
                containers.append(value)
                todo += items.values()
            elif isinstance(value, (list, set, deque)):
                seen.add(id(value))
                contents.append(members := list(value))
                containers.append(value)
                todo += members
            elif isinstance(value, tuple):
                todo += value
            else:
                todo += self._note_other(value, worth, objects=objects)

    def note_attributes(self, value: Any) -> list[Any]:
        """Note what the attributes of an object are; return them, because they may change in place as well."""
        found: list[Any] = []
        if hasattr(value, "__dict__"):
            names = dict(vars(value))
            self.each(refill, [vars(value)], [names])
            found += names.values()
        slots = slots_of(value)
        if slots or not hasattr(value, "__dict__"):
            self.each(set_slots, [value], [slots])
            found += slots.values()
        return found

    def _note_other(self, value: Any, worth: _Worth, *, objects: bool) -> list[Any]:
        """Note a module, an array, a random generator or, if they are wanted, an object; return what that holds."""
        if isinstance(value, nn.Module):
            self.note_modules([value])
        elif isinstance(value, (bytearray, array)):
            self.each(_refill_whole, [value], [value[:]])
        elif isinstance(value, np.ndarray):
            if value.flags.writeable and (worth is None or worth(value)):
                self.add(partial(np.copyto, value, value.copy()), name="a NumPy array")
        elif isinstance(value, torch.Generator):
            self.add(partial(value.set_state, value.get_state()), Phase.RANDOM, "a torch.Generator")
        elif (undo := undo_of_generator(value)) is not None:
            self.add(undo[0], Phase.RANDOM, undo[1])
        elif objects and is_plain(value):
            self._seen.add(id(value))
            return self.note_attributes(value)
        return []

    def note_modules(self, modules: Iterable[nn.Module], worth: _Worth = None) -> None:
        """Note all of ``modules`` and of those inside them; ``worth`` is as in ``note``.

        Parameters, their hooks and whether they are trained, buffers (non-persistent too), gradients, train flags,
        hooks, submodules, the class; and each other attribute: numbers by their value, containers, tensors and arrays
        by what they hold.
        """
        inside = {id(module): module for root in modules for module in root.modules()}
        new = [module for key, module in inside.items() if key not in self._seen]
        self._seen.update(map(id, new))
        scripted = [module for module in new if isinstance(module, torch.jit.ScriptModule)]  # no attributes in Python
        plain = [module for module in new if not isinstance(module, torch.jit.ScriptModule)] if scripted else new
        self.each(put_classes, [plain], [[(type(m), set(m._non_persistent_buffers_set)) for m in plain]])
        self.each(_put_attributes, plain, [_attributes(module) for module in plain])
        self.note(*[module._parameters for module in plain], *[module._buffers for module in plain], worth=worth)
        other = [
            value
            for module in plain
            for name, value in vars(module).items()
            if name not in STANDARD and type(value) not in _FIXED and not isinstance(value, nn.Module)
        ]
        parameters: list[torch.Tensor] = [p for m in plain for p in m._parameters.values() if p is not None]
        self.note(*other, *filter(None, map(vars, parameters)), worth=worth)  # and what parameters have as attributes
        if code := [*set(map(type, new)) - NAMELESS, *filter(callable, other)]:
            self.note(*generators_named(code))
        buffers = [b for m in plain for b in m._buffers.values() if b is not None and b.is_leaf]
        for module in scripted:
            attributes = attributes_of_scripted(module)
            self.note(*module.parameters(recurse=False), *attributes.values(), worth=worth)
            self.each(put_scripted, [module], [attributes])
            self.each(nn.Module.train, [module], [module.training])
            parameters += module.parameters(recurse=False)
        leaves = parameters + buffers  # a buffer may take part in a loss, and then it gets a gradient, too
        self.each(_set_requires_grad, [leaves], [list(map(operator.attrgetter("requires_grad"), leaves))])
        self.each(put_extras, [parameters], [extras_of(parameters)])
        self.note_gradients(leaves, worth)

    def note_gradients(self, parameters: Iterable[torch.Tensor], worth: _Worth = None) -> None:
        """Note the gradients of these parameters, present or None."""
        new = {id(p): p for p in parameters if id(p) not in self._seen}
        self._seen.update(new)
        gradients = [parameter.grad for parameter in new.values()]
        self.each(_set_gradient, new.values(), gradients)
        self.note(*gradients, worth=worth)

    def note_state(self, state: Any, load: Callable[[Any], Any], name: str) -> None:
        """Note a state dict, what takes it back, and what that is called."""
        self._states.append((state, load, name))

    def copy(self, choose: Callable[[int], Store] | None = None) -> None:
        """Copy what was noted.

        Args:
            choose: gives the store for so many bytes; None is the one there is, at first the tensors' own device.
        """
        if choose is None and not self._noted and not self._states:
            return
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
        once = [tensors if len(tensors) > 1 else [writable(tensors[0])] for tensors in groups.values()]
        states = [list(tensors_in(state)) for state, _, _ in self._states]
        if choose is not None:
            self.store = choose(sum(map(nbytes_of, once + states)))
            self.relief = RELIEF if self.store.on_device and tuple in map(type, groups) else ""
        with torch.no_grad():
            kept, kinds = keep_all(self.store, once, groups.values())
            for tensors, copies in zip(once, kept, strict=True):
                if type(tensors[0]) not in _USUAL or tensors[0].layout is not torch.strided:
                    self._check(tensors[0], copies[0])
            memos = [{id(t): Stored(self.store, *self.store.keep([t])) for t in tensors} for tensors in states]
        self._groups += zip(groups.values(), kept, kinds, strict=True)
        self._copied.update(self._noted)
        for (state, load, name), memo in zip(self._states, memos, strict=True):
            self.add(partial(_load, load, deepcopy(state, memo)), name=name)
        self._noted.clear()
        self._states.clear()


_set_gradient: Any = vars(torch._C.TensorBase)["grad"].__set__  # no Python call for each tensor

_Worth = Callable[[Any], bool] | None
_Names = list[tuple[dict[Any, Any], dict[Any, Any]]]


def _attributes(module: nn.Module) -> _Names:
    """A module's attributes, and what its own dicts hold: hooks, submodules, names of tensors."""
    own = vars(module)
    found: _Names = [(own, dict(own))]
    for value in own.values():
        if type(value) in _DICTS:
            found += [(value, dict(value))]
    return found


def _put_attributes(_: nn.Module, saved: _Names) -> None:
    """Give each dict the same objects again, if it has others."""
    for own, names in saved:
        if own.keys() != names.keys() or not all(map(operator.is_, own.values(), names.values())):
            own.clear()
            own.update(names)


def _set_requires_grad(parameters: list[torch.Tensor], flags: list[bool]) -> None:
    for parameter, requires_grad in zip(parameters, flags, strict=True):
        if parameter.requires_grad is not requires_grad and parameter.is_leaf:
            parameter.requires_grad_(requires_grad)


def _refill_whole(target: Any, items: Any) -> None:
    target[:] = items


def _load(load: Callable[[Any], Any], state: Any) -> None:
    load(deepcopy(state))
