"""Hugging Face's Trainer and its subclasses, TRL's among them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Unpack

from findlr.analysis.given import check_flags
from findlr.analysis.numbers import whole
from findlr.analysis.text import rate_text
from findlr.errors import ConfigurationError, MissingExtraError, OptimizerError
from findlr.finding import Finding
from findlr.finding.writing import check_apply, why_of
from findlr.search.find import find
from findlr.search.interrupts import signals_act
from findlr.search.settings import Search, Settings
from findlr.torch.search import argument_names
from findlr.torch.snapshot.stores import StoreKind

try:
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_utils import has_length
except ImportError:
    raise MissingExtraError.of("transformers", "huggingface") from None

from findlr.huggingface.memory import deciding, protected
from findlr.huggingface.training import ARGUMENT, eval_set, plan_of, trainable_of

__all__ = ["FindLR", "find_lr"]

logger = logging.getLogger("findlr")


class How(Search, total=False):
    """What ``find_lr`` takes besides the trainer."""

    validation_every: int
    restore: Sequence[Any]
    snapshot: StoreKind


def find_lr(trainer: Trainer, **how: Unpack[How]) -> Finding:
    """Find the learning rate of the training that a Trainer is set up for, and put everything back.

    Of its callbacks, only those act that freeze or unfreeze parameters, as they do before the first step.

    Args:
        trainer: a ``transformers.Trainer`` or a subclass, such as TRL's ``SFTTrainer``. The schedule,
            its length and its warmup are those of ``trainer.args``.
        **how: the settings of every search, as in ``findlr.find_lr``: min_lr, max_lr, num_steps, verify, budget, rule
            and so on. ``verify=True`` scores its runs on the eval set, if there is one; ``validation_every`` (steps, at
            least 1) measures the loss on all of it along the sweep. ``restore``: what else a step changes, with
            state_dict and load_state_dict. ``snapshot``: where the copies live.

    Returns:
        The Finding. Train with it: ``trainer.args.learning_rate = finding.lr; trainer.train()``. Where the trainer has
        an optimizer, or a ``create_optimizer`` of yours makes other rates of that argument, ``finding.code()`` says
        what to write instead.

    Raises:
        ConfigurationError: an argument that cannot work, or a trainer that is not supported; it says what to do.

    Example:
        >>> import torch, transformers
        >>> class Line(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear = torch.nn.Linear(4, 1)
        ...
        ...     def forward(self, x, labels):
        ...         return {"loss": (self.linear(x).squeeze(1) - labels).square().mean()}
        >>> _ = torch.manual_seed(0)
        >>> data = [{"x": x, "labels": x.sum()} for x in torch.randn(256, 4)]
        >>> args = transformers.TrainingArguments("/tmp", report_to="none", save_strategy="no", use_cpu=True)
        >>> trainer = transformers.Trainer(Line(), args, train_dataset=data)
        >>> finding = find_lr(trainer)
        >>> 0.001 < finding.lr < 1
        True
    """
    callback = FindLR(trainer, **how)
    protected(trainer, callback.only_search, callback)
    assert callback.finding is not None
    return callback.finding


class FindLR(TrainerCallback):
    """Finds the learning rate as a training begins, or later; the training goes on as if it had not.

    What callbacks before it have frozen in ``on_train_begin`` and ``on_epoch_begin``, it does not train.

    Args:
        trainer: the trainer that it is added to, as in ``trainer.add_callback(FindLR(trainer))``.
        apply: train at the suggested rate from there on.
        at: the optimizer step after which to search; 0 is the beginning, or where a checkpoint is resumed.
        **how: as in ``find_lr``.

    Raises:
        ConfigurationError: as ``find_lr`` raises it.
    """

    finding: Finding | None = None
    """What was found; None before."""

    def __init__(self, trainer: Trainer, *, apply: bool = False, at: int = 0, **how: Unpack[How]) -> None:
        check(trainer, how)
        check_flags(apply=apply)
        if (steps := whole(at)) is None or steps < 0:
            raise ConfigurationError(f"at must be a whole number of optimizer steps, at least 0, got {at!r}")
        self._trainer, self._apply, self._at, self._is_due = trainer, apply, steps, False
        self._before: list[Any] | None = None  # the callbacks that decide what is trained, where ``train`` is left
        search: dict[str, Any] = dict(how)
        self._own = {name: search.pop(name) for name in ("validation_every", "restore", "snapshot") if name in how}
        self._settings = Settings.of(search)
        self._makes_optimizer = trainer.optimizer is None or trainer.model_init is not None

    def on_train_begin(self, *given: Any, **parts: Any) -> None:
        """Search, if ``train`` goes no further.

        Raises:
            ConfigurationError: the rate is to be written, and the scheduler can't be given one.
        """
        if given[1] is not self._trainer.state:
            raise ConfigurationError("this FindLR is another trainer's: trainer.add_callback(FindLR(trainer))")
        if self._apply:
            trainer = self._trainer
            check_apply(trainer.optimizer, trainer.lr_scheduler, max(trainer.state.max_steps, 1))
        self._is_due = self._at == 0
        if self._before is not None:
            for callback in self._before:
                callback.on_epoch_begin(*given, **parts)
                callback.on_step_begin(*given, **parts)
            self._search_and_apply()
            raise _LeftError

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Search, if it is to be at the beginning."""
        if self._is_due:
            self._is_due = False
            self._search_and_apply()

    def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """Search, if it is to be after this step."""
        if self._at == state.global_step:
            self._search_and_apply()

    def on_train_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """Say so, if the training had no such step."""
        if self.finding is None:
            logger.warning("FindLR has not searched: at=%s, and this train() ended at %s", self._at, state.global_step)

    def _search_and_apply(self) -> None:
        trainer = self._trainer
        for callback in trainer.callback_handler.callbacks:
            if (bar := getattr(callback, "training_bar", None)) is not None:
                bar.clear()  # it comes back as the training goes on
        protected(trainer, self._search, self)
        assert self.finding is not None
        if self._apply and self.finding.suggestion is None:
            logger.warning("the training keeps its rate: %s", self.finding.why)
        elif self._apply:
            try:
                self.finding.apply(trainer.optimizer, trainer.lr_scheduler)
            except OptimizerError as error:  # of a scheduler that was at its start as the training began
                logger.warning(
                    "the training keeps its rate, because %s can't be written: %s",
                    rate_text(self.finding.lr),
                    why_of(error),
                )
                return
            if self.finding.facts.get("sets") == ARGUMENT:  # for what reads it later; elsewhere it does not act
                trainer.args.learning_rate = max(self.finding.lrs) * self.finding.facts.get("sets_share", 1.0)

    @signals_act
    def _search(self) -> None:
        scored = self._settings.verify or "validation_every" in self._own
        trainable = trainable_of(self._trainer, scored=scored, makes_optimizer=self._makes_optimizer, **self._own)
        self.finding = find(trainable, plan_of(self._trainer), **vars(self._settings))

    @signals_act
    def only_search(self) -> None:
        """Search where ``train`` would begin, and go no further."""
        self._before = deciding(self._trainer)
        self._trainer.callback_handler.callbacks = [*self._before, self]
        with suppress(_LeftError):
            self._trainer.train()


class _LeftError(BaseException):
    """Leaves ``train``, whatever exceptions are caught in it."""


def check(trainer: Any, how: Mapping[str, Any]) -> None:
    """Refuse what is no trainer, one whose steps can't be taken one by one or put back, and what it says itself.

    Raises:
        ConfigurationError: it says why, and what to do.
    """
    if not isinstance(trainer, Trainer):
        raise ConfigurationError(f"trainer must be a transformers.Trainer, got {type(trainer).__name__}")
    args = trainer.args
    optim = str(getattr(args.optim, "value", args.optim))
    fsdp = trainer.is_fsdp_enabled or trainer.is_fsdp_xla_enabled
    in_backward = "lomo" in optim or "layerwise" in optim
    refused = [
        (trainer.is_deepspeed_enabled, "DeepSpeed", "search without it, on fewer layers say"),
        (fsdp, "FSDP", "search without it, in one process"),
        (args.auto_find_batch_size, "auto_find_batch_size", "set it to False, and the batch size to what it found"),
        (in_backward, f"optim={optim!r}, which steps in the backward pass", "search with 'adamw_torch', say"),
    ]
    for is_so, name, instead in refused:
        if is_so:
            raise ConfigurationError(f"find_lr can't be had with {name}: {instead}")
    for name in how:
        if name in argument_names() and name not in How.__annotations__:
            raise ConfigurationError(f"{name} is read from the trainer: leave it out, and set it there")
    held_out = eval_set(trainer)
    is_empty = has_length(held_out) and not len(held_out)
    if is_empty and how.get("verify"):
        raise ConfigurationError(
            "verify=True scores its runs on the eval set, and it is empty: fill it, or leave it out"
        )
    if "validation_every" in how and (held_out is None or is_empty):
        lacking = "has none" if held_out is None else "has an empty one"
        raise ConfigurationError(
            f"validation_every needs an eval set, and the trainer {lacking}: give it eval_dataset="
        )
