"""Short runs of the planned schedule over a grid of rates, as a race makes them, to try races on. Resumable.

python -m study.probes                                 # runs.jsonl: from T / 16 to T steps
python -m study.probes --how constant other_batches    # for the ablation: other ways to probe
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch

from findlr import Plan, TorchTrainable, rules
from findlr.analysis.runs import FEWEST_STEPS, HELD_OUT_BATCHES
from findlr.errors import NoSuggestionError
from findlr.search.restoring import restored
from findlr.search.run import train
from findlr.torch.training import Training
from study.record import curves
from study.regret import DEFAULT_LR
from study.rounds import Lines, chosen, go
from study.tasks import Task
from study.tasks.pretrained import RUNS

LINES = Lines(RUNS / "probes.jsonl")
MOST = 1000  # steps of a task's training
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the planned length
OCTAVES = range(-6, 5)  # around the sweep's answer
HOW = ("matched", "constant", "other_batches")


def probes(task: Task, seed: int, share: float, how: str) -> Iterator[dict[str, Any]]:
    """Runs at rates an octave apart, from the same weights and, unless ``how`` is other_batches, on the same data."""
    curve = next(curve for name, at, curve in curves("variate") if (name, at) == (task.name, seed))
    setup = task.make(seed)
    optimizer = setup.make_optimizer(setup.model.parameters(), DEFAULT_LR[task.optimizer])
    plan = Training(setup.model, optimizer).planned(Plan(task.schedule, task.total_steps))
    try:
        sweep = rules.quick(curve, plan).lr
    except NoSuggestionError:
        sweep = DEFAULT_LR[task.optimizer]
    steps = max(int(share * task.total_steps), FEWEST_STEPS)
    training = TorchTrainable(setup.model, optimizer, setup.criterion, setup.loader)
    torch.manual_seed(seed)
    training.hold_out(HELD_OUT_BATCHES, steps, task.total_steps)
    shapes = (Plan("constant") if how == "constant" else plan).shares(steps)
    start = training.evaluate()
    for octave in OCTAVES:
        lr = float(sweep * 2.0**octave)
        with restored(training):
            if how == "other_batches":
                torch.manual_seed(1000 * seed + octave)
                setup.loader.generator.manual_seed(1000 * seed + octave)
            loss = train(training, training, lr * shapes).loss
        about = {"task": task.name, "seed": seed, "share": share, "how": how, "steps": steps, "sweep": sweep}
        yield about | {"lr": lr, "start": start, "loss": loss}


def recorded(how: str = "matched") -> list[dict[str, Any]]:
    """The runs that are there."""
    return [row for row in LINES if row["how"] == how]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Record short runs over a grid of rates.")
    parser.add_argument("--how", nargs="*", choices=HOW, default=["matched"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    arguments = parser.parse_args()
    tasks = [task for task in chosen() if task.total_steps <= MOST]
    for how in arguments.how:
        known = {(row["task"], row["seed"], row["share"]) for row in recorded(how)}
        jobs = [(seed, share, how) for seed in arguments.seeds for share in SHARES]
        go(
            how,
            tasks,
            lambda task, known=known, jobs=jobs: [job for job in jobs if (task.name, *job[:2]) not in known],
            lambda *job: LINES.add(*probes(*job)),
        )


if __name__ == "__main__":
    main()
