"""Processes that take no part in a search: its steps must not call them, because they would stop after others."""

# ruff: noqa: SLF001 - which groups there are, and how many calls each has made, has no public name

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

from findlr.errors import ConfigurationError
from findlr.search.memory import Memory
from findlr.torch.ranks import Alone


class Others:
    """The processes outside of those that search together, which are ``ranks``."""

    def __init__(self, ranks: Iterable[int]) -> None:
        self._ranks = frozenset(ranks)
        self._before: dict[str, int] = {}

    def begin(self) -> None:
        """A step follows."""
        self._before = self._calls()

    def check(self) -> None:
        """Look whether that step has called them.

        Raises:
            ConfigurationError: it has; so they have taken the same step, and raise the same.
        """
        if all(count == self._before.get(name, 0) for name, count in self._calls().items()):
            return
        raise ConfigurationError(
            "a step of this training calls processes outside of this search, which would stop after another step, and "
            "wait for ever: where it averages the gradients by hand, give the search "
            "DistributedDataParallel(model, broadcast_buffers=False), which the training itself need not use; a model "
            "whose parts are on several processes, as a pipeline's are, can't be searched"
        )

    def _calls(self) -> dict[str, int]:
        """How many calls each group has made that others are in, by its name."""
        groups: list[Any] = list(distributed_c10d._world.pg_map)  # torch has no types for what they count
        found = {}
        for group in groups:
            if not self._ranks.issuperset(dist.get_process_group_ranks(group)):
                with suppress(RuntimeError):  # a backend that does not count
                    found[group.group_name] = group._get_sequence_number_for_group()
        return found


class Apart(Alone):
    """One process among others, which has a model of its own as far as its wrappers tell."""

    def __init__(self) -> None:
        self._others = Others([dist.get_rank()])

    def remember(self, memory: Memory) -> None:  # noqa: ARG002 - the protocol's
        """A step follows."""
        self.is_untried = True
        self._others.begin()

    def tried(self) -> None:
        """Look whether it has called others."""
        self.is_untried = False
        self._others.check()
