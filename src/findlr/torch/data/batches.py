"""Where the data stands: batches in the user's order, and the way back to the place they were drawn from."""

from __future__ import annotations

import copy
import logging
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from findlr.errors import DataEndedError, LoaderError
from findlr.torch.data.held_out import split
from findlr.torch.data.nesting import bytes_in, copied, moved
from findlr.torch.data.rewind import Rewindable
from findlr.torch.snapshot.memory import Memory, has_state, note_stateful, remember_rng

logger = logging.getLogger("findlr")


class Batches:
    """An endless stream of batches from a loader that may be shorter than the sweep.

    Args:
        loader: any iterable that can be read again: a DataLoader, a list of batches; or a one-shot iterator that is
            ``rewindable`` or has a state dict, which ends where it ends.
        consume: take any other one-shot iterator, too; its batches are used up.

    Raises:
        LoaderError: the loader can be read only once.
    """

    def __init__(self, loader: Iterable[Any], *, consume: bool = False) -> None:
        if not isinstance(loader, Iterable):
            raise LoaderError(f"loader must be an iterable of batches, got {type(loader).__name__}: give a DataLoader")
        self._once = isinstance(loader, Iterator) and iter(loader) is loader
        if self._once and not (isinstance(loader, Rewindable) or has_state(loader)):
            if not consume:
                raise LoaderError(
                    f"loader is a one-shot iterator ({type(loader).__name__}), so its batches could not be put back: "
                    "give the DataLoader itself, or a list of batches; or findlr.rewindable(iterator), and train on "
                    "that, too; consume=True lets find_lr use its batches up"
                )
            logger.info("the batches that the search draws from this %s are used up", type(loader).__name__)
        self.loader = loader
        self._source = loader  # less what is held out
        self._iterator: Iterator[Any] | None = None
        self._opening: Memory | None = None
        self._drawn = 0
        self.kept: list[Any] = []  # batches that come before what is drawn; not to be written to
        self._at = 0  # among them

    def next(self) -> Any:
        """The next batch; at the end of the loader, its first again.

        Raises:
            LoaderError: the loader is empty.
            DataEndedError: a one-shot iterator has ended.
        """
        if self._at < len(self.kept):
            self._at += 1
            return copied(self.kept[self._at - 1])  # what a step does to it, the next run does not see
        if self._once:
            for batch in self.loader:
                return batch
            raise DataEndedError("the data ended: a one-shot iterator gives each batch once, and this one has no more")
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

    def hold_out(self, count: int, needed: int, share: float) -> list[Any]:
        """Set batches aside, and go on with a share of the other examples; see ``held_out.split``.

        Where examples can't be told apart, the next batches are set aside. It holds until the place in the data is put
        back to one from before.
        """
        parts = split(self.loader, count, needed, share)
        if parts is None:
            return [self.next() for _ in range(count)]
        self.close()
        held_out, self._source = parts
        return held_out

    def keep(self, count: int, device: torch.device, most: int) -> bool:
        """Draw batches now, which come again each time that the place in the data is put back to this one.

        Args:
            count: how many.
            device: where they are kept.
            most: bytes that may be kept.

        Returns:
            Whether they are kept; if not, they took too much or could not be copied, and are drawn anew each time.
        """
        place = Memory()
        self.remember(place)
        remember_rng((), place)
        kept: list[Any] = []
        nbytes = 0
        try:
            while len(kept) < count:
                batch = moved(self.next(), device)
                nbytes += bytes_in(batch)
                if nbytes * count > most * (len(kept) + 1):  # they will, if the others are as large
                    break
                try:
                    kept.append(copied(batch))  # a loader may give the same object again
                except LoaderError:
                    break
            if len(kept) < count:
                place.put_back()
                return False
        finally:
            place.close()
        self.kept, self._at = kept, 0
        return True

    def whole(self) -> Generator[Any, None, None]:
        """One pass over all batches; the place in the data is put back after it, the random states are not."""
        before = Memory()
        self.remember(before)
        batches = iter(_sibling(self.loader))
        try:
            yield from batches
        finally:
            _close(batches)
            before.put_back()
            before.close()

    def close(self) -> None:
        """Let go of the open pass, and of its workers."""
        iterator = self._iterator
        self._iterator, self._opening, self._drawn = None, None, 0
        _close(iterator)

    def _open(self) -> None:
        self._opening = Memory()
        remember_rng((), self._opening)
        _remember_loader(self.loader, self._opening)
        self._iterator, self._drawn = iter(_sibling(self._source)), 0

    def remember(self, memory: Memory) -> None:
        """Remember the place in the data; to be added before the random states, which finding the place disturbs."""
        kept, at = self.kept, self._at
        memory.add(partial(vars(self).update, kept=[]))  # what is drawn again is not of these
        if isinstance(self.loader, Rewindable):
            self.loader.remember(memory)
        else:
            self._remember_place(memory)
        memory.add(partial(vars(self).update, kept=kept, _at=at))

    def _remember_place(self, memory: Memory) -> None:
        unmoved = bool(self.kept)  # as long as those last, none is drawn
        opening, drawn, source = self._opening, self._drawn, self._source

        def put() -> None:
            if unmoved and self._opening is opening and self._drawn == drawn:
                return
            self.close()
            self._source = source
            if opening is None:
                return
            opening.put_back()
            self._open()
            for _ in range(drawn):
                self.next()

        memory.add(put)
        _remember_loader(self.loader, memory)

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
    """The loader itself; or one like it, where it holds an iterator: the user may have that open.

    It does where workers persist, and torchdata's does always.
    """
    if not (isinstance(loader, DataLoader) and (loader.persistent_workers or has_state(loader))):
        return loader
    sibling = copy.copy(loader)  # the same dataset, sampler, collate function, generator
    sibling._iterator = None
    vars(sibling)["persistent_workers"] = False  # a DataLoader refuses to have it set
    if hasattr(sibling, "_initial_iter_for_state_dict"):  # torchdata's: it made an iterator to ask for its state
        sibling._initial_iter_for_state_dict = False
    return sibling


def _remember_loader(loader: Any, memory: Memory) -> None:
    """The loader's attributes and its samplers; and its state dict, but for a DataLoader, whose sibling is iterated."""
    if has_state(loader) and not isinstance(loader, DataLoader):
        note_stateful(loader, memory)
    note_samplers(loader, memory)
    memory.copy()


def note_samplers(loader: Any, memory: Memory) -> None:
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
                memory.note(value, worth=_is_order)

    visit(loader)


def _is_order(array: Any) -> bool:
    """True for indices; False for what looks like the data themselves, which are too large to copy."""
    return array.ndim <= 1 and "int" in str(array.dtype)


def _bind(owner: Any, names: dict[str, Any]) -> None:
    """Let ``owner`` have these attributes, and no others."""
    for name in vars(owner).keys() - names.keys():
        del vars(owner)[name]
    vars(owner).update(names)  # not setattr: a DataLoader refuses some
