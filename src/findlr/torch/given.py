"""What a training is given: modules, optimizers, and which of them is swept."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from inspect import unwrap
from itertools import repeat
from typing import Any

import torch
from torch import nn

from findlr.analysis.numbers import plain
from findlr.errors import ConfigurationError, OptimizerError
from findlr.search.objects import names_in
from findlr.torch.point import Point
from findlr.torch.rates import parameters_of
from findlr.torch.snapshot.notes import check_stateful

logger = logging.getLogger("findlr")

_LAZY = {nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer}


# Leaves the RangeTest whose hook it is.
_LOST = (
    "[hook.__self__ for hook in optimizer._optimizer_step_pre_hooks.values() if 'RangeTest' in repr(hook)][0]"
    ".__exit__(None, None, None)"
)


def restorable(restore: Any) -> list[Any]:
    """What is in ``restore=``, once all of it can be put back.

    Raises:
        ConfigurationError: it can't.
    """
    if not isinstance(restore, (list, tuple)):
        raise ConfigurationError(f"restore must be a list of objects with a state_dict, got {type(restore).__name__}")
    for stateful in restore:
        check_stateful(stateful)
    return list(restore)


def check_made(tensors: Iterable[torch.Tensor]) -> None:
    """Refuse parameters and buffers that can't be trained: those of lazy layers before a first batch, and others.

    Raises:
        ConfigurationError: there is one.
    """
    tensors = list(tensors)
    if _LAZY & set(map(type, tensors)):
        raise ConfigurationError("the model has lazy layers without tensors yet: run one batch through it first")
    if any(map(torch.Tensor.is_inference, tensors)):
        raise ConfigurationError(
            "the model was made under torch.inference_mode(), so it can't be trained: make it outside of that block"
        )


def check_free(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Refuse optimizers that an open ``RangeTest`` sweeps: it would write its own rate before each of their steps.

    Warn of one whose rate may not act.

    Raises:
        OptimizerError: there is one.
    """
    for optimizer in optimizers:
        for hook in vars(optimizer).get("_optimizer_step_post_hooks", {}).values():
            if isinstance(getattr(hook, "__self__", None), Point):
                raise OptimizerError(
                    f"a RangeTest of the {type(optimizer).__name__} is still open, and writes its own rate before each "
                    "step: leave its block first. One that was entered by hand is left by test.__exit__(None, None, "
                    "None), which puts everything back. One whose name is lost is held by the optimizer: "
                    f"{_LOST}"
                )
        if "lr" in vars(optimizer):
            _warn_of_own_lr(optimizer)


def _warn_of_own_lr(optimizer: torch.optim.Optimizer) -> None:
    code = getattr(unwrap(type(optimizer).step), "__code__", None)
    if code is not None and "lr" in names_in(code):
        logger.warning(
            "%s keeps a rate of its own, lr = %s, which its step() names, and a search writes that of its groups: "
            "if step() takes its own in place of theirs, no rate of the search acts, and its answer is void",
            type(optimizer).__name__,
            vars(optimizer)["lr"],
        )


def steps_by_itself(optimizer: Any) -> bool:
    """Whether it has step hooks of its own: then it was built as a torch optimizer, and does not only wrap one."""
    return isinstance(optimizer, torch.optim.Optimizer) and "_optimizer_step_pre_hooks" in vars(optimizer)


def hooked(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer whose hooks tell of a step: itself; or the one inside it, if torch never built it.

    A wrapper that is an Optimizer by name only, such as one for differentially private gradients, has no hooks, and
    steps the one that it holds.

    Raises:
        OptimizerError: there is none.
    """
    if steps_by_itself(optimizer):
        return optimizer
    for inner in vars(optimizer).values():
        if isinstance(inner, torch.optim.Optimizer) and inner is not optimizer:
            return hooked(inner)
    name = type(optimizer).__name__
    raise OptimizerError(
        f"the steps of {name} can't be seen: it holds no optimizer of torch.optim, and its __init__ does not call that "
        "of torch.optim.Optimizer: let it call super().__init__, or search without a loop or a step of your own"
    )


def warn_of_strangers(
    parameters: Mapping[int, torch.Tensor],
    optimizers: Iterable[torch.optim.Optimizer],
    used: Iterable[torch.Tensor],
) -> None:
    """Warn where a layer seems to have been replaced after the optimizer was made, which trains the old one.

    Args:
        parameters: of the modules, by id.
        optimizers: that train them.
        used: tensors that a function of the training's uses by itself, such as a temperature: no layer's that is gone.
    """
    trained = {id(p): p for p in parameters_of(optimizers) if p.requires_grad}
    strangers = len(trained.keys() - parameters.keys() - set(map(id, used)))
    left = len([key for key in parameters.keys() - trained.keys() if parameters[key].requires_grad])
    if strangers and left:
        logger.warning(
            "the optimizer trains %s that the model does not have, and the model has %s that no optimizer trains: if a "
            "layer was replaced after the optimizer was made, make the optimizer anew",
            *(f"{n} tensor{'s' * (n != 1)}" for n in (strangers, left)),
        )


def listed(name: str, given: Any, kind: type) -> list[Any]:
    """One or several of a kind, as a list.

    Raises:
        ConfigurationError: they are none.
        OptimizerError: an optimizer is there twice.
    """
    items = list(given.values()) if isinstance(given, Mapping) else [given] if isinstance(given, kind) else given
    if not isinstance(items, (list, tuple)) or not items or not all(map(isinstance, items, repeat(kind))):
        module = "torch.nn" if kind is nn.Module else "torch.optim"
        got = f"the class {given.__name__} itself" if isinstance(given, type) else type(given).__name__
        raise (OptimizerError if name == "optimizer" else ConfigurationError)(
            f"{name} must be a {module}.{kind.__name__}, or a list or dict of them, got {got}"
        )
    if kind is torch.optim.Optimizer and len(set(map(id, items))) < len(items):
        raise OptimizerError("the same optimizer is given twice, and would take two steps for one: give it once")
    return list(items)


def chosen(optimizers: Any, sweep: Any) -> list[torch.optim.Optimizer]:
    """The optimizers to sweep.

    Raises:
        OptimizerError: ``sweep`` names none.
    """
    if isinstance(optimizers, torch.optim.Optimizer):
        if sweep is not None and (hasattr(plain(sweep), "ndim") or plain(sweep) not in (0, [0])):
            raise OptimizerError(f"sweep={sweep!r} picks one optimizer of several, and there is one: leave it out")
        return [optimizers]
    if sweep is None and len(optimizers) == 1:
        return list(optimizers.values()) if isinstance(optimizers, Mapping) else list(optimizers)
    keys = list(map(plain, sweep)) if isinstance(sweep, (list, tuple, set)) else [plain(sweep)]
    named = dict(optimizers.items() if isinstance(optimizers, Mapping) else enumerate(optimizers))
    try:
        chosen = [named[key] for key in keys if not isinstance(key, bool)]
    except (KeyError, TypeError):
        chosen = []
    if not chosen or len(set(map(id, chosen))) < len(keys):
        raise OptimizerError(
            f"sweep must name the optimizer to sweep, one of {', '.join(map(repr, named))}, or a list of them, each "
            f"once, got {sweep!r}"
        )
    return chosen


def asked_of(training: Any) -> dict[str, Any]:
    """What a ``Training`` is given besides its facts, and must be alike on all ranks."""
    return {"snapshot": training.snapshot_kind, "scaler": ", ".join(type(each).__name__ for each in training.scalers)}
