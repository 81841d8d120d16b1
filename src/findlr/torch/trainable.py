"""A PyTorch training as findlr's core sees it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from findlr.errors import ConfigurationError, LoaderError
from findlr.torch.arguments import check_counts, check_limits, one_device
from findlr.torch.control_variate import ControlVariate, why_not
from findlr.torch.data.batches import Batches
from findlr.torch.data.nesting import batch_size, moved
from findlr.torch.losses import READ_EVERY, checked, kept_loss, read_losses
from findlr.torch.passes import together
from findlr.torch.precision import Stepper, may_compile, no_new_graphs
from findlr.torch.rates import Rates, described, needs_closure, versions
from findlr.torch.snapshot.memory import Memory, memory_of, released_on_error, remember_rng
from findlr.torch.snapshot.stores import Snapshot, check, free_memory
from findlr.torch.validation import evaluating, mean_loss

logger = logging.getLogger("findlr")

Criterion = Callable[[Any, Any], torch.Tensor]
LossFn = Callable[[nn.Module, Any], torch.Tensor]

_MOST_KEPT = 1 << 30  # bytes of a race's batches


class TorchTrainable:
    """A model, its optimizer, its loss and its data.

    Args:
        model: on one device.
        optimizer: any of ``torch.optim`` but Rprop, or one like them; on parameters of the model or the criterion.
        criterion: ``criterion(outputs, targets)`` gives the loss; the loader's items are pairs then.
        loader: batches; anything that can be iterated again.
        loss_fn: ``loss_fn(model, batch)`` gives the loss, in place of ``criterion``.
        validation_loader: batches that a race is scored on, which takes some of ``loader``'s without it; or, without a
            race, all of them make the validation loss.
        validation_every: steps to each validation loss, at least 1.
        autocast: the type that the forward pass runs in under ``torch.autocast``, such as torch.bfloat16; None is off.
        scaler: the training's GradScaler; None is none.
        accumulation_steps: batches to each optimizer step, at least 1; their gradients and losses are averaged.
        clip_grad_norm: the largest norm of all gradients together, above 0; None clips none.
        clip_grad_value: the largest absolute value of a gradient, above 0; None clips none.
        restore: what else a step changes: anything with state_dict and load_state_dict (an EMA, a stateful criterion).
        snapshot: where the copies live: "device", "cpu", "disk", or "auto", which goes by the free memory.
        consume: take a one-shot iterator as the loader, and use its batches up.

    Raises:
        ConfigurationError: the parts do not fit; the message says which, and what to do.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> batches = [(torch.ones(4, 2), torch.zeros(4, 1))]
        >>> training = TorchTrainable(net, torch.optim.SGD(net.parameters(), lr=0.1), nn.MSELoss(), batches)
        >>> isinstance(training.step(lr=0.01), float)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        criterion: Criterion | None = None,
        loader: Iterable[Any] | None = None,
        *,
        loss_fn: LossFn | None = None,
        validation_loader: Iterable[Any] | None = None,
        validation_every: int = 1,
        autocast: torch.dtype | None = None,
        scaler: GradScaler | None = None,
        accumulation_steps: int = 1,
        clip_grad_norm: float | None = None,
        clip_grad_value: float | None = None,
        restore: Sequence[Any] = (),
        snapshot: Snapshot = "auto",
        consume: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ConfigurationError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if (criterion is None) == (loss_fn is None):
            given = "neither" if criterion is None else "both"
            raise ConfigurationError(
                f"give exactly one of criterion and loss_fn, got {given}: criterion(outputs, targets) for a loader of "
                "pairs, loss_fn(model, batch) for anything else"
            )
        for name, function in (("criterion", criterion), ("loss_fn", loss_fn)):
            if function is not None and not callable(function):
                raise ConfigurationError(f"{name} must be a function or a module, got {type(function).__name__}")
        if loader is None:
            raise LoaderError("loader is missing: give the DataLoader that the model is trained on")
        self.model, self.optimizer, self.criterion, self.loss_fn = model, optimizer, criterion, loss_fn
        check_counts(accumulation_steps=accumulation_steps, validation_every=validation_every)
        check_limits(clip_grad_norm=clip_grad_norm, clip_grad_value=clip_grad_value)
        if autocast is not None and not isinstance(autocast, torch.dtype):
            raise ConfigurationError(f"autocast must be a torch.dtype such as torch.bfloat16, got {autocast!r}")
        self.autocast, self.accumulation_steps = autocast, accumulation_steps
        self.clip_grad_norm, self.clip_grad_value = clip_grad_norm, clip_grad_value
        self._restore = [*restore, *([] if scaler is None else [scaler])]
        check(snapshot)
        self._kind = snapshot
        self._modules = [m for m in (model, criterion, loss_fn) if isinstance(m, nn.Module)]
        self._rates = Rates(optimizer)
        self._stepper = Stepper(optimizer, scaler)
        self._no_new_graphs = no_new_graphs()
        self._may_compile = may_compile(self._modules, criterion, optimizer)
        self._device = one_device(self._modules, optimizer)
        self._batches = Batches(loader, consume=consume)
        self._validation = None if validation_loader is None else Batches(validation_loader)
        self.validation_every = None if validation_loader is None else validation_every
        self._held_out: list[Any] = []
        self._needs_closure = needs_closure(optimizer)
        self._batch_size: int | None = None
        self.read_every = 1 if self._device.type == "cpu" else READ_EVERY
        self._variate: ControlVariate | None = None
        self._variate_checked = False
        self._latest: float | torch.Tensor = 0.0
        self.forwards = 0
        self.backwards = 0

    def step(self, lr: float) -> float | torch.Tensor | None:
        """Take one optimizer step at ``lr`` on the next batch.

        Returns:
            The loss before it, left on its device; None if the scaler skipped the step, unless the loss is not finite:
            a smaller scale can't mend that.

        Raises:
            LossError: the loss is not one number that the parameters can learn from.
            LoaderError: the loader is empty, or its items do not fit the criterion.
        """
        if not self.model.training:
            logger.info("the model is in eval mode; the sweep trains it in train mode and puts the mode back")
            self.model.train()
        step = self._step_without_new_graphs if self._may_compile else self._step  # else for speed
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            return step(lr)
        # The caller is inside torch.no_grad() or inference_mode(); a step needs gradients, and so do its batches.
        with torch.inference_mode(False), torch.enable_grad():
            return step(lr)

    def _step_without_new_graphs(self, lr: float) -> float | torch.Tensor | None:
        with self._no_new_graphs:
            return self._step(lr)

    def _step(self, lr: float) -> float | torch.Tensor | None:
        batches: list[Any] = []  # drawn one by one: a loop draws the next one after the last one's forward pass
        if self._variate is not None:
            self._variate.begin(batches)
        self._rates.write(lr)
        if self._needs_closure:
            self._latest = self._closure_step(batches)
        else:
            self._latest = self._backward(batches)
            if not self._stepper.step() and math.isfinite(self._latest):
                return None
        return self._latest

    def skipped(self) -> float | torch.Tensor | None:
        """Above 0 if a fused optimizer skipped the last step; None if ``step`` has told."""
        skipped = self._stepper.skipped
        return skipped.item() if skipped is not None and skipped.device.type == "cpu" else skipped

    def _closure_step(self, batches: list[Any]) -> float | torch.Tensor:
        seen: list[float | torch.Tensor] = []

        def closure() -> float:
            seen.append(self._backward(batches))
            return float(seen[-1])

        self.optimizer.step(closure)
        return seen[0]

    def _backward(self, batches: list[Any]) -> float | torch.Tensor:
        """Gradients of the mean loss over the step's batches, clipped; and that loss."""
        self._stepper.zero_grad()
        losses = []
        for i in range(self.accumulation_steps):
            if i == len(batches):
                batches.append(moved(self._batches.next(), self._device))
            if self._variate is not None:
                self._variate.before_forward()
            loss = checked("criterion" if self.loss_fn is None else "loss_fn", self._loss(batches[i]))
            losses.append(kept_loss(loss))
            share = loss if self.accumulation_steps == 1 else loss / self.accumulation_steps
            self._stepper.backward(share)
        if not (self.clip_grad_norm is None and self.clip_grad_value is None):
            self._stepper.unscale()
        if self.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._swept_parameters(), self.clip_grad_norm)
        if self.clip_grad_value is not None:
            nn.utils.clip_grad_value_(self._swept_parameters(), self.clip_grad_value)
        if self._batch_size is None:
            self._batch_size = batch_size(batches[0])
        self.forwards += 1
        self.backwards += 1
        return losses[0] if len(losses) == 1 else sum(losses) / len(losses)

    def _swept_parameters(self) -> list[torch.Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _loss(self, batch: Any) -> torch.Tensor:
        batch = moved(batch, self._device)  # it is there; but loss_fn may take its container apart, and it comes again
        if self.autocast is None:
            return self._plain_loss(batch)
        with torch.autocast(self._device.type, self.autocast):
            return self._plain_loss(batch)

    def _plain_loss(self, batch: Any) -> torch.Tensor:
        if self.loss_fn is not None:
            return self.loss_fn(self.model, batch)
        assert self.criterion is not None
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            seen = f"{type(batch).__name__}" + (f" of {len(batch)}" if isinstance(batch, (tuple, list, dict)) else "")
            raise LoaderError(
                f"with a criterion the loader's items must be pairs (inputs, targets), got a {seen}: give "
                "loss_fn=lambda model, batch: ... instead"
            )
        inputs, targets = batch
        return self.criterion(self.model(inputs), targets)

    def prepare_baseline(self, snapshot: Memory) -> str | None:
        """Get ready for ``baseline`` under the weights of ``snapshot``; return what keeps it from working, or None."""
        reason = why_not(self.model) if snapshot.store.on_device else "the snapshot is not on the model's device"
        self._variate = None if reason else ControlVariate(self._modules, self._loss, snapshot, self._device)
        self._variate_checked = False
        return reason

    def baseline(self) -> float | torch.Tensor | None:
        """The last batch's loss under the snapshot's weights, with the same dropout; None if a self-check failed."""
        if self._variate is None:
            return None
        if not self._variate_checked:
            self.forwards += 2
            if reason := self._variate.disagrees(self._latest):
                logger.info("no control variate: %s", reason)
                self._variate = None
                return None
            self._variate_checked = True
        self.forwards += 1
        with self._no_new_graphs:
            return self._left(self._variate.loss())

    def hold_out(self, batches: int, steps: int, total_steps: int) -> int:
        """Set batches aside: the validation loader's first ones or, without one, some of the training's examples.

        A run of ``steps`` then trains on the root of its share of ``total_steps``, as a share of the other examples:
        a training that sees its examples many times overfits, and its short runs do so too only if they have fewer.
        """
        needed, share = steps * self.accumulation_steps, math.sqrt(steps / total_steps)
        if self._validation is None:
            held_out = self._batches.hold_out(batches, needed, share)
        else:
            length = self._validation.length()
            held_out = [self._validation.next() for _ in range(batches if length is None else min(batches, length))]
            self._batches.hold_out(0, needed, share)
        self._held_out = [moved(batch, self._device) for batch in held_out]
        return len(held_out)

    def keep_batches(self, steps: int) -> None:
        """Draw the batches of ``steps`` steps, to come again after each restore; unless they take too much memory."""
        free = free_memory(self._device)
        most = _MOST_KEPT if free is None else min(_MOST_KEPT, free // 4)
        if not self._batches.keep(steps * self.accumulation_steps, self._device, most):
            logger.info("the batches of %d steps are drawn anew for each run: they can't be kept", steps)

    trial_steps = together.TRIAL

    def prepare_together(self, runs: int) -> str | None:
        """What is known beforehand to keep ``run_together`` from taking that many runs, or None."""
        return together.why_not(self, runs)

    def run_together(self, snapshot: Memory, rates: Sequence[Sequence[float]]) -> list[float] | str:
        """The held-out losses of several runs in one pass; or why they are better made one after another."""
        return together.run(self, snapshot, rates)

    def evaluate(self) -> float:
        """The mean loss on the batches set aside, in eval mode; BatchNorm's statistics stay."""
        return float(self._mean_loss(self._held_out))

    def validate(self) -> float | torch.Tensor:
        """The mean loss on all of the validation loader, in eval mode; BatchNorm's statistics and random states stay.

        Raises:
            LoaderError: the validation loader is empty.
        """
        assert self._validation is not None
        states = Memory()
        remember_rng([self._device], states)
        try:
            with closing(self._validation.whole()) as batches:
                return self._left(self._mean_loss(moved(batch, self._device) for batch in batches))
        finally:
            states.put_back()

    def _mean_loss(self, batches: Iterable[Any]) -> torch.Tensor:
        with evaluating(self._modules), self._no_new_graphs:
            loss, count = mean_loss(self._loss, batches)
        self.forwards += count
        return loss

    def _left(self, loss: torch.Tensor) -> float | torch.Tensor:
        """A number where the loss is on the CPU; elsewhere left there, for reading it would wait."""
        return loss.item() if self._device.type == "cpu" else loss.reshape(())

    def read(self, losses: list[float | torch.Tensor]) -> list[float]:
        """The losses as numbers; waits for the device, once."""
        return read_losses(losses)

    def snapshot(self) -> Memory:
        """Copies of everything that a step can change; see ``findlr.torch.snapshot.memory``."""
        memory = memory_of(self._kind, [self._device], self._modules, [self.optimizer], self._restore)
        with released_on_error(memory):
            self._batches.remember(memory)
            if self._validation is not None:
                self._validation.remember(memory)
            remember_rng([self._device], memory)
        return memory

    def restore(self, snapshot: Memory) -> None:
        """Put everything back in place."""
        self._variate = None
        snapshot.put_back()

    def acting_lr(self, lr: float) -> float:
        """The rate that the next step takes when asked for ``lr``: rounded to a tensor's type, or capped."""
        return self._rates.acting(lr)

    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the loader.

        Raises:
            LoaderError: the loader has no length.
        """
        length = self._batches.length()
        if length is None:
            raise LoaderError(
                f"num_steps='epoch' needs a loader with a length, and this {type(self._batches.loader).__name__} has "
                "none: give a number of steps"
            )
        return max(length // self.accumulation_steps, 1)

    def facts(self) -> dict[str, Any]:
        """Batch size, accumulation, the optimizer and its settings, ratios of its groups, versions."""
        return {
            "model": type(self.model).__name__,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "device": self._device.type,
            "batch_size": self._batch_size,
            "accumulation_steps": self.accumulation_steps,
            "autocast": None if self.autocast is None else str(self.autocast).removeprefix("torch."),
            "optimizer": described(self.optimizer),
            "ratios": list(self._rates.ratios),
            "versions": versions(),
        }
