"""What the processes of one training must agree on, so that all take the same steps and find the same rate."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from findlr.errors import DataEndedError
from findlr.search.memory import Memory

Drawn = TypeVar("Drawn")


class Ranks(Protocol):
    """The processes that train together; all of them make the same calls, in the same order."""

    rank: int
    """This process's number; 0 shows progress and writes files."""

    world_size: int
    """How many they are."""

    is_alone: bool
    """Whether this process need not ask the others; it may be the only one, and is one of a group all the same."""

    is_untried: bool
    """Whether the next step will tell if steps call processes that are none of these."""

    def remember(self, memory: Memory) -> None:
        """Prepare for steps that will be put back, until ``memory`` is closed; before anything is noted in it."""

    def tried(self) -> None:
        """That step has been taken.

        Raises:
            ConfigurationError: it has called some.
        """

    def stand_in(self, error: Exception) -> torch.Tensor | None:
        """A loss of nothing, with which this rank, which has failed, takes part in its layers until the next mean."""

    def raise_later(self, error: Exception) -> bool:
        """Whether the next call between the ranks raises it, because the others wait in a layer until then."""

    def scored(
        self, score: Callable[[Any], torch.Tensor], batches: Iterator[Any], count: int | None
    ) -> Iterator[tuple[Any, torch.Tensor | None]]:
        """Each batch, with what ``score`` gives of it; each rank has ``count`` of them, None where that is not known.

        A score is None where this rank has failed, and has made the pass of its layers that the others wait in; then
        the next mean raises its error.
        """

    def mean(self, losses: list[float], /) -> list[float]:
        """Each loss's mean over the ranks, in float64; a signal that waits on one of them ends the search on all."""

    def any(self, flag: bool, /) -> bool:
        """Whether it is True on any rank: a step was skipped, there is no baseline."""

    def least(self, value: int | None, /) -> int | None:
        """The smallest of the ranks' values, such as free bytes or batches; None if any of them is None."""

    def most(self, value: int, /) -> int:
        """The largest of the ranks' values."""

    def examples(self, value: int | None, /) -> int | None:
        """How many examples a step of all ranks has, of which this one has ``value``; None if any doesn't know."""

    def first(self, value: Any, /) -> Any:
        """The value of rank 0."""

    def alike(self) -> AbstractContextManager[None]:
        """A block in which this rank may fail while the others wait: then all raise the same."""

    def settle(self, error: BaseException, *, ends: bool = False) -> BaseException:
        """What all ranks raise, now that this one has failed; it has taken part in what the others wait in.

        Args:
            error: this rank's exception.
            ends: the search ends by it, whatever the rate was; else it may say that the rate is too high.
        """

    def end(self, error: Exception) -> None:
        """Come to an end that all ranks must come to after the same step; ``error`` says so where they don't.

        Raises:
            RankError: another one goes on, or has failed.
        """


class Alone:
    """One process, which agrees with itself."""

    rank, world_size, is_alone, is_untried = 0, 1, True, False

    _block = nullcontext()

    def remember(self, memory: Memory) -> None:
        """Nothing."""

    def tried(self) -> None:
        """Nothing."""

    def stand_in(self, error: Exception) -> torch.Tensor | None:  # noqa: ARG002 - the protocol's
        """None."""
        return None

    def raise_later(self, error: Exception) -> bool:  # noqa: ARG002 - the protocol's
        """No."""
        return False

    def scored(
        self,
        score: Callable[[Any], torch.Tensor],
        batches: Iterator[Any],
        count: int | None,  # noqa: ARG002 - the protocol's
    ) -> Iterator[tuple[Any, torch.Tensor | None]]:
        """Each batch, with its score."""
        return ((batch, score(batch)) for batch in batches)

    def _as_given(self, value: Any, /) -> Any:
        return value

    mean = any = least = most = examples = first = _as_given

    def alike(self) -> AbstractContextManager[None]:
        """A block."""
        return self._block

    def settle(self, error: BaseException, *, ends: bool = False) -> BaseException:  # noqa: ARG002 - the protocol's
        """The error."""
        return error

    def end(self, error: Exception) -> None:
        """Nothing."""


ALONE = Alone()


def drawn_on_all(ranks: Ranks, draw: Callable[[], Drawn]) -> Drawn:
    """What all ranks draw, each of its own stream, which may end.

    Raises:
        DataEndedError: a stream has ended, on this rank or on another one; so all raise it, and none need tell.
    """
    ended: DataEndedError | None = None
    drawn: Any = None
    try:
        drawn = draw()
    except DataEndedError as error:
        ended = error
    if ranks.any(ended is not None):
        raise ended or DataEndedError("the data ended on another rank")
    return drawn  # type: ignore[no-any-return]


def is_skipped(ranks: Ranks, loss: float | torch.Tensor, *, taken: bool) -> bool:
    """Whether a scaler skipped a step on a rank, and no rank's loss is to blame: a smaller scale can't mend that."""
    return ranks.most((not taken) if math.isfinite(loss) else 2) == 1


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether it is a DTensor, of which each process holds a part."""
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def computes_on(tensor: torch.Tensor) -> torch.device:
    """Where a layer computes with it: a shard may lie on the host meanwhile."""
    mesh: Any = getattr(tensor, "device_mesh", None)
    if mesh is None or mesh.device_type == tensor.device.type:
        return tensor.device
    return torch.device(mesh.device_type, torch.get_device_module(mesh.device_type).current_device())


def is_fully_sharded(module: nn.Module) -> bool:
    """Whether ``fully_shard`` was applied to it."""
    loaded = sys.modules.get("torch.distributed.fsdp")
    return loaded is not None and isinstance(module, loaded.FSDPModule)
