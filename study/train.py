"""A training of a task: as a finder is asked about it, and whole, at one rate."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from findlr.analysis.plan import SCHEDULES
from study.regret import DEFAULT_LR
from study.tasks.task import FUSED, Setup, Task


def batches(loader: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, in a new order each epoch."""
    while True:
        yield from loader


def started(task: Task, seed: int) -> tuple[Setup, torch.optim.Optimizer]:
    """A fresh set-up, and its optimizer at the default rate: what a finder is asked on. Draws begin at the seed."""
    setup = task.make(seed)
    optimizer = setup.make_optimizer(setup.model.parameters(), DEFAULT_LR[task.optimizer])
    torch.manual_seed(seed)
    return setup, optimizer


def untrained_loss(task: Task, seed: int) -> float:
    """The held-out loss before the first step."""
    setup = task.make(seed)
    return setup.validation_loss(setup.model)


def train(task: Task, lr: float, seed: int) -> float:
    """Train at peak rate ``lr`` and return the final held-out loss.

    The rate of step i is lr * shape(i / (total_steps - 1)); momentum is held.

    Args:
        task: what to train.
        lr: the schedule's peak.
        seed: of the weights, the order of the data and dropout.

    Returns:
        The final held-out loss, at most that of the untrained model: a diverged run counts as no training.
    """
    setup = task.make(seed)
    untrained = setup.validation_loss(setup.model)
    shape = SCHEDULES[task.schedule]
    how = {"fused": True} if task.optimizer in FUSED else {}  # the same steps but for rounding, in less time
    optimizer = setup.make_optimizer(setup.model.parameters(), lr, **how)
    torch.manual_seed(seed)
    stream = batches(setup.loader)
    for step in range(task.total_steps):
        inputs, targets = next(stream)
        for group in optimizer.param_groups:
            group["lr"] = lr * shape(step / (task.total_steps - 1))
        optimizer.zero_grad()
        loss = setup.criterion(setup.model(inputs), targets)
        if not math.isfinite(loss.item()):
            return untrained
        loss.backward()
        optimizer.step()
    final = setup.validation_loss(setup.model)
    return min(final, untrained) if math.isfinite(final) else untrained
