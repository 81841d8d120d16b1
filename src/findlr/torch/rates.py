"""The rates of an optimizer's param groups: ratios kept, tensors written in place, what really acts told."""

from __future__ import annotations

import inspect
import math
import platform
from typing import Any

import numpy as np
import torch
from torch import optim

from findlr.analysis.plan import Plan, Shape
from findlr.errors import OptimizerError


class Rates:
    """Writes one rate into an optimizer: the largest group's; the others keep their ratio to it.

    Args:
        optimizer: any of ``torch.optim``, or one like it.

    Raises:
        OptimizerError: the optimizer's rate does not act on each step, or every group's rate is 0.
    """

    def __init__(self, optimizer: optim.Optimizer) -> None:
        if not isinstance(optimizer, optim.Optimizer):
            raise OptimizerError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        if isinstance(optimizer, optim.Rprop):
            raise OptimizerError(
                "Rprop cannot be swept: its rate only sets the size of the first step; choose any other optimizer"
            )
        self.optimizer = optimizer
        self.base, self.ratios = _ratios(optimizer)
        self._largest = self.ratios.index(1.0)
        self._is_plain = not isinstance(optimizer, (optim.ASGD, optim.Adafactor))

    def write(self, lr: float) -> None:
        """Set each group's rate to its share of ``lr``."""
        for group, ratio in zip(self.optimizer.param_groups, self.ratios, strict=True):
            rate = lr * ratio
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
            if isinstance(self.optimizer, optim.ASGD):
                # ASGD steps at eta, which it derives from lr after a step: the rate would act one step late.
                for parameter in group["params"]:
                    if "eta" in self.optimizer.state.get(parameter, ()):
                        self.optimizer.state[parameter]["eta"].fill_(rate)

    def acting(self, lr: float) -> float:
        """What ``lr`` becomes in the largest group at the next step: rounded, or capped."""
        if self._is_plain and type(self.optimizer.param_groups[self._largest]["lr"]) is float:
            return lr
        if isinstance(self.optimizer, optim.Adafactor):
            lr = min(lr, 1 / math.sqrt(_steps_taken(self.optimizer) + 1))
        kept_in = self._dtype()
        return lr if kept_in is None else torch.tensor(lr, dtype=kept_in).item()

    def _dtype(self) -> torch.dtype | None:
        if isinstance(self.optimizer, optim.ASGD):  # eta is a tensor
            return torch.get_default_dtype()
        largest = self.optimizer.param_groups[self._largest]
        return largest["lr"].dtype if isinstance(largest["lr"], torch.Tensor) else None


def _steps_taken(optimizer: optim.Optimizer) -> int:
    return max((int(state["step"]) for state in optimizer.state.values() if "step" in state), default=0)


def _ratios(optimizer: optim.Optimizer) -> tuple[float, tuple[float, ...]]:
    """The largest group's rate, and each group's as a share of it."""
    bases = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    largest = max(bases, default=0.0)
    if not (math.isfinite(largest) and largest > 0 and min(bases) >= 0):
        raise OptimizerError(
            f"the param groups have rates {', '.join(f'{base:g}' for base in bases)}, so their ratios cannot be told: "
            "give at least one group a rate above 0"
        )
    return largest, tuple(base / largest for base in bases)


def needs_closure(optimizer: optim.Optimizer) -> bool:
    """True if ``optimizer.step`` must be given a closure, as LBFGS's."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def momentum_of(optimizer: optim.Optimizer) -> float | None:
    """The momentum, or beta1, of the first group; None if the optimizer has none."""
    group = optimizer.param_groups[0]
    return group["momentum"] if "momentum" in group else group["betas"][0] if "betas" in group else None


def trained_parameters(optimizer: optim.Optimizer) -> int:
    """How many numbers the optimizer trains."""
    return sum(p.numel() for group in optimizer.param_groups for p in group["params"] if p.requires_grad)


def plan_for(optimizer: optim.Optimizer, schedule: str | Shape, total_steps: int | None) -> Plan:
    """The plan of a training with ``optimizer``."""
    return Plan(
        schedule, total_steps, type(optimizer).__name__, momentum_of(optimizer), trained_parameters(optimizer) or None
    )


def described(optimizer: optim.Optimizer) -> dict[str, Any]:
    """The optimizer in plain values: name, module, settings of each group, and those that are not the defaults."""
    kind = type(optimizer)
    groups = [
        {name: _plain(value) for name, value in group.items() if name != "params"} for group in optimizer.param_groups
    ]
    defaults = {
        name: _plain(parameter.default)
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if parameter.default is not inspect.Parameter.empty and name != "lr"
    }
    arguments = {
        name: groups[0][name] for name, default in defaults.items() if name in groups[0] and groups[0][name] != default
    }
    return {"name": kind.__name__, "module": kind.__module__, "arguments": arguments, "groups": groups}


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {"python": platform.python_version(), "numpy": np.__version__, "torch": str(torch.__version__)}


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return repr(value)
