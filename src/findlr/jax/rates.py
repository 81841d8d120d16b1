"""How a rate is written: into what ``optax.inject_hyperparams`` keeps, by a function, or as an argument of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from findlr.errors import ConfigurationError, OptimizerError
from findlr.jax.parameters import RATE, by_position, check_takes_state, parameters_of
from findlr.jax.state import ARRAYS, Form, Leaves, Live, is_real, number_in
from findlr.search.rounding import rounded

_AS_CLOSE = 1e-2  # relative: a rate may be rounded to bfloat16


class Rate:
    """How a rate is written; by itself, nowhere."""

    ratios: tuple[float, ...] = (1.0,)
    name = "learning_rate"
    """What the user calls it."""

    def write(self, live: Live, lr: Any) -> None:
        """Write a rate into a state; a number, or an array of one."""

    def arguments(self, lr: Any) -> tuple[Any, ...]:  # noqa: ARG002 - a subclass uses it
        """What a step is given besides the state and the batch."""
        return ()

    def acting(self, lr: float) -> float:
        """The rate that acts when asked for ``lr``: rounded to an array's type."""
        return _rounded(lr)

    def check(self, live: Live, lr: float) -> None:
        """Look at the state after a step at ``lr``.

        Raises:
            ConfigurationError: another rate acted.
        """


def rate_of(step: Callable[..., Any], form: Form, set_lr: Callable[..., Any] | None) -> Rate:
    """The way in which a training takes its rate.

    Args:
        step: the step.
        form: of its state.
        set_lr: writes a rate into a state; None looks for another way.

    Raises:
        ConfigurationError: there is no way, or there are two, or ``step`` or ``set_lr`` takes something else.
    """
    name = _name_of_rate(step, form.arguments + 1)
    check_takes_state(step, "step", form.arguments, "batch", *([] if name is None else [name]))
    if set_lr is not None:
        check_takes_state(set_lr, "set_lr", form.arguments, "lr")
        if name is not None:
            raise ConfigurationError(f"step takes the rate itself, as {name!r}: leave set_lr out")
        return _Set(set_lr)
    if name is not None:
        return _Argument(name)
    places = [i for i, path in enumerate(form.paths) if path[-2:] == ("hyperparams", "learning_rate")]
    if not places:
        raise OptimizerError(
            "no learning rate was found in the state: build the optimizer as "
            "optax.inject_hyperparams(optax.adamw)(learning_rate=0.1), say, or give set_lr=, a function "
            "set_lr(state, lr) -> state, or let step take the rate, as step(state, batch, lr)"
        )
    return _Injected(places, form.start)


def _name_of_rate(step: Callable[..., Any], count: int) -> str | None:
    """The name of a parameter of ``step`` that follows the state and the batch; None if it takes no rate.

    Raises:
        ConfigurationError: something else must follow.
    """
    parameters = parameters_of(step)
    following = by_position(parameters)[count:]
    if following and RATE.search(following[0].name):
        return following[0].name
    following += [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    following = [p for p in following if p.default is p.empty]
    if following and RATE.search(name := following[0].name):
        raise ConfigurationError(
            f"step takes its rate, {name!r}, by keyword alone: let it follow the batch, as step(state, batch, {name})"
        )
    if following:
        raise ConfigurationError(
            f"step is called as step(state, batch), and its parameter {following[0].name!r} would stay empty: let it "
            "take and return one state, such as (params, opt_state), and take one batch, such as (x, y); a rate is "
            "called lr or learning_rate"
        )
    return None


class _Injected(Rate):
    """The rates that ``inject_hyperparams`` keeps, wherever they are; those of several groups keep their ratios.

    Args:
        places: of the rates among the leaves.
        leaves: of the user's state.

    Raises:
        OptimizerError: a rate is no number, or of a type that holds none, or none is above 0.
    """

    def __init__(self, places: list[int], leaves: Leaves) -> None:
        self._places, self._leaves = places, [leaves[place] for place in places]
        base = [number for leaf in self._leaves if (number := number_in(leaf)) is not None and math.isfinite(number)]
        if len(base) < len(self._leaves):
            raise OptimizerError(f"the state's learning_rate is not one finite number: {self._leaves}")
        for leaf in self._leaves:
            _check_holds(leaf)
        largest = max(base)
        if len(base) > 1 and largest <= 0:
            raise OptimizerError(f"the state's learning rates are {base}: give at least one group a rate above 0")
        self.ratios = tuple(rate / largest for rate in base) if largest > 0 else (1.0,)

    def write(self, live: Live, lr: Any) -> None:
        made = zip(self._places, self._leaves, self.ratios, strict=True)
        live.write({place: _like(leaf, lr * ratio) for place, leaf, ratio in made})

    def acting(self, lr: float) -> float:
        return self._asked(lr)[self.ratios.index(1.0)]

    def _asked(self, lr: float) -> list[float]:
        """What the rate of each group becomes in its type."""
        pairs = zip(self._leaves, self.ratios, strict=True)
        return [_rounded(lr * ratio, getattr(leaf, "dtype", None)) for leaf, ratio in pairs]

    def check(self, live: Live, lr: float) -> None:
        now = live.leaves()
        acted, asked = [float(np.asarray(now[place]).flat[0]) for place in self._places], self._asked(lr)
        if not np.allclose(acted, asked, rtol=_AS_CLOSE, atol=0):
            raise _overridden(asked, acted)


class _Set(Rate):
    """A rate that a function of the user's own writes.

    Args:
        set_lr: ``set_lr(state, lr)`` returns the state with that rate, or writes it into objects of nnx.
    """

    def __init__(self, set_lr: Callable[..., Any]) -> None:
        self._set = set_lr
        self._is_held = False  # the rate, by the type of where it is written

    def write(self, live: Live, lr: Any) -> None:
        before = live.leaves()
        live.put(self._set, lr if isinstance(lr, jax.Array) else jnp.asarray(float(lr)))
        if not (self._is_held or isinstance(lr, jax.Array)):
            for _, old, new in _differing(before, live.leaves()):
                if is_real(new):
                    _check_holds(old)
                    _rounded(lr, getattr(old, "dtype", None))
            self._is_held = True
        # Of the type that the state had: for another one the step would be traced again.
        live.write({place: _like(old, new) for place, old, new in _differing(before, live.leaves())})

    def check(self, live: Live, lr: float) -> None:
        after_step = live.leaves()
        self.write(live, lr)
        for _, stood, asked in _differing(after_step, live.leaves()):
            if not np.allclose(np.asarray(stood, float), np.asarray(asked, float), rtol=_AS_CLOSE, atol=0):
                raise _overridden(np.asarray(asked).tolist(), np.asarray(stood).tolist())
        self.write(live, lr + 1)
        if all(np.array_equal(one, other) for _, one, other in _differing(after_step, live.leaves())):
            raise OptimizerError("set_lr changes nothing in the state: it must write the rate where the step reads it")
        self.write(live, lr)


class _Argument(Rate):
    """A rate that the step takes itself; nothing tells what it does with it.

    Args:
        name: of its parameter.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def arguments(self, lr: Any) -> tuple[Any, ...]:
        return (lr if isinstance(lr, jax.Array) else jnp.asarray(float(lr)),)


def _check_holds(leaf: Any) -> None:
    """Refuse a rate in an array of integers, which holds none between 0 and 1.

    Raises:
        OptimizerError: it is one.
    """
    if isinstance(leaf, ARRAYS) and jnp.issubdtype(leaf.dtype, jnp.integer):
        raise OptimizerError(
            f"the learning rate is kept in {leaf.dtype}, which holds whole numbers alone: write 1.0 in place of 1 "
            "where it is made, as in optax.inject_hyperparams(optax.sgd)(learning_rate=1.0)"
        )


def _rounded(lr: float, dtype: Any = None) -> float:
    limits: Any = jnp.finfo(jnp.result_type(float) if dtype is None else dtype)
    with np.errstate(over="ignore"):
        kept = float(np.asarray(lr, limits.dtype))
    wider = "keep it in float32, as with optax.inject_hyperparams(optax.sgd, hyperparam_dtype=jnp.float32)"
    return rounded(lr, kept, str(limits.dtype), (float(limits.tiny), float(limits.max)), wider)


def _like(leaf: Any, value: Any) -> Any:
    """A number as an array of the same type and on the same devices as ``leaf``, so that nothing is traced again."""
    if isinstance(value, jax.Array):
        same = not isinstance(leaf, ARRAYS) or (value.dtype, value.weak_type) == (leaf.dtype, _is_weak(leaf))
        value = value if same else value.astype(leaf.dtype)
    elif not isinstance(leaf, ARRAYS) or _is_weak(leaf):
        value = jnp.asarray(float(value))
    else:
        value = np.asarray(value, leaf.dtype)  # which a compiled step takes as it is, at a tenth of the cost
    if np.size(value) == np.size(leaf):
        value = value.reshape(np.shape(leaf))
    elif np.size(value) == 1:
        value = (jnp if isinstance(value, jax.Array) else np).broadcast_to(value, np.shape(leaf))
    if isinstance(value, jax.core.Tracer) or not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer):
        return value
    return jax.device_put(value, leaf.sharding) if leaf.committed else value


def _is_weak(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and leaf.weak_type


def _differing(before: Leaves, after: Leaves) -> list[tuple[int, Any, Any]]:
    """The places at which another leaf stands, with both."""
    pairs = enumerate(zip(before, after, strict=True))
    return [(place, old, new) for place, (old, new) in pairs if old is not new]


def _overridden(asked: Any, acted: Any) -> OptimizerError:
    return OptimizerError(
        f"the step was asked for the rate {asked} and took {acted}: a schedule inside the optimizer writes its own "
        "over it. Build the optimizer with a number, as optax.inject_hyperparams(optax.adamw)(learning_rate=0.1), and "
        "give the schedule to find_lr as schedule="
    )
