"""Lightning: a search inside a Trainer's own ``fit``, by its own steps, and nothing of it stays.

For ``lightning`` and ``pytorch_lightning``, whichever the Trainer is of.
"""

# ruff: noqa: SLF001 - what Lightning has no public name for; docs/lightning.md lists it

from __future__ import annotations

import logging
import math
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from copy import copy
from functools import partial
from importlib import import_module
from os import PathLike
from typing import Any, Unpack

import torch

from findlr.analysis.plan import Plan
from findlr.errors import ConfigurationError, MissingExtraError, OptimizerError
from findlr.finding import Finding
from findlr.finding.writing import write_rates
from findlr.search.failure import carry
from findlr.search.find import find
from findlr.search.interrupts import HeldSignals
from findlr.search.memory import Phase
from findlr.search.settings import Search, Settings, unknown_name
from findlr.search.trainable import Unwritten, restored
from findlr.torch.data.batches import Batches
from findlr.torch.data.nesting import own
from findlr.torch.losses import checked, kept_loss
from findlr.torch.own_step import OwnStep
from findlr.torch.planned import read_schedule, steps_in, stretched
from findlr.torch.snapshot.stores import StoreKind
from findlr.torch.step import Draw
from findlr.torch.trainable import TorchTrainable
from findlr.torch.training import Sweep, Training
from findlr.torch.whole import Whole

logger = logging.getLogger("findlr")

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
_DECIDE = ("BaseFinetuning", "GradientAccumulationScheduler", "ModelPruning")  # callbacks that decide what is trained
_RATES = ("lr", "learning_rate")  # what Lightning's own finder looks for
_TYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_MOST_BATCHES = 1000  # without a step


class How(Search, total=False):
    """What a search in a Trainer can be told."""

    schedule: Any
    total_steps: int | str | None
    warmup: float | None
    sweep: Sweep
    restore: Sequence[Any]
    snapshot: StoreKind


def find_lr(
    trainer: Any,
    model: Any,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    datamodule: Any = None,
    ckpt_path: str | PathLike[str] | None = None,
    **how: Unpack[How],
) -> Finding:
    """Find a good learning rate for the ``fit`` with the same arguments, and put everything back.

    The steps are Lightning's own, inside a ``fit`` that ends before its first one, so that hooks, precision, clipping
    and accumulation are the training's. The Trainer's callbacks and loggers take no part.

    Args:
        trainer: a Trainer of ``lightning`` or ``pytorch_lightning``, on one device.
        model: the LightningModule; a step of manual optimization must return its loss.
        train_dataloaders: this and what follows is as in ``Trainer.fit``.
        val_dataloaders: the first one scores the runs of ``verify``: by the loss that ``validation_step`` returns or,
            if it returns none, logs as its one value with "loss" in its name; or else by that of ``training_step``.
        datamodule: see ``Trainer.fit``.
        ckpt_path: the checkpoint that the ``fit`` will go on from.
        **how: the settings of ``findlr.find_lr`` from ``min_lr`` on. ``schedule`` and ``total_steps`` are the Trainer's
            unless they are given; ``sweep`` is an index, or the name of the submodule that an optimizer trains.

    Returns:
        The Finding.

    Raises:
        ConfigurationError: an argument that cannot work, or a Trainer that would take no step.

    Example:
        >>> import lightning as L
        >>> class Line(L.LightningModule):
        ...     def __init__(self, lr=1e-3):
        ...         super().__init__()
        ...         self.lr, self.layer = lr, torch.nn.Linear(2, 1)
        ...
        ...     def training_step(self, batch):
        ...         return (self.layer(batch) - 1).square().mean()
        ...
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=self.lr)
        >>> trainer = L.Trainer(accelerator="cpu", max_epochs=10, logger=False, enable_progress_bar=False)
        >>> batches = torch.utils.data.DataLoader(torch.ones(40, 2), batch_size=4)
        >>> find_lr(trainer, Line(), batches, progress=False).code()[:11]
        'model.lr = '

    Source:
        ``Tuner.lr_find`` takes the same arguments.
    """
    package, callback = _package(trainer), _Leaving(**how)
    kit, module = import_module(package), getattr(model, "_orig_mod", model)
    if not isinstance(module, kit.LightningModule):
        raise ConfigurationError(f"model must be a LightningModule of {package}, got {type(model).__name__}")
    _check(trainer)
    _check_callbacks(trainer)
    given = [each for each in (train_dataloaders, val_dataloaders, datamodule) if each is not None]
    data = [each for each in given if isinstance(each, kit.LightningDataModule)]
    combined = import_module(f"{package}.utilities.combined_loader").CombinedLoader
    loaders = [each if isinstance(each, combined) else combined(each) for each in given if each not in data]
    whole = Whole(
        *([*_parts(trainer, package), *data], [module]),
        loaders=[leaf for each in loaders for leaf in each.flattened],
        holders=[module, *data],
        devices=[trainer.strategy.root_device],
        snapshot=how.get("snapshot", "auto"),
    )
    signals, interrupt = HeldSignals(), signal.getsignal(signal.SIGINT)
    signals.hold()
    try:
        with Unwritten(restored(whole)) as memory, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`")  # that callbacks are missing
            callback.rewind = partial(memory.put_back, [Phase.RANDOM])
            trainer.callbacks, trainer.loggers, trainer.num_sanity_val_steps = [callback], _silent(trainer), 0
            vars(module)["configure_callbacks"] = list
            trainer.fit(model, train_dataloaders, val_dataloaders, datamodule, ckpt_path)
    except SystemExit as left:
        if not isinstance(left.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, interrupt)  # which Lightning has turned off
        raise left.__context__ from None
    finally:
        signals.release(lambda late: carry(late, callback.finding))
    if callback.error is not None:
        raise callback.error
    if callback.finding is None:
        raise ConfigurationError(
            f"fit would take no step (the Trainer is at step {trainer.global_step}): raise trainer.fit_loop.max_epochs "
            "or its max_steps, as for a fit that goes on"
        )
    return callback.finding


def _installed() -> Any:
    for name in sorted(_PACKAGES, key=lambda name: name not in sys.modules):  # importing a second one takes long
        with suppress(ModuleNotFoundError):
            return import_module(name)
    raise MissingExtraError.of("lightning", "lightning")


class FindLR(_installed().Callback):  # type: ignore[misc]
    """Searches at the first batch of a ``fit``, once all is set up and a checkpoint is loaded; then the training goes on.

    It searches once: not again in a later ``fit``, nor in one that goes on from a checkpoint made after the search. Put
    it last among the callbacks. While it searches, callbacks and loggers take no part.

    Args:
        apply: write the rates into the optimizer and its scheduler; where no rate is found, a warning says why.
        **how: as for ``find_lr``.

    Raises:
        ConfigurationError: an argument that cannot work.

    Example:
        >>> FindLR(apply=True, num_steps=200).finding is None  # until fit has called it
        True
    """

    def __init__(self, *, apply: bool = False, **how: Unpack[How]) -> None:
        super().__init__()
        for name in how:
            if name not in How.__annotations__:
                raise ConfigurationError(f"find_lr: {unknown_name(name, list(How.__annotations__))}")
        Settings.of({name: value for name, value in how.items() if name in Search.__annotations__})
        self.finding: Finding | None = None
        self._apply, self._how, self._is_over = apply, how, False

    def state_dict(self) -> dict[str, Any]:
        """That the search is over, for a checkpoint."""
        return {"is_over": True} if self._is_over else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Whether the search is over."""
        self._is_over = state_dict["is_over"]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Search at the first batch; called by Lightning."""
        if not self._is_over:
            self._is_over = True
            self._search(trainer, pl_module)

    def _search(self, trainer: Any, module: Any) -> None:
        shown: How = {} if trainer.progress_bar_callback is None else {"progress": False}  # theirs is on the screen
        _check(trainer)
        try:
            training, self.finding = _searched(trainer, module, **{**shown, **self._how})
        except BaseException as error:
            self.finding = getattr(error, "finding", None)
            raise
        if self._apply and self.finding.suggestion is None:
            logger.warning("no rate was found, so the training goes on at its own: %s", self.finding.why)
        elif self._apply:
            rates = iter(self.finding.lrs)
            for optimizer in training.swept:
                scheduler = next((each for each in training.schedulers if each.optimizer is optimizer), None)
                write_rates(optimizer, [next(rates) for _ in optimizer.param_groups], scheduler)


class _Leaving(FindLR):
    """Ends its ``fit``, and keeps what was raised: Lightning would make a Ctrl-C an exit of the process."""

    error: BaseException | None = None
    rewind: Callable[[], None]

    def _search(self, trainer: Any, module: Any) -> None:
        self.rewind()  # to the random states before fit, which has opened the loader: a training's first batches are met
        try:
            super()._search(trainer, module)
        except BaseException as error:  # noqa: BLE001 - find_lr raises it
            self.error = error
        raise import_module(f"{_package(trainer)}.utilities.exceptions")._TunerExitException


def _package(trainer: Any) -> str:
    """The package that a Trainer is of."""
    for kind in type(trainer).__mro__:
        package = kind.__module__.removesuffix(".trainer.trainer")
        if package in _PACKAGES:
            return package
    raise ConfigurationError(f"trainer must be a Trainer of lightning's, got {type(trainer).__name__}")


def _check(trainer: Any) -> None:
    if trainer.world_size > 1 or trainer.strategy.launcher is not None:
        raise ConfigurationError(
            f"the Trainer has {trainer.world_size} processes ({type(trainer.strategy).__name__}), and a search runs in "
            "one: search with Trainer(devices=1), and train with that rate"
        )
    if trainer.strategy.handles_gradient_accumulation:
        raise ConfigurationError(
            f"{type(trainer.strategy).__name__} takes the steps itself: search with Trainer(strategy='auto')"
        )


def _check_callbacks(trainer: Any) -> None:
    kinds = [kind.__name__ for each in trainer.callbacks for kind in type(each).__mro__]
    for name in filter(kinds.__contains__, _DECIDE):
        raise ConfigurationError(
            f"a {name} decides what is trained, and find_lr leaves the callbacks out: put findlr.lightning.FindLR() "
            "behind it among them, and call fit"
        )


def _parts(trainer: Any, package: str) -> list[Any]:
    """The Trainer and the objects of Lightning's in it: loops, connectors, the strategy, progress."""
    roots = {package.partition(".")[0], "lightning_fabric"}
    others = import_module(package).Callback, import_module(f"{package}.loggers").Logger, torch.nn.Module
    found, seen = [trainer], {id(trainer)}
    for part in found:  # which grows
        for value in vars(part).values():
            is_theirs = type(value).__module__.partition(".")[0] in roots and hasattr(value, "__dict__")
            if is_theirs and not isinstance(value, others) and id(value) not in seen:
                seen.add(id(value))
                found.append(value)
    return found


def _silent(trainer: Any) -> list[Any]:
    """Loggers that take everything and keep nothing."""
    return [import_module(f"{_package(trainer)}.loggers.logger").DummyLogger() for _ in trainer.loggers]


def _searched(
    trainer: Any,
    module: Any,
    *,
    schedule: Any = None,
    total_steps: int | str | None = None,
    warmup: float | None = None,
    sweep: Sweep = None,
    restore: Sequence[Any] = (),
    snapshot: StoreKind = "auto",
    **search: Unpack[Search],
) -> tuple[Training, Finding]:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    theirs = [*(config.scheduler for config in trainer.lr_scheduler_configs), *([] if scaler is None else [scaler])]
    named = _named(trainer.optimizers, module)
    chosen = list(named)[sweep] if isinstance(sweep, int) and sweep < len(named) else sweep
    training = Training(module, named, sweep=chosen, restore=[*restore, *theirs], snapshot=snapshot)
    training.check_parameters()
    validation = trainer.val_dataloaders if search.get("verify") else None
    if isinstance(validation, (list, tuple)):
        validation = next(iter(validation), None)
    step = _Step(training, trainer, validates=validation is not None)
    trainable = _Trainable.of(training, step, _loader(trainer), validation_loader=validation, place=step.placed)
    plan = _planned(trainer, trainable, schedule, total_steps, warmup)
    with ExitStack() as exits:
        for name in ("callbacks", "loggers"):
            exits.callback(partial(setattr, trainer, name, getattr(trainer, name)))
        trainer.callbacks, trainer.loggers = [], _silent(trainer)
        for name in ("log", "log_dict"):
            vars(module)[name] = step.logged
            exits.callback(partial(vars(module).pop, name))
        return training, find(trainable, plan, **search)


def _named(optimizers: Sequence[Any], module: Any) -> dict[int | str, Any]:
    """Optimizers by the submodule that each trains, or else by their place."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    trained = [[names.get(id(p), "") for group in each.param_groups for p in group["params"]] for each in optimizers]
    inside = [{name.partition(".")[0] for name in each} for each in trained]
    return {
        next(iter(parts)) if len(parts) == 1 and inside.count(parts) == 1 else i: optimizer
        for i, (parts, optimizer) in enumerate(zip(inside, optimizers, strict=True))
    }


def _planned(trainer: Any, trainable: TorchTrainable, schedule: Any, total_steps: Any, warmup: float | None) -> Plan:
    if total_steps is None and math.isfinite(trainer.estimated_stepping_batches):
        total_steps = trainer.estimated_stepping_batches
    total_steps = steps_in(total_steps, trainable.steps_per_epoch)
    configs = [each for each in trainer.lr_scheduler_configs if each.scheduler.optimizer is trainable.optimizer]
    is_stepped = trainer.lightning_module.automatic_optimization and schedule is None
    for config in configs if is_stepped else ():
        if config.interval == "step" or math.isfinite(trainer.num_training_batches):
            unit = config.frequency * (1 if config.interval == "step" else trainable.steps_per_epoch())
            return Plan(stretched(config.scheduler, total_steps, unit), total_steps, warmup=warmup)
    return Plan(*read_schedule(schedule or "constant", total_steps), warmup=warmup)


def _loader(trainer: Any) -> Any:
    combined, loader, limit = trainer.fit_loop._combined_loader, trainer.train_dataloader, trainer.num_training_batches
    whole = combined.flattened == [loader] and (not math.isfinite(limit) or limit == len(loader))
    return loader if whole else _Epochs(combined, limit)


class _Epochs:
    """The batches of an epoch, where those are not one whole loader's."""

    def __init__(self, combined: Any, limit: float) -> None:
        self.combined, self.loaders, self.limit = combined, combined.flattened, limit

    def __iter__(self) -> Iterator[Any]:
        combined = copy(self.combined)  # the fit has that one open
        combined.flattened = [Batches(loader).opened(loader) for loader in self.loaders]
        for i, (batch, *_) in enumerate(combined):
            if i >= self.limit:
                return
            yield batch

    def __len__(self) -> int:
        return int(self.limit)


class _Trainable(TorchTrainable):
    """Tells how the rate is given to the module, too."""

    def facts(self) -> dict[str, Any]:
        facts = super().facts()
        module = self.model
        package = sys.modules[type(module.trainer).__module__.partition(".")[0]]
        facts["versions"][package.__name__] = package.__version__
        given = {group.get(name) for group in self.optimizer.param_groups for name in ("lr", "initial_lr", "max_lr")}
        for where, holder in (("model", vars(module)), ("model.hparams", module.hparams)):
            for name in _RATES:
                if holder.get(name) in given - {None}:
                    return {**facts, "sets": f"{where}.{name}"}
        return facts


class _Step(OwnStep):
    """A step as Lightning's loop takes it: the module's hooks, and the strategy's precision, backward and clipping."""

    name = "training_step"

    def __init__(self, training: Training, trainer: Any, *, validates: bool) -> None:
        super().__init__(training, self._taken)
        module = trainer.lightning_module
        self._trainer, self._module, self._at, self._validates = trainer, module, 0, validates
        self._automatic = module.automatic_optimization
        self._divisor = trainer.accumulate_grad_batches if self._automatic else 1
        self.accumulation_steps = self._divisor if self._automatic else None
        self.autocast = _TYPES.get(trainer.precision_plugin.precision)
        if trainer.gradient_clip_val and self._automatic:
            by_value = trainer.gradient_clip_algorithm == "value"
            setattr(self, "clip_grad_value" if by_value else "clip_grad_norm", float(trainer.gradient_clip_val))
        takes = import_module(f"{_package(trainer)}.utilities.signature_utils").is_param_in_hook_signature
        if takes(module.training_step, "dataloader_iter", explicit=True):
            raise ConfigurationError("training_step(dataloader_iter) draws its own batches: let it take a batch")
        self._takes_index = takes(module.training_step, "batch_idx", min_args=2)
        self._seen: dict[str, Any] = {}  # what a validation step has logged

    def state_dict(self) -> dict[str, int]:
        return {"at": self._at}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._at = state["at"]

    def remembered(self) -> Sequence[Any]:
        """The place in the count of batches."""
        return [self]

    def logged(self, name: Any, value: Any = None, *_: Any, **__: Any) -> None:
        """What the module logs reaches no logger."""
        if not self._module.training:
            self._seen.update({name: value} if isinstance(name, str) else name)

    def placed(self, batch: Any) -> Any:
        """A batch that has gone through the hooks of its transfer."""
        batch = self._module._on_before_batch_transfer(self._trainer.precision_plugin.convert_input(batch), 0)
        return self._trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    def _taken(self, draw: Draw) -> Any:
        losses: list[Any] = []
        while not (self._counted.steps or self._counted.attempts or len(losses) == _MOST_BATCHES):
            losses += self._one(draw())
        return sum(losses) / len(losses) if losses else None

    def _one(self, batch: Any) -> list[Any]:
        """Go through one batch, which may end a step, and return its loss."""
        module, trainer, at, outputs = self._module, self._trainer, self._at, list[Any]()
        module.on_train_batch_start(batch, at)

        def closure() -> torch.Tensor:
            outputs.append(self._output(batch))
            loss = checked(self.name, outputs[-1].get("loss"))
            if at % self._divisor == 0:
                module.on_before_zero_grad(optimizer)
                module.optimizer_zero_grad(trainer.current_epoch, at, optimizer)
            trainer.strategy.backward(loss if self._divisor == 1 else loss / self._divisor, optimizer)
            outputs[-1]["loss"] = kept_loss(loss)
            return loss

        optimizer = trainer.optimizers[0]
        if not self._automatic:
            outputs.append(self._output(batch))
        elif (at + 1) % self._divisor:
            closure()
        else:
            module.optimizer_step(trainer.current_epoch, at, module.optimizers(), closure)
        module.on_train_batch_end(outputs[0], batch, at)
        self._at += 1
        return [each["loss"] for each in outputs[:1] if each.get("loss") is not None]  # LBFGS takes more

    def _output(self, batch: Any, step: str = "training_step") -> dict[str, Any]:
        output = getattr(self._trainer.strategy, step)(own(batch), *([self._at] if self._takes_index else []))
        return dict(output) if isinstance(output, Mapping) else {"loss": output}

    def loss(self, batch: Any) -> torch.Tensor:
        """The loss of a batch under the present weights: in eval mode the validation's, where that has one."""
        loss = None
        if self._validates and not self._module.training:
            loss = self._validation_loss(batch)
        return self._output(batch)["loss"] if loss is None else torch.as_tensor(loss)

    def _validation_loss(self, batch: Any) -> Any:
        self._seen.clear()
        self._trainer.validating = True
        try:
            loss = self._output(batch, "validation_step").get("loss")
        finally:
            self._trainer.training = True
        named = [value for name, value in self._seen.items() if "loss" in name]
        return named[0] if loss is None and len(named) == 1 else loss

    def why_no_loss(self) -> str | None:
        """Why there is none by itself, with manual optimization."""
        return None if self._automatic else "a step of manual optimization has no loss of one batch by itself"

    def why_not_together(self) -> str | None:
        return "the steps are Lightning's"
