"""Whether a search has the loss of each batch under the starting weights, and that loss once it has."""

# ruff: noqa: SLF001 - whether a tensor was written to, torch tells by a private name only

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from findlr.errors import LossError
from findlr.search.effects import Effects
from findlr.search.objects import is_small_array
from findlr.torch.control_variate import ControlVariate
from findlr.torch.functional import obstacle
from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.snapshot.reach import reached_from
from findlr.torch.step import Loss, TakesSteps
from findlr.torch.training import Training

logger = logging.getLogger("findlr")


class Baseline:
    """The control variate of a search, where there can be one; it is checked once, after the first step.

    Args:
        training: whose modules are run under the starting weights.
        taker: gives the loss of a batch.
        functions: of the user's own, which make the loss.
    """

    def __init__(self, training: Training, taker: TakesSteps, functions: Sequence[Any]) -> None:
        self.variate: ControlVariate | None = None
        self.forwards = 0
        self._training, self._taker = training, taker
        self._functions = [each for each in functions if not isinstance(each, nn.Module)] + training.called.objects
        self._is_checked = False
        self._before: Any = None
        self._effects: Effects | None = None  # of the functions, if they count or keep something with each call

    def prepare(self, snapshot: TorchMemory) -> str | None:
        """Get ready to run under the weights of ``snapshot``; return the reason why that can't work, or None."""
        training, reason = self._training, self._taker.why_no_loss()
        if reason is None and not snapshot.store.on_device:
            reason = "the snapshot is not on the model's device"
        reason = reason or next(filter(None, map(obstacle, training.modules)), None)
        theirs = {id(parameter) for module in training.modules for parameter in module.parameters()}
        if reason is None and any(id(p) not in theirs for p in training.swept_parameters() if p.requires_grad):
            reason = "the optimizer trains a tensor that is in no module"
        if training.ranks.any(reason is not None):
            reason = reason or "another rank has none"
        self._is_checked, self._effects = False, None
        if reason is None:
            self._before = self._side_effects()
        self.variate = None if reason else ControlVariate(training.modules, self._taker, snapshot, training.devices)
        return reason

    def loss(self, latest: Loss) -> torch.Tensor | None:
        """The last step's loss under those weights; the step saw ``latest``. None once the self-check has failed."""
        if self.variate is None:
            return None
        if not self._is_checked:
            none = self._taker.why_no_loss()  # as the first step may have shown
            reason: str | None = none or "the loss function changes something each time that it is called"
            (written, kept, _), now = self._before, self._side_effects()
            if now[0] == written:
                self._effects = None if now[1] == kept else Effects(now[2])
                reason = none or self._checked(self.variate, latest)
            if self._training.ranks.any(reason is not None):
                logger.info("no control variate: %s", reason or "another rank has none")
                self.variate = None
                return None
            self._is_checked = True
        self.forwards += 1
        return self.variate.loss() if self._effects is None else self._effects.undone(self.variate.loss)

    def _checked(self, variate: ControlVariate, latest: Loss) -> str | None:
        """The reason why it can't be trusted; or None."""
        try:
            self.forwards += 2
            reason: str | None = self._once(partial(variate.disagrees, latest))
            if reason is None and (changed := variate.changed()):
                self.forwards += 1
                reason = self._once(partial(variate.remember, changed, latest))
        except LossError as error:
            return str(error)
        return reason

    def _once(self, measure: Callable[[], Any]) -> Any:
        """What ``measure`` gives, with nothing counted or kept by the functions: the step has done so already."""
        return measure() if self._effects is None else self._effects.undone(measure)

    def _side_effects(self) -> tuple[Any, Any, list[Any]]:
        """What only the loss function changes: what it writes into; what it counts, or puts in its place; and where.

        What is called again for the same batch would do it twice. Only the second can be undone.
        """
        training, swept = self._training, set(map(id, self._training.swept_parameters()))
        others = [p for module in training.modules for p in module.parameters() if id(p) not in swept]
        reached = reached_from(*self._functions)
        arrays = [array.tobytes() for array in reached.arrays if is_small_array(array)]
        written = _versions((*others, *training.tensors)), arrays
        return written, (reached.numbers, [id(tensor) for tensor in reached.tensors]), reached.holders


def _versions(tensors: Iterable[torch.Tensor]) -> list[tuple[int, int]]:
    """Which tensors they are, and how often they were written to."""
    return [(id(tensor), tensor._version) for tensor in tensors if not tensor.is_inference()]
