"""What a Trainer changes besides its model and its optimizer, and the way back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from transformers import Trainer

from findlr.search.failure import carry
from findlr.search.interrupts import HeldSignals, signals_wait
from findlr.search.trainable import Unwritten, restored
from findlr.torch.snapshot.memory import Memory
from findlr.torch.snapshot.notes import remember_rng

DATA = ("train_dataset", "eval_dataset")
_MOST_ITEMS = 1_000  # of a container; a longer one is data


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
        with Unwritten(restored(Whole(trainer))):
            function()
    finally:
        signals.release(lambda late: carry(late, finder.finding))


class Whole:
    """What ``train`` changes before its first step."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def snapshot(self) -> Memory:
        """The attributes of the trainer and of its parts, the structure of its model, and the random states."""
        trainer, memory = self._trainer, Memory()
        for optimizer in (trainer.optimizer, getattr(trainer.optimizer, "optimizer", None)):
            if optimizer is not None:
                memory.note(vars(optimizer), objects=True, worth=lambda value: value.ndim == 0)
        note_trainer(trainer, memory)
        memory.copy()
        memory.note_modules([trainer.model])  # after the copies: all but the values of its tensors
        configs = [getattr(trainer.model, name, None) for name in ("config", "generation_config")]
        for owner in (trainer.accelerator, *filter(None, configs)):
            memory.note_attributes(owner)
        remember_rng([trainer.args.device], memory)
        return memory

    def restore(self, snapshot: Memory) -> None:
        """Put everything back."""
        snapshot.put_back()


def note_trainer(trainer: Trainer, memory: Memory) -> None:
    """Note what a step changes in the trainer itself: attributes, containers, logs."""
    for owner in (trainer, trainer.callback_handler):
        memory.note_attributes(owner)
    own = [value for name, value in vars(trainer).items() if name not in DATA]
    memory.note(*[value for value in own if isinstance(value, (dict, list, set, deque)) and len(value) <= _MOST_ITEMS])
    memory.note(vars(trainer.control), vars(trainer.state))
