"""Searches that a finder must beat at an equal budget: Optuna's random search, TPE, GP and halving. Resumable.

    PYTHONPATH=src python -m study.baselines [--seeds 0 1]    # in the other finders' environment

All have the same range of rates, on a logarithmic scale, and train each from the same weights on the same batches
through the planned schedule compressed to the trial's steps, scored on 8 batches of examples set aside as findlr's race
does. Every step is counted; a lone forward is a third of one; the budget is not exceeded.

- random: 8 trials of an eighth of the budget each, or of the planned length if that is less (then more trials).
- tpe, gp: the same with ``TPESampler`` and ``GPSampler``, whose first 4 rates are those of the random search. Their
  default is to draw 10 at random, more than there are trials. 4 is half of them, and twice one more than the number of
  parameters, as is usual for a Gaussian process. It was chosen before they were run; all else is at its default.
- halving: trials of a quarter of the budget, reported to ``SuccessiveHalvingPruner`` at a ninth and a third of their
  steps (reduction factor 3), until the budget is spent; the best of those that came to their end.

Also here, without Optuna: the best single rate of each optimizer over the fit half, and one-seed grids.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from findlr.analysis.plan import SCHEDULES
from findlr.torch.data.splitting import split
from study.answers import BASELINES, LONG, SEEDS, Record, add, load
from study.regret import DEFAULT_LR, TRUTH, Truth
from study.rounds import chosen, go
from study.tasks import Setup, Task
from study.train import batches

if TYPE_CHECKING:
    from optuna import Study, Trial

BUDGETS = (0.1, 0.5, 1.0, 3.0)  # shares of one training
TRIALS = 8  # of all but the halving; more if some diverge early
AT_RANDOM = 4  # of those of TPE and GP
FULL_TRIALS = 4  # of the halving: the budget would do for so many unpruned ones
FACTOR = 3  # reduction at each of two rungs
HELD_OUT = 8  # batches
RANGES: Mapping[str, tuple[float, float]] = {"SGD": (1e-6, 10.0), "SGD+momentum": (1e-6, 10.0)}
OTHERS = (1e-6, 1.0)


def best_single(truths: Mapping[str, Truth]) -> dict[str, float]:
    """The rate of each optimizer with the least mean regret over the fit half; the default where it has no task."""
    found = dict(DEFAULT_LR)
    rates = 1e-6 * 2.0 ** np.arange(0, 24, 0.25)
    for optimizer in DEFAULT_LR:
        fit = [truth for truth in truths.values() if truth.optimizer == optimizer and truth.split == "fit"]
        if fit:
            means = [np.mean([truth.regret(float(rate)) for truth in fit]) for rate in rates]
            found[optimizer] = float(rates[int(np.argmin(means))])
    return found


def one_seed_grids(path: Path = TRUTH) -> dict[str, dict[str, Record]]:
    """The best rate of each task's grid by one seed alone: what a full grid search gets.

    Args:
        path: the truth.

    Returns:
        task -> seed -> record.
    """
    found: dict[str, dict[str, Record]] = {}
    for name, entry in json.loads(path.read_text())["tasks"].items():
        for seed in SEEDS:
            losses = {lr: by_seed[seed] for lr, _mean, by_seed in entry["rates"] if len(by_seed) > seed}
            if losses:
                steps = len(entry["rates"]) * entry["total_steps"]
                record = {"lr": min(losses, key=losses.__getitem__), "reason": None, "steps": steps}
                found.setdefault(name, {})[str(seed)] = record
    return found


class OverBudgetError(Exception):
    """The next steps would cost more than is left."""


@dataclass
class Trainings:
    """Short trainings of one task, all from the same weights on the same batches, and what they cost.

    Args:
        task: what to train.
        seed: of the weights and the batches.
        budget: in steps.
    """

    task: Task
    seed: int
    budget: float
    spent: float = field(default=0.0, init=False)

    def score(self, lr: float, steps: int, report: Callable[[float, int], None] | None = None) -> float:
        """Train for ``steps`` and return the held-out loss, infinite if the run diverged.

        Args:
            lr: the schedule's peak.
            steps: of the whole compressed schedule.
            report: called with (held-out loss, step) at the rungs; whatever it raises ends the run.

        Raises:
            OverBudgetError: the next part of the run would not fit in the budget; it is not begun.
        """
        setup = self.task.make(self.seed)
        torch.manual_seed(self.seed)
        parts = split(setup.loader, HELD_OUT, steps, math.sqrt(steps / self.task.total_steps))
        if parts is None:  # fewer than five batches: the first ones score it, as in findlr's race
            stream = batches(setup.loader)
            held_out = list(islice(stream, HELD_OUT))
        else:
            held_out, loader = parts
            stream = batches(loader)
        optimizer = setup.make_optimizer(setup.model.parameters(), lr)
        shape = SCHEDULES[self.task.schedule]
        first = steps // FACTOR**2
        rungs = (steps,) if report is None else (first, first * FACTOR, steps)
        begin = 0
        for rung in rungs:
            if self.spent + rung - begin + HELD_OUT / 3 > self.budget:
                raise OverBudgetError
            for step in range(begin, rung):
                rate = lr * shape(step / max(steps - 1, 1))
                loss = _step(setup, optimizer, rate, next(stream))
                self.spent += 1
                if not math.isfinite(loss):
                    return math.inf
            begin = rung
            loss = self._held_out_loss(setup, held_out)
            if report is not None and rung < steps:
                report(loss, rung)
        return loss

    @property
    def draws(self) -> int:
        """The seed of the rates: other ones for each task."""
        return zlib.crc32(f"{self.task.name} {self.seed} {self.budget}".encode())

    @torch.no_grad()
    def _held_out_loss(self, setup: Setup, held_out: list[tuple[Tensor, Tensor]]) -> float:
        setup.model.eval()
        losses = [float(setup.criterion(setup.model(inputs), targets)) for inputs, targets in held_out]
        setup.model.train()
        self.spent += len(losses) / 3
        mean = float(np.mean(losses))
        return mean if math.isfinite(mean) else math.inf


def _step(setup: Setup, optimizer: torch.optim.Optimizer, lr: float, batch: tuple[Tensor, Tensor]) -> float:
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad()
    loss = setup.criterion(setup.model(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    return loss.item()


def equal_trials(sampler: str, trainings: Trainings, **settings: int) -> Study:
    """Trials of equal length, as many as the budget bears.

    Args:
        sampler: the class in ``optuna.samplers`` that chooses their rates.
        trainings: of the task.
        settings: of the sampler, besides its seed.
    """
    import optuna

    steps = min(int(trainings.budget / TRIALS - HELD_OUT / 3), trainings.task.total_steps)
    study = optuna.create_study(sampler=getattr(optuna.samplers, sampler)(seed=trainings.draws, **settings))
    _optimize(study, lambda trial: trainings.score(_rate(trial, trainings.task), steps))
    return study


def successive_halving(trainings: Trainings) -> Study:
    """Trials that are given up at two rungs unless they are among the best third there."""
    import optuna

    steps = min(int(trainings.budget / FULL_TRIALS - HELD_OUT), trainings.task.total_steps)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=steps // FACTOR**2, reduction_factor=FACTOR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=trainings.draws), pruner=pruner)

    def objective(trial: Trial) -> float:
        def report(loss: float, step: int) -> None:
            trial.report(loss, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        return trainings.score(_rate(trial, trainings.task), steps, report)

    _optimize(study, objective)
    return study


SEARCHES: Mapping[str, Callable[[Trainings], Study]] = {
    "random": partial(equal_trials, "RandomSampler"),
    "tpe": partial(equal_trials, "TPESampler", n_startup_trials=AT_RANDOM),
    "gp": partial(equal_trials, "GPSampler", n_startup_trials=AT_RANDOM),
    "halving": successive_halving,
}


def _rate(trial: Trial, task: Task) -> float:
    low, high = RANGES.get(task.optimizer, OTHERS)
    return trial.suggest_float("lr", low, high, log=True)


def _optimize(study: Study, objective: Callable[[Trial], float]) -> None:
    """Trials until the budget is spent; the one that does not fit any more counts as failed."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    while True:
        trial = study.ask()
        try:
            study.tell(trial, objective(trial))
        except TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
        except OverBudgetError:
            study.tell(trial, state=TrialState.FAIL)
            return


def suggestion(search: str, budget: float, task: Task, seed: int) -> Record:
    """What a search answers.

    Args:
        search: a key of SEARCHES.
        budget: a share of the task's training.
        task: what to train.
        seed: of the weights, the batches and the rates drawn.

    Returns:
        The record.
    """
    begin = time.perf_counter()
    trainings = Trainings(task, seed, budget * task.total_steps)
    study = SEARCHES[search](trainings)
    return {
        "lr": study.best_params["lr"],
        "reason": None,
        "steps": round(trainings.spent, 2),
        "seconds": round(time.perf_counter() - begin, 3),
        "trials": len(study.trials) - 1,
    }


def main() -> None:
    """The command line."""
    import optuna

    parser = argparse.ArgumentParser(description="Record what equal-budget searches answer.")
    parser.add_argument("--tasks", nargs="*", help="these tasks; all if none is given")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--budgets", nargs="*", type=float, choices=BUDGETS, default=BUDGETS)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    versions = {"optuna": optuna.__version__, "torch": torch.__version__}

    def make(task: Task, search: str, budget: float, seed: int) -> None:
        add(BASELINES, task.name, {f"{search}_{budget:g}": {seed: suggestion(search, budget, task, seed)}}, versions)

    for seed, budget in itertools.product(arguments.seeds, arguments.budgets):
        tasks = [task for task in chosen(arguments.tasks) if budget >= 0.5 or task.total_steps >= LONG]
        go(f"budget {budget:g}, seed {seed}", tasks, partial(missing, budget, seed), make)


def missing(budget: float, seed: int, task: Task) -> list[tuple[str, float, int]]:
    """The searches of that budget that are not recorded yet."""
    known = load(BASELINES).get(task.name, {})
    return [(search, budget, seed) for search in SEARCHES if str(seed) not in known.get(f"{search}_{budget:g}", {})]


if __name__ == "__main__":
    main()
