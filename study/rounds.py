"""The round that every recording script makes: task by task, what is missing is made, and kept before the next.

A round that ends early loses nothing; the next one goes on from there.

Example:
    >>> from tempfile import TemporaryDirectory
    >>> folder = TemporaryDirectory()
    >>> kept = Lines(Path(folder.name) / "first.jsonl")
    >>> def missing(task):
    ...     known = {(row["task"], row["seed"]) for row in kept}
    ...     return [(seed,) for seed in (0, 1) if (task.name, seed) not in known]
    >>> def make(task, seed):
    ...     weight = next(task.make(seed).model.parameters()).flatten()[0]
    ...     kept.add({"task": task.name, "seed": seed, "weight": weight.item()})
    >>> go("first", chosen(["mlp-teacher"]), missing, make)  # doctest: +ELLIPSIS
    first mlp-teacher: 2 in 0 s, at ...
    first: done in 0 s, at ...
    >>> go("first", chosen(["mlp-teacher"]), missing, make)  # doctest: +ELLIPSIS
    first: done in 0 s, at ...
    >>> folder.cleanup()
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from study.tasks import OPTIONAL, TASKS, Task

Row = dict[str, Any]
Job = tuple[Any, ...]  # what ``make`` is called with after the task


class Named(Protocol):
    """What a round goes over: a task, or what is kept of one."""

    @property
    def name(self) -> str:
        """The task's name."""


Each = TypeVar("Each", bound=Named)


class Lines:
    """A file of JSON lines, read from its beginning each time; several processes may add to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Row]:
        """The rows that are there; none if there is no file."""
        return map(json.loads, self.path.read_text().splitlines() if self.path.exists() else ())

    def add(self, *rows: Row) -> None:
        """Put rows at the end of the file, one after the other; it is made if it is not there."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(text)


def chosen(names: Collection[str] | None = None) -> tuple[Task, ...]:
    """The tasks of these names, the optional ones included; all if there are no names."""
    return tuple(task for task in TASKS + OPTIONAL if not names or task.name in names)


def go(
    title: str, tasks: Iterable[Each], missing: Callable[[Each], Iterable[Job]], make: Callable[..., object]
) -> None:
    """Make what is missing, on one core, and print a line for each task that something was made for.

    Args:
        title: what the lines begin with.
        tasks: in their order.
        missing: gives the jobs of a task that are not recorded yet; a generator sees what was made before.
        make: called with (task, *job), makes and records it.
    """
    torch.set_num_threads(1)
    begin = time.perf_counter()
    for task in tasks:
        start, made = time.perf_counter(), 0
        for job in missing(task):
            make(task, *job)
            made += 1
        if made:
            _tell(f"{title} {task.name}: {made} in", start)
    _tell(f"{title}: done in", begin)


def _tell(text: str, since: float) -> None:
    print(f"{text} {time.perf_counter() - since:.0f} s, at {time.strftime('%H:%M:%S')}", flush=True)
