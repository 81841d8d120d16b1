"""PyTorch Ignite: ``find_lr(trainer, loader, to_save=...)``, in the words of its FastaiLRFinder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Unpack

import torch
from torch import nn

from findlr.analysis.given import check_takes
from findlr.errors import ConfigurationError, MissingExtraError
from findlr.finding import Finding
from findlr.search.find import find
from findlr.search.restoring import Unwritten, restored
from findlr.search.settings import Search
from findlr.torch.arguments import check_counts
from findlr.torch.losses import told_loss
from findlr.torch.own_step import DelegatedStep
from findlr.torch.planned import planned
from findlr.torch.snapshot.notes import Attributes, Held, Watched
from findlr.torch.snapshot.reach import reached_from
from findlr.torch.snapshot.stores import StoreKind
from findlr.torch.step import Draw, LossFn
from findlr.torch.trainable import TorchTrainable
from findlr.torch.training import Sweep, Training

try:
    from ignite.engine import Engine, Events, State
    from ignite.handlers.base_logger import BaseHandler, BaseLogger
    from ignite.handlers.checkpoint import Checkpoint
    from ignite.handlers.param_scheduler import BaseParamScheduler
except ImportError:
    raise MissingExtraError.of("pytorch-ignite", "ignite") from None

_LOGS = (BaseHandler, BaseLogger, Checkpoint)
_NO_LOSS = (
    "output_transform must return one number",
    "output_transform must give the loss of an iteration, got {}: output_transform=lambda output: output['loss'], say",
)


def find_lr(
    trainer: Engine,
    loader: Iterable[Any],
    *,
    to_save: Mapping[str, Any],
    gradient_accumulation_steps: int = 1,
    output_transform: Callable[[Any], Any] = lambda output: output,
    loss_fn: LossFn | None = None,
    validation_loader: Iterable[Any] | None = None,
    validation_every: int = 1,
    schedule: Any = "constant",
    total_steps: int | str | None = None,
    warmup: float | None = None,
    sweep: Sweep = "optimizer",
    snapshot: StoreKind = "auto",
    **search: Unpack[Search],
) -> Finding:
    """Find a learning rate for an Ignite trainer, and put everything back.

    Steps are the trainer's own process function. Of the handlers, only those of events that this function itself fires
    run, without Ignite's own that log, show or save.

    Args:
        trainer: the engine that trains.
        loader: the training batches, as for ``trainer.run``.
        to_save: what a step changes, by name, as for ``FastaiLRFinder.attach``: the "model", the "optimizer", a
            gradient scaler; anything with state_dict and load_state_dict.
        gradient_accumulation_steps: iterations to each optimizer step, at least 1.
        output_transform: gives the loss of an iteration from what the process function returns.
        loss_fn: ``loss_fn(model, batch)`` gives the loss of one batch, which a process function can't tell: then there
            is a control variate, and a race is scored on held-out examples.
        validation_loader: with ``loss_fn``: batches that a race is scored on, in place of some of ``loader``'s. Without
            a race, all of them make the validation loss along the sweep.
        validation_every: steps between two validation losses, at least 1.
        schedule: this and the next two are as in ``findlr.find_lr``; of Ignite's schedulers, an LRScheduler is known.
        total_steps: optimizer steps of the planned training, or a text such as "5 epochs".
        warmup: a share of the training, or steps.
        sweep: the name of the optimizer to sweep in ``to_save``, or a list of them.
        snapshot: where the copies live: "device", "cpu", "disk", or "auto".
        **search: the other settings of ``findlr.find_lr``: min_lr, max_lr, num_steps, verify, budget and so on.

    Returns:
        The Finding.

    Raises:
        ConfigurationError: an argument that cannot work; nothing has changed.

    Example:
        >>> import torch
        >>> from ignite.engine import create_supervised_trainer
        >>> net = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> trainer = create_supervised_trainer(net, optimizer, torch.nn.MSELoss())
        >>> loader = [(torch.ones(4, 2), torch.zeros(4, 1))] * 5
        >>> finding = find_lr(trainer, loader, to_save={"model": net, "optimizer": optimizer}, progress=False)
        >>> finding.apply(optimizer)
        >>> 0.001 < optimizer.param_groups[0]["lr"] < 10
        True
    """
    if not isinstance(trainer, Engine):
        raise ConfigurationError(f"trainer must be an ignite Engine, got {type(trainer).__name__}")
    check_counts(gradient_accumulation_steps=gradient_accumulation_steps)
    check_takes(output_transform, "output_transform", "output")
    if loss_fn is not None:
        check_takes(loss_fn, "loss_fn", "model", "batch")
    elif validation_loader is not None:
        raise ConfigurationError(
            "validation_loader goes with loss_fn, which gives the loss of one of its batches: give both or neither"
        )
    if isinstance(schedule, BaseParamScheduler) and not hasattr(schedule, "lr_scheduler"):  # a call would move it
        raise ConfigurationError(
            f"schedule is Ignite's {type(schedule).__name__}, whose rates can't be read beforehand: give its shape, a "
            'name such as "linear" or a function of the progress'
        )
    models, optimizers, others = _sorted(to_save)
    training = Training(models, optimizers, sweep=sweep, restore=others, snapshot=snapshot, framework="ignite")
    called = trainer._process_function, loss_fn  # noqa: SLF001 - no public name
    training.watched.append(Watched(*called))
    training.include(reached_from(*called), but=loader)
    training.check_parameters()
    state = Attributes(trainer.state, trainer, but=["dataloader", "batch", "output"])
    others = [trainer, trainer.state, loader, *training.modules, *training.optimizers]
    training.restore += [state, Held(*_of_custom_events(trainer), but=others)]
    with Unwritten(restored(state)):
        for handlers in _of_custom_events(trainer):
            handlers[:] = [each for each in handlers if not isinstance(_own(each[0]), _LOGS)]
        trainer.state.iteration = 0  # from which gradients are accumulated
        count = int(gradient_accumulation_steps)
        step = _Iterations(trainer, training, output_transform, loss_fn, count)
        trainable = TorchTrainable.of(
            training, step, loader, validation_loader=validation_loader, validation_every=validation_every
        )
        shape = getattr(schedule, "lr_scheduler", schedule)  # PyTorch's, inside an LRScheduler of Ignite's
        length = trainer.state.epoch_length  # of a run that has begun
        per_epoch = (lambda: math.ceil(length / count)) if length else trainable.steps_per_epoch
        plan = planned(shape, total_steps, warmup, per_epoch)
        _begin(trainer.state, trainable.batches.length(), plan.total_steps and plan.total_steps * count)
        return find(trainable, plan, **search)


def _of_custom_events(trainer: Engine) -> list[list[tuple[Any, ...]]]:
    """The lists of handlers, each with its arguments, of events that only the process function can fire."""
    return [each for event, each in trainer._event_handlers.items() if not isinstance(event, Events)]  # noqa: SLF001 - no public name


def _own(handler: Any) -> Any:
    """The handler inside a filter such as ``every=2``, or the object that it is a method of."""
    handler = getattr(handler, "_parent", lambda: handler)()
    return getattr(handler, "__self__", handler)


def _begin(state: State, length: int | None, total: int | None) -> None:
    """Let the state say what it says in a run over so many batches, in epochs of that length."""
    state.epoch_length = state.epoch_length or length
    if total is not None and state.epoch_length:
        state.max_epochs = math.ceil(total / state.epoch_length)


class _Iterations(DelegatedStep):
    """So many iterations of the trainer, which step its optimizer once."""

    name = "the process function"

    def __init__(
        self, trainer: Engine, training: Training, told: Callable[[Any], Any], loss_fn: LossFn | None, count: int
    ) -> None:
        super().__init__(training, accumulation_steps=count)
        self._trainer, self._told, self._loss_fn = trainer, told, loss_fn

    def called(self, draw: Draw) -> Any:
        """As the engine runs them, without its events."""
        state = self._trainer.state

        def one() -> Any:
            state.epoch = 1 + (state.iteration // state.epoch_length if state.epoch_length else 0)
            state.iteration, state.batch = state.iteration + 1, draw()
            state.output = self._trainer._process_function(self._trainer, state.batch)  # noqa: SLF001 - no public name
            return told_loss(self._told(state.output), *_NO_LOSS)

        return self.mean_of(one)

    def loss(self, batch: Any) -> torch.Tensor:
        """``loss_fn``'s of a batch."""
        assert self._loss_fn is not None
        return self._loss_fn(self._training.models[0], batch)

    def why_no_loss(self) -> str | None:
        """None where there is a ``loss_fn``."""
        return super().why_no_loss() if self._loss_fn is None else None

    def why_not_packed(self) -> str | None:
        """None: it goes where the process function goes."""
        return None


def _sorted(to_save: Any) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """The modules, the one called "model" first; the optimizers; and what else a step changes, but for engines."""
    given = dict(to_save) if isinstance(to_save, Mapping) else {}
    models = {name: part for name, part in given.items() if isinstance(part, nn.Module)}
    optimizers = {name: part for name, part in given.items() if isinstance(part, torch.optim.Optimizer)}
    if not (models and optimizers):
        raise ConfigurationError(
            'to_save must hold the model and the optimizer, as in {"model": model, "optimizer": optimizer}, got '
            + (", ".join(map(repr, given)) or type(to_save).__name__)
        )
    others = [p for name, p in given.items() if not (name in models or name in optimizers or isinstance(p, Engine))]
    return dict(sorted(models.items(), key=lambda item: item[0] != "model")), optimizers, others
