"""Several runs in one pass: stacked weights, ``torch.func.vmap``, one batch for all, a rate for each.

The first steps are taken by a run alone, too: where the losses differ by more than rounding, there is no pass.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks

from findlr.torch import control_variate
from findlr.torch.control_variate import WholeLoss, names_kept
from findlr.torch.data.nesting import copied
from findlr.torch.passes import stacked
from findlr.torch.passes.replay import CannotRecordError, Tensors, leaves, recorded
from findlr.torch.snapshot.stores import free_memory

if TYPE_CHECKING:
    from findlr.torch.snapshot.memory import Memory
    from findlr.torch.trainable import TorchTrainable

TRIAL = 4  # steps that a run by itself and a pass are compared in
_LARGEST_ON_CPU = 1 << 20  # bytes of weights; at a third of it, passes gain nothing there any more
_FEWEST_ON_CPU = 3  # runs; two gain nothing there: ``make bench-passes``
_MOST_SHAPES = 4  # of batches; each takes a recording
_ALIKE, _ALIKE_IF_HALF = 1e-3, 3e-2  # relative, of losses that differ by rounding; a high rate makes that larger
_LOOK_EVERY = 10  # steps


def why_not(training: TorchTrainable, runs: int) -> str | None:
    """What is known beforehand to keep a training from taking that many runs in one pass, or None."""
    reason = stacked.why_not(training.optimizer)
    if reason is None and training._stepper._scaler is not None:
        reason = "a gradient scaler has one scale for all"
    if reason is None and training.accumulation_steps > 1:
        reason = "gradients are accumulated"
    reason = reason or _unlike(training._batches.kept)
    for module in training._modules:
        reason = reason or control_variate.why_not(module) or _hooked(module)
        reason = reason or next(filter(None, (_changes(each, module.training) for each in module.modules())), None)
    return reason or _optimizer_hooked(training.optimizer) or _not_there(training, runs)


def _unlike(batches: Sequence[Any]) -> str | None:
    if not batches:
        return "the batches are not kept"
    forms: list[Any] = []
    for batch in batches:
        try:
            form = leaves(batch)[2]
        except CannotRecordError as error:
            return str(error)
        if form not in forms:
            forms.append(form)
        if len(forms) > _MOST_SHAPES:
            return f"the batches have more than {_MOST_SHAPES} shapes"
    return None


def _hooked(module: nn.Module) -> str | None:
    names = ("_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_pre_hooks")
    if any(getattr(each, name) for each in module.modules() for name in names):
        return "the model has hooks"
    if any(getattr(module_hooks, "_global" + name) for name in names):
        return "there are hooks for all modules"
    if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in module.parameters()):
        return "a parameter has hooks"
    return None


def _optimizer_hooked(optimizer: torch.optim.Optimizer) -> str | None:
    own = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    if any((*own, optimizer_hooks._global_optimizer_pre_hooks, optimizer_hooks._global_optimizer_post_hooks)):
        return "the optimizer has hooks"
    if "step" in vars(optimizer) and not hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        return "the optimizer's step is not its own"
    return None


def _changes(module: nn.Module, root_trains: bool) -> str | None:
    """What a module does in training that stacked weights can't have; a root in eval mode is trained in train mode."""
    if module.training or not root_trains:
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
            return f"{type(module).__name__} keeps statistics"
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            return f"{type(module).__name__} draws random numbers"
    return None


def _bytes_of_a_run(training: TorchTrainable) -> int:
    """Weights, gradients and moves; and the optimizer's state, even where it has none yet."""
    weights = sum(p.nbytes for p in training._swept_parameters() if p.requires_grad)
    return weights * (4 if isinstance(training.optimizer, torch.optim.SGD) else 6)


def _most(training: TorchTrainable) -> int | None:
    """How many runs fit into half of the free memory."""
    free = free_memory(training._device)
    return None if free is None else free // 2 // max(_bytes_of_a_run(training), 1)


def _not_there(training: TorchTrainable, runs: int) -> str | None:
    """What speaks against a pass on the training's device."""
    if training._device.type == "cpu":
        nbytes = sum(p.nbytes for module in training._modules for p in module.parameters())
        if nbytes > _LARGEST_ON_CPU:
            return f"on a CPU, a model of {nbytes / 1e6:.1f} MB gains nothing"
        if runs < _FEWEST_ON_CPU:
            return f"on a CPU, {runs} runs gain nothing"
    most = _most(training)
    return None if most is None or most >= 2 else "there is no memory for two runs"


def run(training: TorchTrainable, begin: Memory, rates: Sequence[Sequence[float]]) -> list[float] | str:
    """Run several rows of rates from one snapshot, all in one pass or, where memory is short, in a few.

    Args:
        training: one that ``why_not`` says nothing against; it is left as the last run left it.
        begin: where each run starts.
        rates: of each run and step; all of the same length, above ``TRIAL``.

    Returns:
        The held-out loss that each run ends at, infinite if it diverged; or why it was not done.
    """
    most = _most(training)
    size = len(rates) if most is None else min(len(rates), most)
    try:
        training.restore(begin)
        single = _Single(training, rates[0][:TRIAL])
        ends: list[float] = []
        for at in range(0, len(rates), size):
            training.restore(begin)
            if not training.model.training:
                training.model.train()
            with torch.inference_mode(False), torch.no_grad():
                ends += _Pass(training, single, rates[at : at + size]).ends(judged=at == 0)
    except (_NotTheSameError, CannotRecordError) as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - of whatever kind: one after another they can run, or say what is wrong
        lines = str(error).splitlines()
        return f"{type(error).__name__}" + (f": {lines[0]}" if lines else "")
    return ends


class _NotTheSameError(Exception):
    """Why runs must be made one after another."""


class _Single:
    """The first steps of a run by itself: what a pass must agree with.

    Args:
        training: where the run starts.
        lrs: of these steps.
    """

    def __init__(self, training: TorchTrainable, lrs: Sequence[float]) -> None:
        before = _random_states(training._device), _buffer_versions(training)
        self.losses: list[float] = []
        for lr in lrs:
            self.losses += training.read([loss for loss in [training.step(lr)] if loss is not None])
        after = _random_states(training._device), _buffer_versions(training)
        if before[0] != after[0]:
            raise _NotTheSameError("a step draws random numbers")
        if before[1] != after[1]:
            raise _NotTheSameError("a step changes a buffer")
        self.used = {id(p) for p in training._swept_parameters() if p.grad is not None}  # the optimizer skips others


def _random_states(device: torch.device) -> Any:
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(device))
    return control_variate.host_states(), [state.tolist() for state in states]


def _buffer_versions(training: TorchTrainable) -> list[tuple[int, int]]:
    return [(id(buffer), buffer._version) for module in training._modules for buffer in module.buffers()]


class _Pass:
    """Runs that take each step at once.

    Args:
        training: where the runs start.
        single: the first steps of the first run by itself.
        rates: of each run and step.
    """

    def __init__(self, training: TorchTrainable, single: _Single, rates: Sequence[Sequence[float]]) -> None:
        self._training, self._single = training, single
        self._rates = torch.tensor(rates, dtype=torch.float64).to(training._device)
        self._whole = WholeLoss(training._modules, training._loss)
        names = {id(p): name for name, p in self._whole.named_parameters()}
        if not single.used <= names.keys():
            raise _NotTheSameError("a parameter is trained that is no part of the model")
        self._weights: dict[str, torch.Tensor] = {}
        self._own: list[torch.Tensor] = []
        self._groups: list[tuple[stacked.Group, int]] = []
        optimizer = training.optimizer
        for group, ratio in zip(optimizer.param_groups, training._rates.ratios, strict=True):
            params = [p for p in group["params"] if id(p) in single.used]
            stacks = [stacked.copies(p, len(rates)) for p in params]
            self._own += params
            self._weights |= {names[id(p)]: stack for p, stack in zip(params, stacks, strict=True)}
            self._groups.append((stacked.Group(optimizer, group, ratio, params, stacks), len(params)))
        self._recordings: list[tuple[Any, Any]] = []

    def ends(self, *, judged: bool) -> list[float]:
        """Take all steps; return the held-out loss at the end of each run.

        Raises:
            _NotTheSameError: judged, and its first losses are not those of a run by itself.
        """
        training, runs = self._training, len(self._rates)
        losses: list[torch.Tensor] = []
        finite = torch.ones(runs, dtype=torch.bool, device=training._device)
        for number, lrs in enumerate(self._rates.T):
            losses.append(self._step(copied(training._batches.kept[number]), lrs))
            if judged and number + 1 == TRIAL:
                self._judge(torch.stack(losses))
            if number == 0 or (number + 1) % _LOOK_EVERY == 0:  # when a run by itself is looked at
                finite &= losses[-1].isfinite()
                if not finite.any():
                    break
        return [self._end(i) if fine else math.inf for i, fine in enumerate(finite.tolist())]

    def _judge(self, losses: torch.Tensor) -> None:
        """Look at the first steps' losses, shape (steps, runs).

        Raises:
            _NotTheSameError: they are not those of a run by itself.
        """
        half = self._training.autocast is not None or any(w.element_size() < 4 for w in self._weights.values())
        alike = _ALIKE_IF_HALF if half else _ALIKE
        same_start = all(math.isclose(loss, self._single.losses[0], rel_tol=alike) for loss in losses[0].tolist())
        pairs = zip(losses[:, 0].tolist(), self._single.losses, strict=True)
        if not (same_start and all(math.isclose(one, other, rel_tol=alike) for one, other in pairs)):
            raise _NotTheSameError("in one pass the losses are others")

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
        self._training.forwards += len(lrs)
        self._training.backwards += len(lrs)
        if self._training.clip_grad_norm is not None:
            stacked.clip_norms(grads, self._training.clip_grad_norm)
        if self._training.clip_grad_value is not None:
            stacked.clip_values(grads, self._training.clip_grad_value)
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
            found: torch.Tensor = functional_call(self._whole, own, (rebuilt(tensors),))
            return found.reshape(())

        with self._training._no_new_graphs, names_kept(self._whole), warnings.catch_warnings():
            warnings.filterwarnings("error", message="There is a performance drop")  # an operation vmap can't batch
            grads, losses = vmap(grad_and_value(loss), in_dims=(0, None))(weights, list(given[count:]))
        return [*grads.values(), losses]

    def _end(self, run: int) -> float:
        """The held-out loss of a run."""
        for own, stack in zip(self._own, self._weights.values(), strict=True):
            own.copy_(stack[run])
        loss = self._training.evaluate()
        return loss if math.isfinite(loss) else math.inf
