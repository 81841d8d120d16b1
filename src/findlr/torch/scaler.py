"""The steps of optimizers, through a gradient scaler if there is one, and whether they were taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from findlr.errors import ConfigurationError
from findlr.torch.rates import needs_closure
from findlr.torch.two_passes import gradients_with_graph

_ZERO_GRAD = torch.optim.Optimizer.zero_grad  # torch's own; somebody may put another one in its place


class Stepper:
    """Takes the steps of one or several optimizers, through a gradient scaler if there is one.

    An optimizer with a fused kernel skips a step inside that kernel, and its hooks run all the same; whether it did is
    on the device, in ``found_inf``.

    Args:
        optimizers: of any kind; with one that takes a closure there can be no scaler.
        scaler: a ``torch.amp.GradScaler``, or None.

    Raises:
        ConfigurationError: ``scaler`` is not a GradScaler, or there is one and an optimizer takes a closure.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], scaler: GradScaler | None) -> None:
        if not (scaler is None or isinstance(scaler, GradScaler)):
            raise ConfigurationError(f"scaler must be a torch.amp.GradScaler, got {type(scaler).__name__}")
        closures = [type(optimizer).__name__ for optimizer in optimizers if needs_closure(optimizer)]
        if scaler is not None and closures:
            raise ConfigurationError(f"a GradScaler can't step {closures[0]}, which takes a closure: leave scaler out")
        self.skipped: torch.Tensor | None = None
        self.scaler = scaler
        self.with_graph = False  # let gradients be differentiated again
        self._optimizers = optimizers

    def zero_grad(self) -> None:
        """Drop the gradients, without torch's own call: that leaves a mark for the profiler, which takes far longer."""
        for optimizer in self._optimizers:
            if "zero_grad" in vars(optimizer) or type(optimizer).zero_grad is not _ZERO_GRAD:
                optimizer.zero_grad()
                continue
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def backward(self, loss: torch.Tensor, batches: int = 1) -> None:
        """Add the gradients of the loss, scaled; it is one of so many, whose mean counts."""
        loss = loss if batches == 1 else loss / batches
        if self.with_graph:
            gradients_with_graph(loss, self._optimizers)
            return
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]

    def clip(self, parameters: list[torch.Tensor], norm: float | None, value: float | None) -> None:
        """Clip the gradients, once the scale is taken out of them; once before each step."""
        if self.scaler is not None:
            for optimizer in self._optimizers:
                self.scaler.unscale_(optimizer)
        if norm is not None:
            nn.utils.clip_grad_norm_(parameters, norm)
        if value is not None:
            nn.utils.clip_grad_value_(parameters, value)

    def step(self) -> bool:
        """Step; return whether an optimizer ran. If it is fused and skipped the step, ``skipped`` is above 0."""
        if self.scaler is None:
            for optimizer in self._optimizers:
                optimizer.step()
            return True
        ran = self._watched(self.scaler.step, self._optimizers)
        self.scaler.update()
        return ran

    def _watched(self, step: Callable[[Any], object], steppers: Sequence[Any]) -> bool:
        """Call ``step`` for each of ``steppers``, one for each optimizer; return whether an optimizer ran."""
        counted = Counted()
        for optimizer, stepper in zip(self._optimizers, steppers, strict=True):
            hook = optimizer.register_step_post_hook(counted.stepped)
            try:
                step(stepper)
            finally:
                hook.remove()
        self.skipped = counted.skipped
        return counted.steps > 0


class Counted:
    """Counts the steps that optimizers take, and those that a scaler is asked for."""

    def __init__(self) -> None:
        self.steps = self.attempts = 0
        self.skipped: torch.Tensor | None = None
        """A value above 0 if a fused kernel skipped a step; None if none is fused."""

    @property
    def tried(self) -> bool:
        """Whether an optimizer has stepped, or a scaler was asked to step one."""
        return self.steps > 0 or self.attempts > 0

    def stepped(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Count a step that an optimizer has taken; this is its hook."""
        self.steps += 1
        skipped: torch.Tensor | None = getattr(optimizer, "found_inf", None)  # there while a scaler steps a fused one
        if skipped is not None:
            self.skipped = skipped if self.skipped is None else self.skipped + skipped.to(self.skipped.device)

    def attempted(self) -> None:
        """Count a step that a scaler was asked for."""
        self.attempts += 1


def count_attempts(
    scaler: GradScaler, optimizers: Sequence[torch.optim.Optimizer], count: Callable[[], None]
) -> Callable[[], object]:
    """Call ``count`` when ``scaler`` is asked to step one of ``optimizers``, because a skipped step runs no hook.

    Call what it returns to undo that.
    """
    step = scaler.step

    def counted(stepped: torch.optim.Optimizer, *args: Any, **how: Any) -> float | None:
        if any(stepped is optimizer for optimizer in optimizers):
            count()
        return step(stepped, *args, **how)

    scaler.step = counted  # type: ignore[method-assign,assignment]
    return partial(vars(scaler).pop, "step", None)


def count_all_attempts(optimizers: Sequence[torch.optim.Optimizer], count: Callable[[], None]) -> Callable[[], object]:
    """The same for every scaler, because a loop may make one only when it trains."""
    step = GradScaler.step

    def counted(scaler: GradScaler, stepped: torch.optim.Optimizer, *args: Any, **how: Any) -> float | None:
        if any(stepped is optimizer for optimizer in optimizers):
            count()
        return step(scaler, stepped, *args, **how)

    GradScaler.step = counted  # type: ignore[method-assign,assignment]
    return partial(setattr, GradScaler, "step", step)
