"""What a Trainer changes besides its model and its optimizer, and the way back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from findlr.search.failure import carry
from findlr.search.interrupts import HeldSignals, signals_wait
from findlr.search.objects import MOST_ITEMS
from findlr.search.restoring import Unwritten, restored
from findlr.torch.deciding import decides
from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.snapshot.notes import Attributes, Held

DATA = ("train_dataset", "eval_dataset")
_LOADERS = ("train_dataloader", "eval_dataloader")  # of its callback handler


@signals_wait
def protected(trainer: Trainer, function: Callable[[], None], finder: Any) -> None:
    """Call ``function``, and put back what it has changed in the trainer, on any exit.

    Args:
        trainer: what is protected, but for the values of its tensors: those are a search's own to put back.
        function: it calls ``train``, or searches in the midst of it; signals act in it.
        finder: its ``finding`` is what an exception carries that comes late.
    """
    signals = HeldSignals()
    try:
        signals.hold()
        with Unwritten(restored(around(trainer))):
            function()
    finally:
        signals.release(lambda late: carry(late, finder.finding))


def own(trainer: Trainer) -> Attributes:
    """What a step changes in the trainer itself: attributes, containers, logs."""
    return Attributes(*_owners(trainer), but=_data_in(trainer))


def around(trainer: Trainer) -> Attributes:
    """What ``train`` changes before its first step: the structure of its model and optimizer among that."""
    model, optimizer = trainer.model, trainer.optimizer
    configs = [getattr(model, name, None) for name in ("config", "generation_config")]
    return _Around(
        *(*_owners(trainer), trainer.accelerator, *filter(None, configs)),
        but=_data_in(trainer),
        structures=filter(None, [model, optimizer, getattr(optimizer, "optimizer", None)]),
        devices=[trainer.args.device],
    )


class _Around(Attributes):
    """And what its callbacks hold that decide what is trained."""

    def remember(self, memory: TorchMemory) -> None:
        super().remember(memory)
        trainer = self._owners[0]
        Held(*deciding(trainer), but=[*self._owners, *self._structures, trainer.args]).remember(memory)


def deciding(trainer: Trainer) -> list[Any]:
    """Those of its callbacks that decide what is trained."""
    return [each for each in trainer.callback_handler.callbacks if decides(each, TrainerCallback)]


def _owners(trainer: Trainer) -> tuple[Any, ...]:
    return trainer, trainer.callback_handler, trainer.control, trainer.state


def _data_in(trainer: Trainer) -> Iterator[str]:
    yield from (*DATA, *_LOADERS)
    for name, value in vars(trainer).items():
        is_long = isinstance(value, (dict, list, set, deque)) and len(value) > MOST_ITEMS
        if is_long or isinstance(value, torch.Tensor):
            yield name
