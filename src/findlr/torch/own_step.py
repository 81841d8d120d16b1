"""An optimizer step that a function of the user's own takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch

from findlr.errors import ConfigurationError, LossError, OptimizerError
from findlr.torch.losses import kept_loss
from findlr.torch.scaler import count_attempts, found_inf
from findlr.torch.step import Draw, Loss, TrainStep
from findlr.torch.training import Training


class OwnStep:
    """A step that the user's own function takes.

    The rate is written by a hook of the optimizer just before each of its steps, so nothing in the function, such as a
    scheduler, can override it.

    Args:
        training: the models and optimizers that the function steps.
        function: ``train_step(draw)``: draws as many batches as it likes, takes one step, returns the loss.

    Raises:
        ConfigurationError: ``function`` is no function.
    """

    combine: Literal["mean", "sum"] = "mean"
    accumulation_steps = None

    def __init__(self, training: Training, function: TrainStep) -> None:
        if not callable(function):
            raise ConfigurationError(f"train_step must be a function of draw, got {type(function).__name__}")
        self.passes = 0
        self.skipped: torch.Tensor | None = None
        self._training, self._function = training, function
        self._steps = self._attempts = 0

    def take(self, draw: Draw) -> Loss | None:
        """Take one step; None if a scaler skipped it, unless the loss is not finite.

        Raises:
            LossError: the function returned no loss.
            OptimizerError: it did not step the optimizer that is swept.
        """
        training = self._training
        self._steps, self._attempts, self.skipped = 0, 0, None
        with ExitStack() as stack:
            for optimizer in training.swept:
                stack.callback(optimizer.register_step_pre_hook(training.rewrite).remove)
                stack.callback(optimizer.register_step_post_hook(self._stepped).remove)
            for scaler in training.scalers:
                stack.callback(count_attempts(scaler, training.swept, self._attempted))
            loss = self._checked(self._function(draw))
        self.passes += 1
        if self._steps:
            return loss
        if training.ranks.any(self._attempts > 0):
            return None if math.isfinite(loss) else loss
        names = ", ".join(type(optimizer).__name__ for optimizer in training.swept)
        raise OptimizerError(
            f"train_step returned, and the optimizer that is swept ({names}) took no step: let it call that "
            "optimizer's step() once, or name the optimizer that it does step with sweep="
        )

    def _checked(self, loss: Any) -> Loss:
        if isinstance(loss, torch.Tensor):
            if loss.numel() != 1:
                raise LossError(
                    f"train_step must return one number, got shape {tuple(loss.shape)}: reduce it, with .mean() say"
                )
            return kept_loss(loss)
        if isinstance(loss, bool) or not isinstance(loss, (int, float)):
            raise LossError(
                f"train_step must return the loss that its forward pass saw, got {type(loss).__name__}: return loss"
            )
        return float(loss)

    def _stepped(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._steps += 1
        skipped = found_inf(optimizer)
        if skipped is not None:
            self.skipped = skipped if self.skipped is None else self.skipped + skipped

    def _attempted(self) -> None:
        self._attempts += 1

    def loss(self, batch: Any) -> torch.Tensor:
        """Never called, see ``why_no_loss``."""
        raise NotImplementedError

    def why_no_loss(self) -> str | None:
        """The function alone knows what its loss is made of."""
        return "train_step has no loss of one batch by itself"

    def why_not_together(self) -> str | None:
        """Nobody but the function knows what it does."""
        return "train_step is a function of your own"

    def remembered(self) -> Sequence[Any]:
        """Nothing: what else the function changes belongs in ``restore=``."""
        return []
