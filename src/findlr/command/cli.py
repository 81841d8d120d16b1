"""The command line. It imports nothing before it needs it."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from findlr import __version__
from findlr.command.run import DPI, FINE, WRONG, Outputs, code_of, run
from findlr.errors import ConfigurationError, FindlrError, MissingExtraError

if TYPE_CHECKING:
    from typer import Typer

    from findlr.analysis.rules import Rule
    from findlr.finding import Finding

_ROOT_HELP = """Find a good learning rate, and show why it is good.

\b
Examples:
  findlr run train.py:setup             find a rate for a training of yours
  findlr demo                           find a rate on real data, and try it
  findlr show finding.json              print what finding.save() wrote
  findlr compare a.json b.json          several Findings, side by side
  findlr report a.json -o report.html   a page to look at, and to send

Exit codes: 0 fine, 1 no suggestion, 2 wrong usage or input, 3 the training's own code failed, 130 interrupted.
"""
_RUN_HELP = """Find a rate for a training of yours.

TARGET is a function: train.py:setup, or package.module:setup. It takes nothing, and returns (model, optimizer, \
criterion, loader), or a dict of find_lr's arguments, or a Trainable. What stands under if __name__ == "__main__" \
does not run. Options override what the function returns.

\b
Examples:
  findlr run train.py:setup
  findlr run train.py:setup --schedule one_cycle --total-steps 5000 --verify
  findlr run train.py:setup --verify --total-steps 5000 --budget 0.5
  findlr run my.train:setup -o run.json --plot run.png --report run.html
  findlr run train.py:setup --json | jq .suggestion.lr

Ctrl-C prints what was measured until then. Exit codes: 0 a suggestion, 1 none, 2 wrong usage or input, 3 the \
training's own code failed, 130 interrupted.
"""
_DEMO_HELP = """Find a rate for a small network on real data, and try it.

The rate is compared with 1/100, 1/10, 10 and 100 times itself, on held-out images.

\b
Examples:
  findlr demo                                  handwritten digits
  findlr demo -o results                       write into results/
  findlr demo --data mnist --data-dir mnist    one epoch of MNIST
"""
_SHOW_HELP = """Print a Finding that was saved: the rate, why, and the curve.

\b
Example:
  findlr show findlr-demo/finding.json
"""
_COMPARE_HELP = """Print several saved Findings side by side, and draw their curves over each other.

\b
Examples:
  findlr compare sgd.json adam.json
  findlr compare wd0.json wd1.json --label "no decay" --label "decay 0.1" -o decay.png
"""
_REPORT_HELP = """Write saved Findings as one page that opens offline.

\b
Examples:
  findlr report run.json -o run.html
  findlr report sgd.json adam.json --label SGD --label Adam -o optimizers.html
"""


class Images(StrEnum):
    """What the demo can train on."""

    DIGITS = "digits"
    MNIST = "mnist"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; the exit codes are in its help.

    Args:
        arguments: None takes those of the process.
    """
    try:
        sys.exit(app()(args=arguments, prog_name="findlr", standalone_mode=False) or FINE)
    except FindlrError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's, which typer may bring along under another name
            raise
        message = error.format_message()
        if not message:  # no arguments: the help was printed
            sys.exit(WRONG)
        context = getattr(error, "ctx", None)
        message += f" See: {context.command_path if context else 'findlr'} --help"
    print(f"findlr: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(WRONG)


def app() -> "Typer":
    """The command for typer to run; made only when it is needed, because typer is an extra.

    Raises:
        MissingExtraError: typer is not installed.
    """
    try:
        from typer import Exit, Option, Typer
    except ImportError:
        raise MissingExtraError.of("typer", "cli") from None

    made = Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})

    def tell_version(asked: bool) -> None:
        if asked:
            print(f"findlr {__version__}")
            raise Exit(FINE)

    @made.callback(help=_ROOT_HELP)
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

    @made.command("run", help=_RUN_HELP)
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
        budget: Annotated[
            float | None,
            Option(
                parser=_number, metavar="STEPS|SHARE", help="For --verify: 500 is steps, 0.5 a share of --total-steps."
            ),
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
            bool | None, Option(help="Show the sweep on stderr while it runs.", show_default="on")
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
            "total_steps": total_steps,
            "verify": verify or None,
            "budget": budget,
            "min_lr": min_lr,
            "max_lr": max_lr,
            "num_steps": num_steps,
            "rule": None if rule is None else _rule(rule),
            "progress": progress,
        }
        options = {name: value for name, value in given.items() if value is not None}
        raise Exit(run(target, options, Outputs(as_json, output, plot, report), traceback))

    @made.command(help=_DEMO_HELP)
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

    @made.command(help=_SHOW_HELP)
    def show(file: Annotated[Path, saved]) -> None:
        from findlr.finding import Finding
        from findlr.views.console import show

        finding = Finding.load(file)
        show(finding)
        raise Exit(code_of(finding))

    @made.command(help=_COMPARE_HELP)
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

            plot.picture(lambda ax: plot.compare(findings, names, ax)).savefig(output, dpi=DPI)

    @made.command(help=_REPORT_HELP)
    def report(
        files: Annotated[list[Path], saved],
        output: Annotated[Path, Option("-o", "--output", help="The page to write.", show_default=False)],
        label: Annotated[list[str] | None, labels] = None,
    ) -> None:
        from findlr.views.report import write_report

        Outputs(page=output).check()
        findings, names = _labelled(files, label)
        write_report(findings, output, labels=names)


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
