"""How one optimizer step is taken: on a loss function, or by a function of the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from findlr.errors import ConfigurationError, LoaderError, LossError, OptimizerError
from findlr.torch.arguments import check_counts, check_limits
from findlr.torch.data.nesting import moved
from findlr.torch.losses import checked, kept_loss
from findlr.torch.rates import needs_closure
from findlr.torch.scaler import Stepper, count_attempts, found_inf
from findlr.torch.training import Training

Criterion = Callable[[Any, Any], torch.Tensor]
LossFn = Callable[[nn.Module, Any], torch.Tensor]
Loss = float | torch.Tensor
Draw = Callable[[], Any]
TrainStep = Callable[[Draw], Any]


class Step(Protocol):
    """Takes optimizer steps, and says what a search must know about them."""

    combine: Literal["mean", "sum"]
    """How the losses of the batches that a step draws combine into its own."""

    @property
    def accumulation_steps(self) -> int | None:
        """Batches that each step draws; None if it draws as it likes."""

    @property
    def passes(self) -> int:
        """How often all of a step's batches have gone forward and backward so far."""

    @property
    def skipped(self) -> torch.Tensor | None:
        """A value above 0 if a fused optimizer skipped the last step; None if what ``take`` returned says it all."""

    def take(self, draw: Draw) -> Loss | None:
        """Take one optimizer step on as many batches as it draws.

        Returns:
            The loss that its forward pass saw, on its device; None if the optimizer did not step.
        """

    def loss(self, batch: Any) -> torch.Tensor:
        """The loss of a batch under the present weights; asked only where ``why_no_loss`` is None."""

    def why_no_loss(self) -> str | None:
        """Why ``loss`` can't be asked, so that there is no control variate and no held-out score; None if it can."""

    def why_not_together(self) -> str | None:
        """Why several runs can't be taken in one pass; None if nothing is known against it."""

    def remembered(self) -> Sequence[Any]:
        """What the step changes besides the models and the optimizers: anything that ``restore=`` takes."""


class LossStep:
    """A step on the mean loss of its batches: backward, clip, step.

    Args:
        training: whose model and optimizers step.
        criterion: ``criterion(outputs, targets)`` gives the loss; then the batches are pairs.
        loss_fn: ``loss_fn(model, batch)`` gives the loss, in place of ``criterion``.
        autocast: the type that the forward pass runs in; None is off.
        scaler: the training's GradScaler, or None.
        accumulation_steps: batches to each step, at least 1; their gradients and losses are averaged.
        clip_grad_norm: the largest norm of all gradients together, above 0; None does not clip.
        clip_grad_value: the largest absolute value of a gradient, above 0; None does not clip.

    Raises:
        ConfigurationError: an argument that cannot work.
    """

    combine: Literal["mean", "sum"] = "mean"

    def __init__(
        self,
        training: Training,
        criterion: Criterion | None,
        loss_fn: LossFn | None,
        *,
        autocast: torch.dtype | None = None,
        scaler: GradScaler | None = None,
        accumulation_steps: int = 1,
        clip_grad_norm: float | None = None,
        clip_grad_value: float | None = None,
    ) -> None:
        check_counts(accumulation_steps=accumulation_steps)
        check_limits(clip_grad_norm=clip_grad_norm, clip_grad_value=clip_grad_value)
        if autocast is not None and not isinstance(autocast, torch.dtype):
            raise ConfigurationError(f"autocast must be a torch.dtype such as torch.bfloat16, got {autocast!r}")
        self._name = "criterion" if loss_fn is None else "loss_fn"
        self.autocast, self.accumulation_steps = autocast, accumulation_steps
        self.clip_grad_norm, self.clip_grad_value = clip_grad_norm, clip_grad_value
        self.passes = 0
        self._model, self._criterion, self._loss_fn = training.models[0], criterion, loss_fn
        self._training, self._device = training, training.device
        self._stepper = Stepper(training.swept, scaler)
        self._by_closure = needs_closure(training.swept[0]) and len(training.swept) == 1

    def take(self, draw: Draw) -> Loss | None:
        """Take one step; None if the scaler skipped it, unless the loss is not finite: a smaller scale can't mend that.

        Raises:
            LossError: the loss is not one number that the parameters can learn from.
            LoaderError: a batch does not fit the criterion.
        """
        batches: list[Any] = []  # drawn one by one: a loop draws each after the forward pass on the last
        if self._by_closure:
            return self._closure_step(draw, batches)
        loss = self._backward(draw, batches)
        ran = self._stepper.step()
        if self._stepper.scaler is None:
            return loss
        return None if self._training.ranks.any(not ran and math.isfinite(loss)) else loss

    def _closure_step(self, draw: Draw, batches: list[Any]) -> Loss:
        seen: list[Loss] = []

        def closure() -> float:
            seen.append(self._backward(draw, batches))
            return float(seen[-1])

        self._training.swept[0].step(closure)
        return seen[0]

    def _backward(self, draw: Draw, batches: list[Any]) -> Loss:
        """Make the gradients of the mean loss over the step's batches, clip them, and return that loss."""
        stepper, count = self._stepper, self.accumulation_steps
        stepper.zero_grad()
        losses = []
        for i in range(count):
            if i == len(batches):
                batches.append(draw())
            loss = checked(self._name, self.loss(batches[i]))
            losses.append(kept_loss(loss))
            stepper.backward(loss if count == 1 else loss / count)
        if not (self.clip_grad_norm is None and self.clip_grad_value is None):
            self._clip()
        self.passes += 1
        return losses[0] if count == 1 else sum(losses) / count

    def _clip(self) -> None:
        self._stepper.unscale()
        parameters = self._training.swept_parameters()
        if self.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip_grad_norm)
        if self.clip_grad_value is not None:
            nn.utils.clip_grad_value_(parameters, self.clip_grad_value)

    @property
    def skipped(self) -> torch.Tensor | None:
        """A value above 0 if a fused optimizer skipped the last step; None if what ``take`` returned says it all."""
        return self._stepper.skipped

    def loss(self, batch: Any) -> torch.Tensor:
        """The loss of a batch under the present weights."""
        batch = moved(batch, self._device)  # in a container that loss_fn may take apart, because the batch comes again
        if self.autocast is None:
            return self._plain_loss(batch)
        with torch.autocast(self._device.type, self.autocast):
            return self._plain_loss(batch)

    def _plain_loss(self, batch: Any) -> torch.Tensor:
        if self._loss_fn is not None:
            return self._loss_fn(self._model, batch)
        assert self._criterion is not None
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            seen = f"{type(batch).__name__}" + (f" of {len(batch)}" if isinstance(batch, (tuple, list, dict)) else "")
            raise LoaderError(
                f"with a criterion the loader's items must be pairs (inputs, targets), got a {seen}: give "
                "loss_fn=lambda model, batch: ... instead"
            )
        inputs, targets = batch
        return self._criterion(self._model(inputs), targets)

    def why_no_loss(self) -> str | None:
        """None, because there is a loss of one batch."""
        return None

    def why_not_together(self) -> str | None:
        """Names a scaler, accumulation, or several optimizers; None if there is none of them."""
        if self._stepper.scaler is not None:
            return "a gradient scaler would have one scale for all runs"
        if self.accumulation_steps > 1:
            return "gradients are accumulated"
        return "several optimizers are swept together" if len(self._training.swept) > 1 else None

    def remembered(self) -> Sequence[Any]:
        """The scaler."""
        return [] if self._stepper.scaler is None else [self._stepper.scaler]


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
