"""The rates of an optimizer's param groups: ratios kept, tensors written in place, what really acts told."""

from __future__ import annotations

import functools
import inspect
import math
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, compress
from typing import Any

import numpy as np
import torch
from torch import optim

from findlr.analysis.families import family
from findlr.analysis.numbers import real
from findlr.errors import OptimizerError
from findlr.finding.code import OptimizerFacts
from findlr.finding.facts import plain_facts
from findlr.search.rounding import rounded


class Rates:
    """Writes one rate into an optimizer: that of the largest group that trains; the others keep their ratio to it.

    A frozen group, in which no parameter requires a gradient, does not set the scale.

    Raises:
        OptimizerError: the optimizer's rate does not act on each step, a group has none, or those of all groups that
            train are 0.
    """

    def __init__(self, optimizer: optim.Optimizer) -> None:
        if not isinstance(optimizer, optim.Optimizer):
            raise OptimizerError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        if isinstance(optimizer, optim.Rprop):
            raise OptimizerError(
                "Rprop cannot be swept: its rate only sets the size of the first step; choose any other optimizer"
            )
        searches = [group["line_search_fn"] for group in optimizer.param_groups if group.get("line_search_fn")]
        if searches:
            raise OptimizerError(
                f"{type(optimizer).__name__} cannot be swept with its line search ({searches[0]}), which chooses the "
                "rate of each step itself: leave the rate at 1, or build it with line_search_fn=None"
            )
        self.optimizer = optimizer
        trains = _trains(optimizer)
        self.base, self.ratios = _ratios(optimizer, trains)
        self._largest = [number for number, does in enumerate(trains) if does and self.ratios[number] == 1.0][0]  # noqa: RUF015
        self._is_plain = not isinstance(optimizer, (optim.ASGD, optim.Adafactor))

    def write(self, lr: float) -> None:
        """Set each group's rate to its share of ``lr``."""
        if len(self.optimizer.param_groups) != len(self.ratios):
            raise OptimizerError(
                f"the training has given {type(self.optimizer).__name__} another number of param groups, "
                f"{len(self.optimizer.param_groups)} instead of {len(self.ratios)}: add them before the search"
            )
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
        """What ``lr`` becomes in the largest group at the next step: rounded, or capped; see ``search.rounding``."""
        if self._is_plain and type(self.optimizer.param_groups[self._largest]["lr"]) is float:
            return lr
        if isinstance(self.optimizer, optim.Adafactor):
            lr = min(lr, 1 / math.sqrt(_steps_taken(self.optimizer) + 1))
        kept_in = self._dtype()
        return lr if kept_in is None else _in(lr, kept_in)

    def _dtype(self) -> torch.dtype | None:
        if isinstance(self.optimizer, optim.ASGD):  # eta is a tensor
            return torch.get_default_dtype()
        largest = self.optimizer.param_groups[self._largest]
        return largest["lr"].dtype if isinstance(largest["lr"], torch.Tensor) else None


class JointRates:
    """Writes one rate into several optimizers: it is the largest group's of all, and the others keep their ratio to it.

    Raises:
        OptimizerError: the rate of one does not act on each step, or every group's rate is 0.
    """

    def __init__(self, optimizers: Sequence[optim.Optimizer]) -> None:
        parts = [Rates(optimizer) for optimizer in optimizers]
        largest = max(part.base for part in parts)
        self._parts = [(part, part.base / largest) for part in parts]
        self.ratios = tuple(share * ratio for part, share in self._parts for ratio in part.ratios)

    def write(self, lr: float) -> None:
        """Set each group's rate to its share of ``lr``."""
        for part, share in self._parts:
            part.write(lr * share)

    def acting(self, lr: float) -> float:
        """What ``lr`` becomes at the next step, in the optimizer that caps it or rounds it down most."""
        return min(part.acting(lr * share) / share for part, share in self._parts)


def _in(lr: float, dtype: torch.dtype) -> float:
    """A rate in a type of numbers.

    Raises:
        OptimizerError: the type holds no rate as small.
    """
    limits = torch.finfo(dtype) if dtype.is_floating_point else torch.finfo(torch.float32)
    least = limits.tiny if dtype.is_floating_point else 1.0
    wider = "keep it in float32, as with lr=torch.tensor(0.1)"
    return rounded(lr, torch.tensor(lr, dtype=dtype, device="cpu").item(), str(dtype), (least, limits.max), wider)


def _steps_taken(optimizer: optim.Optimizer) -> int:
    return max((int(state["step"]) for state in optimizer.state.values() if "step" in state), default=0)


def _ratios(optimizer: optim.Optimizer, trains: list[bool]) -> tuple[float, tuple[float, ...]]:
    """The rate of the largest group that trains, and that of each group as a share of it."""
    if not optimizer.param_groups:  # Lightning's stand-in where configure_optimizers returns None, say
        raise OptimizerError("the optimizer has no param groups, so it trains nothing: make it with the parameters")
    bases = [_base_rate(optimizer, number) for number in range(len(optimizer.param_groups))]
    largest = max(compress(bases, trains), default=0.0)
    if not (all(map(math.isfinite, bases)) and largest > 0 and min(bases) >= 0):
        odd = [f"param group {n} has rate {base:g}" for n, base in enumerate(bases) if not 0 <= base < math.inf]
        raise OptimizerError(
            f"{[*odd, 'no param group that trains has a rate above 0'][0]}, so the groups' ratios cannot be told: give "
            "each a finite rate, none below 0, and one that trains a rate above 0"
        )
    return largest, tuple([base / largest for base in bases])


def _trains(optimizer: optim.Optimizer) -> list[bool]:
    """Which groups have a parameter that a step can change; all, if none has one."""
    trains = [True in [p.requires_grad for p in group["params"]] for group in optimizer.param_groups]
    return trains if any(trains) else [True] * len(trains)


def _base_rate(optimizer: optim.Optimizer, number: int) -> float:
    group, name = optimizer.param_groups[number], type(optimizer).__name__
    if "lr" not in group:
        raise OptimizerError(
            f"{name} cannot be swept: its param group {number} has no 'lr'; choose an optimizer that takes a rate"
        )
    if group.get("relative_step") is True and not group["lr"]:  # AdafactorSchedule writes 0 over the None
        group = {**group, "lr": None}
    for key in ("lr", "initial_lr"):
        if group.get(key, 0.0) is None:
            raise OptimizerError(
                f"{name} cannot be swept: its param group {number} has {key}=None, because it sets its own rate; build "
                f"it with a rate (transformers' Adafactor: relative_step=False, lr=1e-3)"
            )
    rate = real(group.get("initial_lr", group["lr"]))
    if rate is None or real(group["lr"]) is None:
        raise OptimizerError(
            f"{name} cannot be swept: the rate of its param group {number} is no number, {group['lr']!r}"
        )
    return rate


def needs_closure(optimizer: optim.Optimizer) -> bool:
    """True if ``optimizer.step`` must be given a closure, as LBFGS's."""
    return _defaults(type(optimizer).step).get("closure") is inspect.Parameter.empty


def takes_closure(optimizer: optim.Optimizer) -> bool:
    """True if ``optimizer.step`` may be given a closure."""
    return "closure" in _defaults(type(optimizer).step)


@functools.cache
def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The default of each parameter of a function; ``inspect.Parameter.empty`` if it has none."""
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def momentum_of(optimizer: optim.Optimizer) -> float | None:
    """The momentum, or beta1, of the first group; None if the optimizer has none."""
    group = optimizer.param_groups[0]
    return real(group["momentum"] if "momentum" in group else group["betas"][0] if "betas" in group else None)


def family_of(optimizer: optim.Optimizer) -> str:
    """The family that the optimizer's rates belong to: its class's, or that of the first parent that is known.

    A Muon that matches AdamW's updates takes AdamW's rates, and is told as AdamW. A ZeroRedundancyOptimizer is what it
    holds a shard of.

    Example:
        >>> class Mine(optim.AdamW): ...
        >>> family_of(Mine([torch.nn.Parameter(torch.zeros(1))]))
        'AdamW'
    """
    found = None
    inner = getattr(optimizer, "optim", None)
    for kind in (*type(optimizer).__mro__, *type(inner).__mro__):
        found = found or family(kind.__name__)
    found = found or type(optimizer).__name__
    matched = all(group.get("adjust_lr_fn") == "match_rms_adamw" for group in optimizer.param_groups)
    return "AdamW" if found == "Muon" and matched else found


def parameters_of(optimizers: Iterable[optim.Optimizer]) -> list[torch.Tensor]:
    """All that the optimizers may step, in the order of their groups."""
    found: list[torch.Tensor] = []
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            found += group["params"]
    return found


def trained_parameters(optimizer: optim.Optimizer) -> int:
    """How many numbers the optimizer trains."""
    return sum([p.numel() for p in parameters_of([optimizer]) if p.requires_grad])


def described(optimizers: Iterable[optim.Optimizer]) -> OptimizerFacts:
    """How the first of the optimizers is made, with the groups of all."""
    first, *others = map(_described, optimizers)
    return {**first, "groups": [*first["groups"], *chain.from_iterable(each["groups"] for each in others)]}


def _described(optimizer: optim.Optimizer) -> OptimizerFacts:
    """Name, module, settings of each group, and those that are not the defaults, in plain values."""
    kind = type(optimizer)
    groups = [
        plain_facts({name: value for name, value in group.items() if name != "params"})
        for group in optimizer.param_groups
    ]
    own = _defaults(kind.__init__)
    defaults = plain_facts({k: v for k, v in own.items() if v is not inspect.Parameter.empty and k != "lr"})
    arguments = {
        name: groups[0][name] for name, default in defaults.items() if name in groups[0] and groups[0][name] != default
    }
    made: OptimizerFacts = {"name": kind.__name__, "module": kind.__module__, "arguments": arguments, "groups": groups}
    if _needs_more(kind.__init__):
        made["parameters"] = "model.parameters(), ..."  # no plain name, so that no line makes it
    return made


@functools.cache
def _needs_more(function: Callable[..., Any]) -> bool:
    """Whether an optimizer must be given something besides its parameters and the rate, such as another one's class."""
    by_name = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    others = [*inspect.signature(function).parameters.values()][2:]  # but self and the parameters
    return any(
        each.default is inspect.Parameter.empty and each.kind in by_name and each.name != "lr" for each in others
    )


def versions(framework: str = "") -> dict[str, str]:
    """The versions that a result depends on.

    Args:
        framework: the package that takes the steps, which is imported; "" is torch alone.
    """
    theirs = {framework: str(sys.modules[framework].__version__)} if framework else {}
    return {"python": platform.python_version(), "numpy": np.__version__, "torch": str(torch.__version__), **theirs}
