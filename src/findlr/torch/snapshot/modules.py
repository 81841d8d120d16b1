"""What a step can change of a module and its parameters, beside attributes and values: class, names, hooks, tags."""

# ruff: noqa: SLF001 - buffers that are not saved, and a parameter's hooks, have private names only

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

Extras = tuple[dict[Any, Any], dict[Any, Any], dict[Any, Any]]


def extras_of(parameters: Iterable[torch.Tensor]) -> list[Extras]:
    """The hooks of parameters, on their gradients and after these are there, and their attributes."""
    return [
        (dict(p._backward_hooks or ()), dict(p._post_accumulate_grad_hooks or ()), dict(vars(p))) for p in parameters
    ]


def put_extras(parameters: list[torch.Tensor], saved: list[Extras]) -> None:
    """Give parameters their hooks and attributes again."""
    for parameter, (on_gradient, after, names) in zip(parameters, saved, strict=True):
        _put(parameter._backward_hooks, on_gradient)
        _put(parameter._post_accumulate_grad_hooks, after)
        _put(vars(parameter), names)


def _put(own: dict[Any, Any] | None, names: dict[Any, Any]) -> None:
    if own is not None and (own.keys() != names.keys() or not all(map(operator.is_, own.values(), names.values()))):
        own.clear()
        own.update(names)


def put_class(module: nn.Module, saved: tuple[type, set[str]]) -> None:
    """Make a module of its class again, as a parametrization gives it another one; and which buffers are not saved."""
    kind, names = saved
    if type(module) is not kind:
        object.__setattr__(module, "__class__", kind)
    if module._non_persistent_buffers_set != names:
        module._non_persistent_buffers_set.clear()
        module._non_persistent_buffers_set.update(names)
