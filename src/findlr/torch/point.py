"""A loop in a range test: its items, what it does between two of them, and whether it ever steps."""

# ruff: noqa: SLF001 - whether a tensor was written to, torch tells by a private name only

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch.optim.lr_scheduler import LRScheduler

from findlr.errors import ConfigurationError, OptimizerError
from findlr.torch.data.batches import TorchBatches
from findlr.torch.losses import told_loss
from findlr.torch.rates import parameters_of
from findlr.torch.scaler import Counted
from findlr.torch.two_passes import versions_of


class Point(Counted):
    """The losses that were recorded since the last point, and the steps that were taken or tried."""

    def __init__(self) -> None:
        super().__init__()
        self._losses: list[torch.Tensor | float] = []

    @property
    def is_whole(self) -> bool:
        """Whether a step was tried, and a loss recorded."""
        return self.tried and bool(self._losses)

    def record(self, loss: torch.Tensor | float) -> None:
        """Take the loss of a forward pass.

        Raises:
            LossError: it is not one number.
        """
        self._losses.append(told_loss(loss, "record() needs one number", "record() needs the loss, got {}"))

    def closed(self) -> tuple[float | torch.Tensor, bool, torch.Tensor | None]:
        """End the point: its mean loss, whether a step was taken, and a value above 0 if a fused kernel skipped it.

        Raises:
            ConfigurationError: no loss was recorded.
        """
        if not self._losses:
            raise ConfigurationError(
                "the optimizer stepped and no loss was recorded: call test.record(loss) in the loop"
            )
        loss, taken, skipped = sum(self._losses) / len(self._losses), self.steps > 0, self.skipped
        self._losses, self.steps, self.attempts, self.skipped = [], 0, 0, None
        return loss, taken, skipped


class Items(Iterator[Any]):
    """The batches that a loop gets, and how many there are in one pass; what else is asked of it, the loader says."""

    def __init__(self, items: Iterator[Any], batches: TorchBatches) -> None:
        self._items, self._batches = items, batches

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return next(self._items)

    def __len__(self) -> int:
        """Batches in one pass.

        Raises:
            TypeError: the loader has no length.
        """
        length = self._batches.length()
        if length is None:
            raise TypeError(f"object of type '{type(self._batches.loader).__name__}' has no len()")
        return length

    def __getattr__(self, name: str) -> Any:
        """The loader's: loops print ``len(loader.dataset)``, read ``loader.batch_size``, call ``loader.set_epoch``."""
        if name.startswith("_"):  # nobody's business, and a copy asks for some before there is a loader
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        return getattr(self._batches.loader, name)


_MOST_IDLE_ITEMS = 1_000


class Idle:
    """Looks whether a loop, or a step of the user's own, steps the optimizers that are swept.

    Args:
        optimizers: these.
        who: takes the steps, in messages.
        given: what was given the optimizers, in messages.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], who: str, given: str) -> None:
        self._optimizers, self._who, self._given = optimizers, who, given
        self._items = 0
        self._versions: list[int] | None = None
        self._gradient: torch.Tensor | None = None
        self._written = 0

    def stepped(self) -> None:
        """A step was taken or tried."""
        self._items, self._versions, self._gradient = 0, None, None

    def look(self) -> None:
        """An item is over, and no step was taken or tried.

        Raises:
            OptimizerError: the weights have moved all the same, or this goes on and on.
        """
        versions, gradient = versions_of(self._optimizers), _smallest_gradient(self._optimizers)
        moved = self._versions is not None and versions != self._versions and not self._gathers(gradient)
        self._versions, self._gradient = versions, gradient
        self._written = 0 if gradient is None else gradient._version
        self._items += 1
        names = ", ".join(type(optimizer).__name__ for optimizer in self._optimizers)
        if moved:
            raise OptimizerError(
                f"{self._who} moves the weights, and does not call step() of the optimizer that is swept ({names}), "
                f"so no rate can be written: give {self._given} the optimizer whose step() it calls, a base optimizer "
                "say, and the outer one in restore=; if it makes new optimizers, let it change the groups of one"
            )
        if self._items > _MOST_IDLE_ITEMS:
            raise OptimizerError(
                f"{_MOST_IDLE_ITEMS} items went by, in which step() of the optimizer that is swept ({names}) was not "
                "called: call it in the loop, or say by sweep= which optimizer the loop steps"
            )

    def _gathers(self, gradient: torch.Tensor | None) -> bool:
        """Whether this gradient grows over the items, for a step to come.

        A forward pass may write to the weights meanwhile, as an Embedding's max_norm does.
        """
        if gradient is None or self._gradient is None:
            return gradient is not None
        return gradient is self._gradient and gradient._version <= self._written + 1  # more, if it was zeroed


def _smallest_gradient(optimizers: Sequence[torch.optim.Optimizer]) -> torch.Tensor | None:
    gradients = (p.grad for p in parameters_of(optimizers) if p.grad is not None)
    return min(gradients, key=torch.Tensor.numel, default=None)


def make_endless(scheduler: LRScheduler) -> Callable[[], object]:
    """Let ``scheduler.step()`` do nothing once it raises ``ValueError``, as OneCycleLR's does past its last step.

    Call what it returns to undo that.
    """
    step = scheduler.step

    def stepped(*args: Any, **how: Any) -> None:
        try:
            step(*args, **how)
        except ValueError:
            vars(scheduler)["step"] = lambda *_, **__: None

    vars(scheduler)["step"] = stepped
    return partial(vars(scheduler).pop, "step", None)
