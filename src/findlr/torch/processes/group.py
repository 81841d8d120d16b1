"""The processes of one training, and what they agree on."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from findlr.errors import DataEndedError, RankError
from findlr.search import interrupts
from findlr.search.memory import Memory, Phase
from findlr.torch.processes.apart import Others
from findlr.torch.processes.calls import Calls
from findlr.torch.processes.past import PastReducers
from findlr.torch.processes.sharded import StandIns


class Group:
    """Processes that train together: see ``findlr.torch.ranks.Ranks``.

    Args:
        calls: between them.
        wrapped: the DistributedDataParallel modules, whose gradients are averaged here.
        sharded: the outermost modules whose layers, sharded or split, call the other processes themselves.
        same_batches: all processes train on the same batches, as a tensor-parallel model does.
    """

    is_alone = False

    def __init__(
        self,
        calls: Calls,
        wrapped: Sequence[Any] = (),
        sharded: Sequence[nn.Module] = (),
        *,
        same_batches: bool = False,
    ) -> None:
        self._calls = calls
        self.rank, self.world_size = calls.rank, calls.world_size
        self._past = PastReducers(wrapped, calls) if wrapped else None
        self._stand_ins = StandIns(sharded) if sharded else None
        self._same_batches = same_batches
        self._others, self.is_untried = Others(calls.ranks), False
        self._begun = False  # by the outermost memory that is open
        self._drops = False
        self._failed: Exception | None = None  # in a step, whose calls were made all the same
        self._ending: Exception | None = None  # from between two steps, to be raised by the next sum
        self._ended = False  # by a signal that all have agreed on
        self._uneven = False  # a process has failed, so that the others may be a loss ahead of it

    def remember(self, memory: Memory) -> None:
        """Let the gradients be averaged here, until ``memory`` is closed; before anything is noted in it.

        A memory within another one ends nothing: the outer one has noted the hooks, and would put them back.
        """
        self._ended, self._failed, self._drops, self._ending = False, None, False, None
        self._others.begin()
        self.is_untried = True
        if not self._begun:
            self._begun = True
            memory.on_close(lambda: setattr(self, "_begun", False))
            for part in (self._past, self._stand_ins):
                if part is not None:
                    memory.on_close(part.end)
                    part.begin()
        if self._stand_ins is not None:
            self._stand_ins.reshard()  # what a snapshot notes
            memory.add(self._reset, Phase.PLACES, "the shards")

    def _reset(self) -> None:
        """Nothing that the steps so far have left: the next one begins anew."""
        self._failed, self._drops = None, False
        assert self._stand_ins is not None
        self._stand_ins.reset()

    def tried(self) -> None:
        """Look whether the first step has called processes that are none of these."""
        self.is_untried = False
        self._others.check()

    def mean(self, losses: list[float]) -> list[float]:
        """Each loss's mean over the processes, in float64; a signal that waits on one of them ends the search on all.

        Raises:
            RankError: another process has failed, or was interrupted.
        """
        if self._failed is not None:
            failed, self._failed, self._drops = self._failed, None, True
            raise self.settle(failed)
        if self._drops:  # the losses since the last mean are of steps that went on without this process's own
            losses, self._drops = [], False
        if self._uneven:
            losses = losses[: self.least(len(losses))]
        waits = [0.0] * self.world_size
        waits[self.rank] = float(bool(interrupts.waiting))
        sums = self._sum([*losses, *waits])
        waiting = [rank for rank, count in enumerate(sums[len(losses) :]) if count]
        if waiting:
            self._interrupted(waiting)
        return [loss / self.world_size for loss in sums[: len(losses)]]

    def _interrupted(self, waiting: list[int]) -> None:
        """Let the signals act; what a handler raises on one process ends the search on all."""
        raised: BaseException | None = None
        if self.rank in waiting:
            try:
                interrupts.act()
            except BaseException as error:  # noqa: BLE001 - raised below
                raised = error
        ended = [rank for rank, count in enumerate(self.gather(raised is not None)) if count]
        self._ended = bool(ended)
        if raised is not None:
            raise raised
        if ended:
            raise RankError(f"{self._calls.named(ended)} was interrupted by a signal")

    def gather(self, value: float) -> list[float]:
        """The value of each process."""
        values = [0.0] * self.world_size
        values[self.rank] = value
        return self._sum(values)

    def any(self, flag: bool) -> bool:
        """Whether it is True on any process."""
        return any(self.gather(float(flag)))

    def least(self, value: int | None) -> int | None:
        """The smallest of the processes' values; None if any of them is None."""
        values = self.gather(math.nan if value is None else float(value))
        return None if any(map(math.isnan, values)) else int(min(values))

    def most(self, value: int) -> int:
        """The largest of the processes' values."""
        return int(max(self.gather(float(value))))

    def examples(self, value: int | None) -> int | None:
        """How many examples a step of all has, of which this process has ``value``; None if any doesn't know."""
        if self._same_batches:
            return self.least(value)
        values = self.gather(math.nan if value is None else float(value))
        return None if any(map(math.isnan, values)) else int(sum(values))

    def first(self, value: Any) -> Any:
        """The value of the first process."""
        data = pickle.dumps(value) if self.rank == 0 else b""
        size = int(self.gather(float(len(data)))[0])
        sent = torch.zeros(size + 1, dtype=torch.uint8, device="cpu")
        if data:
            sent[:-1] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        sent = sent.to(self._calls.device)
        self._calls.sum(sent)
        return pickle.loads(bytes(sent[:-1].tolist()))  # noqa: S301 - our own

    def settle(self, error: BaseException, *, ends: bool = False) -> BaseException:
        """What all processes raise, now that this one has failed; see ``Calls.settle``."""
        if self._ended and not isinstance(error, Exception):
            return error
        self._uneven = True
        return self._calls.settle(error, ends=ends)

    def end(self, error: Exception) -> None:
        """Come to an end that all processes must come to after the same step.

        Raises:
            RankError: another one goes on, or has failed.
        """
        common = self._calls.settle(error, ends=True, all_end=True)
        if common is not error:
            self._uneven = True
            raise common

    def stand_in(self, error: Exception) -> torch.Tensor | None:
        """A loss of nothing, where the layers are sharded and wait for this process; ``mean`` raises the error."""
        loss = None if self._stand_ins is None else self._stand_ins.loss()
        if loss is not None:
            self._failed = self._failed or error
        return loss

    def raise_later(self, error: Exception) -> bool:
        """Whether the next sum raises it: where layers are sharded, the others go on to the next step until then."""
        if self._stand_ins is not None:
            self._ending = self._ending or error
        return self._stand_ins is not None

    def scored(
        self, score: Callable[[Any], torch.Tensor], batches: Iterator[Any], count: int | None
    ) -> Iterator[tuple[Any, torch.Tensor | None]]:
        """Each batch, with its score; None where this process failed, and ``mean`` raises the error."""
        if self._stand_ins is None or count is None:
            yield from ((batch, score(batch)) for batch in batches)
            return
        self._stand_ins.begin_scoring()
        for _ in range(count):
            self._stand_ins.begin_pass()
            batch = found = None
            try:
                batch = next(batches)
                found = score(batch)
            except StopIteration:  # it has failed, or has fewer than it said
                if not self._stand_ins.makes_pass():
                    return
            except Exception as error:
                if not self._stand_ins.makes_pass():
                    raise
                self._failed = self._failed or error
            yield batch, found

    @contextmanager
    def alike(self) -> Iterator[None]:
        """A block without calls of its own, in which a process may fail."""
        try:
            yield
        except RankError:
            self._uneven = True
            raise
        except DataEndedError:
            raise  # as all do
        except Exception as error:  # noqa: BLE001 - all raise it
            raise self.settle(error) from None

    def _sum(self, values: list[float]) -> list[float]:
        if self._ending is not None:
            ending, self._ending = self._ending, None
            raise self.settle(ending, ends=True)
        summed = torch.tensor([*values, 0.0], dtype=torch.float64, device=self._calls.device)
        try:
            self._calls.sum(summed)
        except RankError:
            self._uneven = True
            raise
        found: list[float] = summed[:-1].tolist()
        return found
