"""Batches of a PyTorch loader: what its passes change, and how to open it without ending a pass of the user's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from findlr.search.batches import Batches, Remembers, has_state
from findlr.search.memory import Memory
from findlr.search.objects import SMALL_BYTES, refill, refill_if_changed
from findlr.search.splitting import Parts
from findlr.torch.data import nesting
from findlr.torch.data.splitting import innermost, split, twin
from findlr.torch.snapshot.drawn import is_open, warn_of_draws
from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.snapshot.notes import note_stateful, remember_torch_rng
from findlr.torch.snapshot.reach import generators_in
from findlr.torch.snapshot.stores import bytes_of

logger = logging.getLogger("findlr")


class TorchBatches(Batches):
    """An endless stream of batches; see ``findlr.search.batches.Batches``.

    Args:
        loader: a DataLoader, or anything else that can be iterated again.
        device: where ``keep`` keeps batches.
        consume: take a one-shot iterator, and use its batches up; None is no, where the caller has no such argument.
        name: what the caller calls the loader.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        device: torch.device | None = None,
        *,
        consume: bool | None = None,
        name: str = "loader",
    ) -> None:
        super().__init__(loader, consume=consume, name=name)
        self._device = device or torch.device("cpu")
        source = loader if type(loader) is DataLoader else innermost(loader)
        self._holds_iterator = isinstance(source, DataLoader) and (source.persistent_workers or has_state(loader))
        self._sibling: tuple[Any, Any] = (None, None)  # a loader, and what is opened in its place
        self._keeper = _keeper_of_streams(source)
        _warn_of_streams(loader)

    def new_memory(self) -> Memory:
        """A memory of tensors."""
        return TorchMemory()

    def opened(self, loader: Iterable[Any]) -> Iterable[Any]:
        """The loader itself; or one like it if the loader holds an iterator, because the user may have that open.

        It holds one if its workers persist; torchdata's loader always does. Each pass opens the same one, because it
        may count them: Accelerate's loaders shuffle by that number.
        """
        if not self._holds_iterator:
            return loader
        sibling: Iterable[Any] = self._sibling_of(loader)
        changes: dict[str, Any] = {"_iterator": None, "persistent_workers": False}
        if hasattr(loader, "_initial_iter_for_state_dict"):  # torchdata's, which made an iterator to learn its state
            changes["_initial_iter_for_state_dict"] = False
        vars(innermost(sibling)).update(changes)  # not setattr, because a DataLoader does not let some be set
        return sibling

    def _sibling_of(self, loader: Iterable[Any]) -> Any:
        if self._sibling[0] is not loader:
            self._sibling = loader, twin(loader)
        return self._sibling[1]

    def shut(self, iterator: Iterator[Any]) -> None:
        """End the workers; an exception's traceback would keep them alive, so garbage collection is not enough."""
        shut_down = getattr(iterator, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()

    def remember(self, memory: Memory) -> None:
        """Remember the place in the data; warn of what a dataset keeps open from one pass to the next."""
        super().remember(memory)
        if (keeper := self._keeper) is not None:
            assert isinstance(memory, TorchMemory)
            kept = getattr(keeper, "__dict__", {}).items()
            streams = [(f"{name} of {type(keeper).__name__}", value) for name, value in kept if is_open(value)]
            warn_of_draws(streams, memory, "let its __iter__ make one for each pass")

    def remember_loader(self, memory: Memory) -> None:
        """The loader's attributes, its samplers, and its state; a DataLoader's state is kept by its sibling."""
        assert isinstance(memory, TorchMemory)
        if not isinstance(self.loader, DataLoader) and has_state(self.loader):
            note_stateful(self.loader, memory)
        note_samplers(self.loader, memory)
        if self._holds_iterator:
            self._sibling_of(self._source)  # one for all passes, made before the first is noted
            note_samplers(self._sibling[1], memory)
            memory.add(partial(setattr, self, "_sibling", self._sibling), name="the loader that is opened")
        if self._generators is None:
            self._generators = generators_in(self.loader, self._holders, orders=True)
        memory.note(*self._generators)
        memory.each(refill_if_changed, self._holders, map(copy, self._holders))
        memory.copy()

    def __getstate__(self) -> dict[str, Any]:
        """See ``findlr.search.batches.Batches``; what is opened in the loader's place is made anew there."""
        return {**super().__getstate__(), "_sibling": (None, None)}

    def remember_rng(self, memory: Memory) -> None:
        """Torch's random state on the CPU, from which a DataLoader draws when it is opened."""
        remember_torch_rng((), memory)

    def split(self, count: int, needed: int, share: float) -> Parts | None:
        """See ``splitting.split``."""
        return split(self.loader, count, needed, share) or super().split(count, needed, share)

    def mapped(self, change: Callable[[Any], Any], batch: Any) -> Any:
        """A batch of the same nesting, with ``change(tensor)`` in place of each tensor."""
        return nesting.mapped(change, batch)

    def moved(self, batch: Any) -> Any:
        """``batch`` on the device."""
        return nesting.moved(batch, self._device)

    def copied(self, batch: Any) -> Any:
        """A copy that shares no memory with ``batch``."""
        return nesting.copied(batch)

    def bytes_in(self, batch: Any) -> int:
        """The bytes of the data in ``batch``: tensors, arrays, strings."""
        return nesting.bytes_in(batch)


def _warn_of_streams(loader: Any) -> None:
    """Warn of a sampler that draws from an iterator which stays open from one pass to the next."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    for sampler in (getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)):
        for name, value in getattr(sampler, "__dict__", {}).items():
            if isinstance(value, Iterator):
                logger.warning(
                    "%s of the loader's %s is an open %s, whose place can't be put back, so the batches after the "
                    "search are others: let its __iter__ make one for each pass",
                    name,
                    type(sampler).__name__,
                    type(value).__name__,
                )
                return


def _keeper_of_streams(source: Any) -> Any:
    """What makes the passes, and may keep an iterator from one to the next: a dataset, or a loader of one's own."""
    if isinstance(source, DataLoader):
        in_workers = source.num_workers > 0  # which have copies
        return source.dataset if isinstance(source.dataset, IterableDataset) and not in_workers else None
    return None if isinstance(source, Remembers) else source


def note_samplers(loader: Any, memory: TorchMemory) -> None:
    """The generators, counters and orders of a loader and its samplers, however nested, but not the dataset's."""
    owners, values, seen = [loader], [], set()
    attributes: list[dict[str, Any]] = []
    for owner in owners:  # which grows
        if id(owner) in seen or not hasattr(owner, "__dict__"):
            continue
        seen.add(id(owner))
        attributes.append(vars(owner))
        for name, value in vars(owner).items():
            if isinstance(value, (Sampler, DataLoader)) or name in ("sampler", "batch_sampler"):
                owners.append(value)
            elif name not in ("dataset", "data_source"):
                values.append(value)
    memory.each(refill, attributes, map(dict, attributes))
    memory.note(*values, worth=_is_order)


def _is_order(array: Any) -> bool:
    """True for indices, and for what is small, such as weights; False for what looks like the data themselves."""
    return bytes_of(array) <= SMALL_BYTES or (array.ndim <= 1 and "int" in str(array.dtype))
