"""A state as a list of leaves: a search steps copies of it, so that the user's own is never given away."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from findlr.analysis.numbers import real
from findlr.errors import ConfigurationError, LossError
from findlr.search.memory import Memory

ARRAYS = (jax.Array, np.ndarray, np.generic)

Leaves = list[Any]


@dataclass(frozen=True)
class Snapshot:
    """A state, and the way back to a place in the data.

    Args:
        leaves: of the state; no step is ever given them.
        memory: of the data and the random states.
    """

    leaves: Leaves
    memory: Memory

    def close(self) -> None:
        """Let go of it."""
        self.memory.close()


class Live(Protocol):
    """A state that steps change."""

    def leaves(self) -> Leaves:
        """Its leaves now."""

    def write(self, values: Mapping[int, Any]) -> None:
        """Put other leaves in these places."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function`` of the state and the arguments."""

    def take(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """Take a step; the loss that it tells."""

    def put(self, set_lr: Callable[..., Any], lr: Any) -> None:
        """Let a function of the user's own write a rate."""


class Form(Protocol):
    """The structure of a state, which makes a live one of leaves."""

    start: Leaves
    """The leaves of the user's own state: to be copied, and never given to a step."""

    paths: list[tuple[Any, ...]]
    """The keys that lead to each leaf."""

    arguments: int
    """How many arguments a step takes it as."""

    def live(self, leaves: Leaves) -> Live:
        """A state of these leaves, which its steps may use up."""


class Functional:
    """The form of a state that a step returns anew: any pytree.

    Args:
        state: the user's own.
    """

    arguments = 1

    def __init__(self, state: Any) -> None:
        pairs, self.treedef = jax.tree_util.tree_flatten_with_path(state)
        self.start = [leaf for _, leaf in pairs]
        self.paths = [keys_of(path) for path, _ in pairs]

    def live(self, leaves: Leaves) -> Live:
        """A state of these leaves."""
        return _Carried(self.treedef, leaves)


class _Carried:
    def __init__(self, treedef: Any, leaves: Leaves) -> None:
        self._treedef, self._leaves = treedef, list(leaves)

    def leaves(self) -> Leaves:
        return list(self._leaves)

    def write(self, values: Mapping[int, Any]) -> None:
        for place, value in values.items():
            self._leaves[place] = value

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(self._treedef.unflatten(self._leaves), *arguments)

    def take(self, step: Callable[..., Any], *arguments: Any) -> Any:
        told = self.call(step, *arguments)
        if not (isinstance(told, tuple) and len(told) in (2, 3)):
            raise LossError(f"step must return (state, loss) or (state, loss, aux), got {_kind(told)}")
        self._keep(told[0], "step must return (state, loss), with a state")
        return loss_in(told[1])

    def put(self, set_lr: Callable[..., Any], lr: Any) -> None:
        self._keep(self.call(set_lr, lr), "set_lr must return a state")

    def _keep(self, state: Any, who: str) -> None:
        leaves, structure = jax.tree.flatten(state)
        if structure != self._treedef:
            raise ConfigurationError(
                f"{who} of the structure that it was given, which had {self._treedef.num_leaves} leaves; got "
                f"{_kind(state)} of {structure.num_leaves} leaves"
            )
        self._leaves = leaves


def loss_in(told: Any) -> Any:
    """The loss in what a step or a loss function tells: itself, or with something else beside or after it.

    Raises:
        LossError: it is not one number.
    """
    loss = told[0] if isinstance(told, (tuple, list)) and told else told
    if isinstance(told, Mapping):
        loss = told.get("loss")
    is_real = isinstance(loss, (int, float)) or (isinstance(loss, ARRAYS) and jnp.issubdtype(loss.dtype, jnp.floating))
    if not is_real or isinstance(loss, bool):
        raise LossError(
            f'the loss must be one real number, itself, first in a tuple, or a dict\'s "loss"; got {_kind(told)}'
        )
    if np.shape(loss):
        raise LossError(f"the loss must be one number, got shape {np.shape(loss)}: reduce it, with .mean() say")
    return loss


def copied(leaf: Any) -> Any:
    """A copy of a leaf where its values could be used up or written to: of the same type, on the same devices.

    Raises:
        ConfigurationError: it can't be copied.
    """
    if isinstance(leaf, jax.Array):
        return jnp.copy(leaf)
    if callable(leaf):
        return leaf
    try:
        return copy.deepcopy(leaf)
    except Exception as error:
        raise ConfigurationError(
            f"a leaf of state, of type {type(leaf).__name__}, can't be copied, so it could not be put back: register "
            "its class as a pytree, or keep it out of the state"
        ) from error


def is_real(leaf: Any) -> bool:
    """Whether a leaf holds real numbers, as weights and statistics do, and keys and counts do not."""
    return isinstance(leaf, ARRAYS) and bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


def number_in(leaf: Any) -> float | None:
    """The real number in a leaf: itself, in an array, or once for each copy of a replicated state; None if others are.

    Args:
        leaf: of any kind.
    """
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return None
    array = np.asarray(leaf)
    is_one = array.size > 0 and bool((array == array.flat[0]).all())
    return real(array.flat[0].item()) if is_one else None


def numbers_in(leaves: Leaves) -> list[int]:
    """The places of Python's numbers."""
    return [place for place, leaf in enumerate(leaves) if isinstance(leaf, (int, float, complex))]


def devices_of(leaves: Leaves) -> set[Any]:
    """The devices that the arrays are on."""
    return {device for leaf in leaves if isinstance(leaf, jax.Array) for device in leaf.sharding.device_set}


def keys_of(path: Any) -> tuple[Any, ...]:
    """The keys, names and numbers of a path of JAX's; that of a variable of nnx leads to the variable."""
    keys = tuple(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))) for key in path)
    return keys[:-1] if keys[-1:] == ("value",) else keys


def _kind(value: Any) -> str:
    return f"{len(value)} values" if type(value) is tuple else type(value).__name__
