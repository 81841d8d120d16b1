"""The training that is planned: a good rate depends on its schedule and its length."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from findlr.errors import ConfigurationError

Shape = Callable[[float], float]

_SAMPLES = 1001  # how finely a function of the user's own is kept in a saved Finding


def constant(progress: float) -> float:
    """The peak rate from the first step to the last."""
    return 1.0


def one_cycle(progress: float) -> float:
    """A cosine from 1/25 up to the peak over 30 % of the run, then a cosine down to 1/250,000.

    Source: Smith 2018 (arXiv:1803.09820); the numbers are ``torch.optim.lr_scheduler.OneCycleLR``'s defaults.
    """
    if progress <= 0.3:
        return _half_cosine(1 / 25, 1.0, progress / 0.3)
    return _half_cosine(1.0, 1 / 250_000, (progress - 0.3) / 0.7)


def cosine(progress: float) -> float:
    """Half a cosine from the peak to zero. Source: Loshchilov and Hutter 2017 (arXiv:1608.03983)."""
    return _half_cosine(1.0, 0.0, progress)


def linear(progress: float) -> float:
    """A straight line from the peak to zero."""
    return 1.0 - progress


def wsd(progress: float) -> float:
    """Warmup, stable, decay: up over 5 % of the run, the peak, then a straight line to zero over the last 20 %.

    Source: Hu et al. 2024 (arXiv:2404.06395).
    """
    if progress < 0.05:
        return 0.05 + 0.95 * progress / 0.05  # not from zero: a first step at rate 0 would be lost
    return min(1.0, (1.0 - progress) / 0.2)


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * progress)) / 2.0


SCHEDULES: Mapping[str, Shape] = {shape.__name__: shape for shape in (constant, one_cycle, cosine, linear, wsd)}


@dataclass(frozen=True, eq=False)
class Plan:
    """The training that is planned.

    Args:
        schedule: "constant", "one_cycle", "cosine", "linear", "wsd", or a function of the progress (0 to 1) that
            returns the share of the peak rate (0 to 1).
        total_steps: optimizer steps of the whole training, at least 1; None if not known.
        optimizer: the optimizer's class name, such as "AdamW"; "" if not known.
        momentum: the momentum (beta1 for the Adam family), in [0, 1); None if not known.
        parameters: numbers that are trained, at least 1; None if not known.

    Raises:
        ConfigurationError: an unknown schedule, a shape that is not finite or negative, or no steps.

    Example:
        >>> Plan("one_cycle", total_steps=1000).share(0.3)
        1.0
    """

    schedule: str | Shape = "constant"
    total_steps: int | None = None
    optimizer: str = ""
    momentum: float | None = None
    parameters: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.schedule, str):
            if self.schedule not in SCHEDULES:
                known = ", ".join(SCHEDULES)
                raise ConfigurationError(
                    f"schedule {self.schedule!r} is not known; use one of {known}, or a function of the progress"
                )
        elif not callable(self.schedule):
            raise ConfigurationError(
                f"schedule must be a name or a function of the progress, got {type(self.schedule).__name__}"
            )
        else:
            shares = self.shares(101)
            if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.max() > 0):
                raise ConfigurationError(
                    f"a schedule must give finite shares of the peak, at least 0 and not all 0, "
                    f"got {shares.min():g} to {shares.max():g}"
                )
        if self.total_steps is not None and (isinstance(self.total_steps, bool) or self.total_steps < 1):
            raise ConfigurationError(f"total_steps must be at least 1, got {self.total_steps!r}")
        if self.parameters is not None and (isinstance(self.parameters, bool) or self.parameters < 1):
            raise ConfigurationError(f"parameters must be at least 1, got {self.parameters!r}")

    def share(self, progress: float) -> float:
        """The share of the peak rate at ``progress``, 0 at the first step and 1 at the last."""
        shape = SCHEDULES[self.schedule] if isinstance(self.schedule, str) else self.schedule
        return float(shape(progress))

    def shares(self, num_steps: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The share of the peak rate at each of ``num_steps`` steps, shape (num_steps,)."""
        last = max(num_steps - 1, 1)
        return np.array([self.share(i / last) for i in range(num_steps)], dtype=np.float64)

    def __eq__(self, other: object) -> bool:
        """Equal if the names, the steps and every sampled share are."""
        return self.to_dict() == other.to_dict() if isinstance(other, Plan) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain numbers; a function of the user's own is kept as samples."""
        schedule = self.schedule if isinstance(self.schedule, str) else self.shares(_SAMPLES).tolist()
        return {
            "schedule": schedule,
            "total_steps": self.total_steps,
            "optimizer": self.optimizer,
            "momentum": self.momentum,
            "parameters": self.parameters,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that ``to_dict`` described."""
        schedule = data["schedule"]
        if not isinstance(schedule, str):
            samples = np.asarray(schedule, dtype=np.float64)
            places = np.arange(len(samples)) / max(len(samples) - 1, 1)  # as shares() divides, to the last bit

            def schedule(progress: float) -> float:
                return float(np.interp(progress, places, samples))

        return cls(schedule, data["total_steps"], data["optimizer"], data["momentum"], data["parameters"])
