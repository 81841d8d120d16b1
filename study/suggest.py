"""What findlr suggests on the benchmark's tasks, into ``suggestions.json``. Resumable.

python -m study.suggest                                     # what is missing
python -m study.suggest --only quick --fresh                # quick again, after a change of its rule
python -m study.suggest --only verified_1 --tasks cnn-digits --seeds 0
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from findlr import Finding, __version__, find_lr, rules
from findlr.errors import NoSuggestionError
from study.answers import LONG, SEEDS, SUGGESTIONS, Record, add, load, source
from study.rounds import chosen, go
from study.tasks import Setup, Task
from study.train import started

ARTICLE_STEPS = 100  # at least, where an epoch is short

Ask = Callable[[Task, Setup, torch.optim.Optimizer], Finding]


def quick(task: Task, setup: Setup, optimizer: torch.optim.Optimizer) -> Finding:
    """``find_lr`` at its defaults, told what is planned."""
    plan = {"schedule": task.schedule, "total_steps": task.total_steps}
    return find_lr(setup.model, optimizer, setup.criterion, setup.loader, **plan)


def quick_plain(task: Task, setup: Setup, optimizer: torch.optim.Optimizer) -> Finding:
    """The same without the control variate."""
    plan = {"schedule": task.schedule, "total_steps": task.total_steps}
    return find_lr(setup.model, optimizer, setup.criterion, setup.loader, control_variate=False, **plan)


def article(_task: Task, setup: Setup, optimizer: torch.optim.Optimizer) -> Finding:
    """The article's sweep: one epoch, from 1e-8 to 10; its rule is asked afterwards."""
    steps = max(len(setup.loader), ARTICLE_STEPS)
    return find_lr(setup.model, optimizer, setup.criterion, setup.loader, num_steps=steps, control_variate=False)


def verified(budget: float | None, *, validation: bool = False) -> Ask:
    """``find_lr(verify=True)`` at a share of the planned training.

    Args:
        budget: the share; None for the default budget.
        validation: the race is scored on the validation loader's batches, not on some of the training's.
    """

    def ask(task: Task, setup: Setup, optimizer: torch.optim.Optimizer) -> Finding:
        return find_lr(
            setup.model,
            optimizer,
            setup.criterion,
            setup.loader,
            validation_loader=setup.validation_loader if validation else None,
            schedule=task.schedule,
            total_steps=task.total_steps,
            verify=True,
            budget=budget,
        )

    return ask


@dataclass(frozen=True)
class Finder:
    """One way to ask findlr.

    Args:
        ask: gives the Finding.
        for_task: whether the task is one of those asked.
    """

    ask: Ask
    for_task: Callable[[Task], bool] = lambda _task: True


FINDERS = {
    "quick": Finder(quick),
    "quick_plain": Finder(quick_plain),
    "article": Finder(article),
    "verified_0.1": Finder(verified(0.1), lambda task: task.total_steps >= LONG),
    "verified_0.5": Finder(verified(0.5)),
    "verified_1": Finder(verified(1.0)),
    "verified_3": Finder(verified(3.0)),
    "validated_1": Finder(verified(1.0, validation=True)),
}


def finding_of(name: str, task: Task, seed: int) -> Finding:
    """What a finder finds on a fresh set-up; see ``suggestion``."""
    return FINDERS[name].ask(task, *started(task, seed))


def suggestion(name: str, task: Task, seed: int) -> Record:
    """Ask on a fresh set-up of the seed.

    Args:
        name: a key of FINDERS.
        task: what to train.
        seed: of the weights, the order of the data and dropout.

    Returns:
        The record.
    """
    finding = finding_of(name, task, seed)
    kept = {
        "steps": round(finding.cost.steps, 2),
        "seconds": round(finding.cost.seconds, 3),
        "made_from": source(),
    }
    if name == "article":  # the bare rule: the article has no verdict
        try:
            return {"lr": rules.article(finding.curve).lr, "reason": None, **kept}
        except NoSuggestionError as error:
            return {"lr": None, "reason": str(error), **kept}
    kept["verdict"] = finding.verdict.name
    if finding.suggestion is None:
        fallback = None if finding.fallback is None else finding.fallback.lr
        return {"lr": None, "reason": finding.why, "interval": None, "fallback": fallback, **kept}
    return {"lr": finding.lr, "reason": None, "interval": list(finding.interval), **kept}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Record findlr's suggestions on the accuracy benchmark's tasks.")
    parser.add_argument("--only", nargs="*", choices=list(FINDERS), default=list(FINDERS), help="these finders")
    parser.add_argument("--tasks", nargs="*", help="these tasks; all if none is given")
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--fresh", action="store_true", help="those again that are there already")
    arguments = parser.parse_args()
    source()  # of the code that is loaded now
    for name in arguments.only:
        tasks = [task for task in chosen(arguments.tasks) if FINDERS[name].for_task(task)]
        go(name, tasks, partial(missing, name, arguments.seeds, fresh=arguments.fresh), partial(record, name))


def missing(name: str, seeds: Sequence[int], task: Task, *, fresh: bool = False) -> list[tuple[int]]:
    """The seeds that a finder has not been asked with yet or, if ``fresh``, all."""
    known = {} if fresh else load(SUGGESTIONS).get(task.name, {}).get(name, {})
    return [(seed,) for seed in seeds if str(seed) not in known]


def record(name: str, task: Task, seed: int) -> None:
    """Ask, and record the suggestion."""
    answers = {name: {seed: suggestion(name, task, seed)}}
    add(SUGGESTIONS, task.name, answers, {"findlr": __version__, "torch": torch.__version__})


if __name__ == "__main__":
    main()
