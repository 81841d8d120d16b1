"""The file that a race is kept in: read whole, checked, written anew."""

from __future__ import annotations

import json
import logging
import os
import weakref
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from findlr.analysis.curve import Stop
from findlr.errors import ConfigurationError, FileFormatError, FindlrError
from findlr.finding.files import write_whole
from findlr.finding.saved import LARGEST, fitted, strict
from findlr.search.interrupts import signals_wait
from findlr.search.trainable import OneOfSeveral

logger = logging.getLogger("findlr")

ANEW = "give another name, or delete the file to begin anew"
_FORMAT = 1
_PASSES = {"forwards": int, "backwards": int}
_RUN = {"lr": float, "steps": int, "loss": float}
_SHAPE = {
    "asked": Mapping,
    "facts": Mapping,
    "sweep": {
        "lr": [float],
        "loss": [float],
        "baseline": [(float, None)],
        "stop": str,
        "error": (str, None),
        "skipped": int,
        "steps": int,
        **_PASSES,
    },
    "race": Mapping,
}
_RACE = {
    "start": float,
    "pass": ({"steps": int, "runs": [_RUN], "spent": float, **_PASSES}, None),
    "runs": [{**_RUN, "first": float, "surely": float, **_PASSES}],
}


def from_the_root(path: str | os.PathLike[str]) -> Path:
    """The same path, wherever the training goes: it may change the folder that this process is in.

    Raises:
        ConfigurationError: that folder is gone.
    """
    try:
        return Path(path).absolute()
    except FileNotFoundError:
        raise ConfigurationError(
            f"checkpoint={os.fspath(path)!r} can't be written: the folder that this process is in is gone; give the "
            "whole path"
        ) from None


def read(path: Path, own: OwnFile | None, several: OneOfSeveral | None) -> dict[str, Any] | None:
    """What a file holds, which the first of several processes reads for all; None if there is none.

    Args:
        path: of the file.
        own: takes it; None in the other processes.
        several: the processes.

    Raises:
        FileFormatError: it is no checkpoint, or damaged.
        ConfigurationError: there could not be one, or another search has it.
    """
    kept: dict[str, Any] | FindlrError | None = None
    try:
        if several is None or several.rank == 0:
            kept = _loaded(path) if _can_be_read(path) else None
            if own is not None:
                own.take()
    except FindlrError as error:
        kept = error
    kept = kept if several is None else several.first(kept)
    if isinstance(kept, FindlrError):
        raise kept
    return kept


class OwnFile:
    """A file that one search alone writes: another one that lives at the same time is refused.

    The lock lies on the file itself, so that nothing is left beside it, and the system lets go of it as the process
    ends, however it does. A file that another search has put there before it was locked is seen by the next write.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at: os.stat_result | None = None  # the file that this search has read or written last
        self._has_warned = False  # since it was last written
        self._locked: list[IO[bytes]] = []
        self.close = weakref.finalize(self, _let_go, self._locked)
        """Let other searches have the file."""

    def take(self) -> None:
        """Lock the file that is there, if there is one; nothing in this process may close it from here on.

        Raises:
            ConfigurationError: another search has it.
        """
        if self._path.is_file():  # a pipe could keep us waiting
            self._at = self._path.stat()
            self._lock()
            self._check()

    @signals_wait
    def write(self, data: Mapping[str, Any]) -> None:
        """Write the file anew. A failure is logged, not raised.

        Raises:
            ConfigurationError: another search has put its own there.
        """
        self._check()
        data = through_json(data)
        text = json.dumps({"format": _FORMAT, "sha256": _digest(data), "checkpoint": data})

        try:
            write_whole(self._path, lambda file: file.write_text(text, encoding="ascii"))
            self._at = self._path.stat()
        except OSError as error:
            if not self._has_warned:
                logger.warning("the race goes on, but can't be kept in %s: %s", self._path, error)
            self._has_warned = True
        else:
            self._has_warned = False
            self._lock()

    def _check(self) -> None:
        with suppress(FileNotFoundError):
            if self._path.is_file() and not (self._at and os.path.samestat(self._at, self._path.stat())):
                raise self._refused()

    def _lock(self) -> None:
        """Lock the file in place of the one before."""
        try:
            import fcntl

            file = self._path.open("r+b")
        except (ImportError, OSError):  # as on Windows, or it can't be written
            return
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, whose lock a fork would hold on
        except (BlockingIOError, PermissionError):
            file.close()
            raise self._refused() from None
        except OSError:  # this file system has none
            pass
        _let_go(self._locked)
        self._locked.append(file)

    def _refused(self) -> ConfigurationError:
        return ConfigurationError(
            f"another search writes {self._path}, and two can't keep their runs in one file: wait for its end, or give "
            "each a checkpoint of its own"
        )


def _let_go(files: list[IO[bytes]]) -> None:
    while files:
        files.pop().close()


def _can_be_read(path: Path) -> bool:
    """Whether there is a file to go on with.

    Raises:
        ConfigurationError: there could not be one.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError) as error:  # too long, or with a null byte
        raise ConfigurationError(f"checkpoint={os.fspath(path)[:60]!r} is no name of a file: {error}") from None
    if path.is_dir() or not os.access(Path(os.path.realpath(path)).parent, os.W_OK):
        reason = "it is a folder" if path.is_dir() else "its folder is not there, or can't be written to"
        raise ConfigurationError(f"checkpoint={os.fspath(path)!r} can't be written: {reason}; give the name of a file")
    return path.exists()


def _loaded(path: Path) -> dict[str, Any]:
    """What a file holds.

    Raises:
        FileFormatError: it is no checkpoint, or damaged.
    """
    if not path.is_file() or path.stat().st_size > LARGEST:  # a pipe could keep us waiting
        raise FileFormatError(f"{path} is no checkpoint of a race; {ANEW}")
    try:
        whole = json.loads(path.read_bytes().decode())
        data: dict[str, Any] = whole["checkpoint"]
        known, sound = whole["format"] == _FORMAT, whole["sha256"] == _digest(data)
    except (ValueError, LookupError, TypeError, RecursionError):
        raise FileFormatError(f"{path} is no checkpoint of a race, or a damaged one; {ANEW}") from None
    if not known:
        raise FileFormatError(f"{path} is the checkpoint of another version of findlr; {ANEW}")
    if not sound:
        raise FileFormatError(f"{path} is damaged: its content is not what was written; {ANEW}")
    try:
        return _fitted(data)
    except FileFormatError:
        raise FileFormatError(f"{path} is no checkpoint of a race that this findlr writes; {ANEW}") from None


def _fitted(data: Any) -> dict[str, Any]:
    """What a file holds, after a look at every field: its digest tells only that it is whole.

    Raises:
        FileFormatError: a field has the wrong kind of value.
    """
    kept: dict[str, Any] = fitted(data, _SHAPE, "")
    if kept["race"]:  # none has begun yet
        kept["race"] = fitted(kept["race"], _RACE, "race")
    sweep = kept["sweep"]
    if len({len(sweep[name]) for name in ("lr", "loss", "baseline")}) > 1 or sweep["stop"] not in Stop.__members__:
        raise FileFormatError("this is no sweep")
    return kept


def _digest(data: Mapping[str, Any]) -> str:
    return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def through_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they come back from JSON."""
    back: dict[str, Any] = json.loads(json.dumps(strict(values), default=str))
    return back
