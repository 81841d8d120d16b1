"""The benchmark's tasks."""

from __future__ import annotations

from study.tasks import (
    fit_basic,
    fit_former,
    fit_hard,
    fit_kinds,
    fit_more,
    fit_other,
    fit_text,
    optional,
    report_motion,
    report_sequence,
    report_tables,
    report_vision,
)
from study.tasks.task import OPTIMIZERS, SPLITS, Data, Setup, Task

FIT: tuple[Task, ...] = (
    fit_basic.TASKS + fit_more.TASKS + fit_other.TASKS + fit_former.TASKS + fit_hard.TASKS + fit_text.TASKS
    + fit_kinds.TASKS
)  # fmt: skip
REPORT: tuple[Task, ...] = report_vision.TASKS + report_sequence.TASKS + report_tables.TASKS + report_motion.TASKS
TASKS = FIT + REPORT
OPTIONAL: tuple[Task, ...] = optional.available()


def task(name: str) -> Task:
    """The task of that name, the optional ones included."""
    return next(known for known in TASKS + OPTIONAL if known.name == name)


__all__ = ["OPTIMIZERS", "OPTIONAL", "REPORT", "SPLITS", "TASKS", "Data", "Setup", "Task", "task"]
