"""The command line. It imports nothing before it needs it."""

import errno
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from findlr import __version__
from findlr.command import help_texts
from findlr.command.run import FINE, INTERRUPTED, WRONG, Outputs, code_of, run
from findlr.command.signals import end_as_by_ctrl_c
from findlr.command.streams import finish, hold_descriptors, replace_letters, say
from findlr.errors import ConfigurationError, FindlrError, MissingExtraError

if TYPE_CHECKING:
    from typer import Typer

    from findlr.finding import Finding


_WIDE = 90  # columns
_UNWRITABLE = {errno.ENOSPC, errno.EIO, errno.EBADF}


class Images(StrEnum):
    """What the demo can train on."""

    DIGITS = "digits"
    MNIST = "mnist"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; the exit codes are in its help.

    Args:
        arguments: None takes those of the process.
    """
    hold_descriptors()
    replace_letters()
    try:
        with end_as_by_ctrl_c():
            code = app()(args=arguments, prog_name="findlr", standalone_mode=False) or FINE
            finish()
    except BaseException as error:  # noqa: BLE001 - each end has its code, and a line at most
        code, said = _ended(error)
        if said:
            say(said)
        with suppress(OSError):
            finish()
    sys.exit(code)


def _ended(error: BaseException) -> tuple[int, str]:
    """The exit code for what ended the command, and a line for standard error.

    Raises:
        BaseException: the error itself, if it is nobody's but findlr's own.
    """
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):  # rich makes it an exit
        return WRONG, "standard output was closed before all was printed"
    if isinstance(error, FindlrError):
        return WRONG, str(error)
    if isinstance(error, OSError):
        where = error.filename or ("standard output" if error.errno in _UNWRITABLE else None)  # files have their names
        return WRONG, f"{where}: {error.strerror}" if where and error.strerror else str(error)
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":  # what click makes of it
        return INTERRUPTED, "interrupted"
    if not hasattr(error, "format_message"):  # of click, which typer may bring along under a name of its own
        raise error
    message = error.format_message().strip()
    if type(error).__name__ == "NoArgsIsHelpError":  # no arguments: the help is the message, unless rich has printed it
        print(message)
        return WRONG, ""
    if re.search(r"extra argument\S* \((true|false|yes|no|on|off|1|0)\b", message, re.IGNORECASE):
        message += ". A flag takes no value: --verify alone says yes, --no-verify no."
    context = getattr(error, "ctx", None)
    said = message if message.endswith("?") else f"{message.removesuffix('.')}."
    return WRONG, f"{said} See: {context.command_path if context else 'findlr'} --help"


def app() -> Any:
    """The command, as click's; made only when it is needed, because typer is an extra.

    Raises:
        MissingExtraError: typer is not installed.
    """
    try:
        from typer import Context, Exit, Option, Typer
        from typer.main import get_command
    except ImportError:
        raise MissingExtraError.of("typer", "cli") from None

    settings: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
    # In a narrow terminal rich's help cuts the names of options off, and click's plain one does not.
    markup: Literal["rich"] | None = "rich" if get_terminal_size().columns >= _WIDE else None
    made = Typer(no_args_is_help=True, rich_markup_mode=markup, context_settings=settings)

    def tell_version(asked: bool) -> None:
        if asked:
            print(f"findlr {__version__}")
            raise Exit(FINE)

    @made.callback(help=help_texts.ROOT)
    def root(
        version: Annotated[
            bool, Option("--version", is_eager=True, callback=tell_version, help="Print the version.")
        ] = False,
    ) -> None:
        pass

    _add_searches(made)
    _add_views(made)
    command: Any = get_command(made)
    for each in (command, *command.commands.values()):
        for option in each.get_params(Context(each, **settings)):
            if getattr(option, "is_flag", False):
                option.metavar = ""  # a flag takes no value, so its help names none
    return command


def _add_searches(made: "Typer") -> None:
    """``run``, ``doctor`` and ``demo``."""
    from typer import Exit, Option

    from findlr.command.options import Config, Target, Traceback, chosen, with_search

    @made.command("run", help=help_texts.RUN)
    @with_search
    def run_(
        target: Target,
        config: Config = None,
        output: Annotated[Path | None, Option("-o", "--output", help="Save the Finding here, as JSON.")] = None,
        plot: Annotated[Path | None, Option(help="Draw the curve into this picture: .png, .svg, .pdf.")] = None,
        report: Annotated[Path | None, Option(help="Write the Finding as a page, .html.")] = None,
        json: Annotated[bool, Option("--json", help="Print the Finding as JSON, and nothing else, on stdout.")] = False,
        progress: Annotated[
            bool | None, Option(help="Show the search on stderr while it runs; on by default.", show_default=False)
        ] = None,
        workers: Annotated[
            int | None, Option(min=1, help="Processes that make --verify's runs at the same time.")
        ] = None,
        traceback: Traceback = False,
        **search: Any,
    ) -> None:
        from findlr.command.target import script_of

        options = chosen({**search, "progress": progress})
        beside = tuple(file for file in (script_of(target), config, options.get("checkpoint")) if file is not None)
        raise Exit(run(target, options, Outputs(json, output, plot, report, beside), traceback, workers))

    @made.command(help=help_texts.DOCTOR)
    @with_search
    def doctor(
        target: Target = "",
        config: Config = None,
        traceback: Traceback = False,
        **search: Any,
    ) -> None:
        from findlr.command.doctor import examine

        raise Exit(examine(target, chosen(search), traceback))

    @made.command(help=help_texts.DEMO)
    def demo(
        data: Annotated[Images, Option(help="What to train on.")] = Images.DIGITS,
        data_dir: Annotated[
            Path | None, Option(help="The folder with MNIST's four idx files, gzipped or not.", show_default=False)
        ] = None,
        output: Annotated[Path, Option("-o", "--output", help="Where to write curve.png and finding.json.")] = Path(
            "findlr-demo"
        ),
    ) -> None:
        raise Exit(code_of(_demo(data, data_dir, output)))


def _add_views(made: "Typer") -> None:
    """``show``, ``compare`` and ``report``."""
    from typer import Argument, Exit, Option

    saved = Argument(help="What finding.save() wrote.", show_default=False)
    labels = Option("--label", help="The name of a Finding; once for each. By default the files' names.")

    @made.command(help=help_texts.SHOW)
    def show(file: Annotated[Path, saved]) -> None:
        from findlr.finding import Finding
        from findlr.views.console import show

        finding = Finding.load(file)
        show(finding)
        raise Exit(code_of(finding))

    @made.command(help=help_texts.COMPARE)
    def compare(
        files: Annotated[list[Path], saved],
        label: Annotated[list[str] | None, labels] = None,
        output: Annotated[Path | None, Option("-o", "--output", help="Draw the curves into this picture.")] = None,
    ) -> None:
        from findlr.views.console import show_all

        Outputs(picture=output, beside=tuple(files)).check()
        findings, names = _labelled(files, label)
        show_all(findings, names)
        if output is not None:
            from findlr.views import plot

            plot.compare(findings, names, output)

    @made.command(help=help_texts.REPORT)
    def report(
        files: Annotated[list[Path], saved],
        output: Annotated[Path, Option("-o", "--output", help="The page to write.", show_default=False)],
        label: Annotated[list[str] | None, labels] = None,
    ) -> None:
        from findlr.views.report import write_report

        Outputs(page=output, beside=tuple(files)).check()
        findings, names = _labelled(files, label)
        write_report(findings, output, labels=names, source=f"from {', '.join(file.name for file in files)}")


def _demo(images: Images, folder: Path | None, output: Path) -> "Finding":
    if (images is Images.MNIST) != (folder is not None):
        raise ConfigurationError(
            "--data mnist and --data-dir go together: give both for MNIST's files, neither for the digits, which come "
            "with scikit-learn"
        )
    from findlr.command import demo

    return demo.run(demo.digits() if folder is None else demo.mnist(folder), output)


def _labelled(files: Sequence[Path], labels: Sequence[str] | None) -> tuple[list["Finding"], list[str]]:
    """Saved Findings, each with a name: the one given, or its file's."""
    from findlr.finding import Finding

    if labels and len(labels) != len(files):
        raise ConfigurationError(f"give one --label for each file, or none; got {len(labels)} for {len(files)} files")
    stems = [file.stem for file in files]
    names = stems if len(set(stems)) == len(stems) else [str(file) for file in files]
    return [Finding.load(file) for file in files], list(labels or names)
