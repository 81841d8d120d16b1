"""The command line. It imports nothing before it needs it."""

import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from findlr import __version__
from findlr.command import help_texts
from findlr.command.run import FINE, INTERRUPTED, WRONG, Outputs, code_of, run
from findlr.command.streams import finish, hold_descriptors, say
from findlr.errors import ConfigurationError, FindlrError, MissingExtraError

if TYPE_CHECKING:
    from typer import Typer

    from findlr.analysis.rules import Rule
    from findlr.finding import Finding


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
    try:
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
        return WRONG, f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":  # what click makes of it
        return INTERRUPTED, "interrupted"
    if not hasattr(error, "format_message"):  # of click, which typer may bring along under a name of its own
        raise error
    message = error.format_message()
    if not message:  # no arguments: the help was printed
        return WRONG, ""
    context = getattr(error, "ctx", None)
    return WRONG, f"{message} See: {context.command_path if context else 'findlr'} --help"


def app() -> "Typer":
    """The command for typer to run; made only when it is needed, because typer is an extra.

    Raises:
        MissingExtraError: typer is not installed.
    """
    try:
        from typer import Exit, Option, Typer
    except ImportError:
        raise MissingExtraError.of("typer", "cli") from None

    # Plain help: rich's cuts the names of options off in a narrow terminal.
    made = Typer(no_args_is_help=True, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})

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
    return made


def _add_searches(made: "Typer") -> None:
    """``run`` and ``demo``."""
    from typer import Argument, Exit, Option

    @made.command("run", help=help_texts.RUN)
    def run_(
        target: Annotated[str, Argument(metavar="TARGET", help="train.py:function or package.module:function.")],
        verify: Annotated[bool, Option("--verify", help="Race the suggestion against rates near it.")] = False,
        schedule: Annotated[
            str | None,
            Option(
                help="Of the planned training: constant, one_cycle, cosine, linear, wsd, cosine_with_min_lr, "
                "polynomial, inverse_sqrt.",
                autocompletion=_schedules,
            ),
        ] = None,
        total_steps: Annotated[int | None, Option(help="Optimizer steps of the planned training.")] = None,
        epochs: Annotated[float | None, Option(help="Its epochs, in place of --total-steps.")] = None,
        budget: Annotated[
            float | None,
            Option(
                parser=_number, metavar="STEPS|SHARE", help="For --verify: 500 is steps, 0.5 a share of --total-steps."
            ),
        ] = None,
        checkpoint: Annotated[
            Path | None, Option(help="Keep --verify's runs in this file; the same command goes on with them.")
        ] = None,
        min_lr: Annotated[float | None, Option(help="The first rate; by default 1e-8.")] = None,
        max_lr: Annotated[float | None, Option(help="The last rate; by default 10.")] = None,
        num_steps: Annotated[
            int | None, Option(parser=_steps, metavar="STEPS|epoch", help="Steps of the sweep; by default 100.")
        ] = None,
        rule: Annotated[
            str | None,
            Option(
                help="How the rate is chosen: quick, article, valley, slide, steep, minimum.", autocompletion=_rules
            ),
        ] = None,
        progress: Annotated[
            bool | None, Option(help="Show the search on stderr while it runs; on by default.", show_default=False)
        ] = None,
        as_json: Annotated[
            bool, Option("--json", help="Print the Finding as JSON, and nothing else, on stdout.")
        ] = False,
        output: Annotated[Path | None, Option("-o", "--output", help="Save the Finding here, as JSON.")] = None,
        plot: Annotated[Path | None, Option(help="Draw the curve into this picture: .png, .svg, .pdf.")] = None,
        report: Annotated[Path | None, Option(help="Write the Finding as a page, .html.")] = None,
        traceback: Annotated[bool, Option("--traceback", help="Print where the training's own code failed.")] = False,
    ) -> None:
        from findlr.analysis.plan import Plan

        Plan(schedule or "constant", total_steps)  # refused before the training's code is run
        given: dict[str, Any] = {
            "schedule": schedule,
            "total_steps": _length(total_steps, epochs),
            "verify": verify or None,
            "budget": budget,
            "checkpoint": checkpoint,
            "min_lr": min_lr,
            "max_lr": max_lr,
            "num_steps": num_steps,
            "rule": None if rule is None else _rule(rule),
            "progress": progress,
        }
        options = {name: value for name, value in given.items() if value is not None}
        raise Exit(run(target, options, Outputs(as_json, output, plot, report), traceback))

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

        Outputs(picture=output).check()
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

        Outputs(page=output).check()
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


def _length(steps: int | None, epochs: float | None) -> int | str | None:
    """The length of the planned training, as ``find_lr`` takes it."""
    if epochs is None:
        return steps
    if steps is not None:
        raise ConfigurationError("--epochs and --total-steps are two ways to say the same: give one of them")
    if not 0 < epochs < math.inf:
        raise ConfigurationError(f"--epochs must be a number above 0, got {epochs:g}")
    return f"{epochs:f} epochs"


def _number(text: str) -> float:
    """An int is a number of steps, a float a share."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _steps(text: str) -> int | str:
    return text if text == "epoch" else int(text)


def _schedules() -> list[str]:
    from findlr.analysis.plan import SCHEDULES

    return [*SCHEDULES]


def _rules() -> list[str]:
    from findlr.analysis.rules import RULES

    return [*RULES]


def _rule(name: str) -> "Rule":
    from findlr.analysis.rules import RULES

    if name not in RULES:
        raise ConfigurationError(f"--rule must be one of {', '.join(RULES)}, got {name!r}")
    return RULES[name]
