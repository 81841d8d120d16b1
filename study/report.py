"""Print how good every finder's suggestions are, from what is recorded; nothing is trained.

python -m study.report                       # the report half
python -m study.report --split fit           # the half that rules and constants are fitted on
python -m study.report --split optional      # the tasks of tasks/optional.py that have a grid
python -m study.report --markdown --picture docs/img/accuracy.png    # the README's
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from findlr import Verdict
from study.answers import BASELINES, LONG, PEERS, SEEDS, SUGGESTIONS, Answers, Record, load, taken
from study.baselines import best_single, one_seed_grids
from study.regret import DEFAULT_LR, Truth
from study.regret import load as load_truth
from study.scores import Answer, Scores, Spread, scores
from study.tasks import TASKS

BUDGETS = ("0.5", "1", "3")
QUICK = "findlr, one sweep"
WITH_FALLBACK = "findlr, one sweep, its fallback where it refuses"
FINDLR = {
    "quick": QUICK,
    "quick_plain": "findlr, one sweep without the control variate",
    **{f"verified_{budget}": f"findlr verified, budget {budget}" for budget in BUDGETS},
    "validated_1": "findlr verified on validation batches, budget 1",
    "article": "the article, one epoch",
}
PEER_NAMES = {
    "fastai_minimum": "fastai minimum",
    "fastai_valley": "fastai valley (its default)",
    "fastai_slide": "fastai slide",
    "fastai_steep": "fastai steep",
    "torch_lr_finder": "torch-lr-finder",
    "torch_lr_finder_readme": "torch-lr-finder, as in its README",
    "ignite": "Ignite",
    "ignite_guide": "Ignite, as in its guide",
    "lightning": "Lightning",
}
SEARCHES = {
    "random": "random search (Optuna)",
    "tpe": "TPE (Optuna)",
    "gp": "GP (Optuna)",
    "halving": "successive halving (Optuna)",
}
TITLES = {
    "report": ", the report half",
    "fit": ", the fit half",
    "all": "",
    "optional": " on MNIST, Fashion-MNIST and Shakespeare, of kinds that are in the fit half",
}
DEFAULT, SINGLE = "the optimizer's default rate", "the best single rate per optimizer*"
GRID = "the best of a whole grid with one seed**"

COLUMNS = (
    "finder", "mean regret", "median", "90th pct", "worst", "within .01", "diverged", "refused", "seed to seed",
    "steps", "minus findlr's sweep",
)  # fmt: skip

NOTES = """
regret: (L(lr) - L*) / (L_untrained - L*) of the final held-out loss; in brackets 95 % of a bootstrap over tasks
a refusal is scored as the optimizer's default rate, but a race's as its fallback
within .01: the share of answers with a regret up to 0.01
seed to seed: the largest rate over the smallest, median and largest over tasks; a budget is a share of one training
* over the fit half: there it has seen the answers; ** that seed is one of those that judge it
"""


def all_scores(truths: Mapping[str, Truth], *, tenth: bool = False) -> dict[str, Scores]:
    """The scores of every finder that has answered any of the tasks, by its title.

    Args:
        truths: the tasks to score.
        tenth: the budgets are a tenth of a training only.
    """
    budgets = ("0.1",) if tenth else BUDGETS
    found: list[Scores | None] = []
    ours = {key: title for key, title in FINDLR.items() if not (tenth and key.startswith("v"))}
    ours |= {"verified_0.1": "findlr verified, budget 0.1"} if tenth else {}
    races = {key: ours.pop(key) for key in list(ours) if key.startswith("v")}
    found += _read(load(SUGGESTIONS), ours, truths)
    found += _read(_with_fallback(load(SUGGESTIONS)), {"quick": WITH_FALLBACK, **races}, truths)
    found += _read(load(PEERS), PEER_NAMES, truths)
    single = best_single({name: truth for name, truth in load_truth().items() if name in _usual_tasks()})
    for title, rates in ((DEFAULT, DEFAULT_LR), (SINGLE, single)):
        records = {name: {"0": _free(rates[truth.optimizer])} for name, truth in truths.items()}
        found.append(scores(title, records, truths))
    found.append(scores(GRID, one_seed_grids(), truths))
    searches = {f"{key}_{budget}": f"{title}, budget {budget}" for budget in budgets for key, title in SEARCHES.items()}
    found += _read(load(BASELINES), searches, truths)
    return {score.name: score for score in found if score is not None}


def _read(answers: Answers, titles: Mapping[str, str], truths: Mapping[str, Truth]) -> Iterator[Scores | None]:
    for key, title in titles.items():
        records = {task: finders[key] for task, finders in answers.items() if key in finders}
        yield scores(title, records, truths)


def _with_fallback(answers: Answers) -> Answers:
    """The same answers, where a refusal is what the Finding falls back to."""
    return {
        task: {
            finder: {seed: {**record, "lr": taken(record)} for seed, record in by_seed.items()}
            for finder, by_seed in finders.items()
        }
        for task, finders in answers.items()
    }


def _free(lr: float) -> Record:
    return {"lr": lr, "reason": None, "steps": 0}


def _usual_tasks() -> set[str]:
    return {task.name for task in TASKS}


def cells(score: Scores, quick: Scores | None) -> tuple[str, ...]:
    """A row of the table."""
    ratios = score.ratios
    spread = f"{np.median(ratios):.2f}, {ratios.max():.3g}" if ratios.size else "1" if score.steps == 0 else ""
    return (
        score.name,
        between(score.mean),
        short(score.median),
        short(score.ninetieth),
        short(score.worst),
        f"{score.within:.0%}",
        f"{score.diverged:.0%}",
        f"{score.refused:.0%}",
        spread,
        f"{score.steps:.0f}",
        "" if quick is None or score is quick else between(score.minus(quick)),
    )


def short(number: float) -> str:
    """Three decimals, without the zero in front."""
    return f"{number:.3f}".replace("0.", ".", 1)


def between(spread: Spread) -> str:
    """A mean and where 95 % of its bootstrap lie."""
    return f"{short(spread.mean)} ({short(spread.low)} to {short(spread.high)})"


def table(rows: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """The first row is the header."""
    if markdown:
        lines = [" | ".join(row) for row in rows]
        return "\n".join(f"| {line} |" for line in (lines[0], "|".join(["---"] * len(rows[0])), *lines[1:]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join((lines[0], "-" * len(lines[0]), *lines[1:]))


def print_table(found: Mapping[str, Scores], *, markdown: bool) -> None:
    """The finders by mean regret, the searches after them."""
    quick = found.get(QUICK)
    last = (*SEARCHES.values(), GRID)
    order = sorted(found.values(), key=lambda score: (score.name.startswith(last), score.mean.mean))
    print(table([COLUMNS, *(cells(score, quick) for score in order)], markdown=markdown))


def print_intervals(found: Mapping[str, Scores]) -> None:
    """How often findlr's 80 % intervals hold the best rate."""
    for score in found.values():
        if (intervals := score.intervals) is not None:
            covered, width = intervals
            print(f"{score.name}: covers the best rate {covered:.0%}, median width {width:.2f} decades")


def print_verdicts(found: Mapping[str, Scores]) -> None:
    """What one sweep's rates lose by its verdict, fallbacks included, and how they differ from seed to seed."""
    if WITH_FALLBACK not in found:
        return
    by_verdict: dict[str, list[Answer]] = {}
    for answer in found[WITH_FALLBACK].all:
        by_verdict.setdefault(answer.record["verdict"], []).append(answer)
    print()
    for verdict, answers in sorted(by_verdict.items(), key=lambda item: -len(item[1])):
        regrets = [answer.regret for answer in answers]
        of = "its fallback" if Verdict[verdict].refuses else "its rate"
        print(
            f"{verdict}, {of}: {len(answers)} sweeps, mean regret {short(float(np.mean(regrets)))}, "
            f"95th percentile {short(float(np.quantile(regrets, 0.95)))}"
        )
    whole = {task: answers for task, answers in found[QUICK].answers.items() if not any(a.refused for a in answers)}
    if (ratios := Scores(QUICK, whole).ratios).size:
        print(
            f"seed to seed, where every seed is answered: {np.median(ratios):.2f}, {ratios.max():.3g} "
            f"({len(ratios)} of {len(found[QUICK].answers)} tasks)"
        )
    print()


def print_against_searches(found: Mapping[str, Scores]) -> None:
    """The mean regret of a verified suggestion as a share of an equal-budget search's, on the tasks of both."""
    for budget in BUDGETS:
        ours = found.get(f"findlr verified, budget {budget}")
        for title in SEARCHES.values():
            theirs = found.get(f"{title}, budget {budget}")
            common = [task for task in ours.by_task if task in theirs.by_task] if ours and theirs else []
            if ours and theirs and common:
                mine, other = (np.mean([score.by_task[task] for task in common]) for score in (ours, theirs))
                print(f"{ours.name}: {mine:.4f}, {mine / other:.2f} of {theirs.name}'s {other:.4f}")


def missing(truths: Mapping[str, Truth], found: Mapping[str, Scores]) -> Iterator[str]:
    """What is not there yet, a line each."""
    if without := sorted(_usual_tasks() - set(load_truth())):
        yield f"no truth yet: {', '.join(without)}"
    if rough := sorted(truth.name for truth in truths.values() if not truth.complete):
        yield f"the grid is not complete yet: {', '.join(rough)}"
    for score in found.values():
        tasks, seeds = len(score.answers), min(map(len, score.answers.values()))
        if tasks < len(truths):
            yield f"{score.name}: {tasks} of {len(truths)} tasks"
        if seeds < len(SEEDS) and score.steps > 0:
            yield f"{score.name}: {seeds} of {len(SEEDS)} seeds"
        sources = {record["made_from"] for answer in score.all if (record := answer.record) and "verdict" in record}
        if len(sources) > 1:
            yield f"{score.name}: made by {len(sources)} states of findlr's code; run it again with --fresh"


def print_tasks(found: Mapping[str, Scores]) -> None:
    """The mean regret of findlr on each task."""
    ours = [score for score in found.values() if score.name.startswith("findlr")]
    tasks = sorted({task for score in ours for task in score.by_task})
    rows = [[task, *(short(s.by_task[task]) if task in s.by_task else "" for s in ours)] for task in tasks]
    print("\n" + table([["task", *(score.name.removeprefix("findlr").lstrip(", ") for score in ours)], *rows]))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="The accuracy benchmark's table, from what is recorded.")
    parser.add_argument("--split", choices=(*TITLES,), default="report")
    parser.add_argument("--markdown", action="store_true", help="tables for the README")
    parser.add_argument("--tasks", action="store_true", help="findlr's regret on each task")
    parser.add_argument("--picture", type=Path, help="draw the shares of regrets into this file")
    arguments = parser.parse_args()

    usual = _usual_tasks()
    known = {name: truth for name, truth in load_truth().items() if name in usual}
    truths = {name: truth for name, truth in known.items() if arguments.split in ("all", truth.split)}
    if arguments.split == "optional":
        truths = {name: truth for name, truth in load_truth().items() if name not in usual}
    found = all_scores(truths)
    print(f"{len(truths)} tasks{TITLES[arguments.split]}\n")
    print_table(found, markdown=arguments.markdown)
    print(NOTES)
    print_intervals(found)
    print_verdicts(found)
    print_against_searches(found)
    long = {name: truth for name, truth in known.items() if truth.total_steps >= LONG}
    print(f"\nthe tasks of 7,000 steps ({', '.join(sorted(long))}), at a budget of 0.1 of a training\n")
    print_table(all_scores(long, tenth=True), markdown=arguments.markdown)
    if arguments.tasks:
        print_tasks(found)
    if gaps := list(missing(truths, found)):
        print("\nmissing:", *gaps, sep="\n  ")
    if arguments.picture is not None:
        from study.picture import draw

        draw(found, arguments.picture)


if __name__ == "__main__":
    main()
