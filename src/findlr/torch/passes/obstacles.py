"""Reasons why several runs can't be taken in one pass, found before anything is spent on it."""

# ruff: noqa: SLF001 - what hooks a module, a parameter or an optimizer has, torch tells by private names only

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks

from findlr.torch import functional
from findlr.torch.compiled import NoNewGraphs
from findlr.torch.data.batches import TorchBatches
from findlr.torch.passes import stacked
from findlr.torch.passes.replay import CannotRecordError, leaves
from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.snapshot.stores import free_memory
from findlr.torch.step import Loss, TakesSteps
from findlr.torch.training import Training

LARGEST_BYTES_ON_CPU = 1 << 20  # of weights; a pass gains nothing there from about a third of that on
FEWEST_RUNS_ON_CPU = 3  # two gain nothing there: ``make bench-passes``
_MOST_BATCH_SHAPES = 4  # each takes a recording


class Passable(Protocol):
    """What a pass needs of the training whose runs it takes."""

    training: Training
    taker: TakesSteps
    batches: TorchBatches
    no_new_graphs: NoNewGraphs
    read_every: int
    see_together: Callable[[int, Sequence[Sequence[float]]], object] | None

    def step(self, lr: float) -> Loss | None:
        """Take one step."""

    def read(self, losses: list[Loss]) -> list[float]:
        """The losses as numbers."""

    def restore(self, snapshot: TorchMemory) -> None:
        """Go back."""

    def evaluate(self) -> float:
        """The held-out loss."""

    def count_passes(self, passes: int) -> None:
        """Count forward and backward passes that were made beside the steps."""


def obstacle(trainable: Passable, runs: int) -> str | None:
    """The reason why a training can't take that many runs in one pass, if one is known beforehand, or None."""
    training = trainable.training
    reason = trainable.taker.why_not_together() or stacked.obstacle(training.swept[0])
    reason = reason or _unlike(trainable.batches.kept)
    for module in training.modules:
        reason = reason or functional.obstacle(module) or _hooked(module)
        reason = reason or next(filter(None, (_changes(each, module.training) for each in module.modules())), None)
    return reason or _optimizer_hooked(training.swept[0]) or _not_there(training, runs)


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
        if len(forms) > _MOST_BATCH_SHAPES:
            return f"the batches have more than {_MOST_BATCH_SHAPES} shapes"
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
    """What a module does in train mode that can't be done for stacked weights; a root in eval mode is trained, too."""
    if module.training or not root_trains:
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
            return f"{type(module).__name__} keeps statistics"
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            return f"{type(module).__name__} draws random numbers"
    return None


def _bytes_of_a_run(training: Training) -> int:
    """The bytes of weights, gradients and updates, and of the optimizer's state, even if it has none yet."""
    weights = sum(p.nbytes for p in training.swept_parameters() if p.requires_grad)
    return weights * (4 if isinstance(training.swept[0], torch.optim.SGD) else 6)


def most_runs(training: Training) -> int | None:
    """How many runs fit into half of the free memory."""
    free = training.ranks.least(free_memory(training.device))
    return None if free is None else free // 2 // max(_bytes_of_a_run(training), 1)


def _not_there(training: Training, runs: int) -> str | None:
    """The reason against a pass on the training's device, or None."""
    if len(training.devices) > 1:
        return "the model is on several devices"
    if training.device.type == "cpu":
        nbytes = sum(p.nbytes for module in training.modules for p in module.parameters())
        if nbytes > LARGEST_BYTES_ON_CPU:
            return f"on a CPU, a model of {nbytes / 1e6:.1f} MB gains nothing"
        if runs < FEWEST_RUNS_ON_CPU:
            return f"on a CPU, {runs} runs gain nothing"
    most = most_runs(training)
    return None if most is None or most >= 2 else "there is not enough memory for two runs"
