"""A private temporary folder that no exit leaves behind; the next process removes what a killed one left."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows has no such locks, so what a killed process left stays until the system clears it
    fcntl = None

_LOCK = "lock"
_SPARES = 3  # descriptors, because reading a file takes two, and so does looking into a folder


def _prefix() -> str:
    """What the names of this user's folders on this host begin with; several hosts may share a temporary folder."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    return f"findlr-{re.sub(r'[^A-Za-z0-9.]', '_', platform.node())}-{user}-"


class Private:
    """A folder that only this user may enter, locked for as long as this process lives.

    Raises:
        OSError: the temporary folder can't be written.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        lock = None
        while lock is None:  # a process that looks for leftovers may take a folder that is not locked yet
            self._files: list[Path] = []
            self._descriptors: list[int] = []
            self.path = Path(tempfile.mkdtemp(prefix=_prefix()))
            try:
                lock = _locked(self.path, wait=True)
                if lock is not None:
                    self._descriptors.append(lock)
                    self._descriptors += [os.dup(lock) for _ in range(_SPARES)]
            except BaseException:
                self.remove()
                raise

    def file(self, name: str) -> Path:
        """The path of a new file in the folder."""
        self._files.append(self.path / name)
        return self._files[-1]

    def spare(self) -> bool:
        """Close the descriptors that are kept for when the process has none left; whether there were any."""
        spares = self._descriptors[1:]
        while len(self._descriptors) > 1:
            os.close(self._descriptors.pop())
        return bool(spares)

    def remove(self) -> None:
        """Remove the folder, unless this is a fork of the process that made it."""
        while self._descriptors:
            os.close(self._descriptors.pop())
        if os.getpid() != self._owner:
            return
        for file in (*self._files, self.path / _LOCK):  # by name, because looking into the folder takes descriptors
            with contextlib.suppress(OSError):
                file.unlink()
        try:
            self.path.rmdir()
        except OSError:
            shutil.rmtree(self.path, ignore_errors=True)


def remove_leftovers() -> None:
    """Remove this user's folders on this host whose process is gone, so that their locks are free."""
    if fcntl is None:
        return
    try:
        found = list(Path(tempfile.gettempdir()).glob(f"{_prefix()}*"))
    except OSError:
        return
    for folder in found:
        with contextlib.suppress(OSError):  # another process was faster, or it is not ours
            there = folder.lstat()
            if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.getuid():
                continue
            lock = _locked(folder, wait=False)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _locked(folder: Path, *, wait: bool) -> int | None:
    """The open lock of a folder; None if another process has it, or has removed the folder meanwhile."""
    file = folder / _LOCK
    try:
        lock = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
    except FileNotFoundError:
        return None
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if file.exists():
            return lock
    except BlockingIOError:
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None
