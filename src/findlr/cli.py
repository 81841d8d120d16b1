"""The command: ``findlr demo``, ``findlr show``. What it does not need yet, it does not import."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from findlr import __version__
from findlr.errors import ConfigurationError, FindlrError, MissingExtraError
from findlr.finding import Finding

if TYPE_CHECKING:
    from typer import Typer

FINE, NO_SUGGESTION, WRONG = 0, 1, 2

_ROOT_HELP = """Find a good learning rate, and show why it is good.

\b
Examples:
  findlr demo                  find a rate on real data, and try it
  findlr show finding.json     print what finding.save() wrote

Exit codes: 0 fine, 1 no suggestion, 2 wrong usage or input.
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


class Images(StrEnum):
    """What the demo can train on."""

    DIGITS = "digits"
    MNIST = "mnist"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit: 0 fine, 1 no suggestion, 2 wrong usage or input.

    Args:
        arguments: None is the process's own.
    """
    try:
        app()(args=arguments)
        sys.exit(FINE)
    except FindlrError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    print(f"findlr: {message}", file=sys.stderr)
    sys.exit(WRONG)


def app() -> "Typer":
    """The command for typer to run; made when asked for, as typer is an extra.

    Raises:
        MissingExtraError: typer is not installed.
    """
    try:
        from typer import Argument, Exit, Option, Typer
    except ImportError:
        raise MissingExtraError.of("typer", "cli") from None

    made = Typer(add_completion=False, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})

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
        raise Exit(_code(_demo(data, data_dir, output)))

    @made.command(help=_SHOW_HELP)
    def show(file: Annotated[Path, Argument(help="What finding.save() wrote.", show_default=False)]) -> None:
        raise Exit(_code(_show(file)))

    return made


def _demo(images: Images, folder: Path | None, output: Path) -> Finding:
    if (images is Images.MNIST) != (folder is not None):
        raise ConfigurationError(
            "--data mnist and --data-dir go together: give both for MNIST's files, neither for the digits, which come "
            "with scikit-learn"
        )
    from findlr import demo

    return demo.run(demo.digits() if folder is None else demo.mnist(folder), output)


def _show(file: Path) -> Finding:
    from findlr.console import show

    finding = Finding.load(file)
    show(finding)
    return finding


def _code(finding: Finding) -> int:
    return NO_SUGGESTION if finding.suggestion is None else FINE
