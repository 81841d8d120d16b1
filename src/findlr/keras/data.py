"""Batches of what ``fit`` takes: arrays, PyDatasets, torch DataLoaders, and whatever can be iterated again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import keras
import numpy as np

from findlr.errors import LoaderError
from findlr.keras.loaders import Arrays, Units, split
from findlr.keras.memory import remember_rng
from findlr.search import splitting
from findlr.search.batches import Batches, is_lost
from findlr.search.memory import Memory, Phase

_BATCH_SIZE = 32  # fit's


def batches_of(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int | None = None,
    shuffle: bool = True,
    consume: bool = False,
) -> Batches:
    """The batches of what ``fit`` takes, as tuples of inputs, targets and weights.

    Raises:
        LoaderError: it is nothing that ``fit`` takes, or the parts do not fit.
    """
    if _is_of(x, "torch", "DataLoader"):
        from findlr.torch.data.batches import TorchBatches

        _alone("a torch DataLoader", y, sample_weight)
        return TorchBatches(x, consume=consume)
    if _is_of(x, "tensorflow", "DatasetV2"):
        raise LoaderError("x is a tf.data.Dataset, whose place can't be put back: give arrays or a PyDataset")
    if isinstance(x, keras.utils.PyDataset):
        _alone("a PyDataset", y, sample_weight)
        return KerasBatches(Units(x, shuffle=shuffle))
    if x is not None and _leaves(x) and not _without_examples(x):
        for name, part in {"y": y, "sample_weight": sample_weight}.items():
            _check_examples(name, part)
        parts = (x, y, sample_weight)
        leaves = _leaves(parts)
        sizes = sorted({int(leaf.shape[0]) for leaf in leaves})
        if len(sizes) > 1:
            raise LoaderError(f"x, y and sample_weight must have as many examples each, got {sizes}")
        return KerasBatches(Arrays(parts, sizes[0], _BATCH_SIZE if batch_size is None else batch_size, shuffle=shuffle))
    if isinstance(x, (list, tuple, dict)) or not isinstance(x, Iterable):
        raise LoaderError(
            f"x must be arrays, a PyDataset, a DataLoader, or an iterable of batches, got {type(x).__name__}"
        )
    _alone(f"a {type(x).__name__}", y, sample_weight)
    if is_lost(x) and not consume:
        raise LoaderError(
            f"x is a one-shot iterator ({type(x).__name__}), so its batches could not be put back: give arrays or a "
            "PyDataset; or findlr.rewindable(x), trained on, too; or let find_lr use its batches up with consume=True"
        )
    return KerasBatches(x, consume=consume)


def remember_place(data: Batches, memory: Memory) -> None:
    """The place in data whose own memory may be another kind than ``memory``."""
    place = data.new_memory()
    data.remember(place)
    for phase in Phase:
        memory.add(partial(place.put_back, [phase]), phase, "the place in the data")
    memory.on_close(place.close)


class KerasBatches(Batches):
    """Batches of a loader of Keras's; see ``findlr.search.batches.Batches``."""

    def remember_loader(self, memory: Memory) -> None:
        """What a pass changes in a PyDataset, or in an iterable of the user's own; it changes no arrays."""
        if not isinstance(self.loader, Arrays):
            super().remember_loader(memory)

    def remember_rng(self, memory: Memory) -> None:
        """All random states: a PyDataset may draw from any."""
        remember_rng(memory)

    def split(self, count: int, needed: int, share: float) -> splitting.Parts | None:
        """Batches set aside, and a loader of a share of the other examples."""
        parts = None
        if isinstance(self.loader, (Arrays, Units)) and self.loader.units is not None:
            parts = split(self.loader, count, needed, share)
        return parts or super().split(count, needed, share)

    def mapped(self, change: Callable[[Any], Any], batch: Any) -> Any:
        """A batch of the same nesting, with ``change(array)`` in place of each array."""
        return keras.tree.map_structure(change, batch)


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
