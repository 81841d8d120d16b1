"""Cost against quality: what each finder spends, and what its rates lose; nothing is trained.

python -m study.frontier                                       # the tables: the report half, and all tasks
python -m study.frontier --picture docs/img/frontier.png       # and the picture of both
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from study.picture import save
from study.regret import load
from study.report import BUDGETS, DEFAULT, QUICK, SINGLE, TITLES, WITH_FALLBACK, all_scores, between, short, table
from study.scores import Scores
from study.tasks import TASKS

COLUMNS = ("finder", "of a training", "steps", "mean regret", "median", "cost no more, and lose no more in the mean")
PARTS = ("finder", "steps", "sweep", "control variate", "race")
PLAIN = "findlr, one sweep without the control variate"
RATES = {DEFAULT: "default rates", SINGLE: "fitted rates"}  # nobody looked for them
SWEEPS = {  # title: words
    "Lightning": "Lightning",
    "fastai steep": "fastai steep",
    "torch-lr-finder": "torch-lr-finder",
    "fastai minimum": "fastai minimum",
    PLAIN: "findlr, no variate",
    "the article, one epoch": "the article",
    "Ignite": "Ignite",
    "fastai slide": "fastai slide",
    "fastai valley (its default)": "fastai valley",
}
VERIFIED = "findlr verified"
BLUE, GREEN, PURPLE, RED, ORANGE, GREY = "#0072B2", "#009E73", "#8C5AA8", "#B22222", "#E69F00", "#767676"
LINES = {  # title without its budget: words, colour, dashes, width
    "successive halving (Optuna)": ("successive halving", PURPLE, "-.", 1.6),
    "random search (Optuna)": ("random search", GREEN, "--", 1.6),
    "TPE (Optuna)": ("TPE", RED, ":", 1.8),
    "GP (Optuna)": ("GP", ORANGE, "-", 1.2),
    VERIFIED: ("findlr", BLUE, "-", 2.8),
}


@dataclass(frozen=True)
class Point:
    """What a finder costs and loses; each task counts the same.

    Args:
        score: of its answers.
        share: of the planned training that an answer costs.
    """

    score: Scores
    share: float

    @classmethod
    def of(cls, score: Scores) -> Point:
        """The point of a finder's answers."""
        by_task = [
            np.mean([answer.record["steps"] / answer.truth.total_steps for answer in answers])
            for answers in score.answers.values()
        ]
        return cls(score, float(np.mean(by_task)))

    @property
    def mean(self) -> float:
        """The mean regret."""
        return self.score.mean.mean

    def beats(self, other: Point) -> bool:
        """Whether it costs no more and loses no more in the mean, and less in one of them."""
        mine, others = (self.share, self.mean), (other.share, other.mean)
        return mine != others and mine[0] <= others[0] and mine[1] <= others[1]


def points(split: str) -> dict[str, Point]:
    """The finders that have answered, by title.

    Args:
        split: "report", "fit" or "all".
    """
    families = {task.name: task.family for task in TASKS}
    truths = {name: truth for name, truth in load().items() if name in families and split in ("all", truth.split)}
    return {name: Point.of(score) for name, score in all_scores(truths).items()}


def rows(found: Iterable[Point]) -> Iterator[tuple[str, ...]]:
    """The table, the cheapest first; rates that nobody looked for beat nobody."""
    found = sorted(found, key=lambda point: (point.share, point.mean))
    for point in found:
        better = [other.score.name for other in found if other.beats(point) and other.score.name not in RATES]
        yield (
            point.score.name,
            f"{point.share:.2f}",
            f"{point.score.steps:.0f}",
            between(point.score.mean),
            short(point.score.median),
            "; ".join(better),
        )


def parts(found: Mapping[str, Point]) -> Iterator[tuple[str, ...]]:
    """Where findlr's steps go; the same sweep was made without the control variate, too."""
    sweep, quick = found[PLAIN].score.steps, found[QUICK].score.steps
    for name, point in found.items():
        if name == QUICK or name.startswith(f"{VERIFIED}, budget"):
            whole = point.score.steps
            spent = (sweep, quick - sweep, whole - quick)
            yield (name, f"{whole:.0f}", *(f"{part:.0f} ({part / whole:.0%})" for part in spent))


def apart(places: Sequence[float], gap: float) -> list[float]:
    """The places, in their order, moved as little as keeps them ``gap`` apart.

    Example:
        >>> apart([0.0, 0.0, 5.0], 1.0)
        [-0.5, 0.5, 5.0]
    """
    order = np.argsort(places, kind="stable")
    groups: list[list[float]] = []  # of neighbours that touch: their places
    for place in np.array(places)[order].tolist():
        groups.append([place])
        while len(groups) > 1 and _first(groups[-1], gap) - _first(groups[-2], gap) < gap * len(groups[-2]):
            last = groups.pop()
            groups[-1] += last
    moved = [_first(group, gap) + gap * i for group in groups for i in range(len(group))]
    return np.array(moved)[np.argsort(order)].tolist()


def _first(group: Sequence[float], gap: float) -> float:
    """Where the first of a group stands, that is ``gap`` apart around its mean."""
    return float(np.mean(group)) - gap * (len(group) - 1) / 2


def panel(ax: Axes, shares: Mapping[str, float], values: Mapping[str, float]) -> None:
    """One measure of regret over the cost."""
    low, high = 0.7 * min(values[title] for title in shares if title.startswith(VERIFIED)), 1.2
    gap = np.log(high / low) / 19  # as high as a word
    heights = apart([np.log(values[title]) for title in SWEEPS], gap)
    for (title, words), height in zip(SWEEPS.items(), heights, strict=True):
        ax.plot(shares[title], values[title], "o", color=GREY, ms=4.5, zorder=3)
        ax.annotate(
            words,
            (shares[title], values[title]),
            (0.085, np.exp(height)),
            ha="right",
            va="center",
            fontsize=8.5,
            arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.5, "shrinkA": 1, "shrinkB": 3},
        )
    ends = []  # words, height, colour
    for title, words in RATES.items():
        ax.plot((0.1, 3.5), (values[title], values[title]), color=GREY, lw=1, ls=":")
        ends.append((words, values[title], GREY))
    for start, (words, colour, dashes, width) in LINES.items():
        names = sorted((name for name in shares if name.startswith(f"{start}, budget")), key=shares.__getitem__)
        if start == VERIFIED:
            names = [WITH_FALLBACK, *names]
        ax.plot(
            [shares[name] for name in names],
            [values[name] for name in names],
            dashes,
            marker="o",
            color=colour,
            lw=width,
            ms=5,
            zorder=4,
        )
        ends.append((words, values[names[-1]], colour))
    for (words, _, colour), height in zip(ends, apart([np.log(end[1]) for end in ends], gap), strict=True):
        ax.annotate(words, (3.9, np.exp(height)), color=colour, va="center", fontsize=9)
    for name, words in {WITH_FALLBACK: "sweep", **{f"{VERIFIED}, budget {b}": b for b in BUDGETS}}.items():
        place = (shares[name], values[name])
        ax.annotate(words, place, (-2, -16), textcoords="offset points", color=BLUE, fontsize=9, ha="center")
    ax.set(xscale="log", yscale="log", xlim=(0.012, 30), ylim=(low, high))


def draw(halves: Mapping[str, Mapping[str, Point]], path: Path) -> None:
    """Draw the mean and the median regret over the cost.

    Args:
        halves: title of a column -> title of a finder -> point.
        path: the PNG file.
    """
    mpl.use("Agg")
    figure, axes = plt.subplots(2, len(halves), figsize=(9.6, 9.0), sharex=True, squeeze=False, layout="constrained")
    for column, (title, found) in zip(axes.T, halves.items(), strict=True):
        shares = {name: point.share for name, point in found.items()}
        panel(column[0], shares, {name: point.mean for name, point in found.items()})
        panel(column[1], shares, {name: point.score.median for name, point in found.items()})
        column[0].set_title(title, fontsize=11)
        column[1].set_xlabel("steps spent, as a share of the planned training")
    axes[0, 0].set_ylabel("mean regret")
    axes[1, 0].set_ylabel("median regret")
    for ax in axes.flat:
        ax.set_xticks([0.1, 0.3, 1, 3], [".1", ".3", "1", "3"])
        ticks = [tick for tick in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0) if ax.get_ylim()[0] < tick]
        ax.set_yticks(ticks, [f"{tick:g}".removeprefix("0") for tick in ticks])
        ax.minorticks_off()
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="What each finder costs and loses, from what is recorded.")
    parser.add_argument("--picture", type=Path, help="draw both into this file")
    arguments = parser.parse_args()
    halves = {}
    for split, title in (("report", "the report half"), ("all", "all tasks")):
        found = points(split)
        halves[f"{title}, {len(found[QUICK].score.answers)}"] = found
        print(f"{len(found[QUICK].score.answers)} tasks{TITLES[split]}\n")
        print(table([COLUMNS, *rows(found.values())]), end="\n\n")
        print(table([PARTS, *parts(found)]), end="\n\n")
    if arguments.picture is not None:
        draw(halves, arguments.picture)


if __name__ == "__main__":
    main()
