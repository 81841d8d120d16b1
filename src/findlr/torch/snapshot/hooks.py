"""What a training calls and holds beside its loss function: hooks, functions and objects in its modules, their classes.

A step changes what they hold, such as a mean of the activations, a codebook or a generator of noise, as it changes what
a loss function holds.
"""

# ruff: noqa: SLF001 - hooks have private names only

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from operator import methodcaller
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.modules import module as of_modules
from torch.optim import optimizer as of_steps
from torch.optim.lr_scheduler import LRScheduler

from findlr.search.objects import MOST_ITEMS, SIMPLE
from findlr.search.whose import is_plain, is_users

_OF_STEPS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
GLOBAL: list[dict[Any, Any]] = [
    value
    for name, value in (*vars(of_modules).items(), *vars(of_steps).items())
    if name.startswith("_global") and isinstance(value, dict)
]
"""The hooks of all modules and of all optimizers' steps, by their handles' ids; and what is known of some of them."""
STANDARD = set(vars(nn.Module()))
"""The attributes that each module has."""
_CALLED = (FunctionType, MethodType, partial, torch.optim.Optimizer, GradScaler, LRScheduler)


@dataclass
class Called:
    """What a step calls of the user's own.

    Args:
        functions: hooks, and what modules have as attributes.
        objects: of classes of the user's own, that modules have as attributes; and the classes of modules and
            optimizers, whose methods name what they change. Their numbers are put back as a module's are.
    """

    functions: list[Any] = field(default_factory=list)
    objects: list[Any] = field(default_factory=list)

    def add_steps(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Add the hooks of optimizers' steps, and their classes; and the hooks of all modules and optimizers."""
        for hooks in GLOBAL:
            self.functions += filter(callable, hooks.values())
        for optimizer in optimizers:
            for name in _OF_STEPS:
                self.functions += vars(optimizer).get(name, {}).values()
            if is_users(type(optimizer).__module__):
                self.objects.append(type(optimizer))

    def add_attributes(self, held: list[Any]) -> None:
        """Add what modules have as attributes, in containers, too."""
        seen = set[int]()
        for each in held:  # which grows
            if isinstance(each, _CALLED):
                self.functions.append(each)
            elif isinstance(each, (dict, list, tuple, set, deque)):
                if len(each) <= MOST_ITEMS and id(each) not in seen:
                    seen.add(id(each))
                    held += each.values() if isinstance(each, dict) else each
            elif is_plain(each) and is_users(type(each).__module__) and not isinstance(each, nn.Module):
                self.objects.append(each)


def look_into(
    modules: Iterable[nn.Module], parameters: dict[int, torch.Tensor], buffers: dict[int, torch.Tensor], called: Called
) -> None:
    """Add the parameters and the buffers of ``modules`` and of those inside them, by their ids, and what they call.

    Example:
        >>> parameters, buffers, called = {}, {}, Called()
        >>> look_into([nn.BatchNorm1d(3)], parameters, buffers, called)
        >>> len(parameters), len(buffers), called.functions
        (2, 3, [])
    """
    hooks, held, kinds = called.functions, list[Any](), dict[type, None]()
    for module in chain.from_iterable(map(methodcaller("modules"), modules)):
        for where, tensors in ((parameters, module._parameters), (buffers, module._buffers)):
            for tensor in tensors.values():
                if tensor is not None:
                    where[id(tensor)] = tensor
                    hooks += (tensor._backward_hooks or {}).values()
                    hooks += (tensor._post_accumulate_grad_hooks or {}).values()
        hooks += (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
        hooks += (*module._backward_pre_hooks.values(), *module._backward_hooks.values())
        kinds[type(module)] = None
        for name, value in vars(module).items():
            if name not in STANDARD and type(value) not in SIMPLE:
                held.append(value)
    for kind in kinds:
        if is_users(kind.__module__):
            called.objects.append(kind)
    if held:
        called.add_attributes(held)
