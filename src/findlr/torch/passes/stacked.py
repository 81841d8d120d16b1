"""The steps of SGD, Adam and AdamW for several runs at once: stacked parameters, and a rate for each run.

Each takes over the optimizer's state, and does what ``torch.optim`` does, in the same order.
"""

# ruff: noqa: SLF001 - the calls for many tensors at once have no public names

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import optim

Tensors = list[torch.Tensor]


def obstacle(optimizer: optim.Optimizer) -> str | None:
    """The reason why an optimizer's steps can't be taken for several runs at once, or None."""
    kind = type(optimizer)
    if kind not in _KINDS:
        return f"{kind.__name__} is none of SGD, Adam, AdamW"
    for group in optimizer.param_groups:
        settings = [value for name, value in group.items() if name not in ("params", "lr", "initial_lr")]
        if any(isinstance(value, torch.Tensor) for setting in settings for value in _flat(setting)):
            return f"a setting of {kind.__name__} is a tensor"
        if group.get("differentiable"):
            return f"{kind.__name__} is differentiable"
    return None


def _flat(setting: Any) -> Sequence[Any]:
    return setting if isinstance(setting, (tuple, list)) else (setting,)


class Group:
    """The parameters of one param group, stacked, and their optimizer's state.

    Args:
        optimizer: one for which ``obstacle`` gives no reason.
        group: the param group.
        ratio: its rate as a share of the largest group's.
        params: those of its parameters that are trained.
        stacked: the same, each with a leading dimension of runs; they are written to.
    """

    def __init__(
        self, optimizer: optim.Optimizer, group: dict[str, Any], ratio: float, params: Tensors, stacked: Tensors
    ) -> None:
        self._settings, self._ratio = group, ratio
        self.params = stacked
        self._states = [optimizer.state.get(param, {}) for param in params]
        self._step = _KINDS[type(optimizer)](self)

    def step(self, grads: Tensors, lrs: torch.Tensor) -> None:
        """Take a step along ``grads``, which may be written to, at the rate that each run has."""
        if not grads:
            return
        lrs = lrs * self._ratio
        if isinstance(self._settings["lr"], torch.Tensor):
            lrs = lrs.to(self._settings["lr"].dtype)  # it rounds
        if self._settings["maximize"]:
            torch._foreach_neg_(grads)
        by_dtype = {param.dtype: lrs.to(param.dtype) for param in self.params}
        self._step.take(grads, [by_dtype[p.dtype].view(-1, *[1] * (p.dim() - 1)) for p in self.params])

    def setting(self, name: str) -> Any:
        """A setting of the param group."""
        return self._settings.get(name)

    def state(self, name: str) -> Tensors | None:
        """A state tensor of each parameter, stacked; None if there is none yet.

        Raises:
            ValueError: some parameters have one, and some do not.
        """
        values = [state.get(name) for state in self._states]
        if all(value is None for value in values):
            return None
        if any(value is None for value in values):
            raise ValueError(f"only some parameters have a {name}")
        return [copies(value, len(param)) for value, param in zip(values, self.params, strict=True)]

    def steps_taken(self) -> list[float]:
        """How many steps each parameter's state has counted."""
        return [float(state.get("step", 0)) for state in self._states]


def copies(tensor: torch.Tensor, runs: int) -> torch.Tensor:
    """As many copies of a tensor, stacked."""
    return tensor.detach().expand(runs, *tensor.shape).clone(memory_format=torch.contiguous_format)


class _SGD:
    """v = momentum v + (1 - dampening) g; p = p - lr v, or p - lr (g + momentum v) with Nesterov."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._momentum = group.state("momentum_buffer")

    def take(self, grads: Tensors, lrs: Tensors) -> None:
        setting, params = self._group.setting, self._group.params
        if setting("weight_decay"):
            torch._foreach_add_(grads, params, alpha=setting("weight_decay"))
        if momentum := setting("momentum"):
            if self._momentum is None:
                self._momentum = [grad.clone() for grad in grads]
            else:
                torch._foreach_mul_(self._momentum, momentum)
                torch._foreach_add_(self._momentum, grads, alpha=1 - setting("dampening"))
            if setting("nesterov"):
                torch._foreach_add_(grads, self._momentum, alpha=momentum)
            else:
                grads = self._momentum
        torch._foreach_sub_(params, torch._foreach_mul(grads, lrs))


class _Adam:
    """p = p - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps), m and v the averages of g and g^2."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._steps = group.steps_taken()
        self._mean = group.state("exp_avg") or [torch.zeros_like(param) for param in group.params]
        self._square = group.state("exp_avg_sq") or [torch.zeros_like(param) for param in group.params]
        self._largest: Tensors = []
        if group.setting("amsgrad"):
            self._largest = group.state("max_exp_avg_sq") or [torch.zeros_like(param) for param in group.params]

    def take(self, grads: Tensors, lrs: Tensors) -> None:
        setting, params = self._group.setting, self._group.params
        self._steps = [step + 1 for step in self._steps]
        if decay := setting("weight_decay"):
            if setting("decoupled_weight_decay"):  # as AdamW's groups say
                torch._foreach_sub_(params, torch._foreach_mul(torch._foreach_mul(params, lrs), decay))
            else:
                torch._foreach_add_(grads, params, alpha=decay)
        beta1, beta2 = setting("betas")
        torch._foreach_lerp_(self._mean, grads, 1 - beta1)
        torch._foreach_mul_(self._square, beta2)
        torch._foreach_addcmul_(self._square, grads, grads, 1 - beta2)
        square = self._square
        if self._largest:
            torch._foreach_maximum_(self._largest, self._square)
            square = self._largest
        below = torch._foreach_sqrt(square)
        torch._foreach_div_(below, [(1 - beta2**step) ** 0.5 for step in self._steps])
        torch._foreach_add_(below, setting("eps"))
        moves = torch._foreach_div(self._mean, [1 - beta1**step for step in self._steps])
        torch._foreach_div_(moves, below)
        torch._foreach_sub_(params, torch._foreach_mul(moves, lrs))


_KINDS: dict[type[optim.Optimizer], type[_SGD | _Adam]] = {optim.SGD: _SGD, optim.Adam: _Adam, optim.AdamW: _Adam}


def clip_norms(grads: Tensors, largest: float) -> None:
    """Scale each run's gradients, all together, to a norm of at most ``largest``, as ``clip_grad_norm_`` does."""
    norms = [torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in grads]
    total = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    scale = (largest / (total + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(grads, [scale.to(grad.dtype).view(-1, *[1] * (grad.dim() - 1)) for grad in grads])


def clip_values(grads: Tensors, largest: float) -> None:
    """Clamp each gradient to ``-largest`` to ``largest``."""
    torch._foreach_clamp_min_(grads, -largest)
    torch._foreach_clamp_max_(grads, largest)
