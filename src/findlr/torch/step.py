"""How one optimizer step is taken: on a loss function, or by a function of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from findlr.analysis.numbers import real
from findlr.errors import DataEndedError, OptimizerError
from findlr.search.memory import Memory
from findlr.torch.arguments import autocast_type, check_counts, check_limits
from findlr.torch.data.nesting import moved
from findlr.torch.losses import checked, kept_loss
from findlr.torch.misfits import misfit, no_pair
from findlr.torch.ranks import is_skipped
from findlr.torch.rates import needs_closure
from findlr.torch.scaler import Stepper
from findlr.torch.snapshot.notes import remember_rng
from findlr.torch.training import Training
from findlr.torch.two_passes import closure_step, versions_of, wanted

Criterion = Callable[[Any, Any], torch.Tensor]
LossFn = Callable[[nn.Module, Any], torch.Tensor]
Loss = float | torch.Tensor
Draw = Callable[[], Any]
TrainStep = Callable[[Draw], Any]

BY_A_FRAMEWORK = "a framework takes the steps by what it has set up in this process, and a worker would be without that"
"""Why some trainings can't be sent to another process."""


class TakesSteps(Protocol):
    """Takes optimizer steps, and says what a search must know about them."""

    combine: Literal["mean", "sum"]
    """How the losses of the batches that a step draws combine into its own."""

    draws_first: bool
    """Whether a step draws all of its batches before the first forward pass; else it draws each before its own."""

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
        """The loss of a batch under the present weights; an empty tensor where the training goes on without this batch.

        Asked only where ``why_no_loss`` is None.
        """

    def why_no_loss(self) -> str | None:
        """Why ``loss`` can't be asked, so that there is no control variate and no held-out score; None if it can."""

    def why_not_together(self) -> str | None:
        """Why several runs can't be taken in one pass; None if nothing is known against it."""

    def remembered(self) -> Sequence[Any]:
        """What the step changes besides the models and the optimizers: anything that ``restore=`` takes."""


@runtime_checkable
class Evaluates(Protocol):
    """A step that prepares for an evaluation."""

    def begin_evaluation(self) -> None:
        """Prepare for the calls of ``loss``, in eval mode, that make one held-out loss."""


class LossStep:
    """A step on the mean loss of its batches: backward, clip, step.

    Args:
        training: whose model and optimizers step.
        criterion: this and what follows, up to ``clip_grad_value``, is as in ``TorchTrainable``.
        combine: how a step's loss is made of its batches' losses: their "mean"; or their "sum", where each is already a
            share of one.
        stepper: makes the gradients, clips them and steps; None is torch's own way.

    Raises:
        ConfigurationError: an argument that cannot work.
    """

    draws_first = False

    def __init__(
        self,
        training: Training,
        criterion: Criterion | None,
        loss_fn: LossFn | None,
        *,
        autocast: torch.dtype | str | None = None,
        scaler: GradScaler | None = None,
        accumulation_steps: int = 1,
        clip_grad_norm: float | None = None,
        clip_grad_value: float | None = None,
        combine: Literal["mean", "sum"] = "mean",
        stepper: Stepper | None = None,
    ) -> None:
        check_counts(accumulation_steps=accumulation_steps)
        check_limits(clip_grad_norm=clip_grad_norm, clip_grad_value=clip_grad_value)
        self._name = "criterion" if loss_fn is None else "loss_fn"
        self.autocast, self.accumulation_steps = autocast_type(autocast), int(accumulation_steps)
        self.clip_grad_norm = None if clip_grad_norm is None else real(clip_grad_norm)
        self.clip_grad_value = None if clip_grad_value is None else real(clip_grad_value)
        self.passes, self.combine = 0, combine
        self._divisor = self.accumulation_steps if combine == "mean" else 1
        self._model, self._criterion, self._loss_fn = training.models[0], criterion, loss_fn
        self._training, self._device = training, training.device
        self._stepper = Stepper(training.swept, scaler) if stepper is None else stepper
        self.by_closure = needs_closure(training.swept[0]) and len(training.swept) == 1
        self._is_known = False  # how the optimizer wants to be stepped
        if self.by_closure and not training.ranks.is_alone:
            raise _not_on_ranks(training, "takes as many passes as its own losses say, which differ by rank")

    def take(self, draw: Draw) -> Loss | None:
        """Take one step; None if the scaler skipped it, unless the loss is not finite: a smaller scale can't mend that.

        Raises:
            LossError: the loss is not one number that the parameters can learn from.
            LoaderError: a batch does not fit the criterion.
        """
        batches: list[Any] = []  # drawn one by one: a loop draws each after the forward pass on the last
        if self.by_closure:
            return self._closure_step(draw, batches)
        if self._is_known:
            loss = self._backward(draw, batches)
            try:
                ran = self._stepper.step()
            except RuntimeError as error:
                self._ask(error, versions_of(self._training.swept))
                self._backward(draw, batches)
                ran = self._stepper.step()
        else:
            loss, ran = self._first_step(draw, batches)
        if self._stepper.scaler is None:
            return loss
        return None if is_skipped(self._training.ranks, loss, taken=ran) else loss

    def _first_step(self, draw: Draw, batches: list[Any]) -> tuple[Loss, bool]:
        """Step as usual; if the optimizer says that it wants a closure or a graph, step with that from here on."""
        swept, stepper, states = self._training.swept, self._stepper, Memory()
        batches.append(draw())
        remember_rng(self._training.devices, states)
        loss = self._backward(draw, batches)
        versions, held = versions_of(swept), vars(swept[0]).copy()
        try:
            ran = stepper.step()
        except Exception as error:  # noqa: BLE001 - raised again, unless it asks for something
            self._ask(error, versions)
            states.put_back()
            vars(swept[0]).clear()  # a count, say, that it has made meanwhile
            vars(swept[0]).update(held)
            if self.by_closure:
                return self._closure_step(draw, batches), True
            loss, ran = self._backward(draw, batches), stepper.step()
        self._is_known = ran
        return loss, ran

    def _ask(self, error: Exception, versions: list[int]) -> None:
        """Set what a step that has failed wants; a later one may, for Sophia differentiates only now and then."""
        stepper = self._stepper
        wants = wanted(self._training.swept, error, versions, scaled=stepper.scaler is not None)
        if self._is_known and (wants == "closure" or stepper.with_graph):
            raise error
        self.by_closure, stepper.with_graph = wants == "closure", wants == "graph"
        if stepper.with_graph and not self._training.ranks.is_alone:
            raise _not_on_ranks(self._training, "differentiates the gradients, whose mean has no graph") from error

    def _closure_step(self, draw: Draw, batches: list[Any]) -> Loss:
        return closure_step(self._training.swept[0], lambda: self._backward(draw, batches))

    def _backward(self, draw: Draw, batches: list[Any]) -> Loss:
        """Make the gradients of the mean loss over the step's batches, clip them, and return that loss."""
        stepper, divisor = self._stepper, self._divisor
        stepper.zero_grad()
        losses = []
        for i in range(self.accumulation_steps):
            try:
                if i == len(batches):
                    batches.append(draw())
                loss = checked(self._name, self.loss(batches[i]))
            except DataEndedError:
                raise  # as all ranks do
            except Exception as error:
                stand_in = self._training.ranks.stand_in(error)
                if stand_in is None:
                    raise
                loss = stand_in
            losses.append(kept_loss(loss))
            stepper.backward(loss, divisor)
        if not (self.clip_grad_norm is None and self.clip_grad_value is None):
            stepper.clip(self._training.swept_parameters(), self.clip_grad_norm, self.clip_grad_value)
        self.passes += 1
        return losses[0] if len(losses) == 1 else sum(losses) / divisor

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
            raise no_pair(batch)
        inputs, targets = batch
        outputs = self._model(inputs)
        try:
            return self._criterion(outputs, targets)
        except Exception as error:
            told = misfit(self._criterion, outputs, targets, error) if not self.passes else None
            if told is None:
                raise
            raise told from None

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

    def why_not_packed(self) -> str | None:
        """None where torch's own way takes the step; another framework has states in each process of its own."""
        return None if type(self._stepper) is Stepper else BY_A_FRAMEWORK

    def remembered(self) -> Sequence[Any]:
        """The scaler."""
        return [] if self._stepper.scaler is None else [self._stepper.scaler]


def _not_on_ranks(training: Training, why: str) -> OptimizerError:
    name = type(training.swept[0]).__name__
    return OptimizerError(f"{name} {why}: search it in one process, or choose another optimizer")
