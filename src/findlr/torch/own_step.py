"""An optimizer step that a function of the user's own takes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Literal

import torch

from findlr.errors import OptimizerError
from findlr.search.recording import MOST_SKIPS
from findlr.search.restoring import Unwritten
from findlr.torch.given import hooked
from findlr.torch.losses import told_loss
from findlr.torch.point import Idle, make_endless
from findlr.torch.ranks import is_skipped
from findlr.torch.scaler import Counted, count_attempts
from findlr.torch.step import BY_A_FRAMEWORK, Draw, Loss, TrainStep
from findlr.torch.training import Training


class DelegatedStep(ABC):
    """A step that code outside of findlr takes: a function of the user's own, or a framework.

    The rate is written by a hook of the optimizer just before each of its steps, so nothing in that code, such as a
    scheduler, can override it.

    Args:
        training: the models and optimizers that are stepped.
        accumulation_steps: the batches that a step draws, if it always draws as many; else None.
        loss_method: an object of a framework's and the name of its method that gives the loss of a batch, unless a
            step of the user's own never calls it; None where there is no such loss.
    """

    combine: Literal["mean", "sum"] = "mean"
    draws_first = False
    name = "train_step"
    """What takes the step, in messages."""

    def __init__(
        self, training: Training, accumulation_steps: int | None = None, loss_method: tuple[Any, str] | None = None
    ) -> None:
        self.passes = 0
        self.accumulation_steps = accumulation_steps
        self._training = training
        self._counted, self._others = Counted(), Counted()  # steps of the swept optimizers, and at first of all
        self._idle = Idle(training.swept, self.name, "find_lr")
        self._refused = 0  # calls in a row that tried no step
        self._has_stepped = False  # whether any call did
        self._loss_method = loss_method
        self._loss_calls: list[Any] = []  # of that method, in the first step

    @abstractmethod
    def called(self, draw: Draw) -> Any:
        """Draw as many batches as are wanted, take one step, and return the loss."""

    def take(self, draw: Draw) -> Loss | None:
        """Take one step; None if a scaler skipped it, unless the loss is not finite.

        None also if the function leaves this step out by itself: it has stepped before, as guards against bad losses
        have, or it steps another optimizer meanwhile, as a critic may be stepped five times for each step of its
        generator. The last such call in a row that the sweep bears returns its loss if that is not finite, which ends
        it.

        Raises:
            LossError: the function returned no loss.
            OptimizerError: it never stepped the optimizer that is swept, or steps another one in its place.
        """
        training = self._training
        counted, others = Counted(), Counted()
        self._counted, self._others = counted, others
        with ExitStack() as stack:
            self._hook_in(stack, counted)
            if not self._has_stepped:
                for optimizer in training.optimizers:
                    stack.callback(hooked(optimizer).register_step_post_hook(others.stepped).remove)
                if self._loss_method is not None:
                    self._loss_calls = stack.enter_context(Unwritten(_calls_of(*self._loss_method)))
            returned = self.called(draw)
            waits = self._has_stepped or (others.steps > 0 and self._refused + 1 < MOST_SKIPS)
            refuses = waits and training.ranks.is_alone and not self.tried
            self._note_refusal(refuses)
            if refuses and returned is None:
                return None
            loss = told_loss(
                returned,
                f"{self.name} must return one number",
                f"{self.name} must return the loss that its forward pass saw, got {{}}: return loss",
            )
        self.passes += 1
        if refuses:
            return loss if self._refused == MOST_SKIPS and not math.isfinite(loss) else None
        self._has_stepped = True
        if counted.steps and (training.ranks.is_alone or not training.scalers):
            return loss
        if counted.tried:
            return None if is_skipped(training.ranks, loss, taken=counted.steps > 0) else loss
        names = ", ".join(type(optimizer).__name__ for optimizer in training.swept)
        raise OptimizerError(
            f"{self.name} returned, and the optimizer that is swept ({names}) took no step: let it call that "
            "optimizer's step() once, and draw all batches of that step by itself if it accumulates; name the "
            "optimizer that it does step with sweep=; or give that one, a base optimizer say, and the outer one in "
            "restore="
        )

    def _hook_in(self, stack: ExitStack, counted: Counted) -> None:
        """Let the swept optimizers' steps be written and counted, and no scheduler's end stop them."""
        training = self._training
        for optimizer in training.swept:
            stack.callback(hooked(optimizer).register_step_pre_hook(training.rewrite).remove)
            stack.callback(hooked(optimizer).register_step_post_hook(counted.stepped).remove)
        for scaler in training.scalers:
            stack.callback(count_attempts(scaler, training.swept, counted.attempted))
        for scheduler in training.schedulers:
            stack.callback(make_endless(scheduler))

    def _note_refusal(self, refuses: bool) -> None:
        """Count the calls in a row that tried no step; look whether one by an unknown optimizer is taken in them."""
        if refuses and len(self._training.optimizers) == len(self._training.swept):
            self._idle.look()
        elif self._refused:
            self._idle.stepped()
        self._refused = self._refused + 1 if refuses else 0

    def mean_of(self, one: Callable[[], Any]) -> Any:
        """The mean loss of as many batches as make a step, of a function that is given one at a time.

        Args:
            one: gives the function the next one, and returns its loss.

        Raises:
            OptimizerError: no optimizer has ever stepped.
        """
        count = self.accumulation_steps or 1
        losses = [one() for _ in range(count)]
        if not (self.passes or self.tried or self._others.steps):
            raise OptimizerError(
                f"{self.name} was given {count} of its batches, and the optimizer that is swept took no step: give "
                "gradient_accumulation_steps=, or name the optimizer that does step with sweep="
            )
        return sum(losses) / count

    @property
    def tried(self) -> bool:
        """Whether, in the step that is being taken, the optimizer has stepped or a scaler was asked to step it."""
        return self._counted.tried

    @property
    def skipped(self) -> torch.Tensor | None:
        """A value above 0 if a fused optimizer skipped the last step; None if what ``take`` returned says it all."""
        return self._counted.skipped

    def loss(self, batch: Any) -> torch.Tensor:
        """The loss of a batch under the present weights; asked only where ``why_no_loss`` is None."""
        raise NotImplementedError

    def why_no_loss(self) -> str | None:
        """None if there is a loss of one batch; else the function alone knows what its loss is made of."""
        if self._loss_method is None:
            return "train_step has no loss of one batch by itself"
        if not self._has_stepped or self._loss_calls:
            return None
        return f"{self.name} never calls {self._loss_method[1]}, so a batch has no loss by itself"

    def why_not_together(self) -> str | None:
        """Nobody but the function knows what it does."""
        return "train_step is a function of your own"

    def why_not_packed(self) -> str | None:
        """A framework's own class of steps is bound to this process."""
        return BY_A_FRAMEWORK

    def remembered(self) -> Sequence[Any]:
        """Nothing: what else the function changes belongs in ``restore=``."""
        return []


@contextmanager
def _calls_of(owner: Any, name: str) -> Iterator[list[Any]]:
    """The calls of an object's method meanwhile; an attribute of the object covers it, and is taken away again."""
    calls: list[Any] = []
    own, method = vars(owner), getattr(owner, name)
    before = {name: own[name]} if name in own else {}

    @wraps(method)
    def seen(*args: Any, **how: Any) -> Any:
        calls.append(name)
        return method(*args, **how)

    try:
        own[name] = seen
        yield calls
    finally:
        own.pop(name, None)
        own.update(before)


class OwnStep(DelegatedStep):
    """A step that the user's own function takes.

    Args:
        training: the models and optimizers that the function steps.
        function: ``train_step(draw)``: draws as many batches as it likes, takes one step, returns the loss.
    """

    def __init__(self, training: Training, function: TrainStep) -> None:
        super().__init__(training)
        self._function = function

    def called(self, draw: Draw) -> Any:
        """Call the function."""
        return self._function(draw)

    def why_not_packed(self) -> str | None:
        """None: it goes where the function goes."""
        return None
