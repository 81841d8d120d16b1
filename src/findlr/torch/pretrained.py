"""Whether a model's weights were trained before."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FEWEST = 64  # weights of a layer that tell
_MOST = 4096  # that are looked at
_BEYOND = 0.002  # of them, outside PyTorch's own bounds
_SHARE = 0.3  # of all weights, in layers that look trained
_UNIFORM, _TRUNCATED = 1.78, 2.35  # standard deviations: the largest of a uniform, and of a normal cut at two
_KURTOSIS = (2.1, 2.65)  # of a normal that is cut there; a uniform's is 1.8, a normal's 3
_ERRORS = 5.0  # standard errors


def is_pretrained(models: Iterable[nn.Module]) -> bool:
    """True if the weights of linear and convolutional layers are no fresh ones.

    Fresh ones lie within PyTorch's bounds, 1 / sqrt(fan_in), or are distributed as the usual initialisations are:
    uniform, normal, or normal and cut at two standard deviations. What training does to them fits none of these.

    Args:
        models: they are only read, at most 4,096 weights of each layer.

    Example:
        >>> is_pretrained([nn.Sequential(nn.Linear(20, 50), nn.ReLU(), nn.Linear(50, 10))])
        False

    Source: original.
    """
    layers = [
        module.weight.detach()
        for model in models
        for module in model.modules()
        if type(module) in _LAYERS and type(module.weight) is nn.Parameter and module.weight.numel() >= _FEWEST
    ]
    layers = [weight for weight in layers if weight.is_floating_point() and not weight.is_meta]
    some = [weight.flatten()[:: max(1, weight.numel() // _MOST)] for weight in layers]
    if not some:
        return False
    bounds = [weight[0].numel() ** -0.5 * 1.0001 for weight in layers]
    largest = torch.stack([weights.abs().max().float().cpu() for weights in some]).tolist()
    trained = sum(
        weight.numel()
        for weight, weights, high, bound in zip(layers, some, largest, bounds, strict=True)
        if high > bound and _looks_trained(weights.float(), bound)
    )
    return trained > _SHARE * sum(weight.numel() for weight in layers)


def _looks_trained(weights: torch.Tensor, bound: float) -> bool:
    if float((weights.abs() > bound).float().mean()) <= _BEYOND:
        return False
    squares = (weights - weights.mean()).square()
    variance = float(squares.mean())
    if not variance > 0:
        return False
    largest, kurtosis = float(weights.abs().max()) / variance**0.5, float(squares.square().mean()) / variance**2
    normal = abs(kurtosis - 3) < _ERRORS * (24 / len(weights)) ** 0.5
    truncated = largest < _TRUNCATED and _KURTOSIS[0] < kurtosis < _KURTOSIS[1]
    return not (largest < _UNIFORM or normal or truncated)
