"""What is compiled of a step: its loss alone, and several runs of it at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from findlr.jax.around import Around
from findlr.jax.rates import Rate
from findlr.jax.state import ARRAYS, Form, Leaves, loss_in

LOOK_EVERY_STEPS = 10


class Traced:
    """A step as functions of the arrays in its state.

    Args:
        form: of the state.
        step: the user's.
        loss: the user's function for the loss of one batch; None takes what the step tells.
        rate: how its rate is written.
        around: what the functions keep outside of the state.
    """

    def __init__(
        self, form: Form, step: Callable[..., Any], loss: Callable[..., Any] | None, rate: Rate, around: Around
    ) -> None:
        self._parts, self.around = (form, step, loss, rate, around), around
        self._losses: dict[Any, Any] = {}  # by the leaves that are no arrays
        self._steps: dict[Any, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled; what is compiled is compiled anew there."""
        return {**vars(self), "_losses": {}, "_steps": {}}

    def loss(self, leaves: Leaves, batch: Any) -> jax.Array:
        """The loss of one batch. If it is the step's, the compiler leaves out all of the step that it does not need.

        Args:
            leaves: of the state; none is used up.
            batch: the batch.
        """
        return self._loss_of(leaves)(_arrays(leaves), batch, 0.0)

    def check_loss(self, leaves: Leaves, batch: Any) -> None:
        """Trace the loss of one batch, without computing it; raises what that raises."""
        self._loss_of(leaves).lower(_arrays(leaves), batch, 0.0)

    def _loss_of(self, leaves: Leaves) -> Any:
        fixed = _fixed(leaves)
        if fixed not in self._losses:
            kept = [None if isinstance(leaf, ARRAYS) else leaf for leaf in leaves]
            form, step, own_loss, rate, around = self._parts  # not self, which keeps the function

            def loss(arrays: Sequence[jax.Array], batch: Any, lr: jax.Array) -> jax.Array:
                live = form.live(_filled(kept, arrays))
                with around.traced():
                    if own_loss is not None:
                        return jnp.asarray(loss_in(live.call(own_loss, batch)))
                    return jnp.asarray(live.take(step, batch, *rate.arguments(lr)))

            self._losses[fixed] = jax.jit(loss)
        return self._losses[fixed]

    def runs(self, leaves: Leaves, count: int) -> Runs:
        """So many runs from one state, none of whose leaves is used up."""
        fixed = _fixed(leaves)
        kept = [None if isinstance(leaf, ARRAYS) else leaf for leaf in leaves]
        if fixed not in self._steps:
            form, step, _, rate, around = self._parts

            def stepped(arrays: Sequence[jax.Array], lr: jax.Array, batch: Any) -> tuple[list[Any], jax.Array]:
                live = form.live(_filled(kept, arrays))
                with around.traced():
                    rate.write(live, lr)
                    loss = live.take(step, batch, *rate.arguments(lr))
                return _arrays(live.leaves()), jnp.asarray(loss)

            def together(arrays: Sequence[jax.Array], lrs: Sequence[Any], batch: Any) -> Any:
                return jax.vmap(stepped, in_axes=(0, 0, None))(arrays, jnp.stack(lrs), batch)

            self._steps[fixed] = jax.jit(together, donate_argnums=0)
        return Runs(self._steps[fixed], kept, _stacked(_arrays(leaves), count), count)


class Runs:
    """Several runs that take each step at once, ``jax.vmap`` over their rates.

    Args:
        step: takes a step of all.
        kept: the leaves that are no arrays.
        arrays: the others, of each run.
        count: of the runs.
    """

    def __init__(self, step: Callable[..., Any], kept: Leaves, arrays: Sequence[jax.Array], count: int) -> None:
        self._step, self._kept, self._arrays = step, kept, arrays
        self.finite = [True] * count

    def step(self, lrs: Sequence[float], batches: Sequence[Any]) -> jax.Array:
        """Take one step of each run; the losses before it, on the device.

        Args:
            lrs: of the runs.
            batches: of the step.
        """
        rates, losses = list(map(float, lrs)), []  # numbers, so that the rate has the type that one number has
        for batch in batches:
            self._arrays, loss = self._step(self._arrays, rates, batch)
            losses.append(loss)
        return losses[0] if len(losses) == 1 else sum(losses) / len(losses)

    def look(self, losses: Sequence[jax.Array]) -> list[list[float]]:
        """Losses as numbers, a row for each step; runs whose last one is not finite have diverged."""
        rows = [row.tolist() for row in jax.device_get(list(losses))]
        self.finite = [fine and math.isfinite(loss) for fine, loss in zip(self.finite, rows[-1], strict=True)]
        return rows

    def leaves(self, run: int) -> Leaves:
        """The state of a run."""
        return _filled(self._kept, _one_of(self._arrays, run))


_stacked = jax.jit(lambda arrays, count: [jnp.stack([array] * count) for array in arrays], static_argnums=1)
_one_of = jax.jit(lambda arrays, run: [array[run] for array in arrays])


def _arrays(leaves: Leaves) -> list[Any]:
    return [leaf for leaf in leaves if isinstance(leaf, ARRAYS)]


def _fixed(leaves: Leaves) -> tuple[Any, ...]:
    """What a compiled function of these leaves depends on besides the arrays: the others, by identity."""
    return tuple(None if isinstance(leaf, ARRAYS) else id(leaf) for leaf in leaves)


def _filled(kept: Sequence[Any], arrays: Sequence[Any]) -> Leaves:
    """The leaves again, from those that are no arrays and from the arrays in their order."""
    following = iter(arrays)
    return [next(following) if leaf is None else leaf for leaf in kept]
