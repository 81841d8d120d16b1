"""What a loop does between two items: one point of its range test."""

from __future__ import annotations

from typing import Any

import torch

from findlr.errors import ConfigurationError, LossError
from findlr.torch.losses import kept_loss
from findlr.torch.scaler import found_inf


class Point:
    """The losses that were recorded since the last point, and the steps that were taken or tried."""

    def __init__(self) -> None:
        self._losses: list[torch.Tensor | float] = []
        self._steps = self._attempts = 0
        self._skipped: torch.Tensor | None = None

    def __bool__(self) -> bool:
        """Whether the optimizer has stepped, or a scaler was asked to step it."""
        return self._steps > 0 or self._attempts > 0

    def record(self, loss: torch.Tensor | float) -> None:
        """Take the loss of a forward pass.

        Raises:
            LossError: it is not one number.
        """
        if isinstance(loss, torch.Tensor):
            if loss.numel() != 1:
                raise LossError(
                    f"record() needs one number, got shape {tuple(loss.shape)}: reduce it, with .mean() say"
                )
            loss = kept_loss(loss)
        elif not isinstance(loss, (int, float)) or isinstance(loss, bool):
            raise LossError(f"record() needs the loss, got {type(loss).__name__}")
        self._losses.append(loss)

    def stepped(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Count a step that an optimizer has taken; this is its hook."""
        self._steps += 1
        skipped = found_inf(optimizer)
        if skipped is not None:
            self._skipped = skipped if self._skipped is None else self._skipped + skipped

    def attempted(self) -> None:
        """Count a step that a scaler was asked for."""
        self._attempts += 1

    def closed(self) -> tuple[float | torch.Tensor, bool, torch.Tensor | None]:
        """End the point: its mean loss, whether a step was taken, and a value above 0 if a fused kernel skipped it.

        Raises:
            ConfigurationError: no loss was recorded.
        """
        if not self._losses:
            raise ConfigurationError(
                "the optimizer stepped and no loss was recorded: call test.record(loss) in the loop"
            )
        loss, taken, skipped = sum(self._losses) / len(self._losses), self._steps > 0, self._skipped
        self._losses, self._steps, self._attempts, self._skipped = [], 0, 0, None
        return loss, taken, skipped
