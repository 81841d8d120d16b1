"""A Trainer in the midst of its ``train``: its plan, its steps, and what a search asks of them."""

# ruff: noqa: SLF001 - docs/huggingface.md names what has no public name

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from transformers import Trainer
from transformers.trainer_utils import has_length

from findlr.analysis.plan import Plan
from findlr.errors import ConfigurationError, LoaderError
from findlr.finding.schedulers import follows_metric, unwrapped
from findlr.huggingface.memory import DATA, around, own
from findlr.search.restoring import Unwritten, restored
from findlr.torch.losses import told_loss
from findlr.torch.own_step import DelegatedStep
from findlr.torch.planned import read_schedule
from findlr.torch.setting import facts_of, made_rates, share_of
from findlr.torch.snapshot.reach import reached_from
from findlr.torch.snapshot.stores import StoreKind
from findlr.torch.step import Draw, Loss
from findlr.torch.trainable import TorchTrainable
from findlr.torch.training import Training

ARGUMENT = "trainer.args.learning_rate"

_NO_LOSS = "training_step must return the loss, got {}: return what super().training_step(...) does, say"

_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant_with_warmup": "constant"}
_NOT_A_STEPS = (*DATA, "args", "callback_handler", "control", "model", "model_wrapped", "processing_class", "state")


def plan_of(trainer: Trainer) -> Plan:
    """The training that the trainer is set up for.

    Raises:
        ConfigurationError: it has no step.
    """
    args, scheduler, steps = trainer.args, unwrapped(trainer.lr_scheduler), trainer.state.max_steps
    if steps < 1:
        raise ConfigurationError(f"the trainer is to take {steps} steps: set max_steps or num_train_epochs in its args")
    if follows_metric(scheduler):
        return Plan("constant", steps)  # until the metric stalls
    name = _SCHEDULES.get(args.lr_scheduler_type)
    warmup = args.get_warmup_steps(steps)
    makes_usual = getattr(trainer.create_scheduler, "__func__", None) is Trainer.create_scheduler
    is_usual = makes_usual and trainer._created_lr_scheduler and not args.lr_scheduler_kwargs
    if name and is_usual and warmup < steps:
        return Plan(name, steps, warmup=warmup or None)
    return Plan(*read_schedule(scheduler, steps, unit=1))


def written_in(trainer: Trainer, training: Training, *, makes_optimizer: bool) -> dict[str, Any]:
    """The facts of where the rate is written, for a ``train`` that comes: in the arguments, or in an optimizer.

    Args:
        trainer: in the midst of ``train``; it is as it was afterwards.
        training: of its model and optimizer.
        makes_optimizer: a ``train`` makes a new optimizer, so that one can be made with other arguments, too.
    """
    if not makes_optimizer:
        keeps_scheduler = trainer.lr_scheduler is not None and not trainer._created_lr_scheduler
        return {} if keeps_scheduler else {"sets": "trainer.optimizer.param_groups"}
    of_both = getattr(trainer.create_optimizer_and_scheduler, "__func__", None)
    by_both = not trainer._created_lr_scheduler and of_both is not Trainer.create_optimizer_and_scheduler

    ratios, learning_rate = training.rates.ratios, trainer.args.learning_rate

    def made_at(rate: float, *, in_groups: bool = False) -> list[float]:
        trainer.optimizer = trainer.lr_scheduler = None
        trainer.args.learning_rate = learning_rate if in_groups else rate
        if by_both:  # of the trainer's own, which transformers 4 calls, and 5 does not
            trainer.create_optimizer_and_scheduler(trainer.state.max_steps)
        else:
            trainer.create_optimizer()
            if in_groups:
                for group, ratio in zip(trainer.optimizer.param_groups, ratios, strict=True):
                    group["lr"] = rate * ratio
            trainer.create_scheduler(num_training_steps=trainer.state.max_steps)
        return made_rates(trainer.optimizer, trainer.lr_scheduler, within=trainer.state.max_steps)

    with Unwritten(restored(around(trainer))):
        try:
            share = share_of(ratios, made_at)
            by_groups = share is None and not by_both and share_of(ratios, partial(made_at, in_groups=True)) == 1.0
        finally:
            trainer.args.learning_rate = learning_rate
    if share is None:
        return {"sets": "trainer.create_optimizer().param_groups"} if by_groups else {}
    return facts_of(ARGUMENT, share)


def eval_set(trainer: Trainer) -> Any:
    """The eval set of a trainer, of several the first; None if it has none."""
    given = trainer.eval_dataset
    return next(iter(given.values()), None) if isinstance(given, dict) else given


def trainable_of(
    trainer: Trainer,
    *,
    scored: bool = False,
    makes_optimizer: bool = True,
    validation_every: int = 1,
    restore: Sequence[Any] = (),
    snapshot: StoreKind = "auto",
) -> TorchTrainable:
    """The training of a trainer whose ``train`` runs.

    Args:
        trainer: between two of its steps, or before the first.
        scored: held-out losses come from its eval set, if it has one; of several, from the first.
        makes_optimizer: see ``written_in``.
        validation_every: steps between two losses on all of that, at least 1.
        restore: what else a step changes.
        snapshot: where the copies live.
    """
    training = Training(
        trainer.model_wrapped, trainer.optimizer, restore=restore, snapshot=snapshot, framework="transformers"
    )
    training.include(reached_from({k: v for k, v in vars(trainer).items() if k not in _NOT_A_STEPS}))
    training.check_parameters()
    held_out = eval_set(trainer) if scored else None
    loader = None if held_out is None else trainer.get_eval_dataloader(held_out)
    step, data = TrainerStep(training, trainer), trainer.callback_handler.train_dataloader
    facts = written_in(trainer, training, makes_optimizer=makes_optimizer)
    made = TorchTrainable.of(
        training, step, data, validation_loader=loader, validation_every=validation_every, facts=facts
    )
    made.ends_short = True
    return made


class TrainerStep(DelegatedStep):
    """A step of the trainer's own: its batches, loss, backward pass, clipping and optimizer; no callbacks.

    Args:
        training: the trainer's model and optimizer.
        trainer: in the midst of ``train``.
    """

    combine: Literal["mean", "sum"] = "sum"  # each batch's loss is its share of the step's
    draws_first = True
    name = "training_step"

    def __init__(self, training: Training, trainer: Trainer) -> None:
        self._count: int = trainer.args.gradient_accumulation_steps
        loader = trainer.callback_handler.train_dataloader
        if has_length(loader):  # a training steps at the end of each epoch, too
            self._count = min(self._count, max(len(loader), 1))
        super().__init__(training, accumulation_steps=self._count, loss_method=(trainer, "compute_loss"))
        self._trainer = trainer
        self.clip_grad_norm = trainer.args.max_grad_norm or None
        self.autocast = {"bf16": "bfloat16", "fp16": "float16"}.get(trainer.accelerator.mixed_precision)
        self._items: Any = None
        self._begun_at: dict[str, Any] = {}  # what the trainer's state counts, at the last step's begin

    def called(self, draw: Draw) -> Loss:
        """As the trainer's inner loop does."""
        trainer, model, count = self._trainer, self._trainer.model_wrapped, self._count
        trainer.callback_handler.callbacks = []  # no logger hears of this step
        self._begun_at = {name: getattr(trainer.state, name) for name in ("global_step", "epoch")}
        batches, self._items = trainer.get_batch_samples(self._drawn(draw), count, trainer.args.device)
        trainer.current_gradient_accumulation_steps = count
        loss: Loss = 0.0
        for i, batch in enumerate(batches):
            trainer.accelerator.gradient_state._set_sync_gradients(i == count - 1)
            returned = trainer.training_step(model, batch, self._items)
            loss += told_loss(returned, "training_step must return one number", _NO_LOSS)
        if self.clip_grad_norm:
            trainer.accelerator.clip_grad_norm_(model.parameters(), self.clip_grad_norm)
        trainer.optimizer.step()
        model.zero_grad()
        trainer.state.global_step += 1  # by which a loss may be annealed
        trainer.state.epoch = (trainer.state.epoch or 0) + count / self._length()
        return loss

    def _length(self) -> int:
        """The batches of an epoch; of endless data, those of the training, as the trainer has it."""
        loader = self._trainer.callback_handler.train_dataloader
        return len(loader) if has_length(loader) else self._trainer.state.max_steps * self._count

    def _drawn(self, draw: Draw) -> Iterator[Any]:
        """The batches of a step, on all ranks: the trainer then calls the others itself, to count their tokens."""
        for i in range(self._count):
            batch = draw()
            if i == self._count - 1:
                self._training.ranks.any(False)  # one that has failed since the last step tells here
            yield batch

    def loss(self, batch: Any) -> torch.Tensor:
        """The trainer's training loss of a batch of the last step; in eval mode, its evaluation loss of any batch.

        Raises:
            LoaderError: the eval set has no labels.
        """
        trainer, model = self._trainer, self._trainer.model_wrapped
        if not trainer.model.training:
            held_out: torch.Tensor | None = trainer.prediction_step(model, batch, prediction_loss_only=True)[0]
            if held_out is None:
                raise LoaderError("the eval set has no labels, so it has no loss: give it some, or leave it out")
            return held_out
        state = vars(trainer.state)
        now = {name: state[name] for name in self._begun_at}
        state.update(self._begun_at)
        try:
            with trainer.compute_loss_context_manager():
                inputs = trainer._prepare_inputs(batch)
                loss: torch.Tensor = trainer.compute_loss(model, inputs, num_items_in_batch=self._items)
        finally:
            state.update(now)
        return loss.mean() / self._divisor()  # of several devices

    def _divisor(self) -> int:
        """What ``training_step`` divides a loss by."""
        trainer = self._trainer
        scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
        if scaled is None:
            by_items = trainer.model_accepts_loss_kwargs and self._items is not None
            scaled = by_items or trainer.compute_loss_func is not None
        return 1 if scaled else self._count

    def why_not_together(self) -> str | None:
        """The trainer alone takes its steps."""
        return "a Trainer takes its own steps"

    def remembered(self) -> Sequence[Any]:
        """What a step changes in the trainer itself."""
        return [own(self._trainer)]
