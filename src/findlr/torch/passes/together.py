"""Several runs in one pass: stacked weights, ``torch.func.vmap``, one batch for all, a rate for each.

The first steps are also taken by one run alone: if the losses differ by more than rounding, there is no pass.
"""

# ruff: noqa: SLF001 - whether a tensor was written to, torch tells by a private name only

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch.func import grad_and_value, vmap

from findlr.analysis.text import told
from findlr.torch.control_variate import host_states
from findlr.torch.data.nesting import copied
from findlr.torch.functional import Places, WholeLoss
from findlr.torch.passes import stacked
from findlr.torch.passes.obstacles import Passable, most_runs
from findlr.torch.passes.replay import CannotRecordError, Tensors, leaves, recorded
from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.step import LossStep

TRIAL_STEPS = 4  # in which a run by itself and a pass are compared
_TOLERANCE, _TOLERANCE_IF_HALF = 1e-3, 3e-2  # relative; a high rate makes the losses' rounding errors grow
_LOOK_EVERY_STEPS = 10


def run(trainable: Passable, begin: TorchMemory, rates: Sequence[Sequence[float]]) -> list[float] | str:
    """Run several rows of rates from one snapshot, all in one pass or, where memory is short, in a few.

    Args:
        trainable: one for which ``obstacle`` gives no reason; it is left as the last run left it.
        begin: where each run starts.
        rates: of each run and step; all of the same length, above ``TRIAL_STEPS``.

    Returns:
        The held-out loss that each run ends at, infinite if it diverged; or why it was not done.
    """
    most = most_runs(trainable.training)
    size = len(rates) if most is None else min(len(rates), most)
    try:
        trainable.restore(begin)
        single = _Single(trainable, rates[0][:TRIAL_STEPS])
        ends: list[float] = []
        for at in range(0, len(rates), size):
            trainable.restore(begin)
            for model in trainable.training.models:
                if not model.training:
                    model.train()
            with torch.inference_mode(False), torch.no_grad():
                ends += _Pass(trainable, single, rates[at : at + size]).ends(at, judged=at == 0)
    except (_NotTheSameError, CannotRecordError) as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - of whatever kind: one after another they can run, or say what is wrong
        return told(error)
    return ends


class _NotTheSameError(Exception):
    """Why runs must be made one after another."""


class _Single:
    """The first steps of one run by itself, with which a pass must agree."""

    def __init__(self, trainable: Passable, lrs: Sequence[float]) -> None:
        before = _random_states(trainable), _buffer_versions(trainable)
        self.losses: list[float] = []
        for lr in lrs:
            self.losses += trainable.read([loss for loss in [trainable.step(lr)] if loss is not None])
        after = _random_states(trainable), _buffer_versions(trainable)
        if before[0] != after[0]:
            raise _NotTheSameError("a step draws random numbers")
        if before[1] != after[1]:
            raise _NotTheSameError("a step changes a buffer")
        swept = trainable.training.swept_parameters()
        self.used = {id(p) for p in swept if p.grad is not None}  # the optimizer skips the others


def _random_states(trainable: Passable) -> Any:
    states, device = [torch.get_rng_state()], trainable.training.device
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(device))
    return host_states(), [state.tolist() for state in states]


def _buffer_versions(trainable: Passable) -> list[tuple[int, int]]:
    return [(id(b), b._version) for module in trainable.training.modules for b in module.buffers()]


class _Pass:
    """Runs that take each step at once."""

    def __init__(self, trainable: Passable, single: _Single, rates: Sequence[Sequence[float]]) -> None:
        training, taker = trainable.training, trainable.taker
        assert isinstance(taker, LossStep)  # the only kind of step that allows a pass
        self._trainable, self._single, self._taker = trainable, single, taker
        self._rates = torch.tensor(rates, dtype=torch.float64).to(training.device)
        self._whole = WholeLoss(training.modules, taker.loss)
        self._places = Places(self._whole)
        names = {id(p): name for name, p in self._whole.named_parameters()}
        if not single.used <= names.keys():
            raise _NotTheSameError("a parameter is trained that is no part of the model")
        self._weights: dict[str, torch.Tensor] = {}
        self._own: list[torch.Tensor] = []
        self._groups: list[tuple[stacked.Group, int]] = []
        optimizer = training.swept[0]
        for group, ratio in zip(optimizer.param_groups, training.rates.ratios, strict=True):
            params = [p for p in group["params"] if id(p) in single.used]
            stacks = [stacked.copies(p, len(rates)) for p in params]
            self._own += params
            self._weights |= {names[id(p)]: stack for p, stack in zip(params, stacks, strict=True)}
            self._groups.append((stacked.Group(optimizer, group, ratio, params, stacks), len(params)))
        self._recordings: list[tuple[Any, Any]] = []

    def ends(self, first: int, *, judged: bool) -> list[float]:
        """Take all steps; return the held-out loss at the end of each run.

        Args:
            first: the number of its first run.
            judged: whether its first losses are compared with those of a run by itself.

        Raises:
            _NotTheSameError: judged, and its first losses are not those of a run by itself.
        """
        kept = self._trainable.batches.kept
        losses: list[torch.Tensor] = []
        shown = 0

        def show() -> None:
            nonlocal shown
            if self._trainable.see_together is not None and shown < len(losses):
                self._trainable.see_together(first, torch.stack(losses[shown:]).tolist())
                shown = len(losses)

        finite = torch.ones(len(self._rates), dtype=torch.bool, device=self._rates.device)
        for number, lrs in enumerate(self._rates.T):
            losses.append(self._step(copied(kept[number]), lrs))
            if judged and number + 1 == TRIAL_STEPS:
                self._judge(torch.stack(losses))
            if number + 1 >= TRIAL_STEPS and (number + 1) % self._trainable.read_every == 0:
                show()
            if number == 0 or (number + 1) % _LOOK_EVERY_STEPS == 0:  # as often as a run by itself is looked at
                finite &= losses[-1].isfinite()
                if not finite.any():
                    break
        show()
        return [self._end(i) if fine else math.inf for i, fine in enumerate(finite.tolist())]

    def _judge(self, losses: torch.Tensor) -> None:
        """Look at the first steps' losses, shape (steps, runs).

        Raises:
            _NotTheSameError: they are not those of a run by itself.
        """
        half = self._taker.autocast is not None or any(w.element_size() < 4 for w in self._weights.values())
        tolerance = _TOLERANCE_IF_HALF if half else _TOLERANCE
        same_start = all(math.isclose(loss, self._single.losses[0], rel_tol=tolerance) for loss in losses[0].tolist())
        pairs = zip(losses[:, 0].tolist(), self._single.losses, strict=True)
        if not (same_start and all(math.isclose(one, other, rel_tol=tolerance) for one, other in pairs)):
            raise _NotTheSameError("in one pass the losses differ")

    def _step(self, batch: Any, lrs: torch.Tensor) -> torch.Tensor:
        """One step of all runs; the losses before it."""
        tensors, rebuilt, form = leaves(batch)
        inputs = [*self._weights.values(), *tensors]
        again = next((function for known, function in self._recordings if known == form), None)
        if again is None:
            results, again = recorded(lambda *given: self._gradients(given, rebuilt), inputs)
            self._recordings.append((form, again))
        else:
            results = again(*inputs)
        *grads, losses = results
        self._trainable.count_passes(len(lrs))
        if self._taker.clip_grad_norm is not None:
            stacked.clip_norms(grads, self._taker.clip_grad_norm)
        if self._taker.clip_grad_value is not None:
            stacked.clip_values(grads, self._taker.clip_grad_value)
        at = 0
        for group, count in self._groups:
            group.step(grads[at : at + count], lrs)
            at += count
        return losses

    def _gradients(self, given: Tensors, rebuilt: Any) -> Tensors:
        """The gradients of each run's loss, and the losses."""
        count = len(self._weights)
        weights = dict(zip(self._weights, given[:count], strict=True))

        def loss(own: dict[str, torch.Tensor], tensors: Tensors) -> torch.Tensor:
            self._places.lend(own)
            return self._whole.forward(rebuilt(tensors)).reshape(())

        with self._trainable.no_new_graphs, self._places, warnings.catch_warnings():
            warnings.filterwarnings("error", message="There is a performance drop")  # an operation vmap can't batch
            grads, losses = vmap(grad_and_value(loss), in_dims=(0, None))(weights, list(given[count:]))
        return [*grads.values(), losses]

    def _end(self, run: int) -> float:
        """The held-out loss of a run."""
        for own, stack in zip(self._own, self._weights.values(), strict=True):
            own.copy_(stack[run])
        loss = self._trainable.evaluate()
        return loss if math.isfinite(loss) else math.inf
