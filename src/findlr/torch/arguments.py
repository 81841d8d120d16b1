"""A training's arguments, looked at before anything is done."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import nn

from findlr.errors import ConfigurationError, OptimizerError


def check_counts(**counts: Any) -> None:
    """Refuse what is no whole number of at least 1, by its name."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigurationError(f"{name} must be a whole number of at least 1, got {count!r}")


def check_limits(**limits: Any) -> None:
    """Refuse a limit that is not above 0, by its name; None is none."""
    for name, limit in limits.items():
        if limit is not None and not limit > 0:
            raise ConfigurationError(f"{name} must be above 0, got {limit!r}; None clips none")


def one_device(modules: list[nn.Module], optimizer: torch.optim.Optimizer) -> torch.device:
    """The device that everything is on, after a look whether the optimizer fits the modules."""
    theirs = {id(p): p for module in modules for p in module.parameters()}
    swept = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in (*theirs.values(), *swept.values())):
        raise ConfigurationError("the model has lazy layers without parameters yet: run one batch through it first")
    if not swept:
        raise OptimizerError("the optimizer has no parameters: build it with model.parameters()")
    if not theirs.keys() & swept.keys():
        raise OptimizerError(
            "none of the optimizer's parameters are the model's or the criterion's: build it with model.parameters()"
        )
    if not any(p.requires_grad for p in swept.values()):
        raise OptimizerError("none of the optimizer's parameters requires grad: unfreeze those to be trained")
    buffers = chain.from_iterable(module.buffers() for module in modules)
    devices: set[torch.device] = {tensor.device for tensor in (*theirs.values(), *swept.values(), *buffers)}
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise ConfigurationError(f"the parameters are on several devices ({names}): move the model to one")
    return devices.pop()
