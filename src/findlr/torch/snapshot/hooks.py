"""The hooks of a training: functions of the user's own that its steps call, in a module, at a gradient, at a step.

A step changes what they hold, such as a mean of the activations or a generator of noise, as it changes what a loss
function holds.
"""

# ruff: noqa: SLF001 - hooks have private names only

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

OF_STEPS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
_OF_MODULES = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def look_into(
    modules: Iterable[nn.Module],
    parameters: dict[int, torch.Tensor],
    buffers: dict[int, torch.Tensor],
    hooks: list[Any],
) -> None:
    """Add the parameters and the buffers of ``modules`` and of those inside them, by their ids, and all hooks.

    Example:
        >>> parameters, buffers, hooks = {}, {}, []
        >>> look_into([nn.BatchNorm1d(3)], parameters, buffers, hooks)
        >>> len(parameters), len(buffers), hooks
        (2, 3, [])
    """
    for root in modules:
        for module in root.modules():
            for where, tensors in ((parameters, module._parameters), (buffers, module._buffers)):
                for tensor in tensors.values():
                    if tensor is not None:
                        where[id(tensor)] = tensor
                        hooks += (tensor._backward_hooks or {}).values()
                        hooks += (tensor._post_accumulate_grad_hooks or {}).values()
            for name in _OF_MODULES:
                hooks += getattr(module, name).values()
