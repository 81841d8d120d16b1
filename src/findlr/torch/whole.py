"""A whole training of another framework: everything that its own call may change, and what its objects hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from findlr.search.interrupts import signals_wait
from findlr.torch.data.batches import TorchBatches
from findlr.torch.given import check_made
from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.snapshot.modes import remember_modes
from findlr.torch.snapshot.notes import Around, Attributes, Held, remember_rng
from findlr.torch.snapshot.reach import Reached, reached_from
from findlr.torch.snapshot.stores import StoreKind, free_memory, store_for
from findlr.torch.training import Training


class Whole(Attributes):
    """Remembers objects by their attributes, modules whole, places in data, and random states.

    The attributes are given back as they were, and the lists and dicts among them; of what those hold, modules are put
    back, and arrays and tensors, which may be data, are not.

    Args:
        objects: the framework's: a trainer and its parts.
        modules: what is trained.
        loaders: data that the call opens; what can be read only once is refused.
        holders: those among all these that are the user's own; what their objects hold is put back as ``Held`` says.
        devices: whose random states the call may move.
        snapshot: where the copies live; see ``Training``.

    Raises:
        ConfigurationError: a module has lazy layers, of which there is nothing to copy yet.
        LoaderError: a loader can be read only once.

    Example:
        >>> from types import SimpleNamespace
        >>> from findlr.search.restoring import restored
        >>> trainer = SimpleNamespace(steps=3, log=[0.5])
        >>> with restored(Whole([trainer], [nn.Linear(2, 1)])):
        ...     trainer.steps = 4
        ...     trainer.log.append(0.4)
        >>> trainer
        namespace(steps=3, log=[0.5])
    """

    def __init__(
        self,
        objects: Sequence[Any],
        modules: Sequence[nn.Module],
        *,
        loaders: Iterable[Any] = (),
        holders: Iterable[Any] = (),
        devices: Sequence[torch.device] = (),
        snapshot: StoreKind = "auto",
    ) -> None:
        check_made(t for module in modules for t in (*module.parameters(), *module.buffers()))
        super().__init__(*objects, worth=lambda _: False, devices=devices)
        self._modules, self._kind = modules, snapshot
        self._places = [TorchBatches(loader) for loader in loaders]
        self._holders = list(holders)

    @signals_wait
    def snapshot(self) -> TorchMemory:
        """Copies of everything."""
        memory = TorchMemory()
        self.remember(memory)
        memory.note_modules(self._modules)
        others = [each for each in self._owners if not any(each is holder for holder in self._holders)]
        Held(*self._holders, but=others).remember(memory)
        memory.copy(lambda nbytes: store_for(self._kind, nbytes, self._free))
        for batches in self._places:
            batches.remember(memory)
        remember_modes(self._devices, memory)
        remember_rng(self._devices, memory)
        return memory

    def _free(self, kind: str) -> list[int | None]:
        return [free_memory(each) for each in (self._devices if kind == "device" else [torch.device("cpu")])]


def hold(training: Training, *holders: Any, but: Any = None) -> Reached:
    """Let a search put back what a framework's objects hold beside what is trained, such as an average or a teacher.

    Args:
        training: whose steps change it.
        holders: containers of the attributes of such objects.
        but: the loader of the training.

    Returns:
        What they reach.
    """
    reached = reached_from(*holders)
    training.watched.append(Around(reached))
    training.restore += reached.modules  # whose modes an evaluation leaves alone
    training.include(replace(reached, modules=[]), but=but)
    return reached
