"""Hugging Face's Trainer and its subclasses, TRL's among them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal, Self, Unpack

import torch

from findlr.analysis.plan import Plan
from findlr.errors import ConfigurationError, LoaderError, MissingExtraError
from findlr.finding import Finding
from findlr.finding.schedulers import follows_metric, unwrapped
from findlr.search.failure import carry
from findlr.search.find import find
from findlr.search.interrupts import HeldSignals, signals_act, signals_wait
from findlr.search.settings import Search, Settings
from findlr.search.trainable import Unwritten, restored
from findlr.torch.own_step import OwnStep
from findlr.torch.planned import read_schedule
from findlr.torch.snapshot.memory import Memory
from findlr.torch.snapshot.notes import remember_rng
from findlr.torch.snapshot.reach import reached_from
from findlr.torch.snapshot.stores import StoreKind
from findlr.torch.step import Draw
from findlr.torch.trainable import TorchTrainable
from findlr.torch.training import Training

try:
    import transformers
    from transformers import Trainer, TrainerCallback
except ImportError:
    raise MissingExtraError.of("transformers", "huggingface") from None

logger = logging.getLogger("findlr")

_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant_with_warmup": "constant"}
_DATA = ("train_dataset", "eval_dataset")
_MOST_ITEMS = 1_000  # of a container; a longer one is data
_NOT_A_STEPS = (*_DATA, "args", "callback_handler", "control", "model", "model_wrapped", "processing_class", "state")


class How(Search, total=False):
    """What ``find_lr`` takes besides the trainer."""

    validation_every: int
    restore: Sequence[Any]
    snapshot: StoreKind


def find_lr(trainer: Trainer, **how: Unpack[How]) -> Finding:
    """Find the learning rate of the training that a Trainer is set up for, and put everything back.

    Args:
        trainer: a ``transformers.Trainer`` or a subclass, such as TRL's ``SFTTrainer``; in one process. The schedule,
            its length and its warmup are those of ``trainer.args``.
        **how: the settings of every search, as in ``findlr.find_lr``: min_lr, max_lr, num_steps, verify, budget, rule
            and so on. ``verify=True`` scores its runs on the eval set, if there is one; ``validation_every`` (steps, at
            least 1) also measures the loss on all of it along the sweep. ``restore``: what else a step changes, with
            state_dict and load_state_dict. ``snapshot``: where the copies live.

    Returns:
        The Finding. Train with it: ``trainer.args.learning_rate = finding.lr; trainer.train()``.

    Raises:
        ConfigurationError: an argument that cannot work, or a trainer that is not supported; it says what to do.

    Example:
        >>> import torch, transformers
        >>> class Line(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear = torch.nn.Linear(4, 1)
        ...     def forward(self, x, labels):
        ...         return {"loss": (self.linear(x).squeeze(1) - labels).square().mean()}
        >>> _ = torch.manual_seed(0)
        >>> data = [{"x": x, "labels": x.sum()} for x in torch.randn(256, 4)]
        >>> args = transformers.TrainingArguments("out", report_to="none", save_strategy="no", use_cpu=True)
        >>> trainer = transformers.Trainer(Line(), args, train_dataset=data)
        >>> finding = find_lr(trainer)
        >>> 0.001 < finding.lr < 1
        True
    """
    callback = FindLR(trainer, **how)
    _protected(callback, callback.train)
    assert callback.finding is not None
    return callback.finding


class FindLR(TrainerCallback):
    """Finds the learning rate as a training begins, or later; the training goes on as if it had not.

    Args:
        trainer: the trainer that it is added to, as in ``trainer.add_callback(FindLR(trainer))``.
        apply: train at the suggested rate from there on.
        at: the optimizer step after which to search; 0 is the beginning, or where a checkpoint is resumed.
        **how: as in ``find_lr``.

    Raises:
        ConfigurationError: as ``find_lr`` raises it.
    """

    finding: Finding | None = None
    """What the last training found; None before."""

    def __init__(self, trainer: Trainer, *, apply: bool = False, at: int = 0, **how: Unpack[How]) -> None:
        _check(trainer)
        own = {name: how.pop(name) for name in ("validation_every", "restore", "snapshot") if name in how}
        self._trainer, self._apply, self._at, self._own = trainer, apply, at, own
        self._settings = Settings.of(how)
        self._makes_optimizer = trainer.optimizer is None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Search, if it is to be at the beginning."""
        if self._at == 0:
            self._search_and_apply()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Search, if it is to be after this step."""
        if self._at == state.global_step:
            self._search_and_apply()

    def _search_and_apply(self) -> None:
        for callback in self._trainer.callback_handler.callbacks:
            if (bar := getattr(callback, "training_bar", None)) is not None:
                bar.clear()  # it comes back as the training goes on
        _protected(self, self.search)
        assert self.finding is not None
        if self._apply and self.finding.suggestion is None:
            logger.warning("the training keeps its rate: %s", self.finding.why)
        elif self._apply:
            self.finding.apply(self._trainer.optimizer, self._trainer.lr_scheduler)
            self._trainer.args.learning_rate = self.finding.lr

    @signals_act
    def search(self) -> None:
        """Search in the midst of ``train``."""
        scored = self._settings.verify or "validation_every" in self._own
        trainable = TrainerTrainable.within(self._trainer, scored=scored, **self._own)
        trainable.makes_optimizer = self._makes_optimizer
        self.finding = find(trainable, plan_of(self._trainer), **vars(self._settings))

    @signals_act
    def train(self) -> None:
        """Search where ``train`` would begin, and go no further."""
        self._trainer.callback_handler.callbacks = [_Leaving(self.search)]
        with suppress(_LeftError):
            self._trainer.train()


class _LeftError(BaseException):
    """Leaves ``train``, whatever exceptions are caught in it."""


class _Leaving(TrainerCallback):
    def __init__(self, search: Callable[[], None]) -> None:
        self._search = search

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._search()
        raise _LeftError


@signals_wait
def _protected(callback: FindLR, function: Callable[[], None]) -> None:
    """Call ``function``, and put back what it changes in the trainer; the weights are the search's own to put back."""
    signals = HeldSignals()
    try:
        signals.hold()
        with Unwritten(restored(_Whole(callback._trainer))):
            function()
    finally:
        signals.release(lambda late: carry(late, callback.finding))


class _Whole:
    """What ``train`` changes before its first step."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def snapshot(self) -> Memory:
        trainer, memory = self._trainer, Memory()
        for optimizer in (trainer.optimizer, getattr(trainer.optimizer, "optimizer", None)):
            if optimizer is not None:
                memory.note(vars(optimizer), objects=True, worth=lambda value: value.ndim == 0)
        note_trainer(trainer, memory)
        memory.copy()
        memory.note_modules([trainer.model])  # all of them but the values of tensors
        configs = [getattr(trainer.model, name, None) for name in ("config", "generation_config")]
        _note(memory, trainer.args, trainer.accelerator, *filter(None, configs))
        remember_rng([trainer.args.device], memory)
        return memory

    def restore(self, snapshot: Memory) -> None:
        snapshot.put_back()


def note_trainer(trainer: Trainer, memory: Memory) -> None:
    """Note what a step changes in the trainer itself: attributes, numbers in containers, logs, Accelerate's flags."""
    _note(memory, trainer, trainer.callback_handler)
    own = [value for name, value in vars(trainer).items() if name not in _DATA]
    memory.note(*[value for value in own if isinstance(value, (dict, list, set, deque)) and len(value) <= _MOST_ITEMS])
    memory.note(*map(vars, (trainer.accelerator.gradient_state, trainer.control, trainer.state)))


def _note(memory: Memory, *things: Any) -> None:
    for thing in things:
        memory.add(partial(_bind, vars(thing), dict(vars(thing))), name=f"the {type(thing).__name__}")


def _bind(names: dict[str, Any], saved: dict[str, Any]) -> None:
    names.clear()
    names.update(saved)


def plan_of(trainer: Trainer) -> Plan:
    """The training that a trainer in the midst of ``train`` is set up for."""
    args, scheduler, steps = trainer.args, unwrapped(trainer.lr_scheduler), trainer.state.max_steps
    if follows_metric(scheduler):
        return Plan("constant", steps)  # until the metric stalls
    name = _SCHEDULES.get(args.lr_scheduler_type)
    warmup = args.get_warmup_steps(steps)
    if name and trainer._created_lr_scheduler and not args.lr_scheduler_kwargs and warmup < steps:
        return Plan(name, steps, warmup=warmup or None)
    return Plan(*read_schedule(scheduler, steps))


class TrainerTrainable(TorchTrainable):
    """A trainer in the midst of ``train``."""

    makes_optimizer = True

    @classmethod
    def within(
        cls,
        trainer: Trainer,
        *,
        scored: bool = False,
        validation_every: int = 1,
        restore: Sequence[Any] = (),
        snapshot: StoreKind = "auto",
    ) -> Self:
        """The training of a trainer whose ``train`` is running.

        Args:
            trainer: between two of its steps, or before the first.
            scored: held-out losses come from its eval set.
            validation_every: steps between two losses on all of that.
            restore: what else a step changes.
            snapshot: where the copies live.
        """
        training = Training(trainer.model_wrapped, trainer.optimizer, restore=restore, snapshot=snapshot)
        training.include(reached_from({k: v for k, v in vars(trainer).items() if k not in _NOT_A_STEPS}))
        training.check_parameters()
        loader = None
        if scored and trainer.eval_dataset is not None:
            data = trainer.eval_dataset
            loader = trainer.get_eval_dataloader(next(iter(data.values())) if isinstance(data, dict) else data)
        return cls.of(
            training,
            TrainerStep(training, trainer),
            trainer.callback_handler.train_dataloader,
            validation_loader=loader,
            validation_every=validation_every,
        )

    def facts(self) -> dict[str, Any]:
        """As of every training, and where the rate is written, if the trainer makes its optimizer itself."""
        facts = super().facts()
        facts["versions"]["transformers"] = transformers.__version__
        return {**facts, "sets": "trainer.args.learning_rate"} if self.makes_optimizer else facts


class TrainerStep(OwnStep):
    """A step of the trainer's own: its batches, loss, backward pass, clipping and optimizer; no callbacks.

    Args:
        training: the trainer's model and optimizer.
        trainer: in the midst of ``train``.
    """

    combine: Literal["mean", "sum"] = "sum"  # each batch's loss is its share of the step's
    draws_first = True

    def __init__(self, training: Training, trainer: Trainer) -> None:
        super().__init__(training, self._step)
        self._trainer = trainer
        self.accumulation_steps = trainer.args.gradient_accumulation_steps
        self.clip_grad_norm = trainer.args.max_grad_norm or None
        self.autocast = {"bf16": "bfloat16", "fp16": "float16"}.get(trainer.accelerator.mixed_precision)
        self._items: Any = None

    def _step(self, draw: Draw) -> torch.Tensor:
        trainer, model, count = self._trainer, self._trainer.model_wrapped, self.accumulation_steps
        trainer.callback_handler.callbacks = []  # no logger hears of this step
        drawn = (draw() for _ in range(count))
        batches, self._items = trainer.get_batch_samples(drawn, count, trainer.args.device)
        trainer.current_gradient_accumulation_steps = count
        losses = []
        for i, batch in enumerate(batches):
            trainer.accelerator.gradient_state._set_sync_gradients(i == count - 1)
            losses.append(trainer.training_step(model, batch, self._items))
        if self.clip_grad_norm:
            trainer.accelerator.clip_grad_norm_(model.parameters(), self.clip_grad_norm)
        trainer.optimizer.step()
        model.zero_grad()
        return losses[0] if count == 1 else torch.stack(losses).sum()

    def loss(self, batch: Any) -> torch.Tensor:
        """The trainer's training loss of a batch of the last step; in eval mode, its evaluation loss of any."""
        trainer, model = self._trainer, self._trainer.model_wrapped
        if not trainer.model.training:
            loss: torch.Tensor | None = trainer.prediction_step(model, batch, prediction_loss_only=True)[0]
            if loss is None:
                raise LoaderError("the eval set has no labels, so it has no loss: give one with labels, or none")
            return loss
        with trainer.compute_loss_context_manager():
            inputs = trainer._prepare_inputs(batch)
            loss = trainer.compute_loss(model, inputs, num_items_in_batch=self._items)
        return loss / self._divisor()

    def _divisor(self) -> int:
        """What ``training_step`` divides a loss by."""
        trainer = self._trainer
        scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
        if scaled is None:
            by_items = trainer.model_accepts_loss_kwargs and self._items is not None
            scaled = by_items or trainer.compute_loss_func is not None
        return 1 if scaled else self.accumulation_steps

    def why_no_loss(self) -> str | None:
        """None: the trainer has a loss of one batch."""
        return None

    def why_not_together(self) -> str | None:
        """The trainer alone takes its steps."""
        return "a Trainer takes its own steps"

    def remembered(self) -> Sequence[Any]:
        """The trainer itself, by ``remember``."""
        return [self]

    def remember(self, memory: Memory) -> None:
        """Remember what a step changes in the trainer itself."""
        note_trainer(self._trainer, memory)


def _check(trainer: Any) -> None:
    """Refuse what is no trainer, or one whose steps can't be taken one by one or put back.

    Raises:
        ConfigurationError: it says why, and what to do.
    """
    if not isinstance(trainer, Trainer):
        raise ConfigurationError(f"trainer must be a transformers.Trainer, got {type(trainer).__name__}")
    args = trainer.args
    optim = str(getattr(args.optim, "value", args.optim))
    refused = {
        "DeepSpeed": (trainer.is_deepspeed_enabled, "search without it, on a smaller model of the same kind say"),
        "FSDP": (trainer.is_fsdp_enabled or trainer.is_fsdp_xla_enabled, "search in one process without it"),
        "a training of several processes": (args.world_size > 1, "search in one process"),
        "auto_find_batch_size": (args.auto_find_batch_size, "set it to False, and the batch size to what it found"),
        f"optim={optim!r}, which steps inside the backward pass": (
            "lomo" in optim or "layerwise" in optim,
            "search with the optimizer that it stands for, such as 'adamw_torch'",
        ),
    }
    for name, (is_so, instead) in refused.items():
        if is_so:
            raise ConfigurationError(f"find_lr does not support {name}: {instead}")
