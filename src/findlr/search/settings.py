"""The settings of a search: what each means, its default and its range, in one place.

``find`` and every framework's ``find_lr`` take them as keywords. Where a signature writes them out, so that people see
them in their editor, a test holds it equal to the fields here. A new setting is a field here, and a line where it acts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from io import IOBase
from os import PathLike
from typing import Any, Literal, Self, TypedDict

from findlr.analysis.curve import Step
from findlr.analysis.given import check_flags, check_takes, kind_of
from findlr.analysis.numbers import plain, real
from findlr.analysis.plan import Plan
from findlr.analysis.rules import RULES, Rule, rule_named
from findlr.analysis.runs import own_budget
from findlr.errors import ConfigurationError
from findlr.search.names import unknown_name
from findlr.search.stopping import StopRule
from findlr.search.sweep import Spacing, sweep_lrs
from findlr.search.watching import Progress
from findlr.search.workers import check_executor

_NO_MATTER = ("progress", "on_step", "checkpoint", "executor")
OF_A_RACE = {
    "budget": "is the cost",
    "executor": "makes the runs",
    "one_pass": "takes the first runs",
    "checkpoint": "keeps the runs",
}


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """The settings of a sweep.

    Args:
        min_lr: the first rate, above 0.
        max_lr: the last rate, above ``min_lr``.
        num_steps: optimizer steps, at least 2; "epoch" is one pass over the data.
        spacing: "exponential" or "linear".
        divergence_threshold: the sweep stops once the smoothed loss is this many times its best, above 1.
        smoothing: beta of the stop rule's average and of ``curve.smoothed()``, in [0, 1).
        rule: how the rate is chosen, such as ``findlr.rules.valley`` or its name; None is ``findlr.rules.quick``.
        progress: None shows the sweep where somebody may be looking, in a terminal or a notebook; True also writes
            plain lines into a log; False shows nothing; or a context manager that gives a function, called with each
            ``Step``.
        on_step: called with each ``Step`` once its loss is read, those of a race's runs, too. If it is a context
            manager as well, it is entered before the search and left after it.

    Raises:
        ConfigurationError: a setting outside its range.
    """

    min_lr: float = 1e-8
    max_lr: float = 10.0
    num_steps: int | Literal["epoch"] = 100
    spacing: Spacing = "exponential"
    divergence_threshold: float = 4.0
    smoothing: float = 0.98
    rule: Rule | str | None = None
    progress: Progress | bool | None = None
    on_step: Callable[[Step], object] | None = None

    def __post_init__(self) -> None:
        for name in ("min_lr", "max_lr", "num_steps", "divergence_threshold", "smoothing"):
            value = getattr(self, name)
            if type(value) not in (int, float):  # a number of NumPy's or torch's
                object.__setattr__(self, name, plain(value))
        num_steps: Any = 2 if isinstance(self.num_steps, str) and self.num_steps == "epoch" else self.num_steps
        sweep_lrs(self.min_lr, self.max_lr, num_steps, self.spacing)
        self.stop_rule()
        chosen_rule(self.rule)
        if not (self.progress is None or isinstance(self.progress, bool) or _is_display(self.progress)):
            raise ConfigurationError(
                "progress must be True, False, None (shown in a terminal or a notebook), or a context manager such as "
                f"findlr.views.console.LiveSweep(), got {self.progress!r}"
            )
        if self.on_step is not None:
            check_takes(self.on_step, "on_step", "step")
            if isinstance(self.on_step, type):
                raise ConfigurationError(
                    f"on_step must be a function, got {kind_of(self.on_step)}: make one, and give that"
                )

    def stop_rule(self) -> StopRule:
        """A new stop rule with these settings."""
        return StopRule(self.divergence_threshold, self.smoothing)

    def asked(self) -> dict[str, Any]:
        """What decides a search, by name, in plain values; who watches it does not."""
        rule = self.rule if self.rule is None or isinstance(self.rule, str) else _name_of(self.rule)
        return {**{name: value for name, value in vars(self).items() if name not in _NO_MATTER}, "rule": rule}


@dataclass(frozen=True, kw_only=True)
class Settings(SweepSettings):
    """The settings of a search: those of its sweep, and of the race that may follow.

    Args:
        verify: race the sweep's suggestion against rates near it on the planned schedule; needs the plan's total_steps.
        budget: what ``verify`` may spend, the sweep included and never exceeded: an int is steps, a float (0.5, 2.0) a
            share of the plan's total_steps; None is half of them, and at least 350 steps.
        executor: makes the runs of ``verify`` at the same time, in its worker processes, each bit for bit the run that
            this process would make: ``concurrent.futures.ProcessPoolExecutor(2)``, or any other Executor whose tasks
            run in processes.
        control_variate: measure each batch's loss under the starting weights, too, which takes the batches' differences
            out of the curve and costs a forward pass a step; None does so wherever it can.
        one_pass: take the first runs of ``verify`` in one pass where the training can; their losses agree to rounding.
        checkpoint: a file in which ``verify`` keeps the sweep and each run that has ended. A search that was killed, if
            it is called again in the same way, goes on with what the file has, and ends with the same Finding. The file
            is left complete at the end.

    Raises:
        ConfigurationError: a setting outside its range.
    """

    verify: bool = False
    budget: float | None = None
    executor: Executor | None = None
    control_variate: bool | None = None
    one_pass: bool = False
    checkpoint: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        variate = self.control_variate is None or self.control_variate
        check_flags(verify=self.verify, one_pass=self.one_pass, control_variate=variate)
        if type(self.budget) not in (int, float, type(None)):
            object.__setattr__(self, "budget", plain(self.budget))
        if self.budget is not None and not 0 < (real(self.budget) or 0) < math.inf:
            raise ConfigurationError(
                f"budget must be a number of steps or a share of total_steps above 0, got {self.budget!r}"
            )
        if self.executor is not None:
            check_executor(self.executor)
            if self.one_pass:
                raise ConfigurationError("executor= and one_pass=True are two ways to make several runs: give one")
        if not (self.checkpoint is None or isinstance(self.checkpoint, (str, PathLike))):
            raise ConfigurationError(f"checkpoint must be the name of a file, got {self.checkpoint!r}")
        for name, says in OF_A_RACE.items() if not self.verify else ():
            if getattr(self, name):
                raise ConfigurationError(f"{name}= {says} of a race: give verify=True, too, or leave it out")

    def asked(self) -> dict[str, Any]:
        """What decides a search, by name, in plain values; who watches it does not."""
        parallel = {} if self.executor is None else {"executor": True}  # which one does not matter
        return super().asked() | parallel

    @classmethod
    def of(cls, given: Mapping[str, Any], besides: Iterable[str] = ()) -> Self:
        """The settings from keywords.

        Args:
            given: the keywords.
            besides: the other arguments of the function that was given them, one of which may have been meant.

        Raises:
            ConfigurationError: a name that is none of them, or a setting outside its range.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise ConfigurationError(unknown_name(name, [*besides, *known]))
        return cls(**given)

    def budget_in_steps(self, plan: Plan, num_steps: int) -> float | None:
        """What the search may spend, the sweep included; None without ``verify``.

        Raises:
            ConfigurationError: the plan has no length, or the budget is too small for the sweep.
        """
        if not self.verify:
            return None
        if plan.total_steps is None:
            raise ConfigurationError(
                "verify=True needs total_steps, the length of the training that is planned: give it, such as "
                "total_steps=len(loader) * epochs, or '5 epochs'"
            )
        if self.budget is None:
            total = own_budget(plan.total_steps)
        else:
            total = float(self.budget) if isinstance(self.budget, int) else self.budget * plan.total_steps
        sweep = num_steps if self.control_variate is False else (num_steps * 4 + 3) / 3  # with its self-checks
        if total < sweep:
            given = "the default budget is" if self.budget is None else f"budget={self.budget!r} comes to"
            raise ConfigurationError(
                f"{given} {total:.0f} steps, and the sweep alone may take {sweep:.0f}: raise it with budget=, or lower "
                "num_steps"
            )
        return total


class Search(TypedDict, total=False):
    """``Settings`` as keywords, for signatures: ``**search: Unpack[Search]``."""

    min_lr: float
    max_lr: float
    num_steps: int | Literal["epoch"]
    spacing: Spacing
    divergence_threshold: float
    smoothing: float
    rule: Rule | str | None
    progress: Progress | bool | None
    on_step: Callable[[Step], object] | None
    verify: bool
    budget: float | None
    executor: Executor | None
    control_variate: bool | None
    one_pass: bool
    checkpoint: str | PathLike[str] | None


def chosen_rule(rule: Rule | str | None) -> Rule | None:
    """The rule, given itself or by its name; None stays None.

    Raises:
        ConfigurationError: it is neither, or a function that can't be called with a curve and a plan.
    """
    return None if rule is None else rule_named(rule)


def _is_display(progress: object) -> bool:
    """Whether it can be entered; not a file, which would be closed."""
    return isinstance(progress, AbstractContextManager) and not isinstance(progress, IOBase)


def _name_of(rule: Rule) -> str:
    """A rule's name: that of a function of the user's own says where it is from."""
    named = next((name for name, known in RULES.items() if known is rule), None)
    return named or f"{getattr(rule, '__module__', '')}.{getattr(rule, '__qualname__', type(rule).__qualname__)}"
