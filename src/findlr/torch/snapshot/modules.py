"""What a step can change of a module and its parameters, beside attributes and values: class, names, hooks, tags."""

# ruff: noqa: SLF001 - buffers that are not saved, a parameter's hooks and TorchScript's attributes have private names only

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Any

import torch
from torch import nn

from findlr.search.objects import refill_if_changed

Extras = tuple[dict[Any, Any], dict[Any, Any], dict[Any, Any]]

_MAY_CHANGE = (list, dict)  # in place, by TorchScript


def extras_of(parameters: Iterable[torch.Tensor]) -> list[Extras]:
    """The hooks of parameters, on their gradients and after these are there, and their attributes."""
    return [
        (dict(p._backward_hooks or ()), dict(p._post_accumulate_grad_hooks or ()), dict(vars(p))) for p in parameters
    ]


def put_extras(parameters: list[torch.Tensor], saved: list[Extras]) -> None:
    """Give parameters their hooks and attributes again."""
    for parameter, extras in zip(parameters, saved, strict=True):
        places = (parameter._backward_hooks, parameter._post_accumulate_grad_hooks, vars(parameter))
        for own, kept in zip(places, extras, strict=True):
            if own is not None and (own or kept):
                refill_if_changed(own, kept)


def put_classes(modules: list[nn.Module], saved: list[tuple[type, set[str]]]) -> None:
    """Make modules of their class again, as a parametrization gives another one; and which buffers are not saved."""
    for module, (kind, names) in zip(modules, saved, strict=True):
        if type(module) is not kind:
            object.__setattr__(module, "__class__", kind)
        if module._non_persistent_buffers_set != names:
            module._non_persistent_buffers_set.clear()
            module._non_persistent_buffers_set.update(names)


def attributes_of_scripted(module: Any) -> dict[str, Any]:
    """The buffers of a scripted module, and its other attributes where it tells them: a loaded one does not."""
    names = [name for name, _ in module.named_buffers(recurse=False)]
    if hasattr(module, "_concrete_type"):
        names += [name for name in module._concrete_type.get_attributes() if name not in module._parameters]
    values = {name: module._c.getattr(name) for name in names if name != "training"}
    return {name: copy(value) if type(value) in _MAY_CHANGE else value for name, value in values.items()}


def put_scripted(module: Any, attributes: dict[str, Any]) -> None:
    """Give a scripted module these attributes."""
    for name, value in attributes.items():
        module._c.setattr(name, value)
