"""The file that a race is kept in: read whole, checked, written anew."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from findlr.errors import ConfigurationError, FileFormatError, FindlrError
from findlr.finding.files import write_whole
from findlr.finding.saved import LARGEST, strict
from findlr.search.interrupts import signals_wait
from findlr.search.trainable import OneOfSeveral

logger = logging.getLogger("findlr")

ANEW = "give another name, or delete the file to begin anew"
_FORMAT = 1


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


def read(path: Path, several: OneOfSeveral | None) -> dict[str, Any] | None:
    """What a file holds, which the first of several processes reads for all; None if there is none.

    Raises:
        FileFormatError: it is no checkpoint, or damaged.
        ConfigurationError: there could not be one.
    """
    kept: dict[str, Any] | FindlrError | None = None
    try:
        if several is None or several.rank == 0:
            kept = _loaded(path) if _can_be_read(path) else None
    except FindlrError as error:
        kept = error
    kept = kept if several is None else several.first(kept)
    if isinstance(kept, FindlrError):
        raise kept
    return kept


@signals_wait
def write(path: Path, data: Mapping[str, Any]) -> None:
    """Write the file anew. A failure is logged, not raised."""
    data = through_json(data)
    text = json.dumps({"format": _FORMAT, "sha256": _digest(data), "checkpoint": data})
    try:
        write_whole(path, lambda file: file.write_text(text))
    except OSError as error:
        logger.warning("the race goes on, but can't be kept in %s: %s", path, error)


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
    return data


def _digest(data: Mapping[str, Any]) -> str:
    return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def through_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they come back from JSON."""
    back: dict[str, Any] = json.loads(json.dumps(strict(values), default=str))
    return back
