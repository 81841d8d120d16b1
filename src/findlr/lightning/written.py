"""Where a module keeps its rate: found out by asking ``configure_optimizers`` for other rates."""

# ruff: noqa: SLF001 - what Lightning has no public name for; docs/lightning.md lists it

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any

from findlr.search.trainable import Unwritten, restored
from findlr.torch.setting import facts_of, made_rates, share_of
from findlr.torch.snapshot.memory import Memory
from findlr.torch.snapshot.notes import remember_rng
from findlr.torch.training import Training

_RATES = ("lr", "learning_rate")  # where Lightning's own finder looks, too


def written_in(module: Any, training: Training, package: str) -> dict[str, Any]:
    """The facts of where the rate is written: the first number whose change the swept optimizers' groups follow.

    Args:
        module: in its ``fit``; it is as it was afterwards.
        training: of it and its optimizers.
        package: of Lightning's.
    """
    places = [next(i for i, each in enumerate(training.optimizers) if each is swept) for swept in training.swept]
    make = import_module(f"{package}.core.optimizer")._init_optimizers_and_lr_schedulers

    for where, holder, name in _numbers(module):

        def made_at(rate: float, holder: MutableMapping[str, Any] = holder, name: str = name) -> Iterator[float]:
            holder[name] = rate
            optimizers, schedulers = make(module)
            for optimizer in (optimizers[place] for place in places):
                own = (each.scheduler for each in schedulers if each.scheduler.optimizer is optimizer)
                yield from made_rates(optimizer, *own)

        with Unwritten(restored(_Made(module, training))):
            share = share_of(training.rates.ratios, made_at)
        if share is not None:
            return facts_of(where, share)
    return {}


def _numbers(module: Any) -> Iterator[tuple[str, MutableMapping[str, Any], str]]:
    """The numbers that may be a module's rate: the path, what holds it, and its name."""
    for where, holder in (("model", vars(module)), ("model.hparams", module.hparams)):
        for name in _RATES:
            if isinstance(holder.get(name), float):
                yield f"{where}.{name}", holder, name


class _Made:
    """What making optimizers may change: all of a module but the values of its tensors, and the random states."""

    def __init__(self, module: Any, training: Training) -> None:
        self._module, self._devices = module, training.devices

    def snapshot(self) -> Memory:
        memory = Memory()
        memory.note_modules([self._module])  # no ``copy`` follows, so that no weight is copied
        remember_rng(self._devices, memory)
        return memory

    def restore(self, snapshot: Memory) -> None:
        snapshot.put_back()
