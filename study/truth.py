"""Ground truth: every task trained over a grid of rates. Resumable; about an hour on one core.

    python -m study.truth              # run what is missing, then write truth.json
    python -m study.truth --aggregate  # only write truth.json from what is there

Phases, each for all tasks before the next: a factor-2 grid with one seed, widened until both edges are bad; two more
seeds where it matters; factor sqrt(2) around the best; two fresh seeds for every rate near the best, and five more
where chance is large. The best rate is the one with the lowest mean over all of these seeds, and L* is that mean: who
gets fresh seeds is decided without them, and the seeds are common to all rates, so that differences are of pairs;
`noise` says how much chance is left in them.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch

from study.regret import TRUTH
from study.rounds import Lines, Row, chosen, go
from study.tasks import Task
from study.tasks.pretrained import RUNS
from study.train import train, untrained_loss

COMMAND = "python -m study.truth"
RAW = RUNS / "truth"

SEEDS, FRESH_SEEDS, MORE_SEEDS = (0, 1, 2), (3, 4), (5, 6, 7, 8, 9)
CENTRES = {"SGD": 16, "SGD+momentum": 12, "Adam": 6, "AdamW": 6, "RMSprop": 4, "Adagrad": 10}  # half octaves
CENTRES |= {"Adam(.5)": 6, "Adafactor": 10, "Lion": -4, "Muon+AdamW": 8, "Adadelta": 20, "SignSGD": -4}
LOWEST, HIGHEST = -34, 40  # about 1e-8 to 1e3
MOST = {"Adafactor": 20}  # about 1: its own rule for the step is the lesser one from there on
BAD, POOR, NEAR = 0.9, 0.4, 0.03  # regrets: an edge may stop here; not worth three seeds; worth five
NOISY = 0.007  # a standard error, as a regret, that is worth ten seeds

Losses = dict[tuple[int, int], float]  # (half octave, seed) -> final held-out loss
Jobs = list[tuple[int, int]]


def rate(half_octave: int) -> float:
    """The rate at a place of the grid: 1e-3 times a power of the root of two."""
    return float(f"{1e-3 * 2 ** (half_octave / 2):.5g}")


class Runs:
    """The raw runs of one task, kept as JSON lines."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.name = task.name
        self.lines = Lines(RAW / f"{task.name}.jsonl")
        self.losses: Losses = {}
        self.untrained: dict[int, float] = {}
        self.seconds = 0.0
        for record in self.lines:
            self._take(record)

    def _take(self, record: Row) -> None:
        if "half_octave" in record:
            self.losses[int(record["half_octave"]), int(record["seed"])] = record["loss"]
            self.seconds += record["seconds"]
        else:
            self.untrained[int(record["seed"])] = record["untrained"]

    def _keep(self, record: Row) -> None:
        self._take(record)
        self.lines.add(record)

    def run(self, half_octave: int, seed: int) -> None:
        """Train once and keep the result."""
        if seed not in self.untrained:
            self._keep({"seed": seed, "untrained": untrained_loss(self.task, seed)})
        begin = time.perf_counter()
        loss = train(self.task, rate(half_octave), seed)
        seconds = round(time.perf_counter() - begin, 2)
        self._keep({"half_octave": half_octave, "seed": seed, "loss": loss, "seconds": seconds})

    def means(self, seeds: tuple[int, ...] | None = None) -> dict[int, float]:
        """The mean loss at each place of the grid, where all the ``seeds`` are there; by default of any seeds."""
        places = sorted({place for place, _ in self.losses})
        found = {}
        for place in places:
            have = {seed: loss for (at, seed), loss in self.losses.items() if at == place}
            if seeds is None or set(seeds) <= set(have):
                found[place] = float(np.mean([loss for seed, loss in have.items() if seeds is None or seed in seeds]))
        return found

    def regrets(self, seeds: tuple[int, ...] | None = None) -> dict[int, float]:
        """The normalised regret at each place, by the runs so far."""
        means = self.means(seeds)
        best = min(means.values())
        start = float(np.mean([self.untrained[seed] for seed in seeds or self.untrained]))
        return {place: (mean - best) / max(start - best, 1e-12) for place, mean in means.items()}


def scan(runs: Runs) -> Jobs:
    """One seed: a factor-2 grid of seven rates, then outwards until the edges are bad."""
    centre = CENTRES[runs.task.optimizer]
    todo = [(place, 0) for place in range(centre - 6, centre + 7, 2) if (place, 0) not in runs.losses]
    if todo:
        return todo
    regrets = {place: regret for place, regret in runs.regrets((0,)).items() if place % 2 == 0}
    low, high = min(regrets), max(regrets)
    lowest = [runs.losses[place, 0] for place in sorted(regrets)[:4]]
    diverged = lowest[0] == runs.untrained[0] != min(lowest)  # perhaps it is too high, not too low
    if (regrets[low] < BAD or diverged) and low > LOWEST:
        todo.append((low - (2 if regrets[low] < 0.6 or diverged else 4), 0))
    if regrets[high] < BAD and high < MOST.get(runs.task.optimizer, HIGHEST):
        todo.append((high + 2, 0))
    return todo


def repeat(runs: Runs) -> Jobs:
    """The other seeds, from the last poor rate below the good ones to the first poor one above."""
    regrets = runs.regrets((0,))
    best = min(regrets, key=regrets.__getitem__)
    upwards = [place for place in sorted(regrets) if place >= best]
    downwards = [place for place in sorted(regrets, reverse=True) if place < best]
    wanted = [place for side in (upwards, downwards) for place in _until_poor(side, regrets)]
    return [(place, seed) for place in wanted for seed in SEEDS if (place, seed) not in runs.losses]


def _until_poor(places: list[int], regrets: dict[int, float]) -> list[int]:
    """The places up to the first poor one, that one too."""
    poor = [i for i, place in enumerate(places) if regrets[place] >= POOR]
    return places[: poor[0] + 1] if poor else places


def refine(runs: Runs) -> Jobs:
    """Factor sqrt(2) around the best."""
    means = runs.means(SEEDS)
    best = min(means, key=means.__getitem__)
    wanted = (best - 1, best + 1)
    return [(place, seed) for place in wanted for seed in SEEDS if (place, seed) not in runs.losses]


def refresh(runs: Runs) -> Jobs:
    """Fresh seeds for all rates near the best: the lowest of many noisy means is too low."""
    near = [place for place, regret in runs.regrets(SEEDS).items() if regret < NEAR]
    return [(place, seed) for place in near for seed in FRESH_SEEDS if (place, seed) not in runs.losses]


def settle(runs: Runs) -> Jobs:
    """Five seeds more for all of those where chance is large against the differences that matter."""
    seeds = SEEDS + FRESH_SEEDS
    near = [place for place in runs.means() if all((place, seed) in runs.losses for seed in seeds)]
    best = min(near, key=runs.means(seeds).__getitem__)
    gain = _mean(runs.untrained, seeds) - runs.means(seeds)[best]
    if _noise(runs, near, best, seeds) < NOISY * gain:
        return []
    return [(place, seed) for place in near for seed in MORE_SEEDS if (place, seed) not in runs.losses]


PHASES: tuple[Callable[[Runs], Jobs], ...] = (scan, repeat, refine, refresh, settle)


def jobs(phase: Callable[[Runs], Jobs], runs: Runs) -> Iterator[tuple[int, int]]:
    """What a phase wants, asked again after each lot until it wants no more."""
    while lot := phase(runs):
        yield from lot


def _noise(runs: Runs, near: Sequence[int], best: int, seeds: Sequence[int]) -> float:
    """The typical standard error of the difference between a rate near the best and the best."""
    losses = runs.losses
    apart = [[losses[place, seed] - losses[best, seed] for seed in seeds] for place in near if place != best]
    return float(np.median(np.std(apart, axis=1, ddof=1))) / len(seeds) ** 0.5 if apart and len(seeds) > 1 else 0.0


def summary(runs: Runs) -> dict[str, object]:
    """What truth.json says about one task, from however many runs there are."""
    task = runs.task
    seeds: dict[int, list[int]] = {}
    for place, seed in sorted(runs.losses):
        seeds.setdefault(place, []).append(seed)
    most = max(map(len, seeds.values()))
    covered = [place for place in seeds if len(seeds[place]) == most]
    means = runs.means()
    best = min(covered, key=means.__getitem__)
    untrained = _mean(runs.untrained, seeds[best])
    gain = untrained - means[best]
    of_best = {seed: runs.losses[best, seed] for seed in seeds[best]}
    for place, had in seeds.items():  # those with fewer seeds: the same regret, on the scale of all seeds
        if len(had) < most:
            low, high = _mean(of_best, had), _mean(runs.untrained, had)
            means[place] = means[best] + gain * (means[place] - low) / (high - low)
    near = [place for place in covered if means[place] - means[best] < NEAR * gain]
    return {
        "family": task.family,
        "split": task.split,
        "optimizer": task.optimizer,
        "schedule": task.schedule,
        "total_steps": task.total_steps,
        "batch_size": task.batch_size,
        "complete": not any(phase(runs) for phase in PHASES),
        "untrained": _short(untrained),
        "best_lr": rate(best),
        "best_loss": _short(means[best]),
        "noise": _short(_noise(runs, near, best, seeds[best])),
        "seconds": round(runs.seconds),
        "rates": [
            [rate(at), _short(mean), [_short(runs.losses[at, seed]) for seed in seeds[at]]]
            for at, mean in means.items()
        ],
    }


def _mean(values: Mapping[int, float], keys: Sequence[int]) -> float:
    return float(np.mean([values[key] for key in keys]))


def _short(number: float) -> float:
    return float(f"{number:.5g}")


def aggregate() -> None:
    """Write truth.json from the raw runs; tasks that are not at hand now keep what it said."""
    kept = json.loads(TRUTH.read_text())["tasks"] if TRUTH.exists() else {}
    for task in chosen():
        runs = Runs(task)
        if runs.losses:
            kept[task.name] = summary(runs)
        elif task.name in kept:
            kept[task.name]["split"] = task.split
    header = {
        "command": COMMAND,
        "about": "rates: [rate, mean final held-out loss, losses of seeds 0, 1, ...]; a diverged run has the untrained "
        "loss; the mean of fewer seeds is put on the scale of all, at the same regret; noise: standard error of a "
        "difference between two rates near the best, paired by seed",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
    TRUTH.write_text(_compact({"header": header, "tasks": dict(sorted(kept.items()))}) + "\n")


def _compact(value: object, indent: str = "") -> str:
    """JSON with a line for each rate, not for each number."""
    if isinstance(value, dict):
        items = [f"{indent} {json.dumps(key)}: {_compact(item, indent + ' ')}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list):
        return "[\n" + ",\n".join(f"{indent} {json.dumps(item)}" for item in value) + f"\n{indent}]"
    return json.dumps(value)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Ground truth for the accuracy benchmark.")
    parser.add_argument("--aggregate", action="store_true", help="only write truth.json from the runs that are there")
    parser.add_argument("--tasks", nargs="*", help="only these tasks")
    parser.add_argument("--split", choices=("fit", "report"), help="only the tasks of this half")
    arguments = parser.parse_args()
    tasks = [Runs(task) for task in chosen(arguments.tasks) if arguments.split in (None, task.split)]
    for phase in () if arguments.aggregate else PHASES:
        go(phase.__name__, tasks, partial(jobs, phase), Runs.run)
        aggregate()
    aggregate()


if __name__ == "__main__":
    main()
