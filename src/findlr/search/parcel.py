"""A training on its way to another process: pickled, opened there, and looked at whether it is the same there.

A function that can be imported is pickled by its name, and so finds that module's globals where it is opened. Numbers
among them that it uses are compared; what trains or draws must not be among them, because it would be another one.
"""

from __future__ import annotations

import os
import pickle
import random
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from types import FunctionType
from typing import Any, Generic, TypeVar

import numpy as np

from findlr.analysis.text import told
from findlr.errors import ConfigurationError
from findlr.search.memory import Memory, remember_host_rng

Base = type[pickle.Pickler]
Globals = Mapping[str, Mapping[str, Any]]
Sent = TypeVar("Sent")

_PROCESS = uuid.uuid4().hex  # a fork of this process has the same
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Parcel(Generic[Sent]):
    """A training as another process gets it.

    Args:
        content: the training and the random states that its next step starts from, pickled.
        numbers: the globals, by module and name, that functions pickled by their name use.
        process: of which process it is.
    """

    content: bytes
    numbers: Globals
    process: tuple[str, int]

    @classmethod
    def of(cls, training: Sent, base: Base) -> Parcel[Sent]:
        """The parcel of a training that is pickled as it is.

        Raises:
            ConfigurationError: it can't be pickled.
        """
        content, kind = BytesIO(), pickler_of(base)
        states = random.getstate(), np.random.get_state()  # noqa: NPY002 - users draw from it
        with refused_if_not_pickled():
            kind(content, protocol=pickle.HIGHEST_PROTOCOL).dump((training, states))
        return cls(content.getvalue(), kind.numbers, here())

    @contextmanager
    def opened(self) -> Iterator[Sent]:
        """A block with the training, whose next step is the one that it would take at home; this process is as before.

        Raises:
            ConfigurationError: it can't be opened, or would not be the same.
        """
        self.check()
        before = Memory()
        remember_host_rng(before)
        try:
            with refused_if_not_opened():
                training, (python, numpy) = pickle.loads(self.content)  # noqa: S301 - of the parent's own
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            yield training
        finally:
            before.put_back()

    def check(self) -> None:
        """Refuse to be opened where it would not be the same.

        Raises:
            ConfigurationError: it is this process's own, or a global is another number here.
        """
        if self.process == here():
            raise ConfigurationError(
                "executor= runs its tasks in this process, whose random states all of them would share: give a "
                "concurrent.futures.ProcessPoolExecutor, say"
            )
        for module, names in self.numbers.items():
            with refused_if_not_opened():
                found = vars(import_module(module))
            for name, value in names.items():
                if name in found and found[name] != value and value == value:  # noqa: PLR0124 - NaN is not
                    raise ConfigurationError(
                        f"the training uses {module}.{name}, which is {value!r} here and {found[name]!r} in a worker, "
                        "which imports the module anew: hand it over, with functools.partial say"
                    )


def here() -> tuple[str, int]:
    """Which process this is."""
    return _PROCESS, os.getpid()


@contextmanager
def refused_if_not_opened() -> Iterator[None]:
    """Let what is raised say that a parcel can't be opened.

    Raises:
        ConfigurationError: something was raised.
    """
    try:
        yield
    except Exception as error:
        raise ConfigurationError(
            f"the training can't be opened in a worker of the executor ({told(error)}): what it is made of must be in "
            "modules that a worker can import, and nothing of it in the script's if __name__ == '__main__' alone"
        ) from error


def pickler() -> Base:
    """Cloudpickle's, which takes lambdas and what a script or a notebook defines, where it is installed."""
    try:
        from cloudpickle import Pickler
    except ImportError:
        return pickle.Pickler
    found: Base = Pickler
    return found


class Looks:
    """For a pickler: collects the globals that functions pickled by their name use, in ``numbers``."""

    numbers: dict[str, dict[str, Any]]

    def reducer_override(self, thing: Any) -> Any:
        """How ``thing`` is pickled; NotImplemented for pickle's own way."""
        reduced = self.reduced(thing)
        if reduced is NotImplemented:
            inner = getattr(super(), "reducer_override", None)
            reduced = NotImplemented if inner is None else inner(thing)
        if (
            reduced is NotImplemented
            and isinstance(thing, (FunctionType, type))
            and not _is_installed(thing.__module__)
        ):
            for function in _functions(thing):
                self._look(function)
        return reduced

    def reduced(self, thing: Any) -> Any:  # noqa: ARG002 - a framework's uses it
        """How a framework's own ``thing`` is pickled; NotImplemented for anything else."""
        return NotImplemented

    def is_another(self, value: Any) -> bool:
        """Whether a global is no constant, so that it would be another one where its module is imported anew."""
        from findlr.search.objects import GENERATORS  # here, because it brings all of numpy.random

        return isinstance(value, GENERATORS)

    def _look(self, function: FunctionType) -> None:
        from findlr.search.objects import global_names

        for name in global_names(function.__code__):
            value = function.__globals__.get(name)
            if self.is_another(value):
                raise ConfigurationError(
                    f"{function.__module__}.{function.__qualname__} uses the global {name}, a {type(value).__name__}, "
                    "and a worker would have another one: hand it over, with functools.partial say"
                )
            if name in function.__globals__ and isinstance(value, _PLAIN) and not name.startswith("__"):
                self.numbers.setdefault(function.__module__, {})[name] = value


def pickler_of(base: Base, looks: type[Looks] = Looks) -> Any:
    """A class of picklers; the globals that it has seen used are in its ``numbers``."""
    return type("Pickler", (looks, base), {"numbers": {}})


@contextmanager
def refused_if_not_pickled() -> Iterator[None]:
    """Let what is raised say that a training can't be pickled.

    Raises:
        ConfigurationError: something was raised.
    """
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"executor= sends the training to other processes, and it can't be pickled ({told(error)}): let its "
            "functions and classes be at the top of a module, or install cloudpickle; or leave executor out"
        ) from error


def _is_installed(module: str | None) -> bool:
    """Whether a module is Python's own, findlr's or an installed package's."""
    root = (module or "").partition(".")[0]
    if root in sys.stdlib_module_names - {"__main__"} or root == "findlr":
        return True
    return "site-packages" in (getattr(sys.modules.get(module or ""), "__file__", None) or "")


def _functions(thing: Any) -> Iterator[FunctionType]:
    """A function; or the functions of a class and of its parents that are no package's."""
    if isinstance(thing, FunctionType):
        yield thing
        return
    for kind in thing.__mro__:
        if not _is_installed(kind.__module__):
            yield from (each for each in vars(kind).values() if isinstance(each, FunctionType))
