"""``findlr run``: a target's search, what is printed of it, and what is written."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from findlr.command.streams import drop_closed, finish, say, stdout_is_stderr
from findlr.errors import ConfigurationError, FindlrError

if TYPE_CHECKING:
    from findlr.finding import Finding

FINE, NO_SUGGESTION, WRONG, TARGET_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
_LONGEST = 500  # letters of what an exception of the user's says


@dataclass(frozen=True)
class Outputs:
    """Where a Finding goes.

    Args:
        as_json: print it as JSON, and nothing else, on standard output.
        saved: a file for ``Finding.save``, or None.
        picture: a file for ``Finding.plot``, or None.
        page: a file for ``Finding.report``, or None.
        beside: files that the command reads, or keeps itself, which no output may replace.
    """

    as_json: bool = False
    saved: Path | None = None
    picture: Path | None = None
    page: Path | None = None
    beside: tuple[Path, ...] = ()

    def check(self) -> None:
        """Refuse what could not be written, before anything is spent on it.

        Raises:
            ConfigurationError: standard output is closed, a folder is missing, a file is a folder, or has another use
                in the same command, or matplotlib writes no such picture.
            MissingExtraError: the picture needs matplotlib.
        """
        if self.as_json and sys.stdout is None:
            raise ConfigurationError(
                "--json prints on standard output, which is closed: open it, or save with --output"
            )
        used = {file.resolve() for file in self.beside}
        for path in self._paths():
            if not path.parent.is_dir():
                raise ConfigurationError(f"{path} cannot be written: there is no folder {path.parent}; make it")
            if path.is_dir():
                raise ConfigurationError(f"{path} cannot be written: it is a folder; name a file")
            if path.resolve() in used:
                raise ConfigurationError(
                    f"{path} has another use in this command, and would be lost: name another file"
                )
            if path.is_file() or not path.exists():  # /dev/stdout takes several
                used.add(path.resolve())
        if self.picture is not None:
            from findlr.views.figures import check_picture

            check_picture(self.picture)

    def write(self, finding: Finding, source: str) -> None:
        """Print the Finding, then write it where it was asked for: each is done, should the other fail.

        Raises:
            OSError: standard output takes no more, or a file cannot be written.
        """
        try:
            self._print(finding)
        finally:
            self._save(finding, source)

    def _print(self, finding: Finding) -> None:
        if self.as_json:
            print(json.dumps(finding.to_dict(), allow_nan=False))
        else:
            from findlr.views.console import show

            show(finding)
        finish()

    def _save(self, finding: Finding, source: str) -> None:
        if self.saved is not None:
            finding.save(self.saved)
        if self.picture is not None:
            finding.plot(self.picture)
        if self.page is not None:
            from findlr.views.report import write_report

            write_report([finding], self.page, source=source)
        if written := self._paths():
            say(f"written: {', '.join(map(str, written))}")

    def _paths(self) -> list[Path]:
        return [path for path in (self.saved, self.picture, self.page) if path is not None]


def code_of(finding: Finding) -> int:
    """The exit code for a Finding."""
    return NO_SUGGESTION if finding.suggestion is None else FINE


def run(
    target: str,
    options: Mapping[str, Any],
    outputs: Outputs,
    whole_traceback: bool = False,
    workers: int | None = None,
) -> int:
    """Search for the rate of what a target names, print what was found, and write it.

    What the target's own code raises is reported in one line; what was measured until then is kept in any case.

    Args:
        target: see ``findlr.command.target.load``.
        options: see ``findlr.command.target.search``.
        outputs: where the Finding goes.
        whole_traceback: print where the target's own code failed.
        workers: processes that make a race's runs; None makes them here.

    Returns:
        The exit code.
    """
    from findlr.command.target import as_script

    outputs.check()
    with stdout_is_stderr() if outputs.as_json else nullcontext(), as_script(target), _executor(workers) as executor:
        finding, code = _searched(target, {**options, **executor}, whole_traceback)
    drop_closed()
    if finding is not None:
        outputs.write(finding, target)
    return code


@contextmanager
def _executor(workers: int | None) -> Iterator[Mapping[str, Any]]:
    """``find_lr``'s argument for so many processes; none for None."""
    if workers is None:
        yield {}
        return
    from findlr.command.pool import pool

    with pool(workers) as made:
        yield {"executor": made}


def _searched(target: str, options: Mapping[str, Any], whole_traceback: bool) -> tuple[Finding | None, int]:
    """The Finding, or what was measured until an error, if anything was; and the exit code."""
    from findlr.command.target import load, search

    try:
        finding = search(load(target)(), options, target)
    except BaseException as error:  # noqa: BLE001 - whatever ends it, what was measured is told
        measured = _measured(error)
        code, said = ended(error, target, whole_traceback)
        if measured is not None:
            said += f"; {len(measured.curve)} steps were measured{_restored(error)}"
        if code == INTERRUPTED and (kept := options.get("checkpoint")) is not None and kept.exists():
            said += f"; the same command goes on with what {kept} has"
        say(said)
        return measured, code
    return finding, code_of(finding)


def ended(error: BaseException, target: str, whole_traceback: bool) -> tuple[int, str]:
    """The exit code for what ended a target's code, and a line that says it."""
    if isinstance(error, FindlrError):
        return WRONG, str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if whole_traceback:
        traceback.print_exception(error)
    return TARGET_FAILED, f"{target} failed: {_in_a_line(error)}"


def _measured(error: BaseException) -> Finding | None:
    """What the search had measured when it was ended; None if it had no point yet."""
    from findlr.finding import Finding

    measured = getattr(error, "finding", None)  # an exception of the user's may have one of its own
    return measured if isinstance(measured, Finding) and len(measured.curve) else None


def _restored(error: BaseException) -> str:
    """Whether everything was put back, as the search has noted it."""
    notes = [note for note in getattr(error, "__notes__", ()) if isinstance(note, str) and note.startswith("findlr: ")]
    if any("everything was put back" in note for note in notes):
        return ", and everything was put back"
    return "".join(f"; {note.removeprefix('findlr: ')}" for note in notes)


def _in_a_line(error: BaseException) -> str:
    """An exception of the user's code, and the last place in that code, in a line."""
    from findlr.analysis.text import told

    said = told(error, _LONGEST)
    ours = str(Path(__file__).parent)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    own = [frame for frame in frames if "site-packages" not in frame.filename and "importlib" not in frame.filename]
    for frame in (own or frames)[-1:]:
        said += f" ({frame.filename}, line {frame.lineno})"
    return f"{said}; --traceback shows more"
