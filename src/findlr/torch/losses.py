"""The loss of a step: checked, kept on its device, read; and the loss of a batch that is not trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist

from findlr.analysis.numbers import real
from findlr.errors import LossError

READ_EVERY_STEPS = 10  # where losses are on a device, and looking at one waits for it


def checked(name: str, loss: Any) -> torch.Tensor:
    """The loss, if it is one number with a graph behind it.

    Raises:
        LossError: it is not.
    """
    if not isinstance(loss, torch.Tensor):
        raise LossError(f"{name} must return a tensor, got {type(loss).__name__}: {_instead(loss)}")
    if loss.numel() != 1 or loss.is_complex() or loss.is_meta:
        raise _no_number(loss, f"{name} must return one number")
    if not loss.requires_grad:
        raise LossError(
            f"{name} returned a loss without a graph, so nothing can be learned from it: leave out .detach(), .item() "
            "and torch.no_grad()"
        )
    return loss


def _instead(loss: Any) -> str:
    """What to return in place of what is no tensor."""
    if hasattr(loss, "loss"):
        return "return its .loss"
    if isinstance(loss, Mapping) and "loss" in loss:
        return "return its ['loss']"
    if loss is None:
        return "it may lack its return"
    if real(loss) is not None:
        return "return the loss itself, without .item() or float()"
    return "return the loss itself" + (
        ", one number: a sum of them, say" if isinstance(loss, (Mapping, tuple, list)) else ""
    )


def told_loss(loss: Any, needed: str, no_loss: str) -> float | torch.Tensor:
    """A loss that a loop or a step of the user's own tells, kept.

    Args:
        loss: a tensor, or a number.
        needed: how an error about its shape begins.
        no_loss: an error about anything else; {} stands for its class.

    Raises:
        LossError: it is not one number.
    """
    if isinstance(loss, torch.Tensor):
        if loss.numel() != 1 or loss.is_complex() or loss.is_meta:
            raise _no_number(loss, needed)
        return kept_loss(loss)
    if (number := real(loss)) is None:
        raise LossError(no_loss.format(type(loss).__name__))
    return number


def _no_number(loss: torch.Tensor, needed: str) -> LossError:
    if loss.numel() != 1:
        return LossError(f"{needed}, got shape {tuple(loss.shape)}: reduce it, with .mean() say")
    if loss.is_complex():
        return LossError(f"{needed}, a real number, got {loss.dtype}: give its .abs() or .real, say")
    return LossError(f"{needed}, got a tensor without data, on the meta device: train on one that computes")


def kept_loss(loss: torch.Tensor) -> float | torch.Tensor:
    """A copy of a loss, because that could share memory with a parameter and change with it; a number on a CPU."""
    return loss.item() if loss.device.type == "cpu" else loss.detach().clone().reshape(())


def read_losses(losses: list[float | torch.Tensor]) -> list[float]:
    """Losses as numbers: those on a device come over together, and numbers stay as they are."""
    on_device = [loss for loss in losses if isinstance(loss, torch.Tensor)]
    if len(on_device) < len(losses) or not losses:
        return [float(loss) for loss in losses]
    return [float(loss) for loss in torch.stack(on_device).tolist()]


class WithoutGraph:
    """Computes losses for their number alone: without gradients, unless the loss itself differentiates.

    A physics-informed loss, forces or a gradient penalty call ``torch.autograd.grad``; the first one that fails without
    gradients is computed again with them, and so are all that follow. That may be with another error, which the code
    around that call makes of torch's.
    """

    def __init__(self) -> None:
        self.differentiates = False
        self._is_known = False

    def __call__(self, loss: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The loss, without a graph; ``loss`` computes it, and may be called twice the first time."""
        if not self.differentiates:
            try:
                with torch.no_grad():
                    found = loss()
            except Exception as error:
                if not self._may_differentiate(error):
                    raise
                self.differentiates = True
            else:
                self._is_known = True
                return found
        with torch.enable_grad():
            return loss().detach()

    def _may_differentiate(self, error: Exception) -> bool:
        if isinstance(error, RuntimeError):  # torch's own
            return "require grad" in str(error)
        return not (self._is_known or dist.is_initialized())  # another rank may not have failed, and waits for this one
