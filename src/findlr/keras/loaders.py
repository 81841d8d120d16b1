"""What ``fit`` takes that is cut into batches here: arrays, and PyDatasets."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import keras
import numpy as np

from findlr.errors import ConfigurationError
from findlr.search import splitting


class Arrays:
    """Arrays, cut into batches; each pass in an order of its own, drawn from NumPy's generator as fit does on JAX.

    Args:
        parts: arrays with the same number of examples, nested as the model takes them; None is left alone.
        size: how many examples.
        batch_size: examples in a batch, at least 1.
        shuffle: whether to shuffle them.
        units: the examples to take; None is all.
    """

    fills = False
    """Whether the last batch of a pass is as large as the others, with some examples again."""

    def __init__(
        self, parts: Any, size: int, batch_size: int, *, shuffle: bool, units: Sequence[int] | None = None
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ConfigurationError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        self._parts = keras.tree.map_structure(_sliceable, parts)
        self._size, self.per_batch, self.shuffle = size, int(batch_size), shuffle
        self.units: Sequence[int] | None = range(size) if units is None else units

    def of(self, units: Sequence[int]) -> Arrays:
        """The same arrays, but for the examples."""
        return Arrays(self._parts, self._size, self.per_batch, shuffle=self.shuffle, units=units)

    def at(self, units: Any) -> Any:
        """One batch of these examples."""
        index = np.asarray(units)
        parts = keras.tree.map_structure(lambda array: None if array is None else _floats(array[index]), self._parts)
        return keras.utils.pack_x_y_sample_weight(*parts)

    def ordered(self) -> Any:
        """The examples in the order of a pass."""
        order = np.asarray(self.units)
        if self.shuffle:
            order = order[np.random.permutation(len(order))]  # noqa: NPY002 - what keras.utils.set_random_seed seeds
        return np.resize(order, len(self) * self.per_batch) if self.fills else order

    def few(self, order: Any, _: int) -> splitting.Parts | None:
        """A fifth of the examples as one batch, and the same arrays with the others."""
        if splitting.rows_in(self._parts, keras.tree.map_structure) is None:
            return None
        aside, others = (order[rows] for rows in splitting.rows_apart(len(order)))
        rest = self.of(others.tolist())
        rest.per_batch, rest.fills = min(self.per_batch, len(order)), True
        return ([self.at(aside)], rest) if len(aside) else None

    def __len__(self) -> int:
        assert self.units is not None
        return math.ceil(len(self.units) / self.per_batch)

    def __iter__(self) -> Iterator[Any]:
        order = self.ordered()
        for start in range(0, len(order), self.per_batch):
            yield self.at(order[start : start + self.per_batch])


class Units:
    """A PyDataset's batches, in this process; in a new order at each pass, as in fit.

    Args:
        source: the PyDataset.
        shuffle: whether to shuffle its batches.
        units: the numbers of the batches to take; None is all.
    """

    per_batch = 1
    tells = True
    """Whether the PyDataset is told where a pass begins and ends; its batches may be others then."""

    def __init__(self, source: keras.utils.PyDataset, *, shuffle: bool, units: Sequence[int] | None = None) -> None:
        self.source, self.shuffle = source, shuffle
        length = source.num_batches
        self.units: Sequence[int] | None = units if units is not None or length is None else range(length)

    def of(self, units: Sequence[int]) -> Units:
        """The same PyDataset, but for the batches, as they are in this pass."""
        some = Units(self.source, shuffle=self.shuffle, units=units)
        some.tells = False
        return some

    def ordered(self) -> Any:
        """The numbers of the batches, in the order of a pass; it has begun."""
        self.source.on_epoch_begin()
        order = np.asarray(self.units)
        return order[np.random.permutation(len(order))] if self.shuffle else order  # noqa: NPY002 - as above

    def few(self, order: Any, count: int) -> splitting.Parts | None:
        """A fifth of the examples of each batch, and the batches with the others."""
        return splitting.by_rows((self.at([unit]) for unit in order), count, keras.tree.map_structure, 1)

    def at(self, units: Any) -> Any:
        """The one batch of that number."""
        batch = self.source[int(units[0])]
        return tuple(batch) if isinstance(batch, list) else batch  # as in fit

    def __len__(self) -> int:
        if self.units is None:
            raise TypeError("an infinite PyDataset has no length")
        return len(self.units)

    def __iter__(self) -> Iterator[Any]:
        order: Any = count() if self.units is None else list(self.units)
        if self.shuffle and self.units is not None:
            random.shuffle(order)
        if self.tells:
            self.source.on_epoch_begin()
        for unit in order:
            yield self.at([unit])
        if self.tells:
            self.source.on_epoch_end()


def split(loader: Arrays | Units, count: int, needed: int, share: float) -> splitting.Parts | None:
    """Set batches aside, and make a loader of a share of what else there is; few arrays give a fifth of their examples.

    Args:
        loader: of known units; the random state moves.
        count: see ``findlr.search.splitting.counts``.
        needed: the same.
        share: the same.

    Returns:
        The batches, and the loader of the others; None if none can be spared.
    """
    assert loader.units is not None
    aside, train_on = splitting.counts(len(loader), count, needed, share)
    thins, size = train_on < len(loader) - aside, loader.per_batch
    if not (count or thins):
        return None
    order = loader.ordered()
    if count and not aside:
        return loader.few(order, count)
    others = order[aside * size :][: train_on * size if thins else None]
    scored = [loader.at(order[at : at + size]) for at in range(0, aside * size, size)]
    return scored, loader.of(np.sort(others).tolist())


def _sliceable(array: Any) -> Any:
    """What takes an array of indices: tables become arrays, other tensors stay."""
    if hasattr(array, "tocsr"):
        return array.tocsr()
    return np.asarray(array) if hasattr(array, "iloc") else array


def _floats(array: Any) -> Any:
    """NumPy's floats in the type that Keras computes in, as fit gives them; a sparse matrix of SciPy's as an array."""
    array = array.toarray() if hasattr(array, "toarray") else array
    is_float = isinstance(array, np.ndarray) and array.dtype.kind == "f"
    return array.astype(keras.config.floatx(), copy=False) if is_float else array
