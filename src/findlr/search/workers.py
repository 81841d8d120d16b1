"""Runs of a race that other processes make, by any ``concurrent.futures.Executor``."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from threading import Lock
from typing import Any, Protocol, runtime_checkable

from findlr.analysis.given import kind_of
from findlr.analysis.smoothing import Array
from findlr.analysis.text import rate_text, told
from findlr.errors import ConfigurationError, FindlrError
from findlr.search import interrupts
from findlr.search.failure import note
from findlr.search.interrupts import signals_act, signals_wait
from findlr.search.parcel import Parcel, pickler, pickler_of, refused_if_not_pickled
from findlr.search.run import End, train
from findlr.search.trainable import CanEvaluate, CountsPasses, Packs, Trainable
from findlr.search.watching import RaceWatch, Seen

logger = logging.getLogger("findlr")

_ONE_AT_A_TIME = Lock()  # runs in a worker with several threads, as Dask's, would draw each other's random numbers
_LOOK_SECONDS = 0.5  # between two looks for a signal, which a system may not deliver to a thread that waits


@runtime_checkable
class Shares(Protocol):
    """An executor that keeps what all runs need, in place of sending it with each."""

    pickler: type[pickle.Pickler]
    """Pickles the training."""

    def share(self, parcel: Parcel[Any]) -> Any:
        """What stands for ``parcel`` among the arguments of a task."""


@dataclass(frozen=True)
class Made:
    """A run that was made elsewhere.

    Args:
        end: how it ended.
        forwards: forward passes that it took.
        backwards: backward passes that it took.
        looks: its steps as they were read, and at the last look the loss that it ended at.
    """

    end: End
    forwards: int
    backwards: int
    looks: Sequence[tuple[Sequence[Seen], float | None]]

    def shown(self, watch: RaceWatch) -> End:
        """How it ended, once its steps have been shown."""
        for steps, ended_at in self.looks:
            watch.see(steps, ended_at)
        return self.end


@dataclass(frozen=True)
class Failed:
    """A run that was broken off elsewhere.

    Args:
        text: its exception, in a line.
        trace: where that was raised.
        error: the exception itself; None if it can't be sent, as one whose class can't be called with its arguments.
    """

    text: str
    trace: str
    error: Exception | None

    @classmethod
    def by(cls, error: Exception) -> Failed:
        """What can be sent of an exception."""
        trace = "".join(traceback.format_exception(error))
        with suppress(Exception):
            error.__cause__, error.__context__ = None, None
            pickle.loads(pickle.dumps(error))  # noqa: S301 - it was made here
            return cls(told(error), trace, error.with_traceback(None))
        return cls(told(error), trace, None)


class Workers:
    """An executor, and the tasks that it was given by one search.

    Raises:
        ConfigurationError: the executor takes no task, or the training can't be sent.
    """

    def __init__(self, executor: Executor, trainable: Trainable[Any, Any]) -> None:
        self._executor, self._trainable = executor, trainable
        self._base = executor.pickler if isinstance(executor, Shares) else pickler()
        self._woken: list[Future[Any]] = []
        self._runs: dict[float, Future[Any]] = {}
        reason = trainable.why_not_packed(forked=_forks(executor)) if isinstance(trainable, Packs) else None
        if reason is not None:
            raise ConfigurationError(f"executor= can't be had, because {reason}; or leave executor out")
        if isinstance(trainable, Packs):
            trainable.try_packing(self._base)
        else:
            with refused_if_not_pickled():
                pickler_of(self._base)(BytesIO(), protocol=pickle.HIGHEST_PROTOCOL).dump(trainable)

    @signals_wait
    def wake(self, count: int) -> None:
        """Let so many workers start, and import what they need, while the sweep runs.

        Raises:
            ConfigurationError: the executor takes no task.
        """
        try:
            for _ in range(count):
                self._woken.append(self._task(_import, type(self._trainable).__module__))
        except Exception as error:
            raise ConfigurationError(
                f"executor= takes no task ({told(error)}): give one that is not shut down or broken, and let what a "
                "script does stand under if __name__ == '__main__', because worker processes import it"
            ) from error

    @signals_wait
    def begin(self, lrs: Sequence[float], shares: Array, **how: bool) -> str | None:
        """Send runs out, from where the training is now.

        Args:
            lrs: the highest rate of each run.
            shares: of it, at each step.
            **how: see ``make``.

        Returns:
            None; or the reason why this training's runs can't be sent.
        """
        trainable = self._trainable
        try:
            packed = trainable.packed(self._base) if isinstance(trainable, Packs) else Parcel.of(trainable, self._base)
        except ConfigurationError as error:  # of the loader, which the race needs if it can't keep its batches
            return str(error)
        if isinstance(packed, str):
            return packed
        try:
            parcel = self._executor.share(packed) if isinstance(self._executor, Shares) else packed
            for lr in lrs:
                self._runs[lr] = self._task(make, parcel, lr * shares, **how)
        except Exception as error:  # noqa: BLE001 - of whatever kind: the runs can be made here
            logger.warning("the executor takes no more runs, so the rest are made here: %s", told(error))
        return None

    def result(self, lr: float) -> Made | None:
        """What came of the run with this highest rate; None if the executor has lost it, so that it is to be made here.

        Raises:
            Exception: what the training raised in it.
        """
        if lr not in self._runs:
            return None
        try:
            made = _awaited(self._runs[lr])
        except Exception as error:  # noqa: BLE001 - the training's own come as a value
            logger.warning("the executor has lost the run at %s, so it is made here: %s", rate_text(lr), told(error))
            return None
        if isinstance(made, Made):
            return made
        if not isinstance(made, Failed):
            logger.warning("the executor gave %s for the run at %s, so it is made here", kind_of(made), rate_text(lr))
            return None
        if made.error is None:
            logger.warning("the run at %s raised what can't be sent, so it is made here: %s", rate_text(lr), made.text)
            return None
        if not isinstance(made.error, FindlrError):
            note(made.error, f"raised in a worker, in the run at {rate_text(lr)}:\n{made.trace}")
        raise made.error

    def _task(self, function: Callable[..., object], *arguments: Any, **how: bool) -> Future[Any]:
        """A task that the executor was given.

        Raises:
            TypeError: it gives no Future, without which nothing would come back.
        """
        task = self._executor.submit(function, *arguments, **how)
        used = [getattr(task, name, None) for name in ("done", "result", "cancel")]
        if not all(map(callable, used)):  # not by its class, because Dask has one of its own
            raise TypeError(f"its submit must return a Future, and returned {kind_of(task)}")
        return task

    @signals_wait
    def close(self) -> None:
        """Cancel what has not begun yet."""
        for task in (*self._woken, *self._runs.values()):
            task.cancel()


def check_executor(executor: Any) -> None:
    """Refuse what can't make runs.

    Raises:
        ConfigurationError: it is no Executor, or its tasks would share this process's random states.
    """
    if not isinstance(executor, Executor) or isinstance(executor, type):
        name = executor.__name__ if isinstance(executor, type) else type(executor).__name__
        raise ConfigurationError(
            f"executor must be a concurrent.futures.Executor, such as ProcessPoolExecutor(2), got {name}"
        )
    if isinstance(executor, ThreadPoolExecutor):
        raise ConfigurationError(
            f"executor= can't be a {type(executor).__name__}: random states are the whole process's, so runs in its "
            "threads would draw each other's numbers: give a concurrent.futures.ProcessPoolExecutor"
        )


@signals_act
def make(parcel: Parcel[Any], lrs: Array, *, scored: bool, rates_act: bool, watched: bool) -> Made | Failed:
    """Make a run in this process, which is another one than the parcel's.

    Args:
        parcel: the training, where the run begins.
        lrs: the rates.
        scored: by the training's held-out loss.
        rates_act: see ``findlr.search.run.train``.
        watched: somebody wants to see its steps.
    """
    try:
        with _ONE_AT_A_TIME, parcel.opened() as training:
            counts = isinstance(training, CountsPasses)
            before = (training.forwards, training.backwards) if counts else (0, 0)
            watch = _Looks()
            evaluator = training if scored and isinstance(training, CanEvaluate) else None
            end = train(training, evaluator, lrs, rates_act, watch if watched else None)
            after = (training.forwards, training.backwards) if counts else (0, 0)
            return Made(end, after[0] - before[0], after[1] - before[1], watch.looks)
    except Exception as error:  # noqa: BLE001 - it is raised at home
        return Failed.by(error)


class _Looks(RaceWatch):
    """Keeps what a run shows."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[tuple[Sequence[Seen], float | None]] = []

    def see(self, steps: Sequence[Seen], ended_at: float | None = None) -> None:
        self.looks.append((list(steps), ended_at))


@signals_act
def _awaited(task: Future[Any]) -> Any:
    """The result of a task; signals act while it is waited for."""
    while True:
        if interrupts.waiting:
            interrupts.deliver()
        if task.done():
            return task.result()
        with suppress(NotYetError):
            return task.result(_LOOK_SECONDS)


def _import(module: str) -> None:
    with suppress(Exception):  # the run itself says what is wrong
        __import__(module)


def _forks(executor: Executor) -> bool:
    """Whether the executor's processes are forks of this one, as far as that can be known."""
    context = getattr(executor, "_mp_context", None)
    return context is not None and context.get_start_method() == "fork"
