"""Batches that a race is scored on, made of examples that its runs don't train on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from operator import contains
from typing import Any

import torch.distributed as dist
from torch.utils.data import DataLoader, IterableDataset

from findlr.search.splitting import counts, rows_apart

_MOST_PASSES = 100  # to fill one batch, because a weighted sampler may seldom draw what is left


def split(loader: Iterable[Any], count: int, needed: int, share: float) -> tuple[list[Any], DataLoader[Any]] | None:
    """Set batches aside, and make a loader of a share of the other examples; its samplers' random states move.

    The arguments are those of ``findlr.search.splitting.counts``.

    Returns:
        The batches, and a loader with the same settings whose batches contain none of their examples. A loader of fewer
        than 5 batches gives a fifth of its examples, as one. None if a batch's examples are not known, because the
        loader is no DataLoader over indices, if there are fewer than 5, or if each pass calls other processes.
    """
    source = innermost(loader)
    if not isinstance(source, DataLoader) or isinstance(source.dataset, IterableDataset) or _calls_others(loader):
        return None
    sampler: Any = source.batch_sampler
    try:
        length = len(sampler)
    except TypeError:  # no batch sampler, or one without an end
        return None
    aside, batches = counts(length, count, needed, share)
    is_few, order = count > aside == 0, iter(sampler)
    if is_few:
        every = list(chain.from_iterable(islice(order, length)))
        indices = [[every[place] for place in rows_apart(len(every))[0]]]
        if not indices[0]:
            return None
    else:
        indices = [list(batch) for batch in islice(order, aside)]
    held_out = frozenset(chain.from_iterable(indices))
    if not is_few and batches < length - aside:
        some = _Some(sampler, partial(contains, frozenset(chain.from_iterable(islice(order, batches))) - held_out))
    else:
        some = _Some(sampler, partial(_is_outside, held_out))
    rest = twin(loader)
    vars(innermost(rest))["batch_sampler"] = some  # not setattr, because a DataLoader does not let it be set
    scored = DataLoader(source.dataset, batch_sampler=indices, collate_fn=source.collate_fn)
    return list(scored), rest


def _calls_others(loader: Any) -> bool:
    """Whether its passes begin by a call between processes, as Accelerate's: so all need as many batches in a pass."""
    calls = bool(getattr(loader, "rng_types", None)) and dist.is_available()
    return calls and dist.is_initialized() and dist.get_world_size() > 1


def twin(loader: Any) -> Any:
    """A loader with the same attributes, and so with the same dataset, samplers and generator.

    Where a loader only wraps another one, as Accelerate's and Fabric's do, there is a twin of that one inside.
    """
    made = object.__new__(type(loader))  # no copy.copy, which Accelerate's do not bear
    vars(made).update(vars(loader))
    if (name := _wraps(loader)) is not None:
        vars(made)[name] = twin(vars(loader)[name])
    return made


def innermost(loader: Any) -> Any:
    """The loader that makes the batches: the one that a wrapper holds, or ``loader`` itself."""
    name = _wraps(loader)
    return loader if name is None else innermost(vars(loader)[name])


def _wraps(loader: Any) -> str | None:
    """The attribute in which a loader of Accelerate's or of Lightning's Fabric holds the one that makes its batches."""
    name = "_dataloader" if type(loader).__name__ == "_FabricDataLoader" else "base_dataloader"
    return name if isinstance(getattr(loader, "__dict__", {}).get(name), DataLoader) else None


def _is_outside(indices: frozenset[Any], index: Any) -> bool:
    return index not in indices


class _Some:
    """A batch sampler's batches with only the examples that are ``wanted``, filled up to their former size.

    An incomplete batch at the end is dropped: a BatchNorm fails on one example, which the loader may never give.
    """

    def __init__(self, sampler: Any, wanted: Callable[[Any], bool]) -> None:
        self.sampler, self.wanted = sampler, wanted

    def __iter__(self) -> Iterator[list[Any]]:
        size, given = 0, 0
        waiting: list[Any] = []
        for _ in range(_MOST_PASSES):
            for batch in self.sampler:
                size = size or len(batch)
                waiting += filter(self.wanted, batch)
                while len(waiting) >= size:
                    given += 1
                    yield waiting[:size]
                    del waiting[:size]
            if given:
                return

    def __len__(self) -> int:
        return len(self.sampler)
