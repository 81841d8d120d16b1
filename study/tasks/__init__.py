"""The benchmark's tasks."""

from __future__ import annotations

from study.tasks import fit_basic, fit_more, fit_other, optional, report_half
from study.tasks.task import OPTIMIZERS, SPLITS, Data, Setup, Task

TASKS: tuple[Task, ...] = fit_basic.TASKS + fit_more.TASKS + fit_other.TASKS + report_half.TASKS
OPTIONAL: tuple[Task, ...] = optional.available()


def task(name: str) -> Task:
    """The task of that name, the optional ones included."""
    return next(known for known in TASKS + OPTIONAL if known.name == name)


__all__ = ["OPTIMIZERS", "OPTIONAL", "SPLITS", "TASKS", "Data", "Setup", "Task", "task"]
