"""How much a rate loses against the best one of the grid, by ``truth.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

TRUTH = Path(__file__).parent / "truth.json"

# torch's own default rates, but 1e-2 for the SGD family: what a refusal is scored as.
DEFAULT_LR: Mapping[str, float] = {
    "SGD": 1e-2,
    "SGD+momentum": 1e-2,
    "Adam": 1e-3,
    "AdamW": 1e-3,
    "RMSprop": 1e-2,
    "Adagrad": 1e-2,
    "Adam(.5)": 1e-3,
    "Adafactor": 1e-2,
    "Lion": 1e-4,  # its authors'
    "Muon+AdamW": 1e-3,
    "Adadelta": 1.0,
    "SignSGD": 1e-3,
}

_AS_THEY_ARE = (
    "family", "split", "optimizer", "schedule", "total_steps", "untrained", "best_lr", "best_loss", "noise", "complete",
)  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """What the grid says about one task.

    Args:
        name: the task's name.
        family: its family.
        split: "fit" or "report".
        optimizer: a key of DEFAULT_LR.
        schedule: a name in ``findlr.analysis.plan.SCHEDULES``.
        total_steps: the length of the training.
        untrained: the held-out loss before the first step; a diverged run has it too.
        best_lr: the grid's best rate.
        best_loss: its mean final held-out loss, L*.
        noise: the standard error of a difference between two rates near the best; 0 if not known.
        lrs: the grid's rates, rising.
        losses: the mean final held-out loss at each.
        complete: whether all runs of the grid are there.
    """

    name: str
    family: str
    split: str
    optimizer: str
    schedule: str
    total_steps: int
    untrained: float
    best_lr: float
    best_loss: float
    noise: float
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    complete: bool

    def loss(self, lr: float) -> float:
        """The final held-out loss at ``lr``: log-linear between the grid's rates, the edge's beyond its (bad) edges."""
        if not (np.isfinite(lr) and lr > 0):
            return self.untrained
        return float(np.interp(np.log(lr), np.log(self.lrs), self.losses))

    def regret(self, lr: float) -> float:
        """(L(lr) - L*) / (L_untrained - L*): 0 is the best rate, 1 is no training; a little below 0 is chance."""
        return min(1.0, (self.loss(lr) - self.best_loss) / (self.untrained - self.best_loss))

    def diverged(self, lr: float) -> bool:
        """Whether the training at ``lr`` ends no better than it began, within 5 % of what there is to gain."""
        return self.regret(lr) > 0.95 and lr > self.best_lr


@cache
def load(path: Path = TRUTH) -> Mapping[str, Truth]:
    """The truth about every task in ``path``, by name."""
    found = {}
    for name, entry in json.loads(path.read_text())["tasks"].items():
        found[name] = Truth(
            name=name,
            lrs=tuple(row[0] for row in entry["rates"]),
            losses=tuple(row[1] for row in entry["rates"]),
            **{key: entry[key] for key in _AS_THEY_ARE},
        )
    return found


def regret(task: str, lr: float) -> float:
    """The normalised regret of ``lr`` on the task of that name.

    Example:
        >>> regret("mlp-digits", load()["mlp-digits"].best_lr)
        0.0
    """
    return load()[task].regret(lr)
