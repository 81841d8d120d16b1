"""Batches for JAX: from any iterable, from a function that opens a pass, from torch's and grain's loaders."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from findlr.analysis.given import check_flags
from findlr.errors import LoaderError
from findlr.jax.state import ARRAYS
from findlr.search.batches import Batches, is_lost
from findlr.search.memory import Memory, Phase


def batches_of(loader: Any, *, consume: bool) -> Batches:
    """An endless stream of a loader's batches.

    Args:
        loader: an iterable that can be read again, a function that opens a pass, or a one-shot iterator that knows its
            place.
        consume: take any other one-shot iterator, and use its batches up.

    Raises:
        ConfigurationError: ``consume`` is neither True nor False.
        LoaderError: the loader is none of these.
    """
    check_flags(consume=consume)
    if callable(loader) and not isinstance(loader, Iterable):
        loader = _Opened(loader)
    if is_lost(loader):
        if callable(getattr(loader, "get_state", None)) and callable(getattr(loader, "set_state", None)):
            loader = _Place(loader)
        elif not consume:
            raise LoaderError(
                f"loader is a one-shot iterator ({type(loader).__name__}), so its batches could not be put back: give "
                "what can be read again, such as a list of batches, a DataLoader, or the function that makes the "
                "generator; or let find_lr use its batches up with consume=True"
            )
    torch = sys.modules.get("torch.utils.data")
    if torch is not None and isinstance(loader, torch.DataLoader):
        from findlr.torch.data.batches import TorchBatches  # torch is there: the loader is its

        return TorchBatches(loader)
    return JaxBatches(loader, consume=consume)


class JaxBatches(Batches):
    """An endless stream of batches; see ``findlr.search.batches.Batches``."""

    def mapped(self, change: Callable[[Any], Any], batch: Any) -> Any:
        """A batch of the same structure, with ``change(array)`` in place of each array, on the same devices."""
        return jax.tree.map(lambda leaf: _placed_like(leaf, change(leaf)), batch)

    def copied(self, batch: Any) -> Any:
        """A copy that no step can write into; JAX's arrays can't be written into."""
        return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else copy.deepcopy(leaf), batch)

    def bytes_in(self, batch: Any) -> int:
        """The bytes of the arrays in ``batch``."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(batch) if isinstance(leaf, ARRAYS))


def _placed_like(leaf: Any, changed: Any) -> Any:
    is_there = isinstance(leaf, jax.Array) and leaf.committed and isinstance(changed, jax.Array)
    return jax.device_put(changed, leaf.sharding) if is_there else changed


class _Opened:
    """What a function gives that opens a pass, as an iterable that can be read again.

    Args:
        opens: takes nothing and returns an iterator over batches, as a generator function does.
    """

    def __init__(self, opens: Callable[[], Iterable[Any]]) -> None:
        self._opens = opens

    def __iter__(self) -> Iterator[Any]:
        batches = self._opens()
        if not isinstance(batches, Iterable):
            raise LoaderError(
                "loader is a function that opens a pass over the data, so it must return or yield batches, and it "
                f"returned {batches!r:.100}"
            )
        return iter(batches)


class _Place:
    """A one-shot iterator that can tell its place, as grain's do.

    Args:
        iterator: has ``get_state`` and ``set_state``.
    """

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._iterator)

    def remember(self, memory: Memory) -> None:
        """Add the way back to this place to ``memory``."""
        state = copy.deepcopy(self._iterator.get_state())
        memory.add(lambda: self._iterator.set_state(copy.deepcopy(state)), Phase.PLACES, "the place in the data")


def without_torch(batch: Any) -> Any:
    """A batch with NumPy's arrays in place of torch's tensors, which a compiled step does not take."""
    torch = sys.modules.get("torch")
    if torch is None:
        return batch
    return jax.tree.map(lambda leaf: leaf.detach().cpu().numpy() if isinstance(leaf, torch.Tensor) else leaf, batch)


def batch_size(batch: Any) -> int | None:
    """The leading dimension of the first array in ``batch``."""
    sizes = [np.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if isinstance(leaf, ARRAYS) and np.ndim(leaf)]
    return int(sizes[0]) if sizes else None


def own(batch: Any) -> Any:
    """A batch with copies of JAX's arrays, for a step that uses them up."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, jax.Array) else leaf, batch)


def is_used_up(batch: Any) -> bool:
    """Whether a step has used up an array of ``batch``: it was given away (donated)."""
    return any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree.leaves(batch))
