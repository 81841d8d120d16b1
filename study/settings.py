"""How momentum, weight decay and the batch size move the best rate, and how they move findlr's answer. Resumable.

    python -m study.settings                                     # what is missing, into settings.json; the tables
    python -m study.settings --picture docs/img/settings.png     # and the picture
    python -m study.settings --ask                               # asks findlr again, and keeps the grids

Each of six tasks of the fit half is trained on a grid of factor 2 at three values of the setting, three seeds each; the
best rate is where a parabola through the lowest mean and its neighbours is lowest. findlr answers with one sweep, the
median of three seeds. Weight decay is that of AdamW, which trains the tasks of Adam here. Another batch size takes as
many examples, so a batch four times as large takes a quarter of the steps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from findlr.analysis.race import Run
from findlr.analysis.runs import parabola
from findlr.errors import NoSuggestionError
from study.answers import SEEDS
from study.frontier import BLUE, GREY
from study.picture import save
from study.regret import Truth
from study.report import table
from study.rounds import chosen, go
from study.suggest import quick
from study.tasks import Setup, Task
from study.train import train, untrained_loss
from study.truth import CENTRES, rate

MEASURED = Path(__file__).parent / "settings.json"
WORSE = 0.1  # regret at which an end of the grid is far enough
FARTHEST = 10  # octaves of the grid from its centre

Cell = dict[str, Any]


@dataclass(frozen=True)
class Changed(Task):
    """A task whose optimizer has a setting of its own.

    Args:
        setting: the optimizer's keyword.
        value: of it.
    """

    setting: str = ""  # with a default, because Task's last field has one
    value: float = 0.0

    def make(self, seed: int) -> Setup:
        """The set-up of one seed."""
        setup = super().make(seed)
        return replace(setup, make_optimizer=partial(setup.make_optimizer, **{self.setting: self.value}))


def with_momentum(task: Task, value: float) -> Task:
    """The task by SGD of that momentum."""
    return Changed(**vars(task) | {"optimizer": "SGD", "setting": "momentum", "value": value})


def with_weight_decay(task: Task, value: float) -> Task:
    """The task by AdamW of that weight decay."""
    return Changed(**vars(task) | {"optimizer": "AdamW", "setting": "weight_decay", "value": value})


def with_batches_of(task: Task, value: float) -> Task:
    """The task on as many examples, in batches of another size."""
    size = int(value)
    return replace(task, batch_size=size, total_steps=task.total_steps * task.batch_size // size)


@dataclass(frozen=True)
class Setting:
    """What is changed.

    Args:
        title: of the panel.
        values: three.
        change: gives a task with one of them.
        tasks: their names.
    """

    title: str
    values: tuple[float, ...]
    change: Callable[[Task, float], Task]
    tasks: tuple[str, ...]


SETTINGS = {
    "momentum": Setting(
        "momentum of SGD",
        (0.0, 0.5, 0.9),
        with_momentum,
        ("mlp-digits", "mlp-teacher", "tabular-friedman", "quantiles-teacher", "motion-mlp", "cnn-groupnorm"),
    ),
    "weight decay": Setting(
        "weight decay of AdamW",
        (0.0, 0.1, 1.0),
        with_weight_decay,
        (
            "mlp-signals",
            "gated-clusters",
            "variational-digits",
            "tabular-breast_cancer",
            "surface-sines",
            "distilled-digits-adam",
        ),
    ),
    "batch size": Setting(
        "examples in a batch",
        (16, 64, 256),
        with_batches_of,
        ("mlp-digits", "mlp-teacher", "mlp-signals", "quantiles-friedman", "words-topics", "tabular-friedman"),
    ),
}


@dataclass(frozen=True)
class Job:
    """One value of a setting for one task."""

    setting: str
    task: Task
    value: float

    @property
    def name(self) -> str:
        """What the record is kept under."""
        return f"{self.setting} {self.value:g}: {self.task.name}"


def jobs() -> Iterator[Job]:
    """Everything that is measured."""
    for name, setting in SETTINGS.items():
        for task in chosen(setting.tasks):
            for value in setting.values:
                yield Job(name, setting.change(task, value), value)


def measured() -> dict[str, Cell]:
    """What is there, by the name of its job."""
    found: dict[str, Cell] = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    return found


def measure(job: Job) -> None:
    """Train the grid, ask findlr, and keep both."""
    task = job.task
    untrained = float(np.mean([untrained_loss(task, seed) for seed in SEEDS]))
    losses: dict[int, float] = {}

    def loss_at(place: int) -> float:
        if place not in losses:
            losses[place] = float(np.mean([train(task, _rate(task, place), seed) for seed in SEEDS]))
        return losses[place]

    for place in range(-2, 3):
        loss_at(place)
    for way in (-1, 1):
        while True:
            best = min(losses, key=losses.__getitem__)
            end = max(losses, key=lambda place: way * place)
            far = loss_at(end) - losses[best] > WORSE * (untrained - losses[best])
            if (far and end != best) or abs(end) >= FARTHEST:
                break
            loss_at(end + way)
    grid = [Run(_rate(task, place), task.total_steps, loss) for place, loss in sorted(losses.items())]
    cell = {
        "best_lr": parabola(grid)[0],
        "answers": [answer(task, seed) for seed in SEEDS],
        "untrained": untrained,
        "grid": [(run.lr, run.loss) for run in grid],
    }
    MEASURED.write_text(json.dumps({**measured(), job.name: cell}, indent=1) + "\n")


def ask_again() -> None:
    """Ask findlr anew about all that is measured."""
    cells = measured()
    torch.set_num_threads(1)
    for job in jobs():
        if job.name in cells:
            cells[job.name]["answers"] = [answer(job.task, seed) for seed in SEEDS]
    MEASURED.write_text(json.dumps(cells, indent=1) + "\n")


def _rate(task: Task, place: int) -> float:
    """The rate so many octaves above the grid's centre."""
    return rate(CENTRES[task.optimizer] + 2 * place)


def answer(task: Task, seed: int) -> float | None:
    """What one sweep answers; its fallback where it refuses."""
    setup = task.make(seed)
    optimizer = setup.make_optimizer(setup.model.parameters(), 1e-3)
    torch.manual_seed(seed)
    finding = quick(task, setup, optimizer)
    try:
        return finding.lr
    except NoSuggestionError:
        return None if finding.fallback is None else finding.fallback.lr


def truth(task: Task, cell: Cell) -> Truth:
    """What a grid says."""
    lrs, losses = zip(*cell["grid"], strict=True)
    return Truth(
        name=task.name,
        family=task.family,
        split=task.split,
        optimizer=task.optimizer,
        schedule=task.schedule,
        total_steps=task.total_steps,
        untrained=cell["untrained"],
        best_lr=cell["best_lr"],
        best_loss=min(losses),
        noise=0.0,
        lrs=lrs,
        losses=losses,
        complete=True,
    )


def found(setting: str, cells: Mapping[str, Cell]) -> dict[str, list[tuple[float, float, float]]]:
    """By task, at each value: the best rate, findlr's and its regret."""
    by_task: dict[str, list[tuple[float, float, float]]] = {}
    for job in jobs():
        if job.setting == setting:
            cell = cells[job.name]
            lr = float(np.median([lr for lr in cell["answers"] if lr is not None]))
            by_task.setdefault(job.task.name, []).append((cell["best_lr"], lr, truth(job.task, cell).regret(lr)))
    return by_task


def rows(setting: str, cells: Mapping[str, Cell]) -> Iterator[tuple[str, ...]]:
    """One task a line: the best rate and findlr's at each value; last, how far each moves in the geometric mean."""
    by_task = found(setting, cells)
    for task, at_values in by_task.items():
        yield (task, *(f"{best:.2g} / {lr:.2g} ({lost:.3f})" for best, lr, lost in at_values))
    whole = np.array(list(by_task.values()))
    moved = np.exp(np.log(whole[:, :, :2] / whole[:, :1, :2]).mean(axis=0))
    lost = whole[:, :, 2].mean(axis=0)
    yield (
        "all, times the first value's",
        *(f"{b:.2f} / {a:.2f} ({r:.3f})" for (b, a), r in zip(moved, lost, strict=True)),
    )


def panel(ax: Axes, setting: str, cells: Mapping[str, Cell]) -> None:
    """Rates over the values of one setting, each as a multiple of its task's mean."""
    every = np.array(list(found(setting, cells).values()))[:, :, :2]
    shifts = np.log2(every) - np.log2(every).mean(axis=1, keepdims=True)
    places = range(len(SETTINGS[setting].values))
    for which, colour, words in ((0, GREY, "the best rate of a grid"), (1, BLUE, "findlr, one sweep")):
        for line in shifts[:, :, which]:
            ax.plot(places, 2**line, color=colour, lw=0.8, alpha=0.5)
        ax.plot(places, 2 ** shifts[:, :, which].mean(axis=0), "o-", color=colour, lw=2.8, label=words)
    ax.set(yscale="log", xlabel=SETTINGS[setting].title)
    ax.set_xticks(places, [f"{value:g}" for value in SETTINGS[setting].values])
    ax.set_yticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"], minor=False)
    ax.minorticks_off()
    ax.spines[["top", "right"]].set_visible(False)


def draw(cells: Mapping[str, Cell], path: Path) -> None:
    """Draw how rates move, a panel for each setting."""
    mpl.use("Agg")
    figure, axes = plt.subplots(1, len(SETTINGS), figsize=(9.6, 3.8), sharey=True, layout="constrained")
    for ax, setting in zip(axes, SETTINGS, strict=True):
        panel(ax, setting, cells)
    axes[0].set_ylabel("rate, times the task's mean")
    axes[0].legend(frameon=False, fontsize=9)
    save(figure, path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="How momentum, weight decay and the batch size move the best rate.")
    parser.add_argument("--picture", type=Path, help="draw it into this PNG file")
    parser.add_argument("--ask", action="store_true", help="ask findlr again, and keep the grids")
    arguments = parser.parse_args()
    if arguments.ask:
        ask_again()
    go("settings", jobs(), lambda job: [] if job.name in measured() else [()], measure)
    cells = measured()
    for name, setting in SETTINGS.items():
        head = (f"{name}: best / findlr (its regret)", *(f"{value:g}" for value in setting.values))
        print(table([head, *rows(name, cells)]), end="\n\n")
    if arguments.picture:
        draw(cells, arguments.picture)


if __name__ == "__main__":
    main()
