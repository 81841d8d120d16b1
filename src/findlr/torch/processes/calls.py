"""Sums over the processes of a training that end on all of them, even where one has failed."""

# ruff: noqa: SLF001 - the store that the processes share has no public name

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from findlr.analysis.text import told
from findlr.errors import RankError
from findlr.search.failure import is_the_trainings
from findlr.torch.processes.failures import Failure, error_of, is_connection, said

_LOOK_SECONDS = 0.25  # that a call may take before it is told where this process waits
_PAUSE_SECONDS = 0.01  # between two looks into the store
_PATIENCE_SECONDS = 20.0  # that a failed process waits for the others; they may be in the midst of a step
_IMPATIENCE_SECONDS = 3.0  # the same, where they may wait in a layer of the model, from which nothing calls them
_END_SECONDS = 300.0  # the same, where it has not failed, and the others may take their time
_ROLL_CALL_SECONDS = 3.0
_BEGIN_SECONDS = 25.0  # that a process which begins a search waits for the others to begin it
_RELEASE_SECONDS = 1.0  # that a call waits for gloo's threads to release what it summed


class _Call(NamedTuple):
    """A call that was begun: torch's handle, the sums, and the tensor of them that torch alone was given."""

    work: Any
    values: torch.Tensor
    given: torch.Tensor


class Calls:
    """Sums over a group of processes.

    A process that fails between two calls takes part in the next one all the same: it asks the store which call the
    others wait in, and marks it. So all leave that call knowing of it, and the group stays as good as it was. A
    process that is gone shows by its connection, and then the group is lost.

    Args:
        group: the processes; None is all.
        device: where the model is.
        by_device: numbers must be on it, too, because the processes can't call each other from the host.
        calls_only: the model's own layers make no calls between the processes, so all of them are made here.
    """

    def __init__(self, group: Any, device: torch.device, *, by_device: bool, calls_only: bool) -> None:
        self._group, self._model = group, device
        self.ranks: list[int] = dist.get_process_group_ranks(group)
        self.device = device if by_device else torch.device("cpu")
        self.rank, self.world_size = dist.get_rank(group), dist.get_world_size(group)
        self._patience = _PATIENCE_SECONDS if calls_only else _IMPATIENCE_SECONDS
        self._made = 0  # calls that all have made
        self._open: list[_Call] = []  # begun, and not waited for
        self._releases = self.device.type == "cpu"  # whether what was summed is released in a moment
        self.lost: RankError | None = None

    @cached_property
    def _store(self) -> Any:
        """What the processes share in this search, once all have begun it; which of theirs it is, it counts.

        Raises:
            RankError: another process does something else.
        """
        name = "-".join(map(str, self.ranks))
        searches = distributed_c10d.PrefixStore(f"findlr/{name}", distributed_c10d._get_default_store())
        number = (searches.add("begun", 1) - 1) // self.world_size
        store = distributed_c10d.PrefixStore(str(number), searches)
        until = time.monotonic() + _BEGIN_SECONDS
        missing = [self.rank]
        store.set(f"begun {self.rank}", "")
        try:
            while missing and time.monotonic() < until:
                time.sleep(_PAUSE_SECONDS / 10)
                missing = [rank for rank in range(self.world_size) if not store.check([f"begun {rank}"])]
        finally:
            if missing:  # or a signal: this process takes no part
                store.delete_key(f"begun {self.rank}")
                searches.add("begun", -1)
        if missing:
            raise RankError(
                f"{self.named(missing)} did not begin this search within {_BEGIN_SECONDS:.0f} seconds: it has raised "
                "before, which its own output tells, or the call stands under an if for some ranks: make it on all"
            )
        return store

    def named(self, ranks: list[int]) -> str:
        """Processes of the group, by their ranks among all."""
        return f"rank {' and '.join(str(self.ranks[rank]) for rank in ranks)}"

    def sum(self, values: torch.Tensor, *, wait: bool = True) -> None:
        """Sum ``values`` over the processes, in place.

        Args:
            values: of one dimension; the last is 0, and this class's own.
            wait: whether the sum is needed now; else a device goes on by itself, and a failure shows at the next sum
                that is waited for.

        Raises:
            RankError: another process has failed.
        """
        if self.lost is not None:
            raise self.lost
        try:
            _ = self._store  # all have begun
            self._open.append(self._begun(values))
            if wait or values.is_cpu:
                self._finish()
            else:
                self._open[-1].work.wait()  # which only lets the device's stream wait
        except RankError:
            raise
        except RuntimeError as error:
            raise self._gone() from error

    def _begun(self, values: torch.Tensor) -> _Call:
        given = values.detach()
        return _Call(dist.all_reduce(given, group=self._group, async_op=True), values, given)

    def _finish(self) -> None:
        """Wait for all calls that were begun, and look whether a process has marked one."""
        told_at = time.monotonic() + _LOOK_SECONDS
        is_told = False
        while not self._has_ended(self._open[-1]):
            if not is_told and time.monotonic() > told_at:
                self._tell()
                is_told = True
            if is_told and self._store.check(["lost"]):
                raise RuntimeError("another process has lost the others")
        first = self._made
        for number, mark in enumerate(self._close(), start=first):
            if mark > 0:
                raise error_of(self._failures(number), own=None)

    def _close(self) -> list[torch.Tensor]:
        """All calls that were begun have ended: count them, and return each one's mark.

        Gloo's threads release what they were given a little later, for which they need Python's lock. Torch aborts a
        process that ends meanwhile ("terminate called without an active exception"), so wait for them here.
        """
        marks, given = [call.values[-1] for call in self._open], [call.given for call in self._open]
        self._made, self._open = self._made + len(marks), []
        until = time.monotonic() + _RELEASE_SECONDS
        while self._releases and _references(given) > _references([object()]):
            time.sleep(0)  # in which they may have the lock
            self._releases = time.monotonic() < until  # else somebody else keeps what is sent: wait no more
        return marks

    def _has_ended(self, call: _Call) -> bool:
        work, values, _ = call
        if not values.is_cpu:
            if not work.is_completed():
                time.sleep(_PAUSE_SECONDS / 10)
                return False
            work.wait()
            return True
        try:
            work.wait(timedelta(seconds=_LOOK_SECONDS))
        except RuntimeError:
            if not work.is_completed():
                return False
            work.wait()  # it has failed, or has ended since we looked
        return True

    def _tell(self) -> None:
        """Tell the store what this process waits in, for one that has failed and takes part all the same."""
        last = len(self._open) - 1
        for i, (_, values, _) in enumerate(self._open):
            form = values.numel(), str(values.dtype).removeprefix("torch."), values.device.type, i == last
            self._store.set(f"call {self._made + i}", json.dumps(form))

    def settle(self, error: BaseException, *, ends: bool = False, all_end: bool = False) -> BaseException:
        """This process has failed: let all others know, where they wait for it.

        Args:
            error: by which it has failed.
            ends: the search ends by it, whatever the rate was.
            all_end: all processes are to end here, which is no failure if all say the same.

        Returns:
            What all processes raise: the same text on each; ``error`` itself, if all have come to the same end.
        """
        if isinstance(error, RankError):
            return error
        if self.lost is not None or is_connection(error):
            return self._gone()
        failure = Failure(self.ranks[self.rank], told(error), not ends and is_the_trainings(error))
        try:
            failures = self._joined(failure, _END_SECONDS if all_end else self._patience)
            if all_end and [each.text for each in failures or ()] == [failure.text] * self.world_size:
                self.sum(torch.zeros(1, device=self.device))  # so that a failure from here on is another one
                return error
        except RankError as theirs:  # the others have not begun, or one has failed since
            return theirs if all_end else error
        except RuntimeError:
            return self._gone()
        return self._left(failure, error) if failures is None else error_of(failures, own=error)

    def _joined(self, failure: Failure, patience: float) -> list[Failure] | None:
        """Take part in the calls that the others wait in, marked; return all failures, or None if none comes there."""
        until = time.monotonic() + patience
        if self._open:  # broken off while it waited
            while not all(map(self._has_ended, self._open)):
                if time.monotonic() > until:
                    return None
            self._close()
        at = self._made
        store = self._store
        store.set(f"failed {at} {self.rank}", json.dumps(failure))
        store.set(f"word {self.rank}", json.dumps(failure))
        store.add(f"failed {at}", 1)
        while store.add(f"failed {at}", 0) < self.world_size:  # if all have failed here, nobody waits
            if store.check([f"call {self._made}"]):
                numel, dtype, kind, is_last = json.loads(store.get(f"call {self._made}"))
                values = torch.zeros(numel, dtype=getattr(torch, dtype), device="cpu" if kind == "cpu" else self._model)
                values[-1] = 1
                self._open = [self._begun(values)]
                while not self._has_ended(self._open[-1]):
                    if time.monotonic() > until:
                        return None
                self._close()
                if is_last:
                    break
            elif time.monotonic() > until:
                return None
            else:
                time.sleep(_PAUSE_SECONDS)
        failures = self._failures(at)
        store.delete_key(f"word {self.rank}")
        return failures

    def _left(self, failure: Failure, own: BaseException) -> RankError:
        """The others can't be reached: they wait in a layer of the model, or are gone. Close what they wait at."""
        with suppress(RuntimeError):
            self._store.set("lost", "")
        self.lost = error_of([failure._replace(is_the_trainings=False)], own)
        with suppress(Exception):  # it may not take notes
            own.add_note(
                "findlr: the process group is closed, because the other ranks wait in a layer, where nothing reaches "
                "them: start all processes again"
            )
        dist.destroy_process_group()
        return self.lost

    def _failures(self, at: int) -> list[Failure]:
        """All failures after so many calls, by rank."""
        keys = [f"failed {at} {rank}" for rank in range(self.world_size)]
        return [Failure(*json.loads(self._store.get(key))) for key in keys if self._store.check([key])]

    def _gone(self) -> RankError:
        """The error for a connection that broke: it names who is gone, where that can be known."""
        if self.lost is not None:
            return self.lost
        self._open = []
        text = "another process is gone, and who can't be known, because the store of all is gone with it"
        with suppress(RuntimeError):
            text = self._who()
        self.lost = RankError(f"{text}; the process group can't be used any more: start all processes again")
        return self.lost

    def _who(self) -> str:
        """Who failed with a word or, by a roll call, without one."""
        store = self._store
        store.set(f"here {self.rank}", "")
        store.set("lost", "")
        missing = [rank for rank in range(self.world_size) if rank != self.rank]
        until = time.monotonic() + _ROLL_CALL_SECONDS
        while missing and time.monotonic() < until:
            words = [rank for rank in missing if store.check([f"word {rank}"])]
            if words:
                return said([Failure(*json.loads(store.get(f"word {rank}"))) for rank in words])
            missing = [rank for rank in missing if not store.check([f"here {rank}"])]
            time.sleep(_PAUSE_SECONDS)
        if not missing:
            return "the processes lost each other"
        return f"{self.named(missing)} ended without a word, killed perhaps"


def _references(kept: list[Any]) -> int:
    """The most references that one of them has."""
    return max(sys.getrefcount(each) for each in kept)
