"""A Trainer in its ``fit`` as a search sees it: its module and optimizers, its batches, its plan."""

# ruff: noqa: SLF001 - what Lightning has no public name for; docs/lightning.md lists it

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from functools import partial
from importlib import import_module
from typing import Any, Unpack

from findlr.analysis.length import steps_in
from findlr.analysis.plan import Plan
from findlr.errors import ConfigurationError, OptimizerError
from findlr.finding import Finding
from findlr.finding.schedulers import follows_metric, length_of, unwrapped
from findlr.finding.writing import check_apply
from findlr.lightning.step import LightningStep
from findlr.lightning.written import moves_of, schedulers_of, unit_of, written_in
from findlr.search.find import find
from findlr.search.settings import Search
from findlr.torch.data.batches import TorchBatches
from findlr.torch.planned import read_schedule
from findlr.torch.snapshot.notes import Held
from findlr.torch.snapshot.reach import Reached
from findlr.torch.snapshot.stores import StoreKind
from findlr.torch.trainable import TorchTrainable
from findlr.torch.training import Sweep, Training

logger = logging.getLogger("findlr")

PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def package_of(trainer: Any) -> str:
    """The package that a Trainer is of.

    Raises:
        ConfigurationError: it is no Trainer.
    """
    for kind in type(trainer).__mro__:
        package = kind.__module__.removesuffix(".trainer.trainer")
        if package in PACKAGES:
            return package
    raise ConfigurationError(f"trainer must be a Trainer of lightning's, got {type(trainer).__name__}")


def check(trainer: Any) -> None:
    """Refuse what has no steps that can be put back.

    Raises:
        ConfigurationError: processes that the Trainer starts itself, or a strategy that steps by itself.
    """
    name = type(trainer.strategy).__name__
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.strategy.launcher is not None and not getattr(environment, "creates_processes_externally", False):
        raise ConfigurationError(
            f"{name} starts processes of its own ({trainer.world_size}), which can't be searched in: start all of them "
            "by torchrun; or search with Trainer(devices=1, strategy='auto'), and train with that rate"
        )
    if trainer.strategy.handles_gradient_accumulation:
        raise ConfigurationError(f"{name} takes the steps itself: search with Trainer(strategy='auto')")


def leaves(data: Any, package: str) -> list[Any]:
    """The loaders in what a ``fit`` takes: one, a list or dict of them, or a CombinedLoader; None has none.

    (Lightning takes None and an empty list for a loader.)
    """
    combined = import_module(f"{package}.utilities.combined_loader").CombinedLoader
    found = (data if isinstance(data, combined) else combined(data)).flattened
    return [leaf for leaf in found if not (leaf is None or (isinstance(leaf, (list, dict)) and not leaf))]


def silence(trainer: Any, callbacks: list[Any]) -> None:
    """Give a Trainer these callbacks, and loggers and a profiler that take everything and keep nothing."""
    package = package_of(trainer)
    dummy = import_module(f"{package}.loggers.logger").DummyLogger
    trainer.callbacks, trainer.loggers = callbacks, [dummy() for _ in trainer.loggers]
    trainer.profiler = import_module(f"{package}.profilers").PassThroughProfiler()


def trainable_of(
    trainer: Any,
    *,
    sweep: Sweep = None,
    restore: Sequence[Any] = (),
    snapshot: StoreKind = "auto",
    verify: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> TorchTrainable:
    """A Trainer that is in its ``fit``, past the hooks of its start; see ``findlr.lightning.find_lr``.

    ``facts`` are those of the Finding, besides what is known of the training.

    Raises:
        OptimizerError: there is no optimizer.
    """
    if not any(each.param_groups for each in trainer.optimizers):  # Lightning's stands for None, and has none
        name = type(trainer.lightning_module).__name__
        raise OptimizerError(f"configure_optimizers of {name} gave no optimizer, so nothing trains: let it return one")
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    others = [*(config.scheduler for config in trainer.lr_scheduler_configs), *([] if scaler is None else [scaler])]
    by_place = any(isinstance(each, int) for each in (sweep if isinstance(sweep, (list, tuple)) else [sweep]))
    optimizers = trainer.optimizers if by_place else _named(trainer.optimizers, trainer.lightning_module)
    package, restore = package_of(trainer), [*restore, *others]
    framework = package.partition(".")[0]
    training = Training(
        trainer.lightning_module, optimizers, sweep=sweep, restore=restore, snapshot=snapshot, framework=framework
    )
    if trainer.strategy.model is not trainer.lightning_module:  # a wrapper around it
        training.include(Reached(modules=[trainer.strategy.model]))
    training.check_parameters()
    if trainer.datamodule is not None:  # whose hooks batches go through
        training.restore.append(Held(trainer.datamodule, but=[trainer, *training.modules]))
    validation = leaves(trainer.val_dataloaders, package) if verify else []
    step = LightningStep(training, trainer, package, validation_loaders=len(validation))
    data = _loader(trainer)
    first = next(iter(validation), None)
    made = TorchTrainable.of(training, step, data, validation_loader=first, facts=facts, place=step.placed)
    made.ends_short = True
    return made


def searched(
    trainer: Any,
    *,
    applies: bool,
    schedule: Any = None,
    total_steps: int | str | None = None,
    warmup: float | None = None,
    sweep: Sweep = None,
    restore: Sequence[Any] = (),
    snapshot: StoreKind = "auto",
    **search: Unpack[Search],
) -> tuple[Training, Finding]:
    """Search in it; the module's ``log`` and ``log_dict`` reach nobody meanwhile.

    Raises:
        ConfigurationError: the rate is to be applied, and a scheduler can't be given one; no step has been taken.
    """
    own = vars(trainer.lightning_module)
    with ExitStack() as exits:
        put = {"callbacks": trainer.callbacks, "_loggers": trainer._loggers, "profiler": trainer.profiler}
        exits.callback(partial(vars(trainer).update, put))
        bar = trainer.progress_bar_callback  # whose thread looks for it there
        silence(trainer, [] if bar is None else [bar])
        facts = dict[str, Any]()
        verify = search.get("verify", False)
        trainable = trainable_of(trainer, sweep=sweep, restore=restore, snapshot=snapshot, verify=verify, facts=facts)
        length = _length(trainer, put["callbacks"]) if total_steps is None else total_steps
        plan = _planned(trainer, trainable, schedule, length, warmup)
        for parts in schedulers_of(trainer, trainable.training, plan.total_steps) if applies else ():
            check_apply(*parts)
        facts |= written_in(trainer, trainable.training, package_of(trainer), plan.total_steps)
        for name in ("log", "log_dict"):
            own[name] = trainable.taker.log  # type: ignore[attr-defined]
            exits.callback(partial(own.pop, name))
        return trainable.training, find(trainable, plan, **search)


def _named(optimizers: Sequence[Any], module: Any) -> dict[str, Any]:
    """Each optimizer by the submodule that it alone trains, or else by its place."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    trained = [{names.get(id(p), "") for group in each.param_groups for p in group["params"]} for each in optimizers]
    inside = [{name.partition(".")[0] for name in each} for each in trained]
    keys = [min(each) if len(each) == 1 and inside.count(each) == 1 else str(i) for i, each in enumerate(inside)]
    return dict(zip(keys, optimizers, strict=True))


def _length(trainer: Any, callbacks: Sequence[Any]) -> int | None:
    """The optimizer steps of a ``fit``; None if it is endless, or its loaders have no length.

    Lightning's number does not follow a GradientAccumulationScheduler, and has the epoch that StochasticWeightAveraging
    adds, which renews the statistics of BatchNorm and takes no step.
    """
    steps = trainer.estimated_stepping_batches  # -1 is endless, too
    kinds = {kind.__name__: each for each in callbacks for kind in type(each).__mro__}
    averages, accumulates = map(kinds.get, ("StochasticWeightAveraging", "GradientAccumulationScheduler"))
    if (averages or accumulates) and trainer.max_epochs > 0 and 0 < steps < math.inf:
        epochs = min(trainer.max_epochs, averages.swa_end + 1) if averages else trainer.max_epochs
        fixed = trainer.accumulate_grad_batches
        each = [accumulates.get_accumulate_grad_batches(i) if accumulates else fixed for i in range(epochs)]
        trained = sum(math.ceil(trainer.num_training_batches / count) for count in each)
        steps = trained if trainer.max_steps < 0 else min(trained, trainer.max_steps)
    return steps if 0 < steps < math.inf else None


def _planned(trainer: Any, trainable: TorchTrainable, schedule: Any, total_steps: Any, warmup: float | None) -> Plan:
    """The plan that was given, and what is left open from the Trainer and the scheduler that it steps."""
    total_steps = steps_in(total_steps, trainable.steps_per_epoch)
    for config in trainer.lr_scheduler_configs if schedule is None else ():
        unit = unit_of(trainer, config)
        if unit is not None:
            if follows_metric(unwrapped(config.scheduler)):
                return Plan("constant", total_steps, warmup=warmup)  # until that stalls
            plan = Plan(*read_schedule(config.scheduler, total_steps, unit=unit), warmup=warmup)
            moves = moves_of(trainer, config, total_steps)
            if moves is not None and config.interval != "step":
                _warn_of_steps(config.scheduler, total_steps, moves)
            return plan
    return Plan(*read_schedule(schedule or "constant", total_steps), warmup=warmup)


def _warn_of_steps(scheduler: Any, total_steps: int, moves: int) -> None:
    """Warn of a scheduler that is made for all steps of the training, and moves once an epoch: Lightning's default."""
    own = length_of(unwrapped(scheduler)) or 0
    if own >= total_steps > moves:
        logger.warning(
            "this %s is made for %s steps, and Lightning moves it only %s times in this training: if it counts steps, "
            'let configure_optimizers return {"scheduler": scheduler, "interval": "step"} for it',
            type(unwrapped(scheduler)).__name__,
            own,
            moves,
        )


def _loader(trainer: Any) -> Any:
    combined, loader, limit = trainer.fit_loop._combined_loader, trainer.train_dataloader, trainer.num_training_batches
    is_whole = combined.flattened == [loader] and limit in (math.inf, TorchBatches(loader).length())
    return loader if is_whole else _Epochs(combined, limit)


class _Epochs:
    """The batches of an epoch, where they are not those of one whole loader."""

    def __init__(self, combined: Any, limit: float) -> None:
        self.combined, self.loaders, self.limit = combined, combined.flattened, limit

    def __iter__(self) -> Iterator[Any]:
        combined = copy(self.combined)  # because the fit has that one open
        combined.flattened = [TorchBatches(loader).opened(loader) for loader in self.loaders]
        for i, (batch, *_) in enumerate(combined):
            if i >= self.limit:
                return
            yield batch

    def __len__(self) -> int:
        if not math.isfinite(self.limit):
            raise TypeError("these loaders have no length")
        return int(self.limit)
