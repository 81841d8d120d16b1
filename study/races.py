"""Real races on the fit half, kept whole, and what other ways to weigh them with the sweep would have answered.

python -m study.races    # races.jsonl: what is missing, on seed 0; and then the table

A race's runs do not depend on how its answer is weighed, so each is made once. In each row: the mean regret at each
budget and, in brackets, that without the three worst; a refusal counts as its fallback.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from findlr import Finding
from findlr.analysis import runs as arithmetic
from findlr.analysis.answer import answer
from study.fit_race import constants
from study.regret import DEFAULT_LR, load
from study.rounds import Lines, chosen, go
from study.suggest import finding_of
from study.tasks import Task
from study.tasks.pretrained import RUNS

LINES = Lines(RUNS / "races.jsonl")
BUDGETS = ("verified_0.5", "verified_1", "verified_3")
MOST = 4500  # steps of a task's training
VALUES: dict[str, tuple[float, ...]] = {
    "BELIEVED": (0.35, 0.5, 0.65, 0.8, 1.0),
    "DRIFT": (0.05, 0.1, 0.15),
    "DRIFT_OF_FEW_DATA": (0.0, 0.6),
    "MOST_UNSURE": (1.0, 2.0),
    "FROM_DIVERGED": (0.0, 0.3, 0.4, 0.5),
}


def missing(task: Task) -> list[tuple[str]]:
    """The budgets that a task has no race of yet."""
    known = {(row["task"], row["finder"]) for row in LINES}
    return [(name,) for name in BUDGETS if (task.name, name) not in known]


def record(task: Task, name: str) -> None:
    """Race, and keep the Finding."""
    LINES.add({"task": task.name, "finder": name, "finding": finding_of(name, task, 0).to_dict()})


def regret(task: str, kept: Finding) -> float:
    """What the answer of a kept race loses, weighed as the constants are now."""
    truth, again = load()[task], answer(kept.curve, kept.plan, race=kept.race)
    told = again.suggestion or kept.fallback
    return max(0.0, truth.regret(DEFAULT_LR[truth.optimizer] if told is None else told.lr))


def row(title: str, races: dict[str, list[tuple[str, Finding]]]) -> str:
    """A line of the table."""
    regrets = [np.sort([regret(*each) for each in races[name]]) for name in BUDGETS]
    cells = (f"{each.mean():.4f} ({each[:-3].mean():.4f})" for each in regrets)
    return f"{title:18s}" + "".join(f"{cell:>18s}" for cell in cells)


def main() -> None:
    """The command line."""
    go("races", [each for each in chosen() if each.split == "fit" and each.total_steps <= MOST], missing, record)
    races: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    for line in LINES:
        races[line["finder"]].append((line["task"], Finding.from_dict(line["finding"])))
    print(f"{len(races[BUDGETS[0]])} tasks" + "".join(f"{name:>18s}" for name in BUDGETS))
    print(row("as it is", races))
    for name, values in VALUES.items():
        for value in values:
            with constants(arithmetic, **{name: value}):
                print(row(f"{name} = {value}", races), flush=True)


if __name__ == "__main__":
    main()
