"""A step as Lightning's loop takes it, with automatic and with manual optimization."""

# ruff: noqa: SLF001 - what Lightning has no public name for; docs/lightning.md lists it

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch

from findlr.errors import ConfigurationError, LossError, OptimizerError
from findlr.torch.data.nesting import own
from findlr.torch.losses import checked, kept_loss
from findlr.torch.own_step import DelegatedStep
from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.snapshot.notes import Attributes
from findlr.torch.step import Draw
from findlr.torch.training import Training

_TYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_MOST_BATCHES = 1000  # without a step
_MOST_WITHOUT_LOSS = 10  # steps, before there was any


class LightningStep(DelegatedStep):
    """Goes through batches until the optimizer has stepped: the module's hooks, the strategy's precision and clipping.

    Args:
        training: the module and its optimizers.
        trainer: a Trainer in its ``fit``.
        package: the package that it is of.
        validation_loaders: how many the ``fit`` has; with one, the validation step gives the loss in eval mode.

    Raises:
        ConfigurationError: the training step draws its own batches.
    """

    name = "training_step"

    def __init__(self, training: Training, trainer: Any, package: str, *, validation_loaders: int) -> None:
        super().__init__(training)
        self._trainer, self._module, self._validation_loaders = trainer, trainer.lightning_module, validation_loaders
        self._next = SimpleNamespace(index=0, in_epoch=0)  # the number of the next batch: in the search, in its epoch
        loop, self._is_automatic = trainer.fit_loop.epoch_loop, self._module.automatic_optimization
        self._by_hand = loop.manual_optimization
        by_loop = loop.automatic_optimization.optim_progress.optimizer.step
        self._progress = by_loop if self._is_automatic else self._by_hand.optim_step_progress
        self._epochs = trainer.fit_loop.epoch_progress
        self._begun_at = 0  # the trainer's global_step at the last step's begin
        self._places: dict[int, tuple[int, int]] = {}  # number and epoch of the last step's batches, by their ids
        self._validated = 0  # batches of this evaluation
        self._has_no_loss = False  # the last step
        self._had_loss = False  # any step
        self._metric = import_module("torchmetrics").Metric
        self._told: dict[str, Any] = {}  # by a validation step, to self.log
        self._divisor = trainer.accumulate_grad_batches if self._is_automatic else 1
        # The loop steps at the end of each epoch, too; each loss is divided by all the same.
        self._batches = int(min(self._divisor, max(trainer.num_training_batches, 1)))
        self.accumulation_steps = self._batches if self._is_automatic else None
        self.autocast = _TYPES.get(trainer.precision_plugin.precision)
        takes = import_module(f"{package}.utilities.signature_utils").is_param_in_hook_signature
        if takes(self._module.training_step, "dataloader_iter", explicit=True):
            raise ConfigurationError(
                "training_step(dataloader_iter) draws its own batches, so they could not be put back: let it take a "
                "batch"
            )
        steps = ("training_step", "validation_step")
        self._with_index = {name for name in steps if takes(getattr(self._module, name), "batch_idx", min_args=2)}
        of_validation = ("validation_step", "on_validation_batch_start", "on_validation_batch_end")
        asks = {name for name in of_validation if takes(getattr(self._module, name), "dataloader_idx", explicit=True)}
        self._with_loader = asks if validation_loaders > 1 else set[str]()

    def remembered(self) -> Sequence[Any]:
        """The number of the next batch, and the trainer's global_step and current_epoch."""
        return [Attributes(self._next), self._progress, self._epochs]

    def log(self, name: Any = None, value: Any = None, *_: Any, dictionary: Any = None, **__: Any) -> None:
        """In place of the module's ``log`` and ``log_dict``: no logger sees it, and no metric is reduced."""
        if not self._module.training:
            self._told.update({name: value} if isinstance(name, str) else dictionary or name)

    def placed(self, batch: Any) -> Any:
        """A batch on its device, through the hooks of its transfer."""
        batch = self._trainer.precision_plugin.convert_input(batch)
        batch = self._module._on_before_batch_transfer(batch, dataloader_idx=0)
        return self._trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    def take(self, draw: Draw) -> Any:
        """Take one step; None if a scaler skipped it, or if the training step returned None for all of its batches."""
        loss = super().take(draw)
        return None if self._has_no_loss else loss

    def called(self, draw: Draw) -> Any:
        """As many batches as the trainer accumulates, or until the training step has stepped by itself."""
        losses: list[Any] = []
        self._places.clear()
        self._begun_at = self._progress.total.completed
        while not self.tried and len(losses) < _MOST_BATCHES:
            losses.append(self._loss_of_next(self._begun(draw)))
        told = [loss for loss in losses if loss is not None]
        self._has_no_loss = self._is_automatic and not told
        self._had_loss = self._had_loss or bool(told)
        if self._has_no_loss:
            if not self._had_loss and self._next.index >= _MOST_WITHOUT_LOSS * self._batches:
                raise LossError(
                    f"training_step returned None for the first {self._next.index} batches: return the loss"
                )
            return 0.0
        return sum(told) / len(told) if len(told) == len(losses) or self._is_automatic else None

    def _begun(self, draw: Draw) -> Any:
        """The next batch to train on: where the module's hook returns -1, the epoch is over, and another one begins."""
        for _ in range(_MOST_BATCHES):
            batch = draw()
            if self._next.in_epoch >= self._trainer.num_training_batches:
                self._begin_epoch()
            if self._module.on_train_batch_start(batch, self._next.in_epoch) != -1:
                return batch
            self._begin_epoch()
        raise OptimizerError(
            f"on_train_batch_start returned -1 for each of {_MOST_BATCHES} batches, so fit takes no step: let it "
            "return None for those to train on"
        )

    def _begin_epoch(self) -> None:
        self._next.in_epoch = 0
        self._epochs.current.completed += 1  # which is the trainer's current_epoch

    def _loss_of_next(self, batch: Any) -> Any:
        """Go through one batch, with which a step may end, and return its loss."""
        module, index = self._module, self._next.in_epoch
        self._places[id(batch)] = index, self._epochs.current.completed
        outputs, losses = list[dict[str, Any]](), list[Any]()

        def closure() -> torch.Tensor | None:  # which LBFGS calls several times
            outputs.append(self._output(batch))
            if not outputs[-1]:  # the step returned None, and Lightning goes on without this batch
                losses.append(None)
                self._zero_grad()
                return None
            loss = checked(self.name, outputs[-1].get("loss"))
            losses.append(kept_loss(loss))
            share = loss if self._divisor == 1 else loss / self._divisor
            self._zero_grad()
            self._trainer.strategy.backward(share, self._trainer.optimizers[0])
            outputs[-1]["loss"] = share.detach()
            return share

        if not self._is_automatic:
            self._by_hand.on_run_start()  # which lets global_step count
            try:
                outputs.append(self._output(batch))
            finally:
                self._by_hand.on_run_end()
            losses.append(outputs[0].get("loss"))
        elif (self._next.index + 1) % self._batches:
            closure()
        else:
            self._progress.increment_ready()
            module.optimizer_step(self._trainer.current_epoch, index, module.optimizers(), closure)
            self._progress.increment_completed()
        if not outputs:
            raise LossError("optimizer_step did not call its closure, so there is no loss: call optimizer_closure()")
        module.on_train_batch_end(outputs[0], batch, index)
        self._next.index += 1
        self._next.in_epoch += 1
        self.passes += len(outputs) - 1
        return losses[0]

    def _zero_grad(self) -> None:
        if self._next.index % self._batches == 0:
            optimizer = self._trainer.optimizers[0]  # automatic optimization has no other
            self._module.on_before_zero_grad(optimizer)
            self._module.optimizer_zero_grad(self._trainer.current_epoch, self._next.in_epoch, optimizer)

    def _output(self, batch: Any) -> dict[str, Any]:
        """What the training step returns, by name; nothing, if that is None."""
        number, _ = self._places.get(id(batch), (self._next.in_epoch, None))
        output = self._called("training_step", batch, number)
        return {} if output is None else dict(output) if isinstance(output, Mapping) else {"loss": output}

    def _called(self, step: str, batch: Any, index: int) -> Any:
        indices = [index] if step in self._with_index else []
        return getattr(self._trainer.strategy, step)(own(batch), *indices, *self._loader_for(step))

    def _loader_for(self, hook: str) -> list[int]:
        """The place of the first of several validation loaders, for a hook that asks for it."""
        return [0] if hook in self._with_loader else []

    def begin_evaluation(self) -> None:
        """Call the module's hooks of a validation's start.

        Those of the end come after the last step, for logs and the like, and take no part.
        """
        self._validated = 0
        if self._validation_loaders:
            self._trainer.validating = True
            try:
                self._module.on_validation_start()
                self._module.on_validation_epoch_start()
            finally:
                self._trainer.training = True

    def loss(self, batch: Any) -> torch.Tensor:
        """The loss of a batch under the present weights; in eval mode the validation step's, where it has one.

        What the module counts, it does not count here.
        """
        attributes, total, current = vars(self._module), self._progress.total, self._epochs.current
        counted = total.completed, current.completed
        numbers = {name: value for name, value in attributes.items() if isinstance(value, (int, float))}
        try:
            if id(batch) in self._places:  # one of the last step's
                total.completed, current.completed = self._begun_at, self._places[id(batch)][1]
            validates = self._validation_loaders and not self._module.training
            loss = self._validation_loss(batch) if validates else None
            loss = self._output(batch).get("loss") if loss is None else loss
            return torch.empty(0) if loss is None else torch.as_tensor(loss)
        finally:
            attributes.update(numbers)
            total.completed, current.completed = counted

    def _validation_loss(self, batch: Any) -> Any:
        """What the validation step returns or, if that is nothing, logs as its one loss; or None."""
        self._told.clear()
        metrics = [each for each in self._module.modules() if isinstance(each, self._metric)]
        memory = TorchMemory()
        memory.note_modules(metrics)
        memory.copy()
        self._trainer.validating = True
        try:
            for metric in metrics:
                metric.reset()  # so that one that is logged tells of this batch alone
            module, index = self._module, self._validated
            module.on_validation_batch_start(batch, index, *self._loader_for("on_validation_batch_start"))
            output = self._called("validation_step", batch, index)
            module.on_validation_batch_end(output, batch, index, *self._loader_for("on_validation_batch_end"))
            self._validated += 1
            loss = output.get("loss") if isinstance(output, Mapping) else output
            named = [value for name, value in self._told.items() if "loss" in name]
            loss = named[0] if loss is None and len(named) == 1 else loss
            return loss.compute().clone() if isinstance(loss, self._metric) else loss
        finally:
            self._trainer.training = True
            memory.put_back()

    def why_no_loss(self) -> str | None:
        """With manual optimization, only the step as a whole has a loss."""
        return None if self._is_automatic else super().why_no_loss()

    def why_not_together(self) -> str | None:
        """Because the hooks are called for one model."""
        return "Lightning takes the steps"
