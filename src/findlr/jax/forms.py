"""The form of a state: any pytree, or objects of flax's nnx that a step changes in place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from findlr.errors import ConfigurationError
from findlr.jax.parameters import takes_one_state
from findlr.jax.state import ARRAYS, Form, Functional, Leaves, Live, is_real, keys_of, loss_in


def form_of(state: Any, step: Callable[..., Any]) -> Form:
    """The form of a state: one that a step returns anew, or objects of flax's nnx that a step changes in place.

    Args:
        state: the user's own.
        step: takes it, several objects of nnx one by one or all as its first argument.

    Raises:
        ConfigurationError: it holds nothing that can be trained, or arrays that were given away.
    """
    if (several := _objects_of(state)) is not None:
        as_one = len(several) > 1 and takes_one_state(step)
        form: Form = InPlace(several, type(state) if as_one else None, sys.modules["flax.nnx"])
    else:
        form = Functional(state)
    arrays = [leaf for leaf in form.start if isinstance(leaf, ARRAYS)]
    if not any(map(is_real, arrays)):
        raise ConfigurationError(
            f"state must be a pytree with arrays to train, as step takes it and returns it, got {type(state).__name__} "
            "without any"
        )
    if any(isinstance(array, jax.Array) and array.is_deleted() for array in arrays):
        raise ConfigurationError(
            "state holds arrays that were given away to a step (donated): give the state that the last step returned"
        )
    return form


def _objects_of(state: Any) -> tuple[Any, ...] | None:
    """A state as a tuple of objects, if one of nnx is among them."""
    several = tuple(state) if type(state) in (tuple, list) else (state,)
    pytree = getattr(sys.modules.get("flax.nnx"), "Pytree", ())
    return several if any(isinstance(each, pytree) for each in several) else None


class InPlace:
    """The form of objects of flax's nnx, which a step changes in place, or returns.

    Args:
        objects: the user's own.
        gathers: makes of them the one argument that a step takes, a tuple or a list; None gives them one by one.
        nnx: the module.
    """

    def __init__(self, objects: Sequence[Any], gathers: type | None, nnx: Any) -> None:
        self.nnx, self.gathers = nnx, gathers
        self.arguments = len(objects) if gathers is None else 1
        self.graphdef, tree = nnx.split(tuple(objects))
        pairs, self._treedef = jax.tree_util.tree_flatten_with_path(tree)
        self.start = [leaf for _, leaf in pairs]
        self.paths = [keys_of(path) for path, _ in pairs]

    def live(self, leaves: Leaves) -> Live:
        """Objects of these leaves."""
        return _Changed(self, self.nnx.merge(self.graphdef, self._treedef.unflatten(leaves)))


class _Changed:
    def __init__(self, form: InPlace, objects: tuple[Any, ...]) -> None:
        self._form, self._objects = form, objects
        self._variables = self._variables_of(objects)

    def _variables_of(self, objects: tuple[Any, ...]) -> list[Any]:
        """The variables of objects, one for each leaf."""
        nnx = self._form.nnx
        there = {path: node for path, node in nnx.iter_graph(objects) if isinstance(node, nnx.Variable)}
        if missing := [path for path in self._form.paths if path not in there]:
            raise ConfigurationError(
                f"state must hold objects of nnx alone, as step changes them: {missing[0]} is no nnx.Variable; give it "
                "to step in another way, or make it one"
            )
        return [there[path] for path in self._form.paths]

    def leaves(self) -> Leaves:
        return [variable.get_raw_value() for variable in self._variables]

    def write(self, values: Mapping[int, Any]) -> None:
        for place, value in values.items():
            self._variables[place].set_raw_value(value)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        gathers = self._form.gathers
        return function(*(self._objects if gathers is None else [gathers(self._objects)]), *arguments)

    def take(self, step: Callable[..., Any], *arguments: Any) -> Any:
        told = self.call(step, *arguments)
        returned = _objects_of(told[0]) if type(told) is tuple and len(told) in (2, 3) else None
        if returned is None:
            return loss_in(told)
        self._keep(returned)
        return loss_in(told[1])

    def put(self, set_lr: Callable[..., Any], lr: Any) -> None:
        returned = _objects_of(self.call(set_lr, lr))
        if returned is not None:
            self._keep(returned)

    def _keep(self, objects: tuple[Any, ...]) -> None:
        """Go on with objects that a function has returned, which may be those that it was given."""
        if any(one is not other for one, other in zip(self._objects, objects, strict=False)):
            self._variables, self._objects = self._variables_of(objects), objects
