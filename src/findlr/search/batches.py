"""The place in the data: batches in the user's order, and the way back to where they were drawn.

A framework's module knows how its loaders are opened, remembered and split; see ``findlr.torch.data.batches``.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import Any, Protocol, runtime_checkable

from findlr.analysis.text import told
from findlr.errors import DataEndedError, LoaderError
from findlr.search import splitting
from findlr.search.generators import generators_in
from findlr.search.memory import Memory, Phase, remember_host_rng, undo_of_generator
from findlr.search.objects import refill_if_changed, starts_over

logger = logging.getLogger("findlr")

PASS_ENDED = object()  # what a pass gives once, in place of a batch
MOST_KEPT_BYTES = 1 << 30  # of a race's batches


@runtime_checkable
class Remembers(Protocol):
    """Data that can remember its own place."""

    def remember(self, memory: Memory) -> None:
        """Add the way back to this place to ``memory``."""


def has_state(thing: Any) -> bool:
    """Whether ``thing`` can give its state, and take it back."""
    return callable(getattr(thing, "state_dict", None)) and callable(getattr(thing, "load_state_dict", None))


def is_lost(loader: Any) -> bool:
    """Whether a loader is a one-shot iterator whose batches could not be put back, because it can't tell its place."""
    is_one_shot = isinstance(loader, Iterator) and not starts_over(loader)
    return is_one_shot and not (isinstance(loader, Remembers) or has_state(loader))


class Batches:
    """An endless stream of batches from a loader that may be shorter than the sweep.

    Args:
        loader: any iterable that can be read again: a DataLoader, a list of batches; or a one-shot iterator that
            remembers its place or has a state dict; the stream ends where that ends.
        consume: take any other one-shot iterator, and use it up; None is no, where the caller has no such argument.
        name: what the caller calls the loader.

    Raises:
        LoaderError: the loader can be read only once.
    """

    def __init__(self, loader: Iterable[Any], *, consume: bool | None = None, name: str = "loader") -> None:
        if not isinstance(loader, Iterable) or getattr(loader, "ndim", 1) == 0:  # an array of one number is none
            raise LoaderError(f"{name} must be an iterable of batches, got {type(loader).__name__}: give a DataLoader")
        self.ends = isinstance(loader, Iterator) and not starts_over(loader)
        if self.ends and is_lost(loader):
            if not consume:
                offer = "" if consume is None else "; or let find_lr use its batches up with consume=True"
                raise LoaderError(
                    f"{name} is a one-shot iterator ({type(loader).__name__}), so its batches could not be put back: "
                    "give the DataLoader or a list of batches; or findlr.rewindable(iterator), trained on, too" + offer
                )
            logger.info("the batches that the search draws from this %s are used up", type(loader).__name__)
        self.loader = loader
        self._source = loader  # without what is held out
        self._iterator: Iterator[Any] | None = None
        self._opening: Memory | None = None
        self._drawn = self._ended = 0  # batches of the open pass; passes
        self._aside_at: int | None = None  # the passes that had ended when the next batches were set aside
        self.kept: list[Any] = []  # they come before new ones are drawn; not to be written to
        self._at = 0  # the next of them
        self._generators: list[Any] | None = None  # that the loader holds; looked for once
        self._holders: list[Any] = []  # of what else its passes may change

    def next(self, *, of_pass: bool = False) -> Any:
        """The next batch; at the end of the loader, its first again.

        Args:
            of_pass: at the end of the loader, ``PASS_ENDED`` once, in place of its first batch.

        Raises:
            LoaderError: the loader is empty.
            DataEndedError: a one-shot iterator has ended, or a second pass gives no batch.
        """
        if self._at < len(self.kept):
            self._at += 1
            return self.copied(self.kept[self._at - 1])  # so that the next run does not see what a step does to it
        if self.ends:
            for batch in self.loader:
                return batch
            raise DataEndedError("the data ended: a one-shot iterator gives each batch once, and this one has no more")
        while True:
            if self._iterator is None:
                self._open()
            assert self._iterator is not None
            try:
                batch = next(self._iterator)
            except StopIteration:
                if not self._drawn:
                    self.close()
                    if self._ended:
                        raise DataEndedError("the data ended: a second pass over the loader gave no batch") from None
                    raise LoaderError("loader is empty: it gave no batch; give one that has data") from None
                self._ended += 1
                self.close()
                if of_pass:
                    return PASS_ENDED
                continue
            self._drawn += 1
            return batch

    def hold_out(self, count: int, needed: int, share: float) -> list[Any]:
        """Set batches aside, and go on with a share of the other examples.

        Where examples can't be told apart, the next batches are set aside, and come again if the pass ends. This lasts
        until an earlier place in the data is put back. The arguments are those of ``findlr.search.splitting.counts``.
        """
        parts = self.split(count, needed, share)
        if parts is None:
            self._aside_at = self._ended if count else None
            return [self.next() for _ in range(min(count, self.length() or count))]
        self.close()
        aside, self._source = parts
        self._aside_at = None
        return aside

    def unseen(self) -> bool:
        """Whether nothing that was set aside has been drawn again."""
        return self._aside_at in (None, self._ended)

    def keep(self, count: int, most_bytes: int = MOST_KEPT_BYTES) -> bool:
        """Draw batches now; they come again each time that this place in the data is put back.

        Returns:
            Whether they are kept. If not, they take too much or can't be copied, and are drawn anew each time.
        """
        place = self.new_memory()
        self.remember(place)
        remember_host_rng(place)
        self.remember_rng(place)
        kept: list[Any] = []
        nbytes = 0
        try:
            while len(kept) < count:
                batch = self.moved(self.next())
                nbytes += self.bytes_in(batch)
                if nbytes * count > most_bytes * (len(kept) + 1):  # too much, if the others are as large
                    break
                try:
                    kept.append(self.copied(batch))  # a loader may give the same object again
                except LoaderError:
                    break
            if len(kept) < count:
                place.put_back()
                return False
        finally:
            place.close()
        self.kept, self._at = kept, 0
        return True

    def why_not_sent(self) -> str | None:
        """Why no run in another process can draw what it would draw here, or None."""
        if not self.kept and (self.ends or self._iterator is not None):
            return "its batches can't be kept, and its place in the data can't be found in another process"
        return None

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: where batches are kept these alone, without the loader, whose open pass no pickle takes."""
        alone = {"loader": (), "_source": (), "_iterator": None, "_opening": None, "_drawn": 0} if self.kept else {}
        return {**vars(self), **alone, "_generators": None, "_holders": []}  # these are looked for anew there

    def whole(self) -> Generator[Any, None, None]:
        """One pass over all batches; the place in the data is put back after it, the random states are not."""
        before = self.new_memory()
        self.remember(before)
        batches = iter(self.opened(self.loader))
        try:
            yield from batches
        finally:
            self.shut(batches)
            before.put_back()
            before.close()

    def close(self) -> None:
        """Let go of the open pass and its workers."""
        iterator = self._iterator
        self._iterator, self._opening, self._drawn = None, None, 0
        if iterator is not None:
            self.shut(iterator)

    def _open(self) -> None:
        source = self.opened(self._source)
        opening = self.new_memory()
        remember_host_rng(opening)
        self.remember_rng(opening)
        self.remember_loader(opening)
        self._opening = opening
        self._iterator, self._drawn = iter(source), 0

    def remember(self, memory: Memory) -> None:
        """Remember the place in the data."""
        if isinstance(self.loader, Remembers):
            self.loader.remember(memory)
        kept, at, unmoved = self.kept, self._at, bool(self.kept)  # while kept ones last, none is drawn
        opening, drawn, source = self._opening, self._drawn, self._source

        def put() -> None:
            if not (unmoved and self._opening is opening and self._drawn == drawn):
                self.kept = []  # what is drawn again is not one of these
                self.close()
                self._source = source
                if opening is not None:
                    opening.put_back()
                    self._open()
                    for _ in range(drawn):
                        self.next()
            self.kept, self._at = kept, at

        memory.add(put, Phase.PLACES, "the place in the data")
        if not isinstance(self.loader, Remembers):
            self.remember_loader(memory)

    def length(self) -> int | None:
        """Batches in one pass; None if the loader has no length."""
        try:
            return len(self.loader)  # type: ignore[arg-type]
        except (TypeError, OverflowError):  # an endless loader may tell a number that is too large
            return None

    # What a framework's module may know better

    def new_memory(self) -> Memory:
        """A memory that can hold what ``remember_loader`` remembers."""
        return Memory()

    def opened(self, loader: Iterable[Any]) -> Iterable[Any]:
        """What to iterate over in place of ``loader``, so that a pass that the user has open goes on."""
        return loader

    def shut(self, iterator: Iterator[Any]) -> None:
        """End a pass that may have workers."""

    def remember_loader(self, memory: Memory) -> None:
        """Remember what a pass changes in the loader: its generators, counters, orders, its state."""
        if has_state(self.loader):
            state = copy.deepcopy(self.loader.state_dict())  # type: ignore[attr-defined]
            memory.add(lambda: self.loader.load_state_dict(copy.deepcopy(state)), name="the loader's state")  # type: ignore[attr-defined]
        if self._generators is None:
            self._generators = generators_in(self.loader, self._holders, orders=True)
        for generator in self._generators:
            if (undo := undo_of_generator(generator)) is not None:
                memory.add(undo[0], name=undo[1])
        for holder in self._holders:
            memory.add(partial(refill_if_changed, holder, copy.copy(holder)), name="what the loader holds")

    def remember_rng(self, memory: Memory) -> None:
        """Remember random states beyond Python's and NumPy's."""

    def split(self, count: int, needed: int, share: float) -> splitting.Parts | None:
        """Batches set aside, and a loader of a share of the other examples; None where examples can't be told apart."""
        length = self.length()
        may_be_few = count and not self.ends and (length is None or length < splitting.PER_ASIDE)
        if not may_be_few:
            return splitting.of_list(self.loader, count, needed, share)
        with closing(self.whole()) as batches:
            return splitting.by_rows(batches, count, self.mapped)

    def moved(self, batch: Any) -> Any:
        """``batch`` where the training needs it."""
        return batch

    def mapped(self, change: Callable[[Any], Any], batch: Any) -> Any:
        """A batch of the same nesting, with ``change(array)`` in place of each array."""
        return splitting.mapped(change, batch)

    def copied(self, batch: Any) -> Any:
        """A copy that shares no memory with ``batch``.

        Raises:
            LoaderError: it can't be copied.
        """
        try:
            return copy.deepcopy(batch)
        except Exception as error:
            raise LoaderError(
                f"a batch can't be copied, so it could not come again ({told(error)}): let the "
                "loader give arrays, or containers of them"
            ) from error

    def bytes_in(self, batch: Any) -> int:
        """The bytes of the arrays in ``batch``."""
        return sum(int(getattr(leaf, "nbytes", 0)) for leaf in splitting.leaves_of(batch, self.mapped))
