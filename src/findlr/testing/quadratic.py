"""A Trainable that needs no framework, for tests of a rule, a view or a search."""

from __future__ import annotations

import random
from dataclasses import dataclass

from findlr.errors import ConfigurationError


@dataclass
class Quadratic:
    """Gradient descent on a noisy parabola: loss = curvature * weight^2 / 2 + floor + noise.

    It diverges at any rate above 2 / curvature.

    Args:
        weight: where it starts.
        curvature: above 0.
        floor: the loss at the bottom.
        noise: standard deviation of what each batch adds to the loss, at least 0.
        seed: of the noise.

    Raises:
        ConfigurationError: ``curvature`` is not above 0.

    Example:
        >>> Quadratic().step(0.1)
        5.1
    """

    weight: float = 1.0
    curvature: float = 10.0
    floor: float = 0.1
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.curvature > 0:
            raise ConfigurationError(f"curvature must be above 0, got {self.curvature!r}")
        self._random = random.Random(self.seed)  # noqa: S311

    def step(self, lr: float) -> float:
        """Take one step of gradient descent; return the loss before it."""
        loss = self.curvature * (self.weight * self.weight) / 2 + self.floor + self._random.gauss(0.0, self.noise)
        self.weight -= lr * self.curvature * self.weight
        return loss

    def read(self, losses: list[float]) -> list[float]:
        """The losses as they are."""
        return losses

    def snapshot(self) -> tuple[float, object]:
        """The weight, and the state of the noise."""
        return self.weight, self._random.getstate()

    def restore(self, snapshot: tuple[float, object]) -> None:
        """Put the weight and the noise back."""
        self.weight, state = snapshot
        self._random.setstate(state)  # type: ignore[arg-type]
