"""What a race did: its runs, and where they are best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from findlr.analysis.given import check_flags, keep_numbers, reading
from findlr.errors import ConfigurationError


@dataclass(frozen=True)
class Run:
    """One candidate's run: its peak rate, its steps, and the loss it ended at (infinite if it diverged)."""

    lr: float
    steps: int
    loss: float

    def __post_init__(self) -> None:
        keep_numbers(self, "lr", "steps", "loss")


@dataclass(frozen=True)
class Race:
    """What a race did: its runs in the order run, the rate at which they are best, and how it was run.

    Args:
        runs: every run.
        start: the loss that scores the runs, before training. Where they are scored on their training losses, the mean
            of a run's first losses less three standard errors, the highest of the runs up to the best rate.
        best_lr: where a parabola through the best run and its neighbours is lowest; of the short runs, not of the plan.
        bracketed: whether a worse run lies on each side of the best.
        path: how the runs were made: "sequential", one after another; "one pass", the first ones together; or
            "parallel", by an executor's workers.
        held_out: whether the losses are of examples that no run trained on; if not, they are the runs' last training
            losses, or of examples that the runs trained on, because there were too few.

    Raises:
        ConfigurationError: there is no run, or a value is of another kind.
    """

    runs: tuple[Run, ...]
    start: float
    best_lr: float
    bracketed: bool
    path: str = "sequential"
    held_out: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.runs, tuple) or not self.runs or not all(isinstance(run, Run) for run in self.runs):
            raise ConfigurationError(f"a Race's runs must be a tuple of at least one Run, got {self.runs!r}")
        keep_numbers(self, "start", "best_lr")
        check_flags(bracketed=self.bracketed, held_out=self.held_out)
        for name in ("bracketed", "held_out"):
            object.__setattr__(self, name, bool(getattr(self, name)))  # of NumPy's, say

    @property
    def steps(self) -> int:
        """Steps of the longest runs, those that decide."""
        return max(run.steps for run in self.runs)

    def to_dict(self) -> dict[str, Any]:
        """The race as plain values; ``held_out`` only where nothing was."""
        plain = {**vars(self), "runs": [vars(run).copy() for run in self.runs]}
        return {name: value for name, value in plain.items() if name != "held_out" or not value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Race:
        """The race that ``to_dict`` described.

        Raises:
            FileFormatError: it described none.
        """
        with reading("Race"):
            return cls(**{**data, "runs": tuple(Run(**run) for run in data["runs"])})
