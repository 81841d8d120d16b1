"""The training that is planned: a good rate depends on its schedule and its length."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import numpy as np

from findlr.analysis.families import family
from findlr.analysis.given import reading
from findlr.analysis.numbers import plain, real, whole
from findlr.analysis.schedules import OWN_WARMUP, SCHEDULES, WARMUP, Shape, canonical, shape_of
from findlr.analysis.text import told
from findlr.errors import ConfigurationError

__all__ = ["SCHEDULES", "Plan", "Samples", "Shape"]

_ALWAYS = ("total_steps", "optimizer", "momentum", "parameters")  # written whether they are known or not
_MORE = ("warmup", "epochs", "pretrained")  # written only where known
SAMPLES = 1001  # how finely a function of the user's own is kept in a saved Finding


class Samples:
    """A shape known at evenly spaced places, with straight lines between them.

    Args:
        shares: the share of the peak at each place, the first at progress 0 and the last at 1.
        scheduler: the class of the scheduler that they were read from; "" if from none.
    """

    def __init__(self, shares: Sequence[float], scheduler: str = "") -> None:
        self.scheduler = scheduler
        self.shares = np.asarray(shares, dtype=np.float64)
        self._places = np.arange(len(self.shares)) / max(len(self.shares) - 1, 1)  # as Plan.shares divides

    def __call__(self, progress: float) -> float:
        """The share at ``progress``."""
        return float(np.interp(progress, self._places, self.shares))


@dataclass(frozen=True, eq=False)
class Plan:
    """The training that is planned.

    Args:
        schedule: "constant", "one_cycle", "cosine", "linear", "wsd", "cosine_with_min_lr", "polynomial",
            "inverse_sqrt", as PyTorch or transformers write them, too; or a function of the progress (0 to 1) that
            returns the share of the peak rate (0 to 1). Kept as the one name that it has here.
        total_steps: optimizer steps of the whole training, at least 1; None if not known.
        optimizer: the optimizer's name in any case, such as "AdamW"; kept as its family's; "" if not known.
        momentum: the momentum (beta1 for the Adam family), from 0 to 1 as a rule; None if not known.
        parameters: numbers that are trained, at least 1; None if not known.
        warmup: how long the rate rises at the start: a share of the run (0.1), or steps (an int, which needs
            ``total_steps``); kept as a share. 0 is none. None is the schedule's own: 5 % where its name ends in
            "with_warmup", 30 % of one_cycle, 5 % of wsd and inverse_sqrt, else none.
        epochs: how often the training sees each example, above 0; None if not known.
        pretrained: the share of the model that it trains, where that was trained before: 1 (or True) is a full
            fine-tuning, little an adapter or a head, 0 (or False) a fresh start; None if not known.

    Raises:
        ConfigurationError: an unknown schedule, a shape that is not finite or negative, a count that is no whole number
            or below 1, a momentum that is not finite, a warmup that does not fit, epochs that are no number above 0, or
            pretrained that is no share.

    Example:
        >>> Plan("one_cycle", total_steps=1000).share(0.3)
        1.0
        >>> Plan("linear_with_warmup", total_steps=1000, warmup=100).share(0.05)
        0.5
    """

    schedule: str | Shape = "constant"
    total_steps: int | None = None
    optimizer: str = ""
    momentum: float | None = None
    parameters: int | None = None
    warmup: float | None = None
    epochs: float | None = None
    pretrained: float | None = None

    def __post_init__(self) -> None:
        keep = object.__setattr__  # the fields are frozen, and kept in one form each
        for name, checked in _CHECKED.items():
            value = getattr(self, name)
            if value is not None:
                keep(self, name, checked(value))
        if not isinstance(self.optimizer, str):
            raise ConfigurationError(f"optimizer must be a name, such as 'AdamW', got {type(self.optimizer).__name__}")
        keep(self, "optimizer", family(self.optimizer) or self.optimizer)
        schedule = self.schedule.value if isinstance(self.schedule, Enum) else self.schedule
        if isinstance(schedule, type):  # a scheduler's class
            schedule = schedule.__name__
        if isinstance(schedule, str):
            name, warms_up = canonical(schedule)
            keep(self, "schedule", name)
            keep(self, "warmup", _warmup(self.warmup, self.total_steps, name, WARMUP if warms_up else None))
            return
        if not callable(schedule):
            raise ConfigurationError(
                f"schedule must be a name, a scheduler or a function of the progress, got {type(schedule).__name__}"
            )
        if self.warmup is not None:
            raise ConfigurationError("warmup= goes with a schedule's name: a function or a scheduler has its own")
        shares = self.shares(101)
        if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.max() > 0):
            raise ConfigurationError(
                f"a schedule must give finite shares of the peak, at least 0 and not all 0, "
                f"got {shares.min():g} to {shares.max():g}"
            )

    @property
    def scheduler(self) -> str:
        """The class of the scheduler that the schedule was read from; "" if from none."""
        return self.schedule.scheduler if isinstance(self.schedule, Samples) else ""

    def share(self, progress: float) -> float:
        """The share of the peak rate at ``progress``, 0 at the first step and 1 at the last.

        Raises:
            ConfigurationError: ``progress`` is no number from 0 to 1, or the user's own schedule gives none for it.
        """
        number = progress if type(progress) is float else real(progress)
        if number is None or not 0 <= number <= 1:
            raise ConfigurationError(f"progress must be a number from 0 to 1, got {progress!r}")
        if isinstance(self.schedule, str):
            return float(shape_of(self.schedule, self.warmup)(progress))
        try:
            return float(plain(self.schedule(progress)))
        except Exception as error:
            raise ConfigurationError(
                f"the schedule must return a share of the peak for a progress from 0 to 1; for {progress:g} it raised, "
                f"or returned no number: {told(error)}"
            ) from error

    def shares(self, num_steps: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The share of the peak rate at each of ``num_steps`` steps, shape (num_steps,).

        Raises:
            ConfigurationError: ``num_steps`` is no whole number of at least 1.
        """
        num_steps = _count("num_steps", num_steps)
        last = max(num_steps - 1, 1)
        return np.array([self.share(i / last) for i in range(num_steps)], dtype=np.float64)

    def __eq__(self, other: object) -> bool:
        """Equal if the names, the steps and every sampled share are."""
        return self.to_dict() == other.to_dict() if isinstance(other, Plan) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain numbers; a function of the user's own is kept as samples."""
        schedule = self.schedule if isinstance(self.schedule, str) else self.shares(SAMPLES).tolist()
        plan = {"schedule": schedule} | {name: getattr(self, name) for name in _ALWAYS}
        more = {name: getattr(self, name) for name in _MORE} | {"scheduler": self.scheduler or None}
        return plan | {name: value for name, value in more.items() if value is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that ``to_dict`` described.

        Raises:
            FileFormatError: it described none.
        """
        with reading("Plan"):
            schedule = data["schedule"]
            known = {name: data[name] for name in _ALWAYS}
            known |= {name: data.get(name) for name in _MORE}
            shape = schedule if isinstance(schedule, str) else Samples(schedule, data.get("scheduler", ""))
            return cls(shape, **known)


def _count(name: str, value: Any) -> int:
    count = whole(value)
    if count is None or count < 1:
        raise ConfigurationError(f"{name} must be a whole number of at least 1, got {value!r}")
    return count


def _momentum(value: Any) -> float:
    momentum = real(value)
    if momentum is None or not math.isfinite(momentum):
        raise ConfigurationError(f"momentum must be a finite number or None, got {value!r}")
    return momentum


def _epochs(value: Any) -> float:
    epochs = real(value)
    if epochs is None or not 0 < epochs < math.inf:
        raise ConfigurationError(f"epochs must be a number above 0, or None, got {value!r}")
    return epochs


def _pretrained(value: Any) -> float:
    share = float(value) if isinstance(value, bool) else real(value)
    if share is None or not 0 <= share <= 1:
        raise ConfigurationError(f"pretrained must be a share from 0 to 1, True, False or None, got {value!r}")
    return share


_CHECKED: dict[str, Callable[[Any], Any]] = {
    "total_steps": partial(_count, "total_steps"),
    "parameters": partial(_count, "parameters"),
    "momentum": _momentum,
    "epochs": _epochs,
    "pretrained": _pretrained,
}


def _warmup(given: Any, total_steps: int | None, schedule: str, default: float | None) -> float | None:
    """The share of the run that a warmup takes; None if there is none, or the schedule's own."""
    if given is None:
        return default
    warmup = plain(given)
    if real(warmup) is None or warmup < 0:
        raise ConfigurationError(f"warmup must be a share of the run, such as 0.1, or a number of steps, got {given!r}")
    if warmup == 0:
        if schedule in OWN_WARMUP:
            raise ConfigurationError(f"{schedule} has a warmup: give more than 0, or another schedule")
        return None
    if isinstance(warmup, int):
        if total_steps is None:
            raise ConfigurationError(f"warmup={warmup} is a number of steps and needs total_steps; or give a share")
        if warmup >= total_steps:
            raise ConfigurationError(f"warmup={warmup} steps must be fewer than total_steps={total_steps}")
        return warmup / total_steps
    if not warmup < 1:
        raise ConfigurationError(f"warmup={warmup:g} must be a share below 1, or a whole number of steps (an int)")
    return float(warmup)
