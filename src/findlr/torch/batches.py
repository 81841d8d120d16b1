"""Where the data stands: batches in the user's order, and the way back to the place they were drawn from."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from findlr.errors import LoaderError
from findlr.torch.state import Memory, remember_rng


class Batches:
    """An endless stream of batches from a loader that may be shorter than the sweep.

    Args:
        loader: any iterable that can be read again: a DataLoader, a list of batches.

    Raises:
        LoaderError: the loader can be read only once.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        if not isinstance(loader, Iterable):
            raise LoaderError(f"loader must be an iterable of batches, got {type(loader).__name__}: give a DataLoader")
        if isinstance(loader, Iterator) and iter(loader) is loader:
            raise LoaderError(
                f"loader is a one-shot iterator ({type(loader).__name__}), so its batches could not be put back: "
                "give the DataLoader itself, or a list of batches"
            )
        self.loader = loader
        self._iterator: Iterator[Any] | None = None
        self._opening: Memory | None = None
        self._drawn = 0

    def next(self) -> Any:
        """The next batch; at the end of the loader, its first again.

        Raises:
            LoaderError: the loader is empty.
        """
        for _ in range(2):
            if self._iterator is None:
                self._open()
            assert self._iterator is not None
            try:
                batch = next(self._iterator)
            except StopIteration:
                self.close()
                continue
            self._drawn += 1
            return batch
        raise LoaderError("loader is empty: it gave no batch; give one that has data")

    def whole(self) -> Generator[Any, None, None]:
        """One pass over all batches; the place in the data and the random states are put back after it."""
        before = Memory()
        self.remember(before)
        remember_rng((), before)
        batches = iter(_sibling(self.loader))
        try:
            yield from batches
        finally:
            _close(batches)
            before.put_back()

    def close(self) -> None:
        """Let go of the open pass, and of its workers."""
        iterator = self._iterator
        self._iterator, self._opening, self._drawn = None, None, 0
        _close(iterator)

    def _open(self) -> None:
        self._opening = Memory()
        remember_rng((), self._opening)
        remember_samplers(self.loader, self._opening)
        self._iterator, self._drawn = iter(_sibling(self.loader)), 0

    def remember(self, memory: Memory) -> None:
        """Remember the place in the data; to be added before the random states, which finding the place disturbs."""
        opening, drawn = self._opening, self._drawn

        def put() -> None:
            self.close()
            if opening is None:
                return
            opening.put_back()
            self._open()
            for _ in range(drawn):
                self.next()

        memory.add(put)
        remember_samplers(self.loader, memory)

    def length(self) -> int | None:
        """Batches in one pass; None if the loader has no length."""
        try:
            return len(self.loader)  # type: ignore[arg-type]
        except TypeError:
            return None


def _close(iterator: Iterator[Any] | None) -> None:
    # Not left to the garbage collector: an exception's traceback would keep the workers alive.
    shut_down = getattr(iterator, "_shutdown_workers", None)
    if shut_down is not None:
        shut_down()


def _sibling(loader: Iterable[Any]) -> Iterable[Any]:
    """The loader itself; or, where workers persist, one like it: iterating it would reset the user's open iterator."""
    if not (isinstance(loader, DataLoader) and loader.persistent_workers):
        return loader
    sibling = copy.copy(loader)  # the same dataset, sampler, collate function, generator
    sibling._iterator = None
    vars(sibling)["persistent_workers"] = False  # a DataLoader refuses to have it set
    return sibling


def remember_samplers(loader: Any, memory: Memory) -> None:
    """The generators, counters and orders of a loader and its samplers, however nested; never the dataset's."""
    seen: set[int] = set()

    def visit(owner: Any) -> None:
        if id(owner) in seen or not hasattr(owner, "__dict__"):
            return
        seen.add(id(owner))
        memory.add(partial(_bind, owner, dict(vars(owner))))
        for name, value in vars(owner).items():
            if isinstance(value, (Sampler, DataLoader)) or name in ("sampler", "batch_sampler"):
                visit(value)
            elif name not in ("dataset", "data_source"):
                memory.remember(value, worth=_is_order)

    visit(loader)


def _is_order(array: Any) -> bool:
    """True for indices; False for what looks like the data themselves, which are too large to copy."""
    return array.ndim <= 1 and "int" in str(array.dtype)


def _bind(owner: Any, names: dict[str, Any]) -> None:
    """Let ``owner`` have these attributes, and no others."""
    for name in vars(owner).keys() - names.keys():
        del vars(owner)[name]
    vars(owner).update(names)  # not setattr: a DataLoader refuses some


def moved(batch: Any, device: torch.device) -> Any:
    """``batch`` with every tensor in it on ``device``, whatever its nesting."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(item, device) for item in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(moved(item, device) for item in batch)
    if isinstance(batch, Mapping):
        return {key: moved(item, device) for key, item in batch.items()}
    return batch.to(device) if hasattr(batch, "to") else batch


def batch_size(batch: Any) -> int | None:
    """The leading dimension of the first tensor in ``batch``."""
    if isinstance(batch, torch.Tensor):
        return batch.shape[0] if batch.dim() else None
    items = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else ()
    return next((size for size in map(batch_size, items) if size is not None), None)
