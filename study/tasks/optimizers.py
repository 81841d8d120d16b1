"""Optimizers that torch does not have, or not as one: Lion, and Muon with AdamW beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer


class Lion(Optimizer):
    """The sign of a momentum is the step (Chen et al. 2023, arXiv:2302.06675)."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                momentum = state["exp_avg"]
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(torch.lerp(parameter.grad, momentum, first).sign_(), alpha=group["lr"])
                momentum.lerp_(parameter.grad, 1 - second)
        return loss


class SignSGD(Optimizer):
    """The sign of the gradient is the step (Bernstein et al. 2018, arXiv:1802.04434)."""

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad.sign(), alpha=group["lr"])
        return loss


def not_for_muon(parameter: nn.Parameter) -> None:
    """Mark a matrix that AdamW trains beside Muon: an embedding or the last layer."""
    parameter.not_for_muon = True  # type: ignore[attr-defined]


class MuonAdamW(Optimizer):
    """Muon for the hidden layers' matrices, AdamW for all else, at one rate (Liu et al. 2025, arXiv:2502.16982)."""

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3) -> None:
        every = list(params)
        hidden = [one for one in every if one.ndim == 2 and not hasattr(one, "not_for_muon")]
        others = [one for one in every if all(one is not other for other in hidden)]
        muon: Any = torch.optim.Muon  # from torch 2.9 on
        self.inner = (muon(hidden, lr=lr, adjust_lr_fn="match_rms_adamw"), AdamW(others, lr=lr))
        super().__init__([optimizer.param_groups[0] for optimizer in self.inner], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of both, on this optimizer's groups and state."""
        loss = closure() if closure is not None else None
        for optimizer, group in zip(self.inner, self.param_groups, strict=True):
            optimizer.param_groups, optimizer.state = [group], self.state
            optimizer.step()
        return loss
