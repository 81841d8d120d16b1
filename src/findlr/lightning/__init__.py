"""Lightning: a search inside a Trainer's own ``fit``, by its own steps, and nothing of it stays.

For ``lightning`` and ``pytorch_lightning``, whichever the Trainer comes from.
"""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from os import PathLike
from typing import Any, Unpack

from torch import nn

from findlr.analysis.given import check_flags
from findlr.errors import ConfigurationError, MissingExtraError, RestoreError
from findlr.finding import Finding
from findlr.lightning.searching import PACKAGES, check, leaves, package_of, searched, silence
from findlr.lightning.written import write_all
from findlr.search.failure import carry
from findlr.search.interrupts import HeldSignals
from findlr.search.memory import Phase
from findlr.search.names import unknown_name
from findlr.search.restoring import Unwritten, restored
from findlr.search.settings import Search, Settings
from findlr.torch.deciding import decides
from findlr.torch.given import restorable
from findlr.torch.snapshot.stores import StoreKind
from findlr.torch.snapshot.stores import check as check_kind
from findlr.torch.training import Sweep
from findlr.torch.whole import Whole

__all__ = ["FindLR", "find_lr"]

logger = logging.getLogger("findlr")

_DECIDE = {"BaseFinetuning", "GradientAccumulationScheduler", "ModelPruning"}  # what is trained, of Lightning's own


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

    The search runs inside a ``fit`` that ends before its first step, so that hooks, precision, clipping and
    accumulation are the training's. Of the Trainer's callbacks, only those act that decide what is trained, such as
    BaseFinetuning, as they do before the first step. Its loggers and profiler take no part.

    Args:
        trainer: a Trainer of ``lightning`` or ``pytorch_lightning``; of several processes, if ``torchrun`` starts all.
        model: the LightningModule; with manual optimization, its training step must return the loss.
        train_dataloaders: this and what follows is as in ``Trainer.fit``.
        val_dataloaders: the first one scores the runs of ``verify``: by the loss that the validation step returns, or
            else logs as its one value with "loss" in its name, or else by the training step's.
        datamodule: see ``Trainer.fit``.
        ckpt_path: the checkpoint that the ``fit`` will go on from.
        **how: the settings of ``findlr.find_lr`` from ``min_lr`` on, and its ``restore`` and ``snapshot``. ``schedule``
            and ``total_steps`` are the Trainer's own unless given. ``sweep`` says which of several optimizers is swept:
            its place, or the name of the submodule that it trains.

    Returns:
        The Finding; its ``code()`` sets the number that the module makes its optimizer with, where there is one.

    Raises:
        ConfigurationError: an argument that cannot work, or a Trainer whose ``fit`` would take no step.

    Example:
        >>> import lightning as L, torch
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
        >>> trainer = L.Trainer(accelerator="cpu", max_epochs=10, barebones=True)
        >>> batches = torch.utils.data.DataLoader(torch.ones(40, 2), batch_size=4)
        >>> find_lr(trainer, Line(), batches, progress=False).code()[:11]
        'model.lr = '

    Source:
        The arguments are those of Lightning's ``Tuner.lr_find``.
    """
    package, callback = package_of(trainer), _Leaving(**how)
    kit, module = import_module(package), getattr(model, "_orig_mod", model)  # of a compiled one
    if not isinstance(module, kit.LightningModule):
        raise ConfigurationError(f"model must be a LightningModule of {package}, got {type(model).__name__}")
    check(trainer)
    given = [each for each in (train_dataloaders, val_dataloaders, datamodule) if each is not None]
    data = [each for each in given if isinstance(each, kit.LightningDataModule)]
    deciding, configured = _deciding(trainer.callbacks, kit), module.configure_callbacks
    whole = Whole(
        objects=[*_parts(trainer, package), *data, *deciding],
        modules=[module],
        loaders=[leaf for each in given if each not in data for leaf in leaves(each, package)],
        holders=[module, *data, *deciding],
        devices=[trainer.strategy.root_device],
        snapshot=how.get("snapshot", "auto"),
    )
    signals, interrupt = HeldSignals(), signal.getsignal(signal.SIGINT)
    signals.hold()
    try:
        try:
            with Unwritten(restored(whole)) as memory, warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`")  # that callbacks are missing
                callback.rewind = partial(memory.put_back, [Phase.RANDOM])
                silence(trainer, [*deciding, callback])
                trainer.num_sanity_val_steps = 0
                vars(module)["configure_callbacks"] = lambda: _deciding(configured(), kit)
                trainer.fit(model, train_dataloaders, val_dataloaders, datamodule, ckpt_path)
        except SystemExit as left:
            if not isinstance(left.__context__, KeyboardInterrupt):
                raise
            signal.signal(signal.SIGINT, interrupt)  # which Lightning has turned off
            raise left.__context__ from None
        except RestoreError as error:
            carry(error, callback.finding)
            raise
        return callback.told(trainer)
    finally:
        signals.release(lambda late: carry(late, callback.finding))


def _bases() -> list[Any]:
    """The Callback of each package that is in use; or of the one that is installed."""
    kits = [kit for kit in map(sys.modules.get, PACKAGES) if kit is not None]
    if not kits:
        there = [name for name in PACKAGES if find_spec(name.partition(".")[0])]
        try:
            kits = [import_module((*there, PACKAGES[0])[0])]
        except ImportError:
            raise MissingExtraError.of("lightning", "lightning") from None
    return [kit.Callback for kit in kits]


class FindLR(*_bases()):  # type: ignore[misc]
    """Searches at the first batch of a ``fit``, once all is set up and a checkpoint is loaded; then the fit goes on.

    It searches once: not again in a later ``fit``, nor in one that goes on from a checkpoint made since. Put it last
    among the callbacks. While it searches, callbacks, loggers and the profiler take no part.

    Args:
        apply: write the rates into the optimizer and its scheduler, and the number that the module makes them with;
            where none is found, a warning says why.
        **how: as for ``find_lr``.

    Raises:
        ConfigurationError: an argument that cannot work.

    Example:
        >>> FindLR(apply=True, num_steps=200).finding is None  # until a fit has begun
        True
    """

    def __init__(self, *, apply: bool = False, **how: Unpack[How]) -> None:
        super().__init__()
        for name in how:
            if name not in How.__annotations__:
                raise ConfigurationError(f"find_lr: {unknown_name(name, list(How.__annotations__))}")
        check_flags(apply=apply)
        Settings.of({name: value for name, value in how.items() if name in Search.__annotations__})
        restorable(how.get("restore", ()))
        check_kind(how.get("snapshot", "auto"))
        self.finding: Finding | None = None
        self._apply, self._how, self._is_over = apply, how, False

    def state_dict(self) -> dict[str, Any]:
        """Whether the search is over, for a checkpoint."""
        return {"is_over": True} if self._is_over else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Whether it was over, from a checkpoint."""
        self._is_over = state_dict["is_over"]

    def on_train_batch_start(self, trainer: Any, pl_module: nn.Module, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Search, at the first batch."""
        if not self._is_over:
            self._search(trainer)
            self._is_over = True

    def _search(self, trainer: Any) -> None:
        how: Any = {} if trainer.progress_bar_callback is None else {"progress": False}  # theirs is on the screen
        try:
            check(trainer)
            training, self.finding = searched(trainer, applies=self._apply, **{**how, **self._how})
        except BaseException as error:
            self.finding = getattr(error, "finding", None)
            raise
        if self._apply and self.finding.suggestion is None:
            logger.warning("no rate was found, and the training goes on at its own: %s", self.finding.why)
        elif self._apply:
            write_all(trainer, training, self.finding)


class _Leaving(FindLR):
    """Ends its ``fit``, and keeps what was raised: Lightning would make a Ctrl-C an exit of the process."""

    error: BaseException | None = None
    rewind: Callable[[], None]

    def told(self, trainer: Any) -> Finding:
        """The Finding, once ``fit`` is left."""
        if self.error is not None:
            raise self.error
        if self.finding is None:
            raise ConfigurationError(
                f"fit would take no step (the Trainer is at step {trainer.global_step}): raise "
                "trainer.fit_loop.max_epochs or trainer.fit_loop.epoch_loop.max_steps, as for a fit that goes on"
            )
        return self.finding

    def _search(self, trainer: Any) -> None:
        self.rewind()  # to the random states before fit, which has opened the loader: a training draws from there
        try:
            super()._search(trainer)
        except BaseException as error:  # noqa: BLE001 - find_lr raises it
            self.error = error
        raise import_module(f"{package_of(trainer)}.utilities.exceptions")._TunerExitException  # noqa: SLF001 - Lightning ends a fit by it


def _deciding(callbacks: Any, kit: Any) -> list[Any]:
    """Those of one or more callbacks that decide what is trained."""
    each_of = callbacks if isinstance(callbacks, Sequence) else [callbacks]
    return [
        each
        for each in each_of
        if decides(each, kit.Callback) or not _DECIDE.isdisjoint(kind.__name__ for kind in type(each).__mro__)
    ]


def _parts(trainer: Any, package: str) -> list[Any]:
    """The Trainer, and the objects of Lightning's in it: loops, connectors, the strategy, counters."""
    roots = {package.partition(".")[0], "lightning_fabric"}
    others = import_module(package).Callback, import_module(f"{package}.loggers").Logger, nn.Module
    found, seen = [trainer], {id(trainer)}
    for part in found:  # which grows
        for value in vars(part).values():
            is_theirs = type(value).__module__.partition(".")[0] in roots and hasattr(value, "__dict__")
            if is_theirs and not isinstance(value, others) and id(value) not in seen:
                seen.add(id(value))
                found.append(value)
    return found
