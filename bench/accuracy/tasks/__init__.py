"""The benchmark's tasks."""

from __future__ import annotations

from bench.accuracy.tasks import fit_half, optional, report_half
from bench.accuracy.tasks.task import SPLITS, Data, Setup, Task

TASKS: tuple[Task, ...] = fit_half.TASKS + report_half.TASKS
OPTIONAL: tuple[Task, ...] = optional.available()


def task(name: str) -> Task:
    """The task of that name, the optional ones included."""
    return next(known for known in TASKS + OPTIONAL if known.name == name)


__all__ = ["OPTIONAL", "SPLITS", "TASKS", "Data", "Setup", "Task", "task"]
