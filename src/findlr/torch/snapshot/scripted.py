"""TorchScript's modules, whose attributes are not Python's."""

# ruff: noqa: SLF001 - torch tells of them by private names only

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_COPIES: dict[type, Callable[[Any], Any]] = {list: list, dict: dict}  # of what scripted code may change in place


def attributes_of_scripted(module: Any) -> dict[str, Any]:
    """The buffers of a scripted module, and its other attributes where it tells them: a loaded one does not.

    Args:
        module: a ``torch.jit.ScriptModule``, whose forward pass may give each of them another value.
    """
    names = [name for name, _ in module.named_buffers(recurse=False)]
    if hasattr(module, "_concrete_type"):
        names += [name for name in module._concrete_type.get_attributes() if name not in module._parameters]
    values = {name: module._c.getattr(name) for name in names if name != "training"}
    return {name: _COPIES.get(type(value), _itself)(value) for name, value in values.items()}


def put_scripted(module: Any, attributes: dict[str, Any]) -> None:
    """Give a scripted module these attributes."""
    for name, value in attributes.items():
        module._c.setattr(name, value)


def _itself(value: Any) -> Any:
    return value
