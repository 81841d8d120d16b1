"""Raw sweeps of every task, to fit rules on: rates and losses, no rule asked. Resumable.

python -m study.record                                      # curves.jsonl, at find_lr's defaults
python -m study.record --name plain --set control_variate=false   # any argument of find_lr, as JSON
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from findlr import Curve, find_lr
from study.answers import SEEDS
from study.rounds import Lines, chosen, go
from study.tasks import Task
from study.tasks.pretrained import RUNS
from study.train import started


def lines(name: str = "curves") -> Lines:
    """Where the sweeps of that name are kept."""
    return Lines(RUNS / f"{name}.jsonl")


def sweep(task: Task, seed: int, **settings: Any) -> dict[str, Any]:
    """One sweep over a fresh model, as plain numbers.

    Args:
        task: what to sweep.
        seed: of the weights, the order of the data and dropout.
        **settings: arguments of ``find_lr``.

    Returns:
        The task's name, the seed, the curve's arrays (baseline and validation None where not measured), why it stopped.
    """
    setup, optimizer = started(task, seed)
    finding = find_lr(setup.model, optimizer, setup.criterion, setup.loader, **settings)
    curve = finding.curve
    return {
        "task": task.name,
        "seed": seed,
        "lr": curve.lr.tolist(),
        "loss": curve.loss.tolist(),
        "baseline": None if curve.baseline is None else curve.baseline.tolist(),
        "validation": None if curve.validation is None else curve.validation.tolist(),
        "diverged": curve.diverged,
        "num_steps": curve.num_steps,
        "stop": finding.stop.name,
        "cost": finding.cost.steps,
    }


def curves(name: str = "curves") -> Iterator[tuple[str, int, Curve]]:
    """The recorded sweeps: (task, seed, curve)."""
    recorded = lines(name)
    if not recorded.path.exists():
        raise FileNotFoundError(f"no sweeps in {recorded.path}: record them, python -m study.record --name {name}")
    for kept in recorded:
        measured = (kept[key] for key in ("lr", "loss", "baseline", "validation", "diverged", "num_steps"))
        yield kept["task"], kept["seed"], Curve(*measured)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Record the raw sweeps of the accuracy benchmark's tasks.")
    parser.add_argument("--name", default="curves", help="the file's name in .runs; delete it to record again")
    parser.add_argument("--set", nargs="*", default=[], metavar="ARGUMENT=JSON", help="arguments of find_lr")
    arguments = parser.parse_args()
    settings = {key: json.loads(value) for key, value in (pair.split("=", 1) for pair in arguments.set)}
    kept = lines(arguments.name)
    known = {(row["task"], row["seed"]) for row in kept}
    go(
        arguments.name,
        chosen(),
        lambda task: [(seed,) for seed in SEEDS if (task.name, seed) not in known],
        lambda task, seed: kept.add(sweep(task, seed, **settings)),
    )


if __name__ == "__main__":
    main()
