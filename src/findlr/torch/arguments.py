"""The arguments of a training, and their checks, made before anything else is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from findlr.analysis.given import check_takes
from findlr.analysis.numbers import plain, real, whole
from findlr.errors import ConfigurationError
from findlr.torch.snapshot.stores import StoreKind
from findlr.torch.training import Sweep


class How(TypedDict, total=False):
    """How a step is taken and remembered: the keywords that every ``find_lr`` of PyTorch hands on."""

    sweep: Sweep
    validation_loader: Iterable[Any] | None
    validation_every: int
    autocast: torch.dtype | str | None
    scaler: GradScaler | None
    accumulation_steps: int
    clip_grad_norm: float | None
    clip_grad_value: float | None
    snapshot: StoreKind
    consume: bool


_MOST = 2**63  # a larger number is no tensor's
_GIVEN = {"criterion": ("outputs", "targets"), "loss_fn": ("model", "batch"), "train_step": ("draw",)}
_TYPES = {
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
    "half": torch.float16,
}


def autocast_type(given: torch.dtype | str | None) -> torch.dtype | None:
    """The type that the forward pass runs in, given itself or by its name.

    Raises:
        ConfigurationError: it is neither.

    Example:
        >>> autocast_type("bf16"), autocast_type(torch.float16), autocast_type(None)
        (torch.bfloat16, torch.float16, None)
    """
    if given is None or given is torch.bfloat16 or given is torch.float16:
        return given
    known = _TYPES.get(given.lower()) if isinstance(given, str) else None
    if known is None:
        raise ConfigurationError(
            f"autocast must be torch.bfloat16 or torch.float16, or their names 'bf16' and 'fp16', got {given!r}; None "
            "is off"
        )
    return known


def check_counts(**counts: Any) -> None:
    """Refuse what is not a whole number of at least 1 that a tensor can be divided by, naming it."""
    for name, count in counts.items():
        if not 1 <= (whole(count) or 0) < _MOST or not (type(count) is int or isinstance(plain(count), int)):
            raise ConfigurationError(f"{name} must be a whole number of at least 1, and below 2**63, got {count!r}")


def check_limits(**limits: Any) -> None:
    """Refuse a limit that is not above 0, naming it; None means no limit."""
    for name, limit in limits.items():
        if limit is not None and not (real(limit) or 0) > 0:
            raise ConfigurationError(f"{name} must be above 0, got {limit!r}; None does not clip")


def check_alone(how: Mapping[str, Any], validation_loader: Any) -> None:
    """Refuse what says how a step is taken, and what needs the loss of one batch, where the user's function steps."""
    if validation_loader is not None:
        raise ConfigurationError(
            "validation_loader goes with criterion or loss_fn, which give the loss of one of its batches; train_step "
            "does not: leave it out"
        )
    for name, value in how.items():
        if not (value is None or plain(value) == 1):
            raise ConfigurationError(
                f"{name} goes with criterion or loss_fn: train_step takes the whole step, so do it there"
            )


def check_ways(criterion: Any, loss_fn: Any, train_step: Any, model: Any) -> None:
    """Check that a step is described in exactly one of the three ways.

    Raises:
        ConfigurationError: none of them is given, or several, or one that is no function.
    """
    ways = {"criterion": criterion, "loss_fn": loss_fn, "train_step": train_step}
    if criterion is not None and not callable(criterion):
        raise ConfigurationError(
            f"criterion, the third argument, must be a function or a module, got {type(criterion).__name__}: the order "
            "is (model, optimizer, criterion, loader); with loss_fn or train_step, give it by name: loader=..."
        )
    given = [name for name, way in ways.items() if way is not None]
    if len(given) != 1:
        raise ConfigurationError(
            f"give exactly one of criterion, loss_fn and train_step, got {' and '.join(given) or 'none'}: "
            "criterion(outputs, targets) for a loader of pairs, loss_fn(model, batch) for any other batch, "
            "train_step(draw) for a step of your own"
        )
    chosen, way = given[0], ways[given[0]]
    if isinstance(way, type):
        name = way.__name__
        raise ConfigurationError(f"{chosen} is the class {name} itself: give one of it, {name}()")
    if not callable(way):
        raise ConfigurationError(f"{chosen} must be a function or a module, got {type(way).__name__}{_order(way)}")
    if getattr(loss_fn, "__module__", None) in ("torch.nn.functional", "torch.nn.modules.loss"):
        name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
        raise ConfigurationError(
            f"loss_fn is called as loss_fn(model, batch), and {name} takes outputs and targets: give it as criterion"
        )
    if not isinstance(way, nn.Module):  # whose call hands on all that it is given
        check_takes(way, chosen, *_GIVEN[chosen])
    if train_step is None and not isinstance(model, nn.Module):
        several = "; several models need train_step" if isinstance(model, (list, tuple, Mapping)) else ""
        got = f"the class {model.__name__} itself" if isinstance(model, type) else type(model).__name__
        raise ConfigurationError(f"model must be a torch.nn.Module, got {got}{several}{_order(model)}")


def _order(given: Any) -> str:
    """What to say of an optimizer in another argument's place."""
    return ": the order is (model, optimizer, criterion, loader)" * isinstance(given, torch.optim.Optimizer)
