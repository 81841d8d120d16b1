"""The steps of a PyTorch training, their losses, and the way back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from findlr.analysis.text import told
from findlr.errors import DataEndedError, FindlrError
from findlr.search.failure import note
from findlr.torch.baseline import Baseline
from findlr.torch.compiled import NoNewGraphs
from findlr.torch.data.batches import TorchBatches
from findlr.torch.data.nesting import batch_size
from findlr.torch.given import asked_of
from findlr.torch.misfits import described, layer_misfit
from findlr.torch.motion import most_change
from findlr.torch.ranks import drawn_on_all
from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.snapshot.modes import WithGradients
from findlr.torch.step import Loss, TakesSteps
from findlr.torch.training import Training
from findlr.torch.validation import HeldOut

logger = logging.getLogger("findlr")


class Stepping:
    """What a sweep needs of a ``TorchTrainable``."""

    ends_short = False  # the last step of an epoch is taken on the batches that are left
    training: Training
    taker: TakesSteps
    rank: int
    world_size: int
    device: torch.device
    validation_every: int | None
    batches: TorchBatches
    no_new_graphs: NoNewGraphs
    _write: Any
    _place: Callable[[Any], Any]
    _may_compile: bool
    _held_out: HeldOut
    _baseline: Baseline
    _latest: Loss
    _other_passes: int
    _first_batch: str | None

    @property
    def model(self) -> nn.Module:
        """The first model."""
        return self.training.models[0]

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The first optimizer that is swept."""
        return self.training.swept[0]

    def settle(self, error: BaseException) -> BaseException:
        """What all processes raise, now that this one ends."""
        return self.training.ranks.settle(error, ends=True)

    def raise_later(self, error: Exception) -> bool:
        """Whether it is raised at the next read, when no other process waits in a layer."""
        return self.training.ranks.raise_later(error)

    def first(self, value: Any) -> Any:
        """The first process's value."""
        return self.training.ranks.first(value)

    def asked(self) -> dict[str, Any]:
        """What it was given besides the facts, and ranks must be given alike."""
        return {**asked_of(self.training), "validation_every": self.validation_every}

    @property
    def forwards(self) -> int:
        """Forward passes of a whole batch so far."""
        return self.taker.passes + self._other_passes + self._baseline.forwards + self._held_out.forwards

    @property
    def backwards(self) -> int:
        """Backward passes of a whole batch so far."""
        return self.taker.passes + self._other_passes

    def count_passes(self, passes: int) -> None:
        """Count forward and backward passes that were made beside the steps."""
        self._other_passes += passes

    def step(self, lr: float) -> Loss | None:
        """Take one optimizer step at ``lr`` on the next batch.

        Returns:
            The loss before it, left on its device; None if the scaler skipped the step, unless the loss is not finite:
            a smaller scale can't mend that.

        Raises:
            LossError: the loss is not one number that the parameters can learn from.
            LoaderError: the loader is empty, or its items do not fit the criterion.
        """
        for model in self.training.models:
            if not model.training:
                logger.info("the model is in eval mode: the search trains it in train mode, and puts the mode back")
                model.train()
        step = self._step_without_new_graphs if self._may_compile else self._step  # the second one is faster
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            return step(lr)
        # The caller is inside torch.no_grad() or inference_mode(); a step needs gradients, and so do its batches.
        with WithGradients():
            return step(lr)

    def _step_without_new_graphs(self, lr: float) -> Loss | None:
        with self.no_new_graphs:
            return self._step(lr)

    def _step(self, lr: float) -> Loss | None:
        if self._baseline.variate is not None:
            self._baseline.variate.begin()
        self._write(lr)
        try:
            loss = self.taker.take(self._draw)
        except DataEndedError:
            raise  # as all ranks do
        except Exception as error:  # noqa: BLE001 - raised below
            mine = self._told_of(error)
            common = self.training.ranks.settle(mine)
            try:
                if common is error:
                    raise
                raise common from (None if common is mine else mine)
            finally:
                del mine, common  # their tracebacks have this frame
        if self.training.ranks.is_untried:
            self.training.ranks.tried()
        if loss is not None:
            self._latest = loss
        return loss

    def _told_of(self, error: Exception) -> Exception:
        """What a step raised or, of the first one, the error that says how the batch does not fit."""
        if self.taker.passes or isinstance(error, FindlrError):
            return error
        if self._first_batch is None:
            of_draw = any(word in told(error) for word in ("method", "'function' object"))
            if of_draw and isinstance(error, (TypeError, AttributeError)):
                note(error, "train_step(draw) is given a function that draws a batch, and no batch: batch = draw()")
            return error
        misfit = layer_misfit(error, self._first_batch)
        if misfit is None:
            note(error, f"this was the first step; the first batch is {self._first_batch}")
        return misfit or error

    def _draw(self) -> Any:
        """The next batch, where the step needs it."""
        batches, ranks = self.batches, self.training.ranks
        # At the first batch a rank without data can tell, because no layer was called so far.
        asks = batches.ends or (self._first_batch is None and not ranks.is_alone)
        batch = self._place(drawn_on_all(ranks, batches.next) if asks else batches.next())
        if self._baseline.variate is not None:
            self._baseline.variate.drawn(batch)
        if self.training.batch_size is None:
            self.training.batch_size, self._first_batch = batch_size(batch), described(batch)
        return batch

    def skipped(self) -> Loss | None:
        """A value above 0 if a fused optimizer skipped the last step; None if what ``step`` returned says it all."""
        skipped = self.taker.skipped
        return skipped.item() if skipped is not None and skipped.device.type == "cpu" else skipped

    def prepare_baseline(self, snapshot: TorchMemory) -> str | None:
        """Get ready for ``baseline`` under the weights of ``snapshot``; return why there can be none, or None."""
        return self._baseline.prepare(snapshot)

    def baseline(self) -> Loss | None:
        """The last batch's loss under the snapshot's weights, with the same dropout; None if a self-check failed."""
        with self.training.ranks.alike(), self.no_new_graphs:
            loss = self._baseline.loss(self._latest)
        return None if loss is None else self._left(loss)

    def could_change(self, snapshot: TorchMemory) -> float | None:
        """The most that the way of the weights since a snapshot can have changed the loss by; None if not known."""
        return most_change(self.training, snapshot)

    def _left(self, loss: torch.Tensor) -> Loss:
        """The loss as a number if it is on the CPU; left on any other device, because reading it would wait."""
        return loss.item() if self.device.type == "cpu" else loss.reshape(())

    def read(self, losses: list[Loss]) -> list[float]:
        """The losses as numbers, the mean over all processes; waits for the device, once."""
        return self.training.read(losses)

    def snapshot(self) -> TorchMemory:
        """Copies of everything that a step can change."""
        return self.training.snapshot([self.batches, *self._held_out.places])

    def restore(self, snapshot: TorchMemory) -> None:
        """Put everything back in place."""
        self._baseline.variate = None
        snapshot.put_back()
