"""What is set aside to score a race on: the last batches of a list, or rows of the batches where there are few."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from findlr.errors import LoaderError

PER_ASIDE = 5  # batches, or examples, of which at most one is set aside
_FEWEST_BATCHES = 2  # to train on

Parts = tuple[list[Any], Iterable[Any]]
"""The batches that are set aside, and a loader of others, none of whose examples is among them."""

Mapped = Callable[[Callable[[Any], Any], Any], Any]
"""``mapped(change, batch)``: a batch of the same nesting, with ``change(array)`` for each array."""


def counts(length: int, count: int, needed: int, share: float) -> tuple[int, int]:
    """How many batches of a pass are set aside, at most a fifth, and on how many of the others a run trains.

    Args:
        length: batches of a pass.
        count: batches that are wanted; of fewer than five none can be spared.
        needed: batches that a run takes; if it never gets through the share once, all others are left in.
        share: the share of the others to train on, in (0, 1].
    """
    aside = min(count, length // PER_ASIDE)
    others = length - aside
    some = max(math.ceil(share * others), _FEWEST_BATCHES)
    return aside, some if some < min(needed, others) else others


def first_batches(validation: Any, count: int, name: str) -> list[Any]:
    """The first batches of a pass over validation data, at most so many.

    Args:
        validation: the ``Batches``.
        count: batches that are wanted.
        name: of the argument, for the error.

    Raises:
        LoaderError: there is none.
    """
    length = validation.length()
    found = [validation.next() for _ in range(count if length is None else min(count, length))]
    if not found:
        raise LoaderError(f"{name} is empty: it gave no batch; give one that has data")
    return found


def of_list(batches: Any, count: int, needed: int, share: float) -> Parts | None:
    """The last batches of a list, and a list of a share of the others; see ``counts``. None if it is no list."""
    if not isinstance(batches, Sequence):
        return None
    aside, some = counts(len(batches), count, needed, share)
    return list(batches[len(batches) - aside :]), batches[:some]


def by_rows(batches: Iterable[Any], count: int, mapped: Mapped, fewest_arrays: int = 2) -> Parts | None:
    """A fifth of the rows of each batch, and batches of the other rows; some come twice, so that no shape changes.

    Args:
        batches: of a pass.
        count: the most to set aside.
        mapped: changes the arrays in a batch.
        fewest_arrays: in a batch: one alone may be anything, inputs and targets of as many rows are examples.

    Returns:
        None if there are more than four batches, or if rows are not known to be examples.
    """
    aside: list[Any] = []
    rest: list[Any] = []
    for number, batch in enumerate(batches, 1):
        size = rows_in(batch, mapped, fewest_arrays)
        if size is None or number == PER_ASIDE:
            return None
        if size >= PER_ASIDE:  # the last one may be too small
            parts = (np.resize(rows, size) for rows in rows_apart(size))
            try:
                few, others = (mapped(partial(_taken, rows=rows), batch) for rows in parts)
            except (RuntimeError, TypeError):  # a sparse tensor's rows, say, can't be taken
                return None
            aside.append(few)
            rest.append(others)
    return (aside[:count], rest) if aside else None


def rows_apart(size: int) -> tuple[Any, Any]:
    """A fifth of the numbers below ``size``, and the others; mixed, because the rows may be sorted by their class."""
    order = np.random.default_rng(0).permutation(size)
    return order[: size // PER_ASIDE], order[size // PER_ASIDE :]


def rows_in(batch: Any, mapped: Mapped, fewest_arrays: int = 1) -> int | None:
    """How many examples a batch has; None if its rows are not known to be examples.

    They are not if its arrays have different numbers of rows, or if one is square, as that of a graph's edges is.
    """
    leaves = [leaf for leaf in leaves_of(batch, mapped) if leaf is not None]
    shapes = [tuple(getattr(leaf, "shape", ("unknown",))) for leaf in leaves]
    shapes = [shape for shape in shapes if shape]
    sizes = {shape[0] for shape in shapes}
    if len(shapes) < fewest_arrays or len(sizes) != 1 or "unknown" in sizes:
        return None
    (size,) = sizes
    return None if (size, size) in shapes else int(size)


def leaves_of(batch: Any, mapped: Mapped) -> list[Any]:
    """All that ``mapped`` would change in a batch."""
    leaves: list[Any] = []

    def look(leaf: Any) -> Any:
        leaves.append(leaf)
        return leaf

    mapped(look, batch)
    return leaves


def mapped(change: Callable[[Any], Any], batch: Any) -> Any:
    """``change(leaf)`` for whatever is in lists, tuples and dicts, in the same nesting."""
    if isinstance(batch, dict):
        return {key: mapped(change, item) for key, item in batch.items()}
    if isinstance(batch, (list, tuple)):
        items = [mapped(change, item) for item in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    return change(batch)


def _taken(array: Any, rows: Any) -> Any:
    return array[rows] if getattr(array, "shape", ()) else array
