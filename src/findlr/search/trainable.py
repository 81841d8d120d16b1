"""What findlr asks of a training: take a step at a rate, remember itself, go back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pickle import Pickler
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from findlr.analysis.plan import Plan

Loss = TypeVar("Loss")
Snapshot = TypeVar("Snapshot")


class Restorable(Protocol[Snapshot]):
    """Something that can go back to where it was."""

    def snapshot(self) -> Snapshot:
        """A copy of everything that a step can change, the place in the data and the random states included."""

    def restore(self, snapshot: Snapshot) -> None:
        """Put everything back as it was; the steps that follow see the same batches."""


@runtime_checkable
class Trainable(Restorable[Snapshot], Protocol[Loss, Snapshot]):
    """A training that can take one step at a given rate, and go back to where it was."""

    def step(self, lr: float) -> Loss | None:
        """Take one optimizer step at ``lr`` on the next batch.

        Returns:
            The loss that the forward pass saw before the update, on its device; None if the optimizer did not step.
        """

    def read(self, losses: list[Loss]) -> list[float]:
        """The losses as numbers; the only place that waits for a device."""


@runtime_checkable
class HasActingRate(Protocol):
    """A training that may not step at exactly the rate that it is asked for."""

    def acting_lr(self, lr: float) -> float:
        """The rate that really acts if the next step is asked for ``lr``.

        A rounded rate is recorded in place of the one asked for; a rate that is capped ends the sweep.
        """


@runtime_checkable
class HasEpoch(Protocol):
    """A training that knows how many steps one pass over its data takes."""

    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the data; a ``ConfigurationError`` says why they are not known."""


@runtime_checkable
class HasFacts(Protocol):
    """A training that can tell what a reader of the result should know."""

    def facts(self) -> Mapping[str, Any]:
        """Plain values: batch size, optimizer, ratios, versions; docs/extend.md lists the names that have a meaning."""


@runtime_checkable
class HasPlan(Protocol):
    """A training that knows something about the plan."""

    def planned(self, plan: Plan) -> Plan:
        """``plan`` with what it leaves open filled in: the optimizer, its momentum, the number of parameters."""


@runtime_checkable
class ChecksVerify(Protocol):
    """A training whose steps may cost anything, so that no budget could hold a race of it."""

    def check_verify(self) -> None:
        """Raise a ``ConfigurationError`` if no race can be run."""


@runtime_checkable
class OneOfSeveral(Protocol):
    """A training that may be one of several processes', which take the same steps on data of their own.

    ``read``, ``evaluate`` and the like agree on every number; this is what a search asks besides.
    """

    rank: int
    """This process's number; 0 shows progress and writes files."""

    world_size: int
    """How many processes they are; where it is 1, nothing else is asked."""

    def settle(self, error: BaseException) -> BaseException:
        """What all processes raise, now that this one ends with ``error``; no other waits for it any more."""

    def first(self, value: Any) -> Any:
        """The value of the process of rank 0."""


@runtime_checkable
class RaisesLater(Protocol):
    """One of several processes, whose steps wait for each other."""

    def raise_later(self, error: Exception) -> bool:
        """Whether an exception from between two steps is raised at the next read; else it is raised at once."""


@runtime_checkable
class ReadsLater(Protocol):
    """A training whose losses are on a device, where looking at each would stall it."""

    read_every: int


@runtime_checkable
class SkipsLater(Protocol):
    """A training whose optimizer may skip a step, and only its device knows."""

    def skipped(self) -> Any:
        """A value that reads as above 0 if the last step was skipped; None if what ``step`` returned says it all."""


@runtime_checkable
class CountsPasses(Protocol):
    """A training that counts its passes over a whole batch, from the start; without it, a step is one of each."""

    forwards: int
    backwards: int


@runtime_checkable
class HasBaseline(Protocol):
    """A training that knows what the last batch's loss would have been under a snapshot's weights."""

    def prepare_baseline(self, snapshot: Any) -> str | None:
        """Get ready, from the next step on; return the reason why there can be no baseline, or None."""

    def baseline(self) -> Any:
        """The last batch's loss under those weights, with the same random draws; None if a self-check failed."""


@runtime_checkable
class TellsChange(Protocol):
    """A training that knows how far its weights have come."""

    def could_change(self, snapshot: Any) -> float | None:
        """The most that the way of its weights since a snapshot can have changed the loss by; None if not known."""


@runtime_checkable
class CanEvaluate(Protocol):
    """A training that can be scored on batches that it does not train on."""

    def hold_out(self, batches: int, steps: int, total_steps: int) -> int:
        """Set that many batches aside, and return how many forward passes ``evaluate`` takes; 0 if it can't score.

        Runs of ``steps`` steps follow, and stand for a training of ``total_steps``: data that this would see many times
        may be thinned, so that a run overfits as the training would.
        """

    def evaluate(self) -> float:
        """The mean loss on them, in eval mode."""


@runtime_checkable
class TellsUnseen(Protocol):
    """A training that may have too few examples to be scored on others."""

    def unseen(self) -> bool:
        """Whether no run has trained on what ``evaluate`` scores; asked after the runs."""


@runtime_checkable
class KeepsBatches(Protocol):
    """A training that can draw its batches before they are needed."""

    def keep_batches(self, steps: int) -> None:
        """Draw the batches of that many steps, to come again after each ``restore`` to a snapshot taken from now on."""


@runtime_checkable
class RunsTogether(CountsPasses, CanEvaluate, Protocol):
    """A training that can take several runs in one pass, each at rates of its own, on the same batches."""

    trial_steps: int
    """Steps that each run, and one more by itself, may spend on finding out whether a pass can be had."""

    def prepare_together(self, runs: int) -> str | None:
        """The reason why it can't take that many, if one is known, or None; after ``hold_out`` and ``keep_batches``."""

    def run_together(self, snapshot: Any, rates: Sequence[Sequence[float]]) -> list[float] | str:
        """Run each row of rates from ``snapshot``; a training with random draws in its steps can't.

        Returns:
            What ``evaluate`` gives at the end of each run, infinite if it diverged; or the reason why it was not done.
        """


@runtime_checkable
class ShowsTogether(Protocol):
    """A training that shows the steps of ``run_together`` while they are made."""

    see_together: Callable[[int, Sequence[Sequence[float]]], object] | None
    """Is called with the losses of the steps since the last call, a row for each step, and the number of the run, from
    0, that the first column belongs to; what it raises is raised by the search. None wants no call."""


@runtime_checkable
class Packs(Protocol):
    """A training of which pickle would leave something behind, and which says how it is sent to another process."""

    def why_not_packed(self, *, forked: bool) -> str | None:
        """Why it can't be sent, as far as that is known before its first step, or None.

        The processes are forks of this one, if ``forked``.
        """

    def try_packing(self, base: type[Pickler]) -> None:
        """Pickle it, and throw the result away; a ``ConfigurationError`` says why that can't be done."""

    def packed(self, base: type[Pickler]) -> Any:
        """A ``findlr.search.parcel.Parcel``, from which a run begins where it is now; or the reason why there is none.

        ``base`` is the class that pickles it.
        """


@runtime_checkable
class HasValidation(Protocol):
    """A training that can measure the held-out loss along the sweep."""

    validation_every: int | None
    """Steps between two measurements; None if there is nothing to measure on."""

    def validate(self) -> Any:
        """The mean loss of all held-out examples, on its device; no state that training depends on has moved."""


@runtime_checkable
class HasClose(Protocol):
    """A snapshot that holds more than memory: a file, a place in a stream."""

    def close(self) -> None:
        """Let go of it; nothing will be put back from it any more."""
