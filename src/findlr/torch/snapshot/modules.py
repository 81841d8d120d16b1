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
        places = (parameter._backward_hooks, parameter._post_accumulate_grad_hooks, vars(parameter))
        for own, kept in zip(places, (on_gradient, after, names), strict=True):
            if own is None or not (own or kept):
                continue
            if own.keys() != kept.keys() or not all(map(operator.is_, own.values(), kept.values())):
                own.clear()
                own.update(kept)


def put_classes(modules: list[nn.Module], saved: list[tuple[type, set[str]]]) -> None:
    """Make modules of their class again, as a parametrization gives another one; and which buffers are not saved."""
    for module, (kind, names) in zip(modules, saved, strict=True):
        if type(module) is not kind:
            object.__setattr__(module, "__class__", kind)
        if module._non_persistent_buffers_set != names:
            module._non_persistent_buffers_set.clear()
            module._non_persistent_buffers_set.update(names)
