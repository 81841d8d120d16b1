"""Batches of what ``fit`` takes: arrays, PyDatasets, torch DataLoaders, and whatever can be iterated again."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any

import keras
import numpy as np

from findlr.errors import ConfigurationError, LoaderError
from findlr.keras.memory import remember_rng
from findlr.search import batches
from findlr.search.memory import Memory, Phase, undo_of_generator

_BATCH_SIZE = 32  # fit's
_LARGEST_SHARE_OF_A_PASS = 1 / 5  # that may be set aside
_FEWEST_BATCHES = 2  # to train on


def batches_of(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int | None = None,
    shuffle: bool = True,
    consume: bool = False,
) -> batches.Batches:
    """The batches of what ``fit`` takes, as tuples of inputs, targets and weights.

    Raises:
        LoaderError: it is nothing that ``fit`` takes, or the parts do not fit.
    """
    if _is_of(x, "torch", "DataLoader"):
        from findlr.torch.data.batches import Batches as OfTorch

        _alone("a torch DataLoader", y, sample_weight)
        return OfTorch(x, consume=consume)
    if _is_of(x, "tensorflow", "DatasetV2"):
        raise LoaderError("x is a tf.data.Dataset, whose place can't be put back: give arrays or a PyDataset")
    if isinstance(x, keras.utils.PyDataset):
        _alone("a PyDataset", y, sample_weight)
        return Batches(Units(x, shuffle=shuffle))
    if x is not None and _leaves(x) and not _without_examples(x):
        for name, part in {"y": y, "sample_weight": sample_weight}.items():
            _check_examples(name, part)
        parts = (x, y, sample_weight)
        leaves = _leaves(parts)
        sizes = sorted({int(leaf.shape[0]) for leaf in leaves})
        if len(sizes) > 1:
            raise LoaderError(f"x, y and sample_weight must have as many examples each, got {sizes}")
        return Batches(Arrays(parts, sizes[0], batch_size or _BATCH_SIZE, shuffle=shuffle))
    if isinstance(x, (list, tuple, dict)) or not isinstance(x, Iterable):
        raise LoaderError(
            f"x must be arrays, a PyDataset, a DataLoader, or an iterable of batches, got {type(x).__name__}"
        )
    _alone(f"a {type(x).__name__}", y, sample_weight)
    return Batches(x, consume=consume)


def remember_place(data: batches.Batches, memory: Memory) -> None:
    """The place in data whose own memory may be another kind than ``memory``."""
    place = data.new_memory()
    data.remember(place)
    for phase in Phase:
        memory.add(partial(place.put_back, [phase]), phase, "the place in the data")
    memory.on_close(place.close)


class Batches(batches.Batches):
    """Batches of a loader of Keras's; see ``findlr.search.batches.Batches``."""

    def remember_loader(self, memory: Memory) -> None:
        """What a pass changes in a PyDataset, or in an iterable of the user's own."""
        owner = self.loader.source if isinstance(self.loader, Units) else self.loader
        if isinstance(owner, Arrays) or not hasattr(owner, "__dict__"):
            return
        own = vars(owner)
        memory.add(partial(_put, own, dict(own)), name=f"the {type(owner).__name__}")
        for value in own.values():
            if isinstance(value, np.ndarray) and value.ndim <= 1 and value.dtype.kind in "iu":  # an order
                memory.add(partial(np.copyto, value, value.copy()), name="an order of the data")
            elif type(value) is list:
                memory.add(partial(_put_list, value, list(value)), name="an order of the data")
            elif (undo := undo_of_generator(value)) is not None:
                memory.add(undo[0], name=undo[1])

    def remember_rng(self, memory: Memory) -> None:
        """All random states: a PyDataset may draw from any."""
        remember_rng(memory)

    def split(self, count: int, needed: int, share: float) -> tuple[list[Any], Iterable[Any]] | None:
        """Batches set aside, and a loader of a share of the other examples."""
        if not (isinstance(self.loader, (Arrays, Units)) and self.loader.units is not None):
            return None
        return split(self.loader, count, needed, share)


class Arrays:
    """Arrays, cut into batches; each pass in an order of its own, drawn from NumPy's generator as fit does on JAX.

    Args:
        parts: arrays with the same number of examples, nested as the model takes them; None is left alone.
        size: how many examples.
        batch_size: examples in a batch, at least 1.
        shuffle: whether to shuffle them.
        units: the examples to take; None is all.
    """

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

    def __len__(self) -> int:
        assert self.units is not None
        return math.ceil(len(self.units) / self.per_batch)

    def __iter__(self) -> Iterator[Any]:
        order = np.asarray(self.units)
        if self.shuffle:
            order = order[np.random.permutation(len(order))]  # noqa: NPY002 - what keras.utils.set_random_seed seeds
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

    def __init__(self, source: keras.utils.PyDataset, *, shuffle: bool, units: Sequence[int] | None = None) -> None:
        self.source, self.shuffle = source, shuffle
        length = source.num_batches
        self.units: Sequence[int] | None = units if units is not None or length is None else range(length)

    def of(self, units: Sequence[int]) -> Units:
        """The same PyDataset, but for the batches."""
        return Units(self.source, shuffle=self.shuffle, units=units)

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
        self.source.on_epoch_begin()
        for unit in order:
            yield self.at([unit])
        self.source.on_epoch_end()


def split(loader: Arrays | Units, count: int, needed: int, share: float) -> tuple[list[Any], Arrays | Units] | None:
    """Set batches aside, and make a loader of a share of what else there is.

    Args:
        loader: of known units; the random state moves.
        count: batches to set aside; at most a fifth of a pass is.
        needed: batches that a run takes; if it never gets through the share once, all others are left in.
        share: the share of the others to train on, in (0, 1].

    Returns:
        The batches, and the loader of the others; None if it has fewer than 5 batches.
    """
    assert loader.units is not None
    length, size = len(loader), loader.per_batch
    if count and not (count := min(count, int(length * _LARGEST_SHARE_OF_A_PASS))):
        return None
    order = np.asarray(loader.units)
    if loader.shuffle:
        order = order[np.random.permutation(len(order))]  # noqa: NPY002 - as above
    aside, others = order[: count * size], order[count * size :]
    train_on = max(math.ceil(share * (length - count)), _FEWEST_BATCHES)
    if train_on < min(needed, length - count):
        others = others[: train_on * size]
    held_out = [loader.at(aside[start : start + size]) for start in range(0, len(aside), size)]
    return held_out, loader.of(np.sort(others).tolist())


def size_of(batch: Any) -> int | None:
    """The examples in a batch."""
    shapes = [tuple(getattr(leaf, "shape", ())) for leaf in keras.tree.flatten(batch)]
    return next((int(shape[0]) for shape in shapes if shape), None)


def as_in_fit(batch: Any) -> Any:
    """A batch as fit gives it to a step: torch's tensors on the torch backend; NumPy's arrays, in a tuple, on JAX."""
    on_jax = isinstance(batch, list) and keras.backend.backend() == "jax"
    return keras.tree.map_structure(_native, tuple(batch) if on_jax else batch)


def _native(value: Any) -> Any:
    if value is None:
        return None
    if keras.backend.backend() == "torch":
        return keras.ops.convert_to_tensor(value)
    return np.asarray(value.cpu()) if hasattr(value, "cpu") else value


def _leaves(part: Any) -> list[Any]:
    return [leaf for leaf in keras.tree.flatten(part) if leaf is not None]


def _without_examples(part: Any) -> list[Any]:
    """What is no array with examples."""
    return [leaf for leaf in _leaves(part) if not getattr(leaf, "shape", ())]


def _check_examples(name: str, part: Any) -> None:
    """Refuse what is not cut into batches as arrays are.

    Raises:
        LoaderError: it holds single numbers, say.
    """
    if wrong := _without_examples(part):
        kind = type(wrong[0]).__name__
        advice = f"give np.asarray({name})" if isinstance(part, (list, tuple)) else "give an array, or leave it out"
        got = f"a {type(part).__name__} of {kind}" if wrong[0] is not part else f"one {kind}"
        raise LoaderError(f"{name} must be an array with an entry for each example, as x is, got {got}: {advice}")


def _alone(kind: str, y: Any, sample_weight: Any) -> None:
    if y is not None or sample_weight is not None:
        raise LoaderError(f"{kind} gives inputs, targets and weights in its batches: leave y and sample_weight out")


def _is_of(thing: Any, package: str, name: str) -> bool:
    """Whether it is of a class of a package that need not be installed."""
    return any(kind.__name__ == name and kind.__module__.startswith(f"{package}.") for kind in type(thing).__mro__)


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


def _put(own: dict[str, Any], names: dict[str, Any]) -> None:
    own.clear()
    own.update(names)


def _put_list(target: list[Any], items: list[Any]) -> None:
    target[:] = items
