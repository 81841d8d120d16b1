"""Whether findlr answers the same however long its sweep is, and over whatever range. Resumable.

    python -m study.sweeps             # what is missing, into sweeps.json; the tables
    python -m study.sweeps --fresh     # all of it again, after a change of the rule

Each task is swept once at each setting, at one seed, and told its plan; nothing is fitted. Only the first task of each
family gets the sweeps of 1,000 and 3,000 steps, because they take as long as all others together.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from findlr import __version__, find_lr
from study.answers import Record, add, load, taken
from study.regret import load as load_truth
from study.report import between, short, table
from study.rounds import chosen, go
from study.scores import scores
from study.tasks import TASKS, Task
from study.train import started

MEASURED = Path(__file__).parent / "sweeps.json"
SEED = 0
LENGTHS = {f"{steps:,} steps": {"num_steps": steps} for steps in (50, 100, 300, 1000, 3000)}
RANGES = {
    "100 steps": {},
    "1e-6 to 1": {"min_lr": 1e-6, "max_lr": 1.0},
    "1e-10 to 100": {"min_lr": 1e-10, "max_lr": 100.0},
}
SETTINGS: dict[str, dict[str, Any]] = RANGES | LENGTHS  # what is not said is find_lr's default
SHORT = ("50 steps", "100 steps", "300 steps")
LONG = ("1,000 steps", "3,000 steps")
GROUPS = {"50 to 300 steps": SHORT, "50 to 3,000 steps": (*SHORT, *LONG), "three ranges": (*RANGES,)}
FIRSTS = set({task.family: task.name for task in reversed(TASKS)}.values())  # one of each family

Records = Mapping[str, Mapping[str, Record]]  # task -> setting -> record


def missing(known: Records, task: Task) -> list[tuple[str]]:
    """The settings at which a task has not been swept yet."""
    wanted = [name for name in SETTINGS if name not in LONG or task.name in FIRSTS]
    return [(name,) for name in wanted if name not in known.get(task.name, {})]


def ask(task: Task, name: str) -> None:
    """Sweep at a setting, and keep what is answered."""
    setup, optimizer = started(task, SEED)
    how = SETTINGS[name] | {"schedule": task.schedule, "total_steps": task.total_steps}
    finding = find_lr(setup.model, optimizer, setup.criterion, setup.loader, **how)
    record: Record = {"lr": None, "verdict": finding.verdict.name}
    if finding.suggestion is not None:
        record["lr"] = _rounded(finding.lr)
    elif finding.fallback is not None:
        record["fallback"] = _rounded(finding.fallback.lr)
    versions = {"findlr": __version__, "torch": torch.__version__}
    add(MEASURED, task.name, {name: {SEED: record}}, versions)


def _rounded(lr: float) -> float:
    return float(f"{lr:.4g}")


def measured() -> dict[str, dict[str, Record]]:
    """What is there."""
    return {
        task: {name: by_seed[str(SEED)] for name, by_seed in by_setting.items()}
        for task, by_setting in load(MEASURED).items()
    }


def ratio(records: Sequence[Record], *, fallback: bool) -> float | None:
    """The largest answer over the smallest; None if fewer than two answered, or with the fallback, not all.

    Example:
        >>> ratio([{"lr": 0.1}, {"lr": 0.2}, {"lr": None, "fallback": 0.02}], fallback=False)
        2.0
        >>> ratio([{"lr": 0.1}, {"lr": 0.2}, {"lr": None, "fallback": 0.02}], fallback=True)
        10.0
    """
    lrs = [taken(record) if fallback else record["lr"] for record in records]
    known = [lr for lr in lrs if lr is not None]
    if len(known) < (len(lrs) if fallback else 2):
        return None
    return float(max(known) / min(known))


def spread(found: Sequence[Sequence[Record]], *, fallback: bool) -> tuple[str, ...]:
    """Over tasks: how many, and how far their answers lie apart."""
    ratios = np.array([each for records in found if (each := ratio(records, fallback=fallback)) is not None])
    if not len(ratios):
        return ("0", *[""] * 5)
    return (
        f"{len(ratios)}",
        f"{np.median(ratios):.2f}",
        f"{np.quantile(ratios, 0.9):.2f}",
        f"{ratios.max():.3g}",
        *(f"{np.mean(ratios <= most):.0%}" for most in (1.5, 2.5)),
    )


def agreement(known: Records) -> Iterator[tuple[str, ...]]:
    """Rows for each group of settings: the answers, those of tasks CLEAR at 100 steps, and with fallbacks."""
    for title, names in GROUPS.items():
        found = [[by_name[name] for name in names] for by_name in known.values() if set(names) <= set(by_name)]
        answered = [sum(record["lr"] is not None for record in records) for records in found]
        changes = sum(0 < count < len(names) for count in answered)
        yield (title, "answered", *spread(found, fallback=False), f"{changes} of {len(found)}")
        clear = [records for records in found if records[names.index("100 steps")]["verdict"] == "CLEAR"]
        yield (title, "of these, CLEAR at 100 steps", *spread(clear, fallback=False), "")
        yield (title, "with the fallback", *spread(found, fallback=True), "")


def goodness(known: Records, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """A row for each setting: how often it is refused, and with the fallback, how it moves the answer and the regret.

    Args:
        known: the answers of all tasks that were asked at all of the settings.
        names: the settings.
    """
    for name in names:
        there = {task: by_name[name] for task, by_name in known.items()}
        records = {task: {"0": {**record, "lr": taken(record)}} for task, record in there.items()}
        made = scores(name, records, {task: load_truth()[task] for task in there})
        assert made is not None
        pairs = [(taken(record), taken(known[task]["100 steps"])) for task, record in there.items()]
        times = float(np.median([lr / usual for lr, usual in pairs if lr and usual]))
        refused = np.mean([record["lr"] is None for record in there.values()])
        regrets = between(made.mean), *map(short, (made.median, made.ninetieth, made.worst))
        yield (name, f"{refused:.0%}", f"{times:.2f}", *regrets)


def farthest(known: Records, count: int = 15) -> Iterator[tuple[str, ...]]:
    """The tasks whose answers, the fallbacks included, lie farthest apart; an asterisk marks a fallback."""
    apart = {task: ratio([*by_name.values()], fallback=True) or 0.0 for task, by_name in known.items()}
    for task in sorted(apart, key=apart.__getitem__, reverse=True)[:count]:
        records = [known[task].get(name) for name in SETTINGS]
        yield (task, f"{load_truth()[task].best_lr:.2g}", *map(_told, records))


def _told(record: Record | None) -> str:
    if record is None:
        return ""
    lr = taken(record)
    return "none" if lr is None else f"{lr:.2g}{'' if record['lr'] else '*'}"


def print_tables(known: Records) -> None:
    """How far answers lie apart, and what they lose."""
    head = ("settings", "which", "tasks", "median", "90th pct", "largest", "to 1.5", "to 2.5", "verdict changes")
    print(table([head, *agreement(known)]), end="\n\n")
    columns = ("refused", "times 100 steps'", "mean regret", "median", "90th pct", "worst")
    for asked, names in {
        "all": (*SHORT, *(name for name in RANGES if name not in SHORT)),
        "firsts": (*SETTINGS,),
    }.items():
        there = {task: by_name for task, by_name in known.items() if set(names) <= set(by_name)}
        if there:
            print(table([(f"{asked}, {len(there)} tasks", *columns), *goodness(there, names)]), end="\n\n")
    print(table([("farthest apart", "best", *SETTINGS), *farthest(known)]), end="\n\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Whether the length and the range of a sweep move findlr's answer.")
    parser.add_argument("--tasks", nargs="*", help="these tasks; all if none is given")
    parser.add_argument("--fresh", action="store_true", help="those again that are there already")
    arguments = parser.parse_args()
    names = set(arguments.tasks or [task.name for task in TASKS])
    go("sweeps", chosen(names), partial(missing, {} if arguments.fresh else measured()), ask)
    known = measured()
    for title, splits in {"both halves": ("fit", "report"), "fit half": ("fit",), "report half": ("report",)}.items():
        part = {task: known[task] for task in known if load_truth()[task].split in splits}
        if part:
            print(f"{title}, {len(part)} tasks\n")
            print_tables(part)


if __name__ == "__main__":
    main()
