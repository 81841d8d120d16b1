"""The arithmetic of the report: regrets of recorded suggestions, their spread, bootstraps over tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from study.answers import Record
from study.regret import DEFAULT_LR, Truth

Array = npt.NDArray[np.float64]

HALF_STEP = np.log10(2) / 4  # half a step of the truth's grid near the best rate
RESAMPLES = 10_000


@dataclass(frozen=True)
class Spread:
    """A mean over tasks, and where 95 % of its bootstrap lie."""

    mean: float
    low: float
    high: float


def bootstrap(values: Iterable[float]) -> Spread:
    """The mean of one value for each task, with the tasks drawn anew.

    Example:
        >>> bootstrap([0.1, 0.1])
        Spread(mean=0.1, low=0.1, high=0.1)
    """
    array = np.array(list(values), dtype=np.float64)
    drawn = np.random.default_rng(0).integers(len(array), size=(RESAMPLES, len(array)))
    low, high = np.quantile(array[drawn].mean(axis=1), (0.025, 0.975))
    return Spread(float(array.mean()), float(low), float(high))


@dataclass(frozen=True)
class Answer:
    """One suggestion against the truth; a refusal is scored as the optimizer's default rate."""

    truth: Truth
    record: Record

    @property
    def refused(self) -> bool:
        """Whether there is no rate."""
        return self.record["lr"] is None

    @property
    def lr(self) -> float:
        """The rate that is scored."""
        return DEFAULT_LR[self.truth.optimizer] if self.refused else float(self.record["lr"])

    @property
    def regret(self) -> float:
        """Of the rate that is scored."""
        return self.truth.regret(self.lr)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the best rate is said to lie."""
        interval = self.record.get("interval")
        return (float(interval[0]), float(interval[1])) if interval else None

    @property
    def covers(self) -> bool:
        """Whether the grid's best rate lies in the interval, or within half a step of the grid of it."""
        assert self.interval is not None
        low, high = np.log10(self.interval)
        return bool(low - HALF_STEP <= np.log10(self.truth.best_lr) <= high + HALF_STEP)


@dataclass(frozen=True)
class Scores:
    """All answers of one finder.

    Args:
        name: the finder's.
        answers: of each task, one for each seed.
    """

    name: str
    answers: Mapping[str, tuple[Answer, ...]]

    @cached_property
    def all(self) -> tuple[Answer, ...]:
        """The answers of all tasks."""
        return tuple(answer for answers in self.answers.values() for answer in answers)

    @cached_property
    def by_task(self) -> dict[str, float]:
        """The mean regret of each task."""
        return {task: float(np.mean([answer.regret for answer in answers])) for task, answers in self.answers.items()}

    @cached_property
    def regrets(self) -> Array:
        """The regret of each answer."""
        return np.array([answer.regret for answer in self.all])

    @cached_property
    def mean(self) -> Spread:
        """The mean regret; each task counts the same."""
        return bootstrap(self.by_task.values())

    @property
    def median(self) -> float:
        """Over tasks and seeds."""
        return float(np.median(self.regrets))

    @property
    def ninetieth(self) -> float:
        """The 90th percentile over tasks and seeds."""
        return float(np.quantile(self.regrets, 0.9))

    @property
    def worst(self) -> float:
        """The largest regret."""
        return float(self.regrets.max())

    @property
    def within(self) -> float:
        """The share of regrets up to 0.01."""
        return float(np.mean(self.regrets <= 0.01))

    @property
    def diverged(self) -> float:
        """The share of rates that end no better than they began."""
        return float(np.mean([answer.truth.diverged(answer.lr) for answer in self.all]))

    @property
    def refused(self) -> float:
        """The share without a rate."""
        return float(np.mean([answer.refused for answer in self.all]))

    @cached_property
    def ratios(self) -> Array:
        """The largest over the smallest rate of each task with several seeds, as scored."""
        spreads = [[answer.lr for answer in answers] for answers in self.answers.values() if len(answers) > 1]
        return np.array([max(lrs) / min(lrs) for lrs in spreads])

    @property
    def steps(self) -> float:
        """What an answer costs on average."""
        return float(np.mean([answer.record["steps"] for answer in self.all]))

    def minus(self, other: Scores) -> Spread:
        """The mean difference in regret over the tasks of both, paired by task."""
        common = [task for task in self.by_task if task in other.by_task]
        return bootstrap(self.by_task[task] - other.by_task[task] for task in common)

    @property
    def intervals(self) -> tuple[float, float] | None:
        """The share of intervals that cover the best rate, and their median width in decades; None without any."""
        told = [answer for answer in self.all if answer.interval is not None]
        if not told:
            return None
        widths = [np.log10(high / low) for low, high in (answer.interval for answer in told if answer.interval)]
        return float(np.mean([answer.covers for answer in told])), float(np.median(widths))


def scores(name: str, records: Mapping[str, Mapping[str, Record]], truths: Mapping[str, Truth]) -> Scores | None:
    """The scores of one finder over the tasks in ``truths``; None if it has answered none.

    Args:
        name: the finder's.
        records: task -> seed -> record.
        truths: of the tasks to score.
    """
    answers = {
        task: tuple(Answer(truth, record) for record in records[task].values())
        for task, truth in truths.items()
        if records.get(task)
    }
    return Scores(name, answers) if answers else None
