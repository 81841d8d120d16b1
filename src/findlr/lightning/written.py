"""Where a module keeps its rate, found out by asking ``configure_optimizers`` for other rates; and its highest one."""

# ruff: noqa: SLF001 - what Lightning has no public name for; docs/lightning.md lists it

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any

from findlr.analysis.text import rate_text
from findlr.errors import OptimizerError
from findlr.finding import Finding
from findlr.finding.writing import why_of, writer
from findlr.search.restoring import Unwritten, restored
from findlr.torch.setting import facts_of, made_rates, share_of
from findlr.torch.snapshot.notes import Attributes
from findlr.torch.training import Training

logger = logging.getLogger("findlr")

_RATES = ("lr", "learning_rate")  # where Lightning's own finder looks, too


def unit_of(trainer: Any, config: Any) -> int | None:
    """Optimizer steps to each move of a scheduler; None if an epoch has no length, or the module moves it by itself."""
    if not trainer.lightning_module.automatic_optimization:
        return None
    if config.interval == "step":
        return int(config.frequency)
    steps = trainer.num_training_batches / trainer.accumulate_grad_batches
    return config.frequency * math.ceil(steps) if math.isfinite(steps) else None


def moves_of(trainer: Any, config: Any, total_steps: int | None) -> int | None:
    """How often a scheduler moves in a training of so many steps; None where that is not known."""
    unit = unit_of(trainer, config)
    return None if unit is None or total_steps is None else math.ceil(total_steps / unit)


def written_in(trainer: Any, training: Training, package: str, total_steps: int | None) -> dict[str, Any]:
    """The facts of where the rate is written: the first number whose change the swept optimizers' groups follow.

    Args:
        trainer: in its ``fit``; its module is as it was afterwards.
        training: of the module and its optimizers.
        package: of Lightning's.
        total_steps: of the fit, where they are known.
    """
    module = trainer.lightning_module
    places = [next(i for i, each in enumerate(training.optimizers) if each is swept) for swept in training.swept]
    make = import_module(f"{package}.core.optimizer")._init_optimizers_and_lr_schedulers

    for where, holder, name in _numbers(module):

        def made_at(rate: float, holder: MutableMapping[str, Any] = holder, name: str = name) -> Iterator[float]:
            holder[name] = rate
            optimizers, schedulers = make(module)
            for optimizer in (optimizers[place] for place in places):
                own = [each for each in schedulers if each.scheduler.optimizer is optimizer]
                moves = [moves_of(trainer, each, total_steps) for each in own]
                within = min((each for each in moves if each is not None), default=None)
                yield from made_rates(optimizer, *(each.scheduler for each in own), within=within)

        with Unwritten(restored(Attributes(structures=[module], devices=training.devices))):
            share = share_of(training.rates.ratios, made_at)
        if share is not None:
            return facts_of(where, share)
    return {}


def schedulers_of(trainer: Any, training: Training, total_steps: int | None) -> Iterator[tuple[Any, Any, int | None]]:
    """Each swept optimizer, its scheduler or None, and how often that moves in a training of so many steps."""
    for optimizer in training.swept:
        scheduler = next((each for each in training.schedulers if each.optimizer is optimizer), None)
        moved = [each for each in trainer.lr_scheduler_configs if each.scheduler is scheduler]
        yield optimizer, scheduler, moves_of(trainer, moved[0], total_steps) if moved else None


def write_all(trainer: Any, training: Training, finding: Finding) -> None:
    """Write the rates into the swept optimizers and their schedulers, and into the module's number.

    Into none of them, with a warning, where one can't be given its rate.
    """
    rates = iter(finding.lrs)
    try:
        writes = [
            writer([optimizer], [next(rates) for _ in optimizer.param_groups], scheduler, within)
            for optimizer, scheduler, within in schedulers_of(trainer, training, finding.plan.total_steps)
        ]
    except OptimizerError as error:  # such as of a floor that is above the rate
        logger.warning(
            "the training goes on at its own rate, because %s can't be written: %s",
            rate_text(finding.lr),
            why_of(error),
        )
        return
    for write in writes:
        write()
    _write_into(trainer.lightning_module, finding)  # for what reads it later: a warmup by hand, say


def _write_into(module: Any, finding: Finding) -> None:
    """Write the rate that was found into the number that sets it, if there is one, as the line to paste does."""
    for where, holder, name in _numbers(module):
        if where == finding.facts.get("sets"):
            holder[name] = max(finding.lrs) * finding.facts.get("sets_share", 1.0)


def _numbers(module: Any) -> Iterator[tuple[str, MutableMapping[str, Any], str]]:
    """The numbers that may be a module's rate: the path, what holds it, and its name."""
    for where, holder in (("model", vars(module)), ("model.hparams", module.hparams)):
        for name in _RATES:
            if isinstance(holder.get(name), float):
                yield f"{where}.{name}", holder, name
