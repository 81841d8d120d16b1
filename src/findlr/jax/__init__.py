"""JAX: ``find_lr(step, state, loader)`` for steps of optax, equinox, flax, or of one's own."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, Unpack

from findlr.analysis.length import steps_in
from findlr.analysis.plan import SAMPLES, Plan, Samples
from findlr.errors import ConfigurationError, MissingExtraError
from findlr.finding import Finding
from findlr.search.find import find
from findlr.search.settings import Search, Settings

try:
    import jax  # noqa: F401 - a missing one is told before anything else is imported
except ImportError:
    raise MissingExtraError.of("jax", "jax") from None

from findlr.jax.trainable import JaxTrainable

__all__ = ["JaxTrainable", "find_lr"]


def find_lr(
    step: Callable[..., Any],
    state: Any,
    loader: Any,
    *,
    set_lr: Callable[..., Any] | None = None,
    evaluate: Callable[..., Any] | None = None,
    loss: Callable[..., Any] | None = None,
    place: Callable[[Any], Any] | None = None,
    optimizer: str = "",
    accumulation_steps: int = 1,
    consume: bool = False,
    schedule: Any = "constant",
    total_steps: int | str | None = None,
    warmup: float | None = None,
    **search: Unpack[Search],
) -> Finding:
    """Find a learning rate for a step of JAX's; the state that you give is neither changed nor donated.

    Steps are taken on a copy of the state, so a step may use its buffers up (donate them). The control variate and the
    scores of a race are the step's own loss, compiled without the rest of the step.

    Args:
        step: ``step(state, batch) -> (state, loss)``, or ``(state, (loss, aux))``; compiled as you train with it. With
            a third argument it is given the rate there. For flax's nnx, ``step(model, optimizer, batch) -> loss``
            changes its objects in place; or it takes all as one, and may return them, as any other state.
        state: any pytree; for nnx the objects that ``step`` takes, ``(model, optimizer)``.
        loader: batches that can be read again: a list, a DataLoader, a data set of grain; or a function that opens a
            pass, such as a generator function. Torch's tensors are given to ``step`` as NumPy's arrays.
        set_lr: ``set_lr(state, lr) -> state`` writes the rate; None looks for what ``optax.inject_hyperparams`` keeps,
            anywhere in the state. For nnx it is given the objects as ``step`` is: ``set_lr(model, optimizer, lr)``.
        evaluate: ``evaluate(state)`` gives the held-out loss that scores a race's runs; it counts as 8 forward passes.
            None scores them on batches that are set aside.
        loss: ``loss(state, batch)`` gives the loss of one batch, where it is another one without training (without
            dropout, say): for the scores of a race, and for the control variate where it agrees with the step's.
        place: makes of the loader's batch what ``step`` takes, such as ``jax.device_put`` with a sharding.
        optimizer: its name, such as "adamw", where the state does not tell it, and for the line to paste.
        accumulation_steps: calls of ``step`` to each step of the optimizer, as ``optax.MultiSteps`` was built with.
        consume: take a one-shot iterator as the loader, and use its batches up.
        schedule: of the planned training: a name such as "cosine", a schedule of optax with ``total_steps``, or a
            function of the progress (0 to 1) that returns the share of the peak.
        total_steps: optimizer steps of the planned training, or a text such as "5 epochs".
        warmup: of a schedule given by its name: a share of the training, or steps.
        **search: the other settings of ``findlr.find_lr``: min_lr, max_lr, num_steps, verify, budget and so on.

    Returns:
        The Finding.

    Raises:
        ConfigurationError: an argument that cannot work.
        OptimizerError: no rate is found in the state, or another one acts than the one that is asked for.
        LossError: ``step`` does not tell one number.

    Example:
        >>> import jax, optax
        >>> from jax import numpy as jnp
        >>> optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
        >>> @jax.jit
        ... def step(state, batch):
        ...     weights, memory = state
        ...     loss, gradients = jax.value_and_grad(lambda w: jnp.mean((batch @ w - batch[:, 0]) ** 2))(weights)
        ...     updates, memory = optimizer.update(gradients, memory)
        ...     return (optax.apply_updates(weights, updates), memory), loss
        >>> weights = jnp.zeros(4)
        >>> batches = [jax.random.normal(jax.random.key(i), (8, 4)) for i in range(20)]
        >>> finding = find_lr(step, (weights, optimizer.init(weights)), batches, progress=False)
        >>> 0.01 < finding.lr < 1
        True
    """
    Settings.of(search, list(signature(find_lr).parameters)[:-1])
    trainable = JaxTrainable(
        step,
        state,
        loader,
        set_lr=set_lr,
        evaluate=evaluate,
        loss=loss,
        place=place,
        optimizer=optimizer,
        accumulation_steps=accumulation_steps,
        consume=consume,
    )
    steps = steps_in(total_steps, trainable.steps_per_epoch)
    return find(trainable, Plan(_shape(schedule, steps), steps, warmup=warmup), **search)


def _shape(schedule: Any, steps: int | None) -> Any:
    """A schedule as a plan takes it: optax's give a rate for a step, and are read at the steps of the training.

    Raises:
        ConfigurationError: it is optax's, and the length of the training is not known, or it never rises above 0.
    """
    if not (callable(schedule) and str(getattr(schedule, "__module__", "")).partition(".")[0] == "optax"):
        return schedule
    if not isinstance(steps, int) or steps < 1:
        raise ConfigurationError("a schedule of optax does not say how long the training is: give total_steps, too")
    places = range(steps) if steps <= SAMPLES else [round(i * (steps - 1) / (SAMPLES - 1)) for i in range(SAMPLES)]
    rates = [float(schedule(place)) for place in places]
    if not max(rates) > 0:
        raise ConfigurationError("the schedule never gives a rate above 0: it is no plan")
    return Samples([rate / max(rates) for rate in rates])
