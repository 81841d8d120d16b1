"""How far the weights have come, and what that can have done to the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.training import Training

_FAR = 1e-3  # of the weights' norm: farther, and the gradient here does not tell the way there


def most_change(training: Training, snapshot: TorchMemory) -> float | None:
    """The most that the way of the weights since a snapshot can have changed the loss by: sum_i |g_i| |w_i - w_i(0)|.

    For a convex loss that bounds its rise.

    Returns:
        None where it is not known: several processes, a parameter that has moved and has no gradient (or 0), a number
        that is not finite, a tensor of a kind that has no norm, or weights that have come farther than a thousandth of
        their norm.
    """
    if not training.ranks.is_alone:
        return None
    modules = [parameter for module in training.modules for parameter in module.parameters()]
    parameters = list({id(each): each for each in (*training.swept_parameters(), *modules)}.values())
    try:
        return _most_change(parameters, snapshot.copies_of(parameters))
    except Exception:  # noqa: BLE001 - of a sparse gradient or a class of the user's own, which are not worth an error
        return None


@torch.no_grad()
def _most_change(parameters: Sequence[torch.Tensor], starts: Sequence[torch.Tensor]) -> float | None:
    change = far = norm = 0.0
    for parameter, start in zip(parameters, starts, strict=True):
        before = start.to(parameter.device)
        way = float(torch.linalg.vector_norm(parameter - before))
        if way:
            slope = 0.0 if parameter.grad is None else float(torch.linalg.vector_norm(parameter.grad))
            if not slope:  # a loop may drop its gradients as soon as it has stepped
                return None
            change += way * slope
        far, norm = far + way**2, norm + float(torch.linalg.vector_norm(before)) ** 2
    return change if far <= _FAR**2 * norm and change < math.inf else None
