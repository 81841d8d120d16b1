"""What a step of a Keras model can change: variables, attributes, gradients, random states."""

from __future__ import annotations

import operator
import pickle
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import FunctionType
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state  # has no public name

from findlr.search.interrupts import signals_wait
from findlr.search.kept import Kept, Put
from findlr.search.memory import Memory, Phase, remember_host_rng, undo_of_generator
from findlr.search.whose import is_foreign

_OWNERS = (
    keras.Layer,
    keras.metrics.Metric,
    keras.optimizers.Optimizer,
    keras.losses.Loss,
    keras.random.SeedGenerator,
)
_CONTAINERS = (list, dict, set, deque)
_GLOBAL_SEEDS = "global_seed_generator"


class Copies(Memory):
    """A memory that knows what the variables were."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[int, Any] = {}
        """The copy of each variable's value, by the variable's id."""


class Structure:
    """What Keras builds around a model when it begins to train: the attributes of all its parts, but no values.

    Args:
        model: the model.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model

    @signals_wait
    def snapshot(self) -> Memory:
        """What there is now, and the random states."""
        memory = Memory()
        remember_scopes(memory)
        _Parts(self._model).remember_attributes(memory)
        remember_rng(memory)
        return memory

    @signals_wait
    def restore(self, snapshot: Memory) -> None:
        """Put everything back."""
        snapshot.put_back()


def remember_model(model: keras.Model, memory: Copies) -> None:
    """Everything that a step can change but the place in the data; on JAX the variables must hold their values."""
    parts = _Parts(model)
    parts.remember_attributes(memory)
    parts.remember_values(memory)
    remember_rng(memory)


def remember_variables(variables: list[Any], memory: Memory) -> dict[int, Any]:
    """The values of variables; returns the copies, by the variables' ids."""
    kept = {id(variable): copy_of(variable.value) for variable in variables}
    for variable in variables:
        memory.add(partial(_assign, variable, kept[id(variable)]), name=f"the variable {variable.path}")
    return kept


def remember_scopes(memory: Memory) -> None:
    """What Keras has open in this thread, and torch's modes: a block that Ctrl-C breaks off may leave its own for ever.

    They come first, because within a scope of Keras's no variable is written.
    """
    kept = vars(global_state.GLOBAL_STATE_TRACKER)
    for each in (kept, *kept.values()):
        if isinstance(each, dict):
            memory.add(partial(_put_dict, each, dict(each)), Phase.PLACES, "Keras's scopes")
        elif isinstance(each, list):
            memory.add(partial(_put_items, each, list(each)), Phase.PLACES, "Keras's scopes")
    if keras.backend.backend() == "torch":
        from findlr.torch.snapshot.modes import remember_modes

        remember_modes(_gpus(sys.modules["torch"]), memory)


def remember_rng(memory: Memory) -> None:
    """The random states: Python's, NumPy's global one, Keras's global seeds, and torch's where it is in use."""
    remember_host_rng(memory)
    generator = global_state.get_global_attribute(_GLOBAL_SEEDS)
    memory.add(partial(global_state.set_global_attribute, _GLOBAL_SEEDS, generator), Phase.RANDOM, "Keras's seeds")
    if generator is not None:
        kept = copy_of(generator.state.value)
        memory.add(partial(_assign, generator.state, kept), Phase.RANDOM, "Keras's seeds")
    remember_torch_rng(memory)


def remember_torch_rng(memory: Memory) -> None:
    """Torch's random states, where it is in use."""
    if (torch := sys.modules.get("torch")) is not None:
        from findlr.torch.snapshot import notes

        notes.remember_torch_rng(_gpus(torch), memory)


def _gpus(torch: Any) -> list[Any]:
    on_gpu = keras.backend.backend() == "torch" and torch.cuda.is_initialized()
    return [torch.device("cuda")] if on_gpu else []


def random_states() -> Any:
    """All but torch's, for comparing them."""
    generator = global_state.get_global_attribute(_GLOBAL_SEEDS)
    return (
        random.getstate(),
        pickle.dumps(np.random.get_state(legacy=False)),  # noqa: NPY002 - users draw from it
        None if generator is None else keras.ops.convert_to_numpy(generator.state.value).tolist(),
    )


def copy_of(value: Any) -> Any:
    """A copy of a backend's tensor on its device, without its graph."""
    return keras.ops.copy(keras.ops.stop_gradient(value))


def seeds_of(model: keras.Model) -> list[Any]:
    """The states of all seed generators in a model."""
    return [owner.state for owner in _Parts(model).owners if isinstance(owner, keras.random.SeedGenerator)]


def puts_of(model: keras.Model) -> list[Put]:
    """What puts back each thing that functions and objects of the user's own in a model keep."""
    return _Parts(model).kept.puts()


def wraps_torch(model: keras.Model) -> bool:
    """Whether there is a module of torch's in a model: its tensors are no variables, or not only."""
    return any(isinstance(owner, getattr(keras.layers, "TorchModuleWrapper", ())) for owner in _Parts(model).owners)


def _is_noted(seen: set[int], kinds: Iterable[tuple[Any, list[Any]]], value: Any) -> bool:
    """Whether it was seen before, or is of one of the kinds, whose list notes it."""
    if id(value) in seen:
        return True
    for kind, noted in kinds:
        if isinstance(value, kind):
            seen.add(id(value))
            noted.append(value)
            return True
    return False


def _is_kept(kinds: tuple[type, ...], value: Any, least_dims: int) -> bool:
    if isinstance(value, (np.ndarray, keras.Variable, *kinds)):
        return True
    return keras.ops.is_tensor(value) and len(value.shape) >= least_dims


class _Parts:
    """All objects of Keras's, and of torch's, that a model is made of; and what the user's own in it keep."""

    def __init__(self, model: keras.Model) -> None:
        torch = sys.modules.get("torch") if keras.backend.backend() == "torch" else None
        owners = _OWNERS if torch is None else (*_OWNERS, torch.nn.Module)
        self._tensor: tuple[Any, ...] = () if torch is None else (torch.Tensor,)
        self.owners: list[Any] = [model]
        self._containers: list[Any] = []
        self._arrays: list[Any] = []
        self._variables: list[Any] = []
        self._tensors: list[Any] = []
        self._generators: list[tuple[Callable[[], Any], str]] = []
        seen = {id(model)}
        kinds = ((keras.Variable, self._variables), (self._tensor, self._tensors), (owners, self.owners))
        is_noted = partial(_is_noted, seen, kinds)  # not of self, which would be a cycle
        self.kept = Kept(partial(_is_kept, owners), lambda value: is_noted(value) or _is_keras(value))
        for owner in self.owners:  # which grows
            tracker = vars(owner).get("_tracker")
            for value in _nested([*vars(owner).values(), *getattr(tracker, "stored_ids", {}).values()]):
                if is_noted(value):
                    continue
                if isinstance(value, _CONTAINERS):
                    self._containers.append(value)
                elif isinstance(value, np.ndarray):
                    self._arrays.append(value)
                elif (undo := undo_of_generator(value)) is not None:
                    self._generators.append(undo)
                else:
                    self.kept.reach(value)
                    continue
                seen.add(id(value))
            self.kept.reach(*_functions_of(type(owner)))

    def remember_attributes(self, memory: Memory) -> None:
        """The attributes of all objects, with the items of containers, arrays and generators among them."""
        for owner in self.owners:
            own = vars(owner)
            memory.add(partial(_put_dict, own, dict(own)), name=f"the attributes of a {type(owner).__name__}")
        for container in self._containers:
            if isinstance(container, dict):
                memory.add(partial(_put_dict, container, dict(container)), name="a dict of the model's")
            else:
                memory.add(partial(_put_items, container, list(container)), name=f"a {type(container).__name__}")
        for array in self._arrays:
            memory.add(partial(np.copyto, array, array.copy()), name="an array of the model's")
        for undo, name in self._generators:
            memory.add(undo, Phase.RANDOM, name)
        for put in self.kept.puts():
            memory.add(put, name="what a function or an object of yours keeps")

    def remember_values(self, memory: Copies) -> None:
        """The values of variables, of tensors and of their gradients."""
        memory.values = remember_variables(self._variables, memory)
        if self._tensor:
            tensors = {id(tensor): tensor for tensor in self._tensors}
            theirs = {id(variable.value): variable.value for variable in self._variables}
            for tensor in {**tensors, **theirs}.values():
                if tensor.is_leaf or tensor.retains_grad:  # torch warns of those that have none
                    memory.add(partial(_put_gradient, tensor, tensor.grad, _copied(tensor.grad)), name="a gradient")
            for key in tensors.keys() - theirs.keys():
                memory.add(partial(_put_tensor, tensors[key], copy_of(tensors[key])), name="a tensor")


def _functions_of(kind: type) -> list[Any]:
    """The functions of a class of the user's own, which may name what a step changes."""
    kinds = [each for each in kind.__mro__ if not (is_foreign(each.__module__) or _is_keras_module(each.__module__))]
    return [value for each in kinds for value in vars(each).values() if isinstance(value, FunctionType)]


def _is_keras(value: Any) -> bool:
    """Whether it is a function of Keras's, or of a class of its own."""
    return _is_keras_module((value if isinstance(value, FunctionType) else type(value)).__module__ or "")


def _is_keras_module(module: str) -> bool:
    return module.partition(".")[0] == "keras"


def _nested(values: list[Any]) -> Iterator[Any]:
    """Values, and what is in the containers among them."""
    waiting, seen = deque(values), set()
    while waiting:
        value = waiting.popleft()
        if isinstance(value, (*_CONTAINERS, tuple)):
            if id(value) in seen:
                continue
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)
        yield value


def _assign(variable: Any, kept: Any) -> None:
    variable.assign(copy_of(kept))  # a step on JAX gives its buffers away


def _put_dict(target: dict[Any, Any], items: dict[Any, Any]) -> None:
    """Give a dict its items again, if it has others; past a dict of Keras's, which would look at each."""
    if list(target) != list(items) or not all(map(operator.is_, target.values(), items.values())):
        dict.clear(target)
        dict.update(target, items)


def _put_items(target: Any, items: list[Any]) -> None:
    if len(target) == len(items) and all(map(operator.is_, target, items)):
        return
    kind: Any = next(each for each in _CONTAINERS if isinstance(target, each))  # past what Keras makes of it
    kind.clear(target)
    (kind.update if kind is set else kind.extend)(target, items)


def _copied(gradient: Any) -> Any:
    return None if gradient is None else copy_of(gradient)


def _put_gradient(tensor: Any, gradient: Any, kept: Any) -> None:
    tensor.grad = gradient
    if gradient is not None:
        _put_tensor(gradient, kept)


def _put_tensor(tensor: Any, kept: Any) -> None:
    tensor.data.copy_(kept)
