"""Fits the race's constants on the fit half: real races are recorded once, and decided again and again. Resumable.

    python -m bench.accuracy.fit_race

Tried: how many runs share the budget, how far the best rate drifts with the length, how much the sweep is believed.
Two tasks are left out of the choice, and named: no short run on training batches can see that they overfit.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import torch

from bench.accuracy.regret import DEFAULT_LR, load
from bench.accuracy.tasks import TASKS, Task
from bench.accuracy.tasks.pretrained import RUNS
from findlr import Plan, Suggestion, find_lr, race, rules
from findlr.race import Race

FILE = RUNS / "races.jsonl"
BUDGETS = (0.5, 1.0, 3.0)
NUMBERS_OF_RUNS = (3, 4, 5, 6)
DRIFTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
PRIORS = (0.0, 0.003, 0.006, 0.01, 0.015, 0.03)
OVERFITTING = {"small_data-signals", "shifted-signals"}


def record(task: Task, runs: int, budget: float) -> dict[str, Any]:
    """One real race of ``runs`` runs, as plain values."""
    race._RUNS = race._RUNS_IF_RICH = runs  # the constants under test
    setup = task.make(0)
    optimizer = setup.make_optimizer(setup.model.parameters(), DEFAULT_LR[task.optimizer])
    torch.manual_seed(0)
    finding = find_lr(
        *(setup.model, optimizer, setup.criterion, setup.loader),
        schedule=task.schedule,
        total_steps=task.total_steps,
        verify=True,
        budget=budget,
    )
    kept = {"task": task.name, "runs": runs, "budget": budget, "race": None, "sweep": None}
    if finding.race is not None:
        sweep = rules.quick(finding.curve, finding.plan)
        kept |= {"race": finding.race.to_dict(), "sweep": sweep.lr, "cost": finding.cost.steps}
    return kept


def recorded() -> list[dict[str, Any]]:
    """The races that are there."""
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def regrets(rows: list[dict[str, Any]], drift: float, prior: float) -> np.ndarray[Any, Any]:
    """The regret of each race, decided with these constants."""
    race._DRIFT, race._PRIOR = drift, prior
    found = []
    for row in rows:
        truth = load()[row["task"]]
        plan = Plan(truth.schedule, truth.total_steps)
        decided = race.decide(Race.from_dict(row["race"]), Suggestion(row["sweep"], "quick", ""), plan)
        found.append(truth.regret(decided.lr))
    return np.array(found)


def main() -> None:
    """Record what is missing, then print a table per budget and number of runs."""
    torch.set_num_threads(1)
    known = {(row["task"], row["runs"], row["budget"]) for row in recorded()}
    with FILE.open("a") as out:
        for budget, runs, task in itertools.product(BUDGETS, NUMBERS_OF_RUNS, TASKS):
            short = task.split == "fit" and task.total_steps <= 1000
            if short and (task.name, runs, budget) not in known:
                out.write(json.dumps(record(task, runs, budget)) + "\n")
                out.flush()
    print(f"left out: {', '.join(sorted(OVERFITTING))}")
    for budget, runs in itertools.product(BUDGETS, NUMBERS_OF_RUNS):
        rows = [
            row
            for row in recorded()
            if (row["budget"], row["runs"]) == (budget, runs) and row["race"] and row["task"] not in OVERFITTING
        ]
        if not rows:
            continue
        alone = np.mean([load()[row["task"]].regret(row["sweep"]) for row in rows])
        tried = {pair: regrets(rows, *pair) for pair in itertools.product(DRIFTS, PRIORS)}
        best = min(tried, key=lambda pair: tried[pair].mean() + 0.1 * tried[pair].max())
        chosen = tried[0.1, 0.01]
        print(
            f"budget {budget}, {runs} runs, {len(rows)} tasks: the sweep alone {alone:.4f}, "
            f"drift .1 and prior .01 {chosen.mean():.4f} (worst {chosen.max():.3f}), "
            f"best of all {tried[best].mean():.4f} (worst {tried[best].max():.3f}) at {best}"
        )


if __name__ == "__main__":
    main()
