"""Several optimizers that are swept together: one rate for all, with their ratio kept."""

from __future__ import annotations

from collections.abc import Sequence

from torch import optim

from findlr.torch.rates import Rates


class JointRates:
    """Writes one rate into several optimizers: it is the largest group's of all, and the others keep their ratio to it.

    Args:
        optimizers: at least two, such as Muon for the matrices and AdamW for the rest.

    Raises:
        OptimizerError: the rate of one does not act on each step, or every group's rate is 0.
    """

    def __init__(self, optimizers: Sequence[optim.Optimizer]) -> None:
        parts = [Rates(optimizer) for optimizer in optimizers]
        largest = max(part.base for part in parts)
        self._parts = [(part, part.base / largest) for part in parts]
        self.ratios = tuple(share * ratio for part, share in self._parts for ratio in part.ratios)

    def write(self, lr: float) -> None:
        """Set each group's rate to its share of ``lr``."""
        for part, share in self._parts:
            part.write(lr * share)

    def acting(self, lr: float) -> float:
        """What ``lr`` becomes at the next step, in the optimizer that caps it or rounds it down most."""
        return min(part.acting(lr * share) / share for part, share in self._parts)
