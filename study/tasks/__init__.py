"""The benchmark's tasks."""

from __future__ import annotations

from study.tasks import fit_basic, fit_former, fit_hard, fit_more, fit_other, optional, report_other, report_text
from study.tasks.task import OPTIMIZERS, SPLITS, Data, Setup, Task

REPORT: tuple[Task, ...] = report_text.TASKS + report_other.TASKS
TASKS: tuple[Task, ...] = (
    fit_basic.TASKS + fit_more.TASKS + fit_other.TASKS + fit_former.TASKS + fit_hard.TASKS + REPORT
)
OPTIONAL: tuple[Task, ...] = optional.available()


def task(name: str) -> Task:
    """The task of that name, the optional ones included."""
    return next(known for known in TASKS + OPTIONAL if known.name == name)


__all__ = ["OPTIMIZERS", "OPTIONAL", "REPORT", "SPLITS", "TASKS", "Data", "Setup", "Task", "task"]
