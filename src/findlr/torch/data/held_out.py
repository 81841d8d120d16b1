"""Batches that a race is scored on, made of examples that its runs don't train on."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

_LARGEST_SHARE = 1 / 5  # of a pass, that may be set aside
_FEWEST_BATCHES = 2  # to train on
_MOST_PASSES = 100  # for one batch: a weighted sampler may seldom draw what is left


def split(loader: Iterable[Any], count: int, needed: int, share: float) -> tuple[list[Any], DataLoader[Any]] | None:
    """Set batches aside, and make a loader of a share of the other examples.

    Args:
        loader: the training batches; its samplers' random states move.
        count: batches to set aside; fewer are, if they were more than a fifth of a pass.
        needed: batches that a run takes; where the share has as many, all other examples are left in.
        share: of the other examples, to train on, in (0, 1].

    Returns:
        The batches, and a loader with the same settings whose batches have none of their examples; None where the
        examples of a batch can't be told: the loader is no DataLoader over indices, or has fewer than 5 batches.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    sampler: Any = loader.batch_sampler
    try:
        length = len(sampler)
    except TypeError:  # no batch sampler, or one without an end
        return None
    if count and not (count := min(count, int(length * _LARGEST_SHARE))):
        return None
    order = iter(sampler)
    indices = [list(batch) for batch in islice(order, count)]
    aside = frozenset(chain.from_iterable(indices))
    batches = max(math.ceil(share * (length - count)), _FEWEST_BATCHES)
    if batches < min(needed, length - count):
        some = _Some(sampler, (frozenset(chain.from_iterable(islice(order, batches))) - aside).__contains__)
    else:
        some = _Some(sampler, lambda index: index not in aside)
    rest = copy.copy(loader)  # the same dataset, collate function, generator, workers
    vars(rest)["batch_sampler"] = some  # a DataLoader refuses to have it set
    scored = DataLoader(loader.dataset, batch_sampler=indices, collate_fn=loader.collate_fn)
    return list(scored), rest


class _Some:
    """A batch sampler's batches with only the examples that are ``wanted``, filled up to the same size.

    What is left at the end is dropped: a batch of one, which the user's loader may never give, stops a BatchNorm.
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
