"""The last batch's loss under the starting weights: what makes a batch hard is in both losses, and cancels out.

No second model: the same modules run with the snapshot's tensors in the places of their own.
"""

# ruff: noqa: SLF001 - whether a tensor was written to, torch tells by a private name only

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Mapping
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from findlr.errors import LossError
from findlr.search.interrupts import signals_wait
from findlr.search.memory import Memory
from findlr.search.restoring import Unwritten
from findlr.torch.data.nesting import spare, tensors_in
from findlr.torch.functional import Places, WholeLoss, is_scripted, values_lent
from findlr.torch.losses import WithoutGraph
from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.snapshot.modes import WithGradients
from findlr.torch.snapshot.notes import remember_rng, remember_torch_rng
from findlr.torch.step import TakesSteps

_MOST_RISE, _MOST_FALL = 0.1, 0.5  # of a batch's loss, by what its own step has left in buffers; a queue has its keys


class ControlVariate:
    """Computes a batch's loss under a snapshot's weights, with the random draws that the step's forward pass made.

    Args:
        modules: the model, and the criterion where it is a module.
        taker: gives the loss of a batch under the modules' present weights, and says how a step's is made of several.
        snapshot: the starting weights; its copies must be on the modules' devices.
        devices: those of the modules.
    """

    def __init__(
        self, modules: list[nn.Module], taker: TakesSteps, snapshot: TorchMemory, devices: list[torch.device]
    ) -> None:
        self._whole, self._combine = WholeLoss(modules, taker.loss), taker.combine
        self._places = Places(self._whole)
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
        self._copies = False  # of batches, because the first step has written into its own
        self._spares: list[Any] = []  # of its batches, till that is known
        self._first: list[tuple[torch.Tensor, int]] | None = []  # its batches' tensors and their versions, till then
        self._without_graph = WithoutGraph()
        self._remember = remember_rng

    def begin(self) -> None:
        """Forget the last step's batches."""
        self._batches, self._spares, self._draws = [], [], []

    def drawn(self, batch: Any) -> None:
        """Remember a batch of the step, and the random states that its forward pass starts from."""
        if self._host_states is None:
            self._host_states = host_states()
        if self._first is not None:
            self._first += [(tensor, tensor._version) for tensor in tensors_in(batch) if not tensor.is_inference()]
            self._spares.append(spare(batch))
        self._batches.append(spare(batch) if self._copies else batch)
        if self._draws_first:
            self._draws.clear()
        self._draws.append(self._random_states())

    def loss(self) -> torch.Tensor:
        """The loss of the step's batches under the starting weights; no random state has moved."""
        now = self._random_states()
        losses: list[torch.Tensor] = []
        try:
            with self._places, WithGradients():
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
        batch = spare(batch) if self._copies else batch
        going_on = self._whole.kept
        # A normalisation writes into its own.
        buffers = {name: going_on.get(name, buffer).clone() for name, buffer in self._buffers.items()}
        weights = self._weights
        if self._without_graph.differentiates:  # perhaps by the weights
            weights = {name: w.detach().requires_grad_(w.is_floating_point()) for name, w in weights.items()}
        if self._is_scripted:
            with Unwritten(values_lent(self._whole, {**weights, **buffers})):
                lent = self._whole.forward(batch)
            for name, kept in self._kept.items():  # what a forward pass has written into them can't be told
                self._weights[name].copy_(kept)
            return lent
        self._places.lend({**weights, **buffers})
        return self._whole.forward(batch)

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
        if self._copies:
            self._batches = self._spares
        self._spares = []
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
        return None if _close(float(reference), float(blind)) else "the model does not use the weights that it is lent"

    def changed(self) -> dict[str, torch.Tensor]:
        """The buffers that the first step has changed, such as a queue or a codebook, as they were before it.

        In train mode a normalisation's tell nothing of earlier batches.
        """
        norms = {name for name, module in self._whole.named_modules() if isinstance(module, _NormBase)}
        present = dict(self._whole.named_buffers())
        return {
            name: start
            for name, start in self._buffers.items()
            # By value: what writes into .data leaves no trace.
            if name in present and name.rpartition(".")[0] not in norms and not _equal(start, present[name])
        }

    @signals_wait
    def remember(self, changed: Mapping[str, torch.Tensor], seen: float | torch.Tensor) -> str | None:
        """Let these buffers go on under the starting weights, too: or their filling would seem to be the rate's.

        Returns:
            The reason not to trust it, if the loss is quite another one once the first step has filled them; or None.
            A queue of stale keys tells of the rate, too, and looks like learning.
        """
        before, reference = self._buffers, float(seen)
        self._buffers = {**before, **{n: b for n, b in self._whole.named_buffers() if n in changed}}
        try:
            after = float(self.loss())
        finally:
            self._buffers = before
        if not -_MOST_FALL * abs(reference) <= after - reference <= _MOST_RISE * abs(reference):
            return "the loss depends on a buffer that each step changes, such as a queue"
        self._whole.kept = {name: start.clone() for name, start in changed.items()}
        return None

    def _random_states(self) -> Memory:
        memory = Memory()
        self._remember(self._devices, memory)
        return memory


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    kinds = [(each.dtype, each.device, each.shape, each.layout) for each in (a, b)]
    return kinds[0] == kinds[1] and (a.layout is not torch.strided or torch.equal(a, b))


def host_states() -> tuple[Any, bytes]:
    """The states of Python's and NumPy's generators, for comparing them."""
    return random.getstate(), pickle.dumps(np.random.get_state(legacy=False))  # noqa: NPY002 - users draw from it


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-4) or (math.isnan(a) and math.isnan(b))
