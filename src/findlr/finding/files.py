"""How a file is written: whole, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from os import PathLike
from pathlib import Path

from findlr.errors import ConfigurationError


def file_named(path: str | PathLike[str]) -> Path:
    """The path that an argument names.

    Raises:
        ConfigurationError: it is no name of a file.
    """
    try:
        name = os.fsdecode(path)
        sound = name != "" and b"\0" not in os.fsencode(name)
    except TypeError:
        raise ConfigurationError(f"a file is named by a str or a Path, got {type(path).__name__}") from None
    except UnicodeError:  # which the file system has no letters for
        sound = False
    if not sound:
        raise ConfigurationError(f"{path!r} is no name that a file can have: give another one")
    return Path(name)


def write_whole(path: str | PathLike[str], write: Callable[[Path], object]) -> None:
    """Write a file beside ``path``, which takes its place once all of it is on the disk.

    If that fails, because the disk is full, or a Ctrl-C comes, what was at ``path`` is still there, and nothing is left
    beside it. A link stays a link, and a file keeps its owner and its permissions. What is no regular file, such as
    ``/dev/stdout``, is a mount of its own, or stands in a folder that takes no other file, is written to as it is.

    Args:
        path: the file; one that is there is replaced.
        write: is given the path to write to; its suffix is that of ``path``.

    Raises:
        ConfigurationError: ``path`` is no name of a file.
        OSError: it can't be written; it names ``path``.
    """
    file = file_named(path)
    try:
        if file.exists() and not file.is_file():
            write(file)
        else:
            _replace(Path(os.path.realpath(file)), write)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error


def _replace(file: Path, write: Callable[[Path], object]) -> None:
    beside = file.with_name(f"findlr-{os.urandom(8).hex()}{file.suffix}")
    is_there = file.exists()
    if is_there and not os.access(file, os.W_OK):
        raise PermissionError(errno.EACCES, "")
    if is_there and not os.access(file.parent, os.W_OK):
        write(file)
        return
    try:
        write(beside)
        with beside.open("rb+") as written:
            os.fsync(written.fileno())
        if is_there:
            _permit_as(beside, file)
        try:
            beside.replace(file)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            write(file)  # it is a mount of its own, as in a container
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _permit_as(beside: Path, file: Path) -> None:
    kept = file.stat()
    if hasattr(os, "chown"):
        with suppress(OSError):  # only root may give a file away
            os.chown(beside, kept.st_uid, kept.st_gid)
    shutil.copymode(file, beside)
