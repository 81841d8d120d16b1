"""The last batch's loss under the starting weights: what makes a batch hard is in both losses, and cancels out.

No second model: ``torch.func.functional_call`` runs the same modules with the snapshot's tensors.
"""

# ruff: noqa: SLF001 - whether a tensor was written to, torch tells by a private name only

from __future__ import annotations

import logging
import math
import pickle
import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from findlr.errors import LossError
from findlr.search.interrupts import signals_wait
from findlr.search.kept import kept_in, put_kept
from findlr.search.memory import Memory
from findlr.search.objects import is_small_array
from findlr.search.restoring import Unwritten
from findlr.torch.data.nesting import spare, tensors_in
from findlr.torch.functional import NamesKept, WholeLoss, is_scripted, obstacle, values_lent
from findlr.torch.losses import WithoutGraph
from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.snapshot.modes import WithGradients
from findlr.torch.snapshot.notes import remember_rng, remember_torch_rng
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
        self._functions = [each for each in functions if not isinstance(each, nn.Module)]
        self._is_checked = False
        self._before: Any = None
        self._holders: list[Any] = []  # of what the functions count or keep with each call

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
        self._is_checked, self._holders = False, []
        if reason is None:
            self._before = self._side_effects()
        self.variate = None if reason else ControlVariate(training.modules, self._taker, snapshot, training.devices)
        return reason

    def loss(self, latest: Loss) -> torch.Tensor | None:
        """The last step's loss under those weights; None once its self-check has failed.

        Args:
            latest: the loss that the step itself saw.
        """
        if self.variate is None:
            return None
        if not self._is_checked:
            reason: str | None = "the loss function changes something each time that it is called"
            (written, kept), now = self._before, self._side_effects()
            if now[0] == written:
                self._holders = [] if now[1] == kept else reached_from(*self._functions).holders
                self.forwards += 2
                reason = self._once(partial(self.variate.disagrees, latest))
            if self._training.ranks.any(reason is not None):
                logger.info("no control variate: %s", reason or "another rank has none")
                self.variate = None
                return None
            self.variate.remember()
            self._is_checked = True
        self.forwards += 1
        return self._once(self.variate.loss) if self._holders else self.variate.loss()

    def _once(self, measure: Callable[[], Any]) -> Any:
        """What ``measure`` gives, with nothing counted or kept by the functions: the step has done so already."""
        before = [(holder, kept_in(holder)) for holder in self._holders]
        try:
            return measure()
        finally:
            for holder, kept in before:
                put_kept(holder, kept, is_kept=lambda *_: True)  # all of it

    def _side_effects(self) -> tuple[Any, Any]:
        """What only the loss function changes, if it does: what it writes into; what it counts, or puts in its place.

        What is called again for the same batch would do it twice. Only the second can be undone.
        """
        training, swept = self._training, set(map(id, self._training.swept_parameters()))
        others = [p for module in training.modules for p in module.parameters() if id(p) not in swept]
        reached = reached_from(*self._functions)
        arrays = [array.tobytes() for array in reached.arrays if is_small_array(array)]
        written = _versions((*others, *training.tensors)), arrays
        return written, (reached.numbers, [id(tensor) for tensor in reached.tensors])


class ControlVariate:
    """Computes a batch's loss under a snapshot's weights, with the random draws that the step's forward pass made.

    Args:
        modules: the model, and the criterion where it is a module.
        taker: gives the loss of a batch under the modules' present weights, and says how a step's is made of several.
        snapshot: the starting weights; its copies must be on the modules' devices.
        devices: these.
    """

    def __init__(
        self, modules: list[nn.Module], taker: TakesSteps, snapshot: TorchMemory, devices: list[torch.device]
    ) -> None:
        self._whole, self._combine = WholeLoss(modules, taker.loss), taker.combine
        self._draws_first = taker.draws_first
        self._devices = devices
        parameters, buffers = dict(self._whole.named_parameters()), dict(self._whole.named_buffers())
        self._kept = dict(zip(parameters, snapshot.copies_of(parameters.values()), strict=True))
        self._buffers = dict(zip(buffers, snapshot.copies_of(buffers.values()), strict=True))
        # A forward pass may write into its weights (an Embedding with max_norm does): never into the snapshot's copies.
        with torch.inference_mode(False):
            self._weights = {name: kept.clone() for name, kept in self._kept.items()}
        self._versions = {name: weight._version for name, weight in self._weights.items()}
        self._batches: list[Any] = []
        self._draws: list[Memory] = []  # the random states before each forward pass, or before the first
        self._is_scripted = is_scripted(self._whole)
        self._host_states: Any = None  # before the first forward pass
        self._copies = True  # of batches, unless the first step has not written into its own
        self._first: list[tuple[torch.Tensor, int]] | None = []  # its batches' tensors and their versions, till then
        self._without_graph = WithoutGraph()
        self._remember = remember_rng

    def begin(self) -> None:
        """Forget the last step's batches."""
        self._batches, self._draws = [], []

    def drawn(self, batch: Any) -> None:
        """Remember a batch of the step, and the random states that its forward pass starts from."""
        if self._host_states is None:
            self._host_states = host_states()
        if self._first is not None:
            self._first += [(tensor, tensor._version) for tensor in tensors_in(batch) if not tensor.is_inference()]
        if self._copies:
            batch = spare(batch)
        self._batches.append(batch)
        if self._draws_first:
            self._draws.clear()
        self._draws.append(self._random_states())

    def loss(self) -> torch.Tensor:
        """The loss of the step's batches under the starting weights; no random state has moved."""
        now = self._random_states()
        losses: list[torch.Tensor] = []
        try:
            with NamesKept(self._whole), WithGradients():
                for batch, draws in zip_longest(self._batches, self._draws):
                    loss = self._without_graph(partial(self._loss, batch, draws))
                    losses += [loss] if loss.numel() else []  # the training goes on without an empty one's batch
                    self._mend()
        finally:
            now.put_back()
        if not losses:
            raise LossError(
                "a batch that has a loss in the training has none under the starting weights, so there is nothing to "
                "compare: leave the control variate out, with control_variate=False"
            )
        if len(losses) == 1:
            return losses[0]
        stacked = torch.stack(losses)
        return stacked.mean() if self._combine == "mean" else stacked.sum()

    def _loss(self, batch: Any, draws: Memory | None) -> torch.Tensor:
        if draws is not None:
            draws.put_back()
        going_on = self._whole.kept
        # A normalisation writes into its own.
        buffers = {name: going_on.get(name, buffer).clone() for name, buffer in self._buffers.items()}
        weights = self._weights
        if self._without_graph.differentiates:  # perhaps by the weights
            weights = {name: w.detach().requires_grad_(w.is_floating_point()) for name, w in weights.items()}
        if self._is_scripted:
            with Unwritten(values_lent(self._whole, {**weights, **buffers})):
                lent = self._whole(spare(batch) if self._copies else batch)
            for name, kept in self._kept.items():  # what a forward pass has written into them can't be told
                self._weights[name].copy_(kept)
            return cast("torch.Tensor", lent)
        return self._whole.under((weights, buffers), spare(batch) if self._copies else batch)

    def _mend(self) -> None:
        """Give weights that a forward pass has written into their values again."""
        for name, weight in self._weights.items():
            if weight._version != self._versions[name]:
                with torch.no_grad():
                    weight.copy_(self._kept[name])
                self._versions[name] = weight._version

    @signals_wait
    def disagrees(self, seen: float | torch.Tensor) -> str | None:
        """The reason not to trust it, after a first step whose forward pass saw the loss ``seen``; or None.

        The starting weights were the step's own, so the loss must be the same; and it must stay the same when the
        present weights are zero. If the step has drawn nothing from Python's and NumPy's generators, their states,
        which are slow to read and to write, are left alone from here on.
        """
        self._copies, self._first = any(tensor._version != version for tensor, version in self._first or ()), None
        if self._host_states == host_states():
            self._remember = remember_torch_rng
        reference = self.loss()
        if not _close(float(reference), float(seen)):
            return "the same batch under the same weights gives another loss, so something else changes with each pass"
        parameters = list(self._whole.parameters())
        present = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for parameter in parameters:
                parameter.zero_()
            try:
                blind = self.loss()
            finally:
                for parameter, value in zip(parameters, present, strict=True):
                    parameter.copy_(value)
        return (
            None if _close(float(reference), float(blind)) else "functional_call does not use the weights it is given"
        )

    def remember(self) -> None:
        """Let what the first step has changed, such as a queue or a codebook, go on under the starting weights, too.

        If it stayed as it was, its filling would seem to be the rate's. In train mode a normalisation's buffers tell
        nothing of earlier batches.
        """
        norms = {name for name, module in self._whole.named_modules() if isinstance(module, _NormBase)}
        for name, buffer in self._whole.named_buffers():  # by value: what writes into .data leaves no trace
            start = self._buffers.get(name)
            if start is not None and name.rpartition(".")[0] not in norms and not _equal(start, buffer):
                self._whole.kept[name] = start.clone()

    def _random_states(self) -> Memory:
        memory = Memory()
        self._remember(self._devices, memory)
        return memory


def _versions(tensors: Iterable[torch.Tensor]) -> list[tuple[int, int]]:
    """Which tensors they are, and how often they were written to."""
    return [(id(tensor), tensor._version) for tensor in tensors if not tensor.is_inference()]


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    kinds = [(each.dtype, each.device, each.shape, each.layout) for each in (a, b)]
    return kinds[0] == kinds[1] and (a.layout is not torch.strided or torch.equal(a, b))


def host_states() -> tuple[Any, bytes]:
    """The states of Python's and NumPy's generators, for comparing them."""
    return random.getstate(), pickle.dumps(np.random.get_state(legacy=False))  # noqa: NPY002 - users draw from it


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-4) or (math.isnan(a) and math.isnan(b))
