"""A PyTorch training as the search sees it: a Training, what takes its steps, and data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pickle import Pickler
from typing import Any, Never, Self

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from findlr.analysis.given import check_flags
from findlr.analysis.numbers import plain
from findlr.analysis.plan import Plan
from findlr.errors import LoaderError
from findlr.search.batches import MOST_KEPT_BYTES
from findlr.search.names import refuse
from findlr.torch import parcel
from findlr.torch.arguments import check_alone, check_counts, check_ways
from findlr.torch.baseline import Baseline
from findlr.torch.compiled import NoNewGraphs, may_compile
from findlr.torch.data.batches import TorchBatches
from findlr.torch.data.nesting import moved
from findlr.torch.losses import READ_EVERY_STEPS
from findlr.torch.own_step import OwnStep
from findlr.torch.passes import together
from findlr.torch.passes.obstacles import obstacle
from findlr.torch.ranks import drawn_on_all
from findlr.torch.scaler import Stepper
from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.snapshot.notes import Watched
from findlr.torch.snapshot.reach import Reached, attached_to, reached_from
from findlr.torch.snapshot.stores import StoreKind, free_memory
from findlr.torch.step import Criterion, Loss, LossFn, LossStep, TakesSteps, TrainStep
from findlr.torch.stepping import Stepping
from findlr.torch.training import Models, Optimizers, Sweep, Training
from findlr.torch.validation import HeldOut

logger = logging.getLogger("findlr")


class TorchTrainable(Stepping):
    """A model, its optimizer, how a step is taken, and its data.

    Args:
        model: batches go to its first parameter's device; with ``train_step``, several may be given as a list or dict.
        optimizer: any of ``torch.optim`` but Rprop, or one like them; on parameters of the model or the criterion. A
            list or dict of several is swept together, with their ratio kept; with ``train_step``, see ``sweep``.
        criterion: ``criterion(outputs, targets)`` gives the loss; then the loader's items are pairs.
        loader: batches; anything that can be iterated again.
        loss_fn: ``loss_fn(model, batch)`` gives the loss, in place of ``criterion``.
        train_step: ``train_step(draw)`` takes the whole step, in place of both: it calls ``draw()`` for each batch that
            it wants, steps the optimizer once, and returns the loss that its forward pass saw.
        sweep: with ``train_step``, the index or key of the optimizer to sweep, if there are several; or a list of them.
        validation_loader: batches that a race is scored on; without them it is scored on some of ``loader``'s. Without
            a race, all of them make the validation loss along the sweep.
        validation_every: steps between two validation losses, at least 1.
        autocast: the type that the forward pass runs in under ``torch.autocast``, such as torch.bfloat16 or
            "bf16"; None is off.
        scaler: the training's GradScaler; None is that of a wrapper around the optimizer, such as Accelerate's, if any.
        accumulation_steps: batches to each optimizer step, at least 1; their gradients and losses are averaged.
        clip_grad_norm: the largest norm of all gradients together, above 0; None does not clip.
        clip_grad_value: the largest absolute value of a gradient, above 0; None does not clip.
        restore: what else a step changes: anything with state_dict and load_state_dict (an EMA, a stateful criterion).
        snapshot: where the copies live: "device", "cpu", "disk", or "auto", which goes by the free memory.
        consume: take a one-shot iterator as the loader, and use its batches up.
        stepper: makes what takes the steps on ``criterion`` or ``loss_fn``, for another framework; None is torch's way.

    Raises:
        ConfigurationError: the parts do not fit; the message says which, and what to do.

    Example:
        >>> from torch import nn
        >>> net = nn.Linear(2, 1)
        >>> batches = [(torch.ones(4, 2), torch.zeros(4, 1))]
        >>> training = TorchTrainable(net, torch.optim.SGD(net.parameters(), lr=0.1), nn.MSELoss(), batches)
        >>> isinstance(training.step(lr=0.01), float)
        True
    """

    trial_steps = together.TRIAL_STEPS

    def __init__(
        self,
        model: Models,
        optimizer: Optimizers,
        criterion: Criterion | None = None,
        loader: Iterable[Any] | None = None,
        *,
        loss_fn: LossFn | None = None,
        train_step: TrainStep | None = None,
        sweep: Sweep = None,
        validation_loader: Iterable[Any] | None = None,
        validation_every: int = 1,
        autocast: torch.dtype | str | None = None,
        scaler: GradScaler | None = None,
        accumulation_steps: int = 1,
        clip_grad_norm: float | None = None,
        clip_grad_value: float | None = None,
        restore: Sequence[Any] = (),
        snapshot: StoreKind = "auto",
        consume: bool = False,
        stepper: Callable[[Training], Stepper] | None = None,
        **others: Never,
    ) -> None:
        how: dict[str, Any] = {
            "autocast": autocast,
            "scaler": scaler,
            "accumulation_steps": accumulation_steps,
            "clip_grad_norm": clip_grad_norm,
            "clip_grad_value": clip_grad_value,
        }
        if others:
            refuse(others, TorchTrainable)
        check_ways(criterion, loss_fn, train_step, model)
        if loader is None:
            raise LoaderError("loader is missing: give the training's DataLoader, or [0] if train_step draws nothing")
        if train_step is not None:
            check_alone(how, validation_loader)
        training = Training(
            model, optimizer, together=train_step is None, sweep=sweep, restore=restore, snapshot=snapshot
        )
        if not isinstance(criterion, nn.Module):  # which is put back whole
            training.watched.append(Watched(criterion, loss_fn, train_step))
        training.include(reached_from(criterion, loss_fn, train_step), but=loader)
        training.check_parameters()
        if train_step is not None:
            taker: TakesSteps = OwnStep(training, train_step)
            training.include(Reached(statefuls=attached_to(training.optimizers, is_alone=training.ranks.is_alone)))
        else:
            how["scaler"] = training.scaler if scaler is None else scaler
            how["stepper"] = None if stepper is None else stepper(training)
            taker = LossStep(training, criterion, loss_fn, **how)
        self._assemble(
            training, taker, loader, (criterion, loss_fn), validation_loader, validation_every, consume=consume
        )

    @classmethod
    def of(
        cls,
        training: Training,
        taker: TakesSteps,
        loader: Iterable[Any],
        *,
        validation_loader: Iterable[Any] | None = None,
        validation_every: int = 1,
        consume: bool | None = None,
        facts: Mapping[str, Any] | None = None,
        place: Callable[[Any], Any] | None = None,
    ) -> Self:
        """A trainable whose steps another framework takes.

        Args:
            training: the models and optimizers.
            taker: takes the steps; see ``findlr.torch.step.TakesSteps``.
            loader: batches.
            validation_loader: see the class.
            validation_every: see the class.
            consume: see the class; None is no, where the framework has no such argument.
            facts: what the Finding should record besides, or in place of what is known of the training.
            place: brings a batch to where the step needs it; None moves all of it to the training's device.
        """
        made = cls.__new__(cls)
        made._assemble(training, taker, loader, (), validation_loader, validation_every, consume=consume, place=place)  # noqa: SLF001 - its own
        made._told = {} if facts is None else facts  # noqa: SLF001 - which a framework may still add to
        return made

    def _assemble(
        self,
        training: Training,
        taker: TakesSteps,
        loader: Iterable[Any],
        functions: Sequence[Any],
        validation_loader: Iterable[Any] | None,
        validation_every: int,
        *,
        consume: bool | None,
        place: Callable[[Any], Any] | None = None,
    ) -> None:
        check_counts(validation_every=validation_every)
        check_flags(consume=False if consume is None else consume)
        self.training, self.taker, self.device = training, taker, training.device
        self._told: Mapping[str, Any] = {}
        training.restore += taker.remembered()
        self._write = training.rates.write if isinstance(taker, LossStep) else training.write
        self.no_new_graphs = NoNewGraphs()
        self._may_compile = may_compile(training.modules, next(iter(functions), None), training.swept)
        self._place = place or partial(moved, device=self.device)
        self.batches = TorchBatches(loader, self.device if place is None else None, consume=consume)
        self._held_out = HeldOut(training, taker, validation_loader, self.no_new_graphs, self._place)
        self.validation_every = None if validation_loader is None else plain(validation_every)
        ranks = training.ranks
        self.rank, self.world_size = ranks.rank, ranks.world_size
        self.read_every = 1 if self.device.type == "cpu" and ranks.is_alone else READ_EVERY_STEPS
        self._baseline = Baseline(training, taker, functions)
        self._latest, self._other_passes, self._first_batch = 0.0, 0, None
        self.see_together: Callable[[int, Sequence[Sequence[float]]], object] | None = None

    def hold_out(self, batches: int, steps: int, total_steps: int) -> int:
        """Set batches aside; see ``HeldOut.hold_out``."""
        with self.training.ranks.alike():
            return self._held_out.hold_out(self.batches, batches, steps, total_steps)

    def unseen(self) -> bool:
        """Whether no run has trained on what ``evaluate`` scores, on any rank."""
        return not self.training.ranks.any(not self.batches.unseen())

    def keep_batches(self, steps: int) -> None:
        """Draw the batches of ``steps`` steps, to come again after each restore, unless they take too much memory."""
        if self.taker.accumulation_steps is None:
            return  # train_step draws as many batches as it likes
        free = self.training.ranks.least(free_memory(self.device))
        most = MOST_KEPT_BYTES if free is None else min(MOST_KEPT_BYTES, free // 4)
        with self.training.ranks.alike():
            keep = partial(self.batches.keep, steps * self.taker.accumulation_steps, most)
            if not drawn_on_all(self.training.ranks, keep):
                logger.info("the batches of %d steps are drawn anew for each run, because they can't be kept", steps)

    def prepare_together(self, runs: int) -> str | None:
        """The reason why ``run_together`` can't take that many runs, if one is known beforehand, or None."""
        return obstacle(self, runs) if self.training.ranks.is_alone else "several processes train together"

    def run_together(self, snapshot: TorchMemory, rates: Sequence[Sequence[float]]) -> list[float] | str:
        """The held-out losses of several runs in one pass; or why they must be made one after another."""
        return together.run(self, snapshot, rates)

    def why_not_packed(self, *, forked: bool) -> str | None:
        """Why it can't be sent to other processes, as far as that is known before its first step, or None."""
        return parcel.why_not_packed(self, forked=forked)

    def try_packing(self, base: type[Pickler]) -> None:
        """Pickle it without its numbers, and throw the result away.

        Raises:
            ConfigurationError: it can't be pickled.
        """
        parcel.try_out(self, base)

    def packed(self, base: type[Pickler]) -> parcel.TorchParcel | str:
        """What another process makes a run of; or why that can't be had."""
        return parcel.packed(self, base)

    def evaluate(self) -> float:
        """The mean loss on the batches set aside, in eval mode; BatchNorm's statistics stay."""
        with self.training.ranks.alike():
            mine = float(self._held_out.evaluate())
        return self.training.ranks.mean([mine])[0]

    def validate(self) -> Loss:
        """The mean loss on all of the validation loader, in eval mode; BatchNorm's statistics and random states stay.

        Raises:
            LoaderError: the validation loader is empty.
        """
        with self.training.ranks.alike():
            return self._left(self._held_out.validate())

    def planned(self, plan: Plan) -> Plan:
        """``plan`` with what is known of the optimizer, the start and the epochs, where it leaves them open."""
        plan = self.training.planned(plan)
        if plan.epochs is not None or plan.total_steps is None:
            return plan
        try:
            return replace(plan, epochs=plan.total_steps / self.steps_per_epoch())
        except LoaderError:
            return plan

    def check_verify(self) -> None:
        """Refuse a race of an optimizer whose step may cost any number of passes."""
        self.training.check_verify(by_closure=getattr(self.taker, "by_closure", False))

    def acting_lr(self, lr: float) -> float:
        """The rate that the next step takes when asked for ``lr``: rounded to a tensor's type, or capped."""
        return self.training.rates.acting(lr)

    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the loader.

        Raises:
            LoaderError: the loader has no length, or ``train_step`` draws as it likes.
        """
        length, count = self.training.ranks.least(self.batches.length()), self.taker.accumulation_steps
        if length is None or count is None:
            lacking = "a loader with a length" if length is None else "a step that says how many batches it draws"
            raise LoaderError(f"num_steps='epoch' needs {lacking}: give a number of steps")
        return -(-length // count) if self.ends_short else max(length // count, 1)

    def facts(self) -> dict[str, Any]:
        """Batch size, accumulation, clipping, the optimizer and its settings, ratios of its groups, versions."""
        autocast = getattr(self.taker, "autocast", None)
        name = None if autocast is None else str(autocast).removeprefix("torch.")
        facts = {**self.training.facts(), "accumulation_steps": self.taker.accumulation_steps, "autocast": name}
        for limit in ("clip_grad_norm", "clip_grad_value"):
            if getattr(self.taker, limit, None) is not None:
                facts[limit] = getattr(self.taker, limit)
        return {**facts, **self._told}
