"""Whether a model's weights were trained before."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

import torch
from torch import nn

from findlr.torch.rates import parameters_of

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FEWEST = 64  # weights of a layer that tell
_MOST = 4096  # that are looked at
_BEYOND = 0.002  # of them, outside PyTorch's own bounds
_SHARE = 0.3  # of all weights, in layers that look trained
_UNIFORM, _TRUNCATED = 1.78, 2.35  # standard deviations: the largest of a uniform, and of a normal cut at two
_KURTOSIS = (2.1, 2.65)  # of a normal that is cut there; a uniform's is 1.8, a normal's 3
_ERRORS = 5.0  # standard errors
_EMPTY = 0.5  # of the weights are zero: an identity, a sparse start, or pruned
_SIDE = 256  # rows and columns that are compared
_UNEVEN = 1.7  # times as much as chance, rows or columns differ in size: training finds some inputs more useful
_FRESH = 1.45  # times, at most, in a fresh layer of many rows; few of them differ by two standard errors more


def pretrained(models: Sequence[nn.Module], optimizers: Iterable[torch.optim.Optimizer]) -> float:
    """The share of the models that is trained, where what that starts from was trained before; 0 for a fresh start.

    A new head on a model that is frozen is a fresh start: it is a small model of its own, on features that stay. An
    adapter, whose changes go through frozen layers, is none.
    """
    if not is_pretrained(models):
        return 0.0
    trained = {id(p): p.numel() for p in parameters_of(optimizers) if p.requires_grad}
    parameters = [parameter for model in models for parameter in model.parameters()]
    if _is_new_head(models, [id(parameter) in trained for parameter in parameters], trained):
        return 0.0
    return min(sum(trained.values()) / sum([parameter.numel() for parameter in parameters]), 1.0)


def _is_new_head(models: Sequence[nn.Module], learns: Sequence[bool], trained: Container[int]) -> bool:
    """Whether what is trained comes after all that is frozen, and is fresh."""
    if True not in learns or not all(learns[learns.index(True) :]) or all(learns):
        return False
    modules = [module for model in models for module in model.modules()]
    return not is_pretrained([m for m in modules if any(id(p) in trained for p in m.parameters(recurse=False))])


def is_pretrained(models: Iterable[nn.Module]) -> bool:
    """True if the weights of linear and convolutional layers are no fresh ones.

    Fresh ones lie within PyTorch's bounds, 1 / sqrt(fan_in), or are distributed as the usual initialisations are:
    uniform, normal, or normal and cut at two standard deviations, all rows and columns alike. What training does to
    them fits none of these.

    Args:
        models: they are only read, at most 4,096 weights of each layer.

    Example:
        >>> is_pretrained([nn.Sequential(nn.Linear(20, 50), nn.ReLU(), nn.Linear(50, 10))])
        False

    Source: original.
    """
    # Of each layer: how many weights, their bound, all of them, and some.
    some: list[tuple[int, float, torch.Tensor, torch.Tensor]] = []
    for model in models:
        for module in model.modules():
            # Not module.weight: a parametrization computes that, and spectral_norm's changes as it does.
            own = dict(module.named_parameters(recurse=False)) if isinstance(module, _LAYERS) else {}
            if type(weight := own.get("weight")) is nn.Parameter and weight.numel() >= _FEWEST and not weight.is_meta:
                count = weight.numel()
                bound = 1.0001 * (count // len(weight)) ** -0.5
                some.append((count, bound, weight.detach(), weight.detach().flatten()[:: max(1, count // _MOST)]))
    if not some:
        return False
    largest = torch.stack([weights.abs().max().float().cpu() for *_, weights in some]).tolist()
    all_weights = trained = 0
    for (count, bound, whole, weights), high in zip(some, largest, strict=True):
        all_weights += count
        trained += count * (high > bound and _looks_trained(whole, weights.float(), bound))
    return trained > _SHARE * all_weights


def _looks_trained(weight: torch.Tensor, weights: torch.Tensor, bound: float) -> bool:
    if float((weights.abs() > bound).float().mean()) <= _BEYOND or float((weights == 0).float().mean()) > _EMPTY:
        return False
    squares = (weights - weights.mean()).square()
    variance = float(squares.mean())
    if not variance > 0:
        return False
    largest, kurtosis = float(weights.abs().max()) / variance**0.5, float(squares.square().mean()) / variance**2
    normal = abs(kurtosis - 3) < _ERRORS * (24 / len(weights)) ** 0.5
    truncated = largest < _TRUNCATED and _KURTOSIS[0] < kurtosis < _KURTOSIS[1]
    # A uniform's deviation, told by few weights, has an error of (0.2 / n)^0.5 of it.
    uniform = largest < max(_UNIFORM, 3**0.5 * (1 + 3 * (0.2 / len(weights)) ** 0.5))
    if not (uniform or normal or truncated):
        return True
    part = weight.flatten(1)[:_SIDE, :_SIDE].float().square()
    for means, size in ((part.mean(1), part.shape[1]), (part.mean(0), part.shape[0])):
        by_chance = (kurtosis - 1) ** 0.5 / size**0.5
        n = len(means)
        if n > 1 and float(means.std() / means.mean()) > by_chance * max(_UNEVEN, _FRESH * (1 + (2 / (n - 1)) ** 0.5)):
            return True
    return False
