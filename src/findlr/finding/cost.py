"""What a search spent."""

from __future__ import annotations

from dataclasses import dataclass, field

from findlr.analysis.given import keep_numbers


@dataclass(frozen=True)
class Cost:
    """What a search spent.

    Args:
        steps: forward-backward equivalents; a lone forward is a third of one.
        forwards: forward passes of a whole batch.
        backwards: backward passes of a whole batch.
        seconds: wall time; two Findings that differ only here are equal.
    """

    steps: float
    forwards: int
    backwards: int
    seconds: float = field(compare=False)

    def __post_init__(self) -> None:
        keep_numbers(self, "steps", "forwards", "backwards", "seconds")
