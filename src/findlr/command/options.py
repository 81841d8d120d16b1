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

_PLAN = "The training that is planned"
_SWEEP = "The sweep, and how it is read"
_RACE = "The race"
_STEPS = "How a step is taken; for a training of PyTorch"


def _option(kind: Any, panel: str, text: str, **how: Any) -> Any:
    """An option that may be left out, in its panel of the help."""
    return Annotated[kind | None, Option(help=text, rich_help_panel=panel, **how)]


SEARCH: dict[str, Any] = {
    "schedule": _option(
        str,
        _PLAN,
        "constant, one_cycle, cosine, linear, wsd, cosine_with_min_lr, polynomial, inverse_sqrt.",
        autocompletion=_schedules,
    ),
    "total_steps": _option(int, _PLAN, "The training's steps, or '5 epochs'.", parser=_count, metavar="STEPS"),
    "epochs": _option(float, _PLAN, "The same in epochs."),
    "warmup": _option(float, _PLAN, "500 is steps, 0.1 a share.", parser=_number, metavar="STEPS|SHARE"),
    "verify": _option(bool, _RACE, "Race the suggestion against rates near it."),
    "budget": _option(
        float, _RACE, "500 is steps, 0.5 a share of --total-steps.", parser=_number, metavar="STEPS|SHARE"
    ),
    "checkpoint": _option(Path, _RACE, "Keep the runs in this file; the same command then goes on with them."),
    "one_pass": _option(bool, _RACE, "Make the first runs in one pass, for small models."),
    "min_lr": _option(float, _SWEEP, "The first rate; by default 1e-8."),
    "max_lr": _option(float, _SWEEP, "The last rate; by default 10."),
    "num_steps": _option(int, _SWEEP, "Steps of the sweep; by default 100.", parser=_steps, metavar="STEPS|epoch"),
    "spacing": _option(str, _SWEEP, "exponential (the default) or linear."),
    "divergence_threshold": _option(float, _SWEEP, "The sweep stops at this many times its best loss; by default 4."),
    "smoothing": _option(float, _SWEEP, "Smoothing of that loss; by default 0.98."),
    "control_variate": _option(
        bool, _SWEEP, "Take the batches' differences out of the curve; by default where it can."
    ),
    "rule": _option(str, _SWEEP, "quick, article, valley, slide, steep, minimum.", autocompletion=_rules),
    "autocast": _option(str, _STEPS, "bf16 or fp16."),
    "accumulation_steps": _option(int, _STEPS, "Batches to each optimizer step."),
    "clip_grad_norm": _option(float, _STEPS, "The largest norm of all gradients together."),
    "clip_grad_value": _option(float, _STEPS, "The largest absolute value of a gradient."),
    "validation_every": _option(int, _STEPS, "Steps between two validation losses."),
    "sweep": _option(str, _STEPS, "The optimizer to sweep, of several.", parser=_count, metavar="INDEX|NAME"),
    "snapshot": _option(str, _STEPS, "Where the copies live: auto, device, cpu, disk."),
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
