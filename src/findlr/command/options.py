"""The options of a search, which ``findlr run`` and ``findlr doctor`` share; on a command line or in a YAML file."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

from typer import Argument, BadParameter, Context, Option

from findlr.errors import ConfigurationError, FileFormatError, MissingExtraError

Command = TypeVar("Command", bound=Callable[..., Any])


def _number(text: str) -> float:
    """An int is a number of steps, a float a share."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    raise BadParameter(f"{text!r} is neither a number of steps, such as 500, nor a share, such as 0.5")


def _count(text: str) -> int | str:
    return int(text) if text.lstrip("+-").isdecimal() else text


def _steps(text: str) -> int | str:
    count = _count(text)
    if isinstance(count, str) and count != "epoch":
        raise BadParameter(f"{text!r} is no number of steps, such as 100, nor 'epoch', one pass over the loader")
    return count


def _schedules() -> list[str]:
    from findlr.analysis.plan import SCHEDULES

    return [*SCHEDULES]


def _rules() -> list[str]:
    from findlr.analysis.rules import RULES

    return [*RULES]


def _config(context: Context, path: Path | None) -> Path | None:
    """Let a file say what the command line does not."""
    if path is not None:
        root: Any = context.find_root().command
        options = [{option.name for option in command.params} for command in root.commands.values()]
        known = set().union(*(names for names in options if "config" in names))  # one file is for all that take it
        context.default_map = read_config(path, sorted(known - {"config"}))
    return path


Target = Annotated[str, Argument(metavar="TARGET", help="train.py:function or package.module:function.")]
Config = Annotated[
    Path | None,
    Option(
        "--config",
        is_eager=True,
        callback=_config,
        help="A YAML file with TARGET and options by their names, as in 'max_lr: 1.0'; the command line overrides it.",
    ),
]
Traceback = Annotated[bool, Option("--traceback", help="Print where the training's own code failed.")]

_PLAN: dict[str, Any] = {"rich_help_panel": "The training that is planned"}
_SWEEP: dict[str, Any] = {"rich_help_panel": "The sweep, and how it is read"}
_RACE: dict[str, Any] = {"rich_help_panel": "The race"}
_STEPS: dict[str, Any] = {"rich_help_panel": "How a step is taken; for a training of PyTorch"}

SEARCH: dict[str, Any] = {
    "schedule": Annotated[
        str | None,
        Option(
            help="constant, one_cycle, cosine, linear, wsd, cosine_with_min_lr, polynomial, inverse_sqrt.",
            autocompletion=_schedules,
            **_PLAN,
        ),
    ],
    "total_steps": Annotated[
        int | None, Option(parser=_count, metavar="STEPS", help="The training's steps, or '5 epochs'.", **_PLAN)
    ],
    "epochs": Annotated[float | None, Option(help="The same in epochs.", **_PLAN)],
    "warmup": Annotated[
        float | None, Option(parser=_number, metavar="STEPS|SHARE", help="500 is steps, 0.1 a share.", **_PLAN)
    ],
    "verify": Annotated[bool | None, Option(help="Race the suggestion against rates near it.", **_RACE)],
    "budget": Annotated[
        float | None,
        Option(parser=_number, metavar="STEPS|SHARE", help="500 is steps, 0.5 a share of --total-steps.", **_RACE),
    ],
    "checkpoint": Annotated[
        Path | None, Option(help="Keep the runs in this file; the same command then goes on with them.", **_RACE)
    ],
    "one_pass": Annotated[bool | None, Option(help="Make the first runs in one pass, for small models.", **_RACE)],
    "min_lr": Annotated[float | None, Option(help="The first rate; by default 1e-8.", **_SWEEP)],
    "max_lr": Annotated[float | None, Option(help="The last rate; by default 10.", **_SWEEP)],
    "num_steps": Annotated[
        int | None, Option(parser=_steps, metavar="STEPS|epoch", help="Steps of the sweep; by default 100.", **_SWEEP)
    ],
    "spacing": Annotated[str | None, Option(help="exponential (the default) or linear.", **_SWEEP)],
    "divergence_threshold": Annotated[
        float | None, Option(help="The sweep stops at this many times its best loss; by default 4.", **_SWEEP)
    ],
    "smoothing": Annotated[float | None, Option(help="Smoothing of that loss; by default 0.98.", **_SWEEP)],
    "control_variate": Annotated[
        bool | None, Option(help="Take the batches' differences out of the curve; by default where it can.", **_SWEEP)
    ],
    "rule": Annotated[
        str | None,
        Option(help="quick, article, valley, slide, steep, minimum.", autocompletion=_rules, **_SWEEP),
    ],
    "autocast": Annotated[str | None, Option(help="bf16 or fp16.", **_STEPS)],
    "accumulation_steps": Annotated[int | None, Option(help="Batches to each optimizer step.", **_STEPS)],
    "clip_grad_norm": Annotated[float | None, Option(help="The largest norm of all gradients together.", **_STEPS)],
    "clip_grad_value": Annotated[float | None, Option(help="The largest absolute value of a gradient.", **_STEPS)],
    "validation_every": Annotated[int | None, Option(help="Steps between two validation losses.", **_STEPS)],
    "sweep": Annotated[
        str | None, Option(parser=_count, metavar="INDEX|NAME", help="The optimizer to sweep, of several.", **_STEPS)
    ],
    "snapshot": Annotated[str | None, Option(help="Where the copies live: auto, device, cpu, disk.", **_STEPS)],
}
"""Each argument of ``find_lr`` that can be said in a word; what is an object stands in the dict of the TARGET."""


def with_search(command: Command) -> Command:
    """Give a command that takes ``**search`` the options of a search, after its own."""
    *own, _ = inspect.signature(command, eval_str=True).parameters.values()
    keyword = inspect.Parameter.KEYWORD_ONLY
    search = [inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in SEARCH.items()]
    command.__signature__ = inspect.Signature([*own, *search])  # type: ignore[attr-defined]
    return command


def chosen(search: Mapping[str, Any]) -> dict[str, Any]:
    """What was said of the search, as arguments of ``find_lr``; refused before the training's code is run.

    Raises:
        ConfigurationError: a schedule, a length or a rule that is none.
    """
    from findlr.analysis.length import epochs_in
    from findlr.analysis.plan import Plan
    from findlr.search.settings import chosen_rule

    given = {name: value for name, value in search.items() if value is not None}
    steps, epochs = given.get("total_steps"), given.pop("epochs", None)
    Plan(given.get("schedule", "constant"), None if epochs_in(steps) is not None else steps)
    chosen_rule(given.get("rule"))
    if epochs is None:
        return given
    if steps is not None:
        raise ConfigurationError("--epochs and --total-steps are two ways to say the same: give one of them")
    if not 0 < epochs < math.inf:
        raise ConfigurationError(f"--epochs must be a number above 0, got {epochs:g}")
    return {**given, "total_steps": f"{epochs:f} epochs"}


def read_config(path: Path, known: list[str]) -> dict[str, str]:
    """The options in a YAML file, each as it would stand on a command line.

    Args:
        path: of the file.
        known: the names that there are; a hyphen may stand for an underscore.

    Raises:
        ConfigurationError: it holds something else than names and single values, or a name that is not known.
        FileFormatError: it is no YAML.
        MissingExtraError: PyYAML is not installed.
    """
    from findlr.search.names import unknown_name

    try:
        import yaml
    except ImportError:
        raise MissingExtraError.of("pyyaml", "cli") from None
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is no YAML: {error}") from None
    if not isinstance(read, dict):
        raise ConfigurationError(f"{path} must hold names and values, such as 'max_lr: 1.0', got {read!r:.60}")
    options = {}
    for given, value in read.items():
        name = str(given).replace("-", "_")
        if name not in known:
            raise ConfigurationError(f"{path}: {unknown_name(name, known)}")
        if isinstance(value, (dict, list)):
            raise ConfigurationError(f"{path}: {name} must be one value, got {value!r:.60}")
        if value is not None:
            options[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return options
