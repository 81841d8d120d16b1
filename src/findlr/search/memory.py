"""What puts a training back: a list of undos, in phases."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from enum import IntEnum
from functools import partial
from typing import Any

import numpy as np

from findlr.analysis.text import first_of, told
from findlr.errors import ConfigurationError, RestoreError
from findlr.search.interrupts import is_a_signals

Undo = Callable[[], Any]
"""Puts something back as it was. May be called again and again."""


class Phase(IntEnum):
    """When something is put back; each phase may disturb what the later ones put back."""

    PLACES = 0
    """Places in data: a pass over a loader is opened again, which draws from generators and moves counters."""
    VALUES = 1
    """Numbers, containers, flags, states."""
    RANDOM = 2
    """States of random generators."""


class Memory:
    """Undos by phase, and what to let go of in the end."""

    def __init__(self) -> None:
        self._undos: tuple[list[tuple[Undo, str]], ...] = ([], [], [])  # by phase
        self._releases: list[Undo] = []
        self._closed = False
        self.left: list[str] = []
        """What has changed and was not put back, because it may be the user's data; by name."""
        self.relief = ""
        """What to ask for if the training runs out of memory because of the copies; "" if they take none of that."""

    def add(self, undo: Undo, phase: Phase = Phase.VALUES, name: str = "") -> None:
        """Call ``undo`` when everything is put back: in its phase, in the order of adding; errors name it ``name``."""
        self._undos[phase].append((undo, name))

    def on_close(self, release: Undo) -> None:
        """Call ``release`` once nothing more will be put back."""
        self._releases.append(release)

    def put_back(self, phases: Iterable[Phase] = tuple(Phase)) -> None:
        """Put back everything that was remembered; if one thing can't be put back, the others still are.

        Raises:
            ConfigurationError: it was closed.
            RestoreError: something could not be put back; it names what.
        """
        if self._closed:
            raise ConfigurationError("the snapshot was closed, so nothing can be put back: take a new one")
        failures: list[tuple[str, BaseException]] = []
        for phase in phases:
            failures += self._put(phase)
        if failures:
            raise RestoreError(f"could not be put back: {_named(failures)}; everything else was") from failures[0][1]

    def _put(self, phase: Phase) -> list[tuple[str, BaseException]]:
        """Put back what belongs to one phase; return what failed, by name."""
        failures: list[tuple[str, BaseException]] = []
        for undo, name in self._undos[phase]:
            try:
                undo()
            except BaseException as error:  # put_back raises it; code of the user's may even exit
                if is_a_signals(error):  # between the runs of a race, where signals act
                    raise
                failures.append((name, error))
        return failures

    def close(self) -> None:
        """Let go of everything that is kept, wherever it is."""
        self._closed = True
        for undos in self._undos:
            undos.clear()
        while self._releases:
            self._releases.pop()()


def _named(failures: Iterable[tuple[str, BaseException]]) -> str:
    """What could not be put back, by its reason: a device that has failed gives none of its tensors back."""
    names: dict[str, dict[str, None]] = {}
    for name, error in failures:
        names.setdefault(told(error), {})[name or "a value"] = None
    return "; ".join(f"{first_of(list(each))} ({reason})" for reason, each in names.items())


def remember_host_rng(memory: Memory) -> None:
    """The random states of Python and of NumPy's global generator."""
    memory.add(partial(random.setstate, random.getstate()), Phase.RANDOM, "Python's random state")
    state = np.random.get_state()  # noqa: NPY002 - users draw from it
    memory.add(partial(np.random.set_state, state), Phase.RANDOM, "NumPy's random state")


def undo_of_generator(value: Any) -> tuple[Undo, str] | None:
    """What puts a random generator of Python's or NumPy's back, and its name; None for anything else."""
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state()), "a NumPy RandomState"
    if isinstance(value, np.random.BitGenerator):
        return partial(_put_bits, value, *_bits_of(value)), "a NumPy BitGenerator"
    if isinstance(value, np.random.Generator):
        return partial(_put_bits, value.bit_generator, *_bits_of(value.bit_generator)), "a NumPy Generator"
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):  # the system's has no state
        return partial(value.setstate, value.getstate()), "a random.Random"
    return None


def _bits_of(bits: np.random.BitGenerator) -> tuple[Any, Any]:
    """The state, and that of the seeds, which counts the generators that were spawned."""
    seeds: Any = bits.seed_seq
    return bits.state, seeds.__reduce__()[2] if type(seeds) is np.random.SeedSequence else None


def _put_bits(bits: Any, state: Any, seeds: Any) -> None:
    bits.state = state
    if seeds is not None:
        bits.seed_seq.__setstate__(seeds)


def errors_of(function: Callable[..., Any], *columns: Iterable[Any]) -> list[BaseException]:
    """Call ``function`` with each row of the columns; return what it raised."""
    errors: list[BaseException] = []
    for row in zip(*columns, strict=True):
        try:
            function(*row)
        except BaseException as error:  # put_back raises it
            if is_a_signals(error):
                raise
            errors.append(error)
    return errors
