"""What ``findlr run`` is given: a function that returns a training; and the search for its rate."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from findlr.analysis.length import steps_in
from findlr.analysis.plan import Plan
from findlr.errors import ConfigurationError
from findlr.finding import Finding
from findlr.search.find import find, steps_per_epoch
from findlr.search.names import unknown_name
from findlr.search.settings import OF_A_RACE
from findlr.search.trainable import Trainable

_EXPECTED = "(model, optimizer, criterion, loader), a dict of find_lr's arguments, or a Trainable"

_ROOMS = {
    ("accelerate", "Accelerator"): "accelerate",
    ("fastai", "Learner"): "fastai",
    ("ignite", "Engine"): "ignite",
    ("keras", "Model"): "keras",
    ("lightning", "Trainer"): "lightning",
    ("lightning", "LightningModule"): "lightning",
    ("pytorch_lightning", "Trainer"): "lightning",
    ("pytorch_lightning", "LightningModule"): "lightning",
    ("skorch", "NeuralNet"): "skorch",
    ("transformers", "Trainer"): "huggingface",
}


def load(target: str) -> Callable[[], Any]:
    """The function that a target names; its file or module is imported.

    Args:
        target: "package.module:function" or "path/to/train.py:function".

    Raises:
        ConfigurationError: it names no function, or no file or module that is there.

    Example:
        >>> load("findlr.testing:Quadratic")
        <class 'findlr.testing.quadratic.Quadratic'>
    """
    where, _, name = target.rpartition(":")
    if not where or not name or where.endswith(":"):
        raise ConfigurationError(
            f"TARGET must be package.module:function or train.py:function, got {target!r}; "
            "the function returns what is to be trained"
        )
    script = script_of(target)
    module = _module(where) if script is None else _file(script)
    function: Any = module
    for part in name.split("."):
        if not hasattr(function, part):
            raise ConfigurationError(f"{where} has no {name!r}; it has {_functions(module)}")
        function = getattr(function, part)
    if not callable(function):
        raise ConfigurationError(f"{target} must be a function, got {type(function).__name__}")
    if lacking := _lacking(function):
        raise ConfigurationError(
            f"{target} is called without arguments, and needs {', '.join(lacking)}: give them defaults, or name a "
            "function of your own that calls it"
        )
    return function  # type: ignore[no-any-return]


def search(made: Any, options: Mapping[str, Any], source: str = "the function") -> Finding:
    """Run the search on what a target's function returned.

    Args:
        made: (model, optimizer, criterion, loader), a dict of ``find_lr``'s arguments, or a Trainable.
        options: arguments of ``find_lr``, which override those of ``made``; progress is shown unless one says no.
        source: what to call the function in an error.

    Raises:
        ConfigurationError: ``made`` is something else, or an argument cannot work.

    Example:
        >>> from findlr.testing import Quadratic
        >>> search(Quadratic(), {"schedule": "one_cycle", "num_steps": 80}).plan.schedule
        'one_cycle'
    """
    if not is_trainable(made):
        from findlr.torch import find_lr

        return find_lr(**_raced_or_not({"progress": True, **arguments_of(made, options, source)}))
    arguments = _raced_or_not({"progress": True, **options})
    length = steps_in(arguments.pop("total_steps", None), lambda: steps_per_epoch(made))
    plan = Plan(arguments.pop("schedule", "constant"), length, warmup=arguments.pop("warmup", None))
    return find(made, plan, **arguments)


def is_trainable(made: Any) -> bool:
    """Whether a target's function returned a Trainable, which takes its steps itself."""
    return isinstance(made, Trainable) and not isinstance(made, type)


def arguments_of(made: Any, options: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What a target's function returned, and options, as ``find_lr``'s arguments.

    Raises:
        ConfigurationError: ``made`` is something else.
    """
    from findlr.torch.search import argument_names

    names = ("model", "optimizer", "criterion", "loader")
    if isinstance(made, Sequence) and not isinstance(made, str) and len(made) == len(names):
        made = dict(zip(names, made, strict=True))
    if not isinstance(made, Mapping):
        raise ConfigurationError(f"{source} returned {_described(made)}; expected {_EXPECTED}{_elsewhere(made)}")
    arguments = {**made, **options}
    for name in arguments:
        if name not in argument_names():
            raise ConfigurationError(f"{source} returned a dict, and {unknown_name(name, list(argument_names()))}")
    lacking = [name for name in ("model", "optimizer") if name not in arguments]
    if lacking:
        raise ConfigurationError(f"{source} returned a dict without {lacking[0]!r}, which find_lr needs: add it")
    return arguments


def _raced_or_not(arguments: dict[str, Any]) -> dict[str, Any]:
    """``--no-verify`` says it of a function, or a file, whose arguments are those of a race."""
    dropped = OF_A_RACE if arguments.get("verify") is False else ()
    return {name: value for name, value in arguments.items() if name not in dropped}


@contextmanager
def as_script(target: str) -> Iterator[None]:
    """Run a target as ``python train.py`` would: Python looks in its folder, and sees no argument of findlr's.

    Afterwards the command is in the folder that it was called in, where its files are to be written.
    """
    script = script_of(target)
    arguments, path, here = sys.argv, list(sys.path), Path.cwd()
    sys.argv = [target.rpartition(":")[0]]
    sys.path.insert(0, str(here if script is None else script.parent.resolve()))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = arguments, path
        os.chdir(here)


def script_of(target: str) -> Path | None:
    """The file that a target names; None if it names a module."""
    where = target.rpartition(":")[0]
    return Path(where) if where.endswith(".py") else None


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigurationError(f"there is no file {path}: TARGET is path/to/train.py:function")
    path = path.resolve()
    if "." in path.stem or getattr(sys.modules.get(path.stem), "__file__", str(path)) != str(path):
        why = "has a dot" if "." in path.stem else "is another module's name"
        raise ConfigurationError(f"{path} cannot be imported as {path.stem!r}, which {why}: rename the file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # a loader's workers look for its classes there
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[path.stem]
        if isinstance(error, ImportError) and "relative import with no known parent" in str(error):
            raise ConfigurationError(
                f"{path.name} imports from its package: give package.module:function, where the package's folder lies"
            ) from error
        raise
    return module


def _module(name: str) -> ModuleType:
    if Path(name).is_file():
        raise ConfigurationError(
            f"{name} is no Python file: TARGET is path/to/train.py:function; in a notebook, call find_lr in a cell"
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, but something that it imports is not
        raise ConfigurationError(
            f"there is no module {name}: run findlr where Python finds it, or give a file, path/to/train.py:function"
        ) from None
    except (TypeError, ValueError):  # a relative or an empty name
        raise ConfigurationError(f"{name!r} is no module's name: give package.module:function") from None


def _lacking(function: Callable[..., Any]) -> list[str]:
    """The arguments that a function can't be called without."""
    try:
        parameters = inspect.signature(function, follow_wrapped=False).parameters.values()  # a decorator may give them
    except (TypeError, ValueError):  # some builtins don't tell
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in variadic]


def _functions(module: ModuleType) -> str:
    own = [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    ]
    return ", ".join(own[:8]) or "no function"


def _elsewhere(made: Any) -> str:
    """Which call searches for the rate of a framework's own object."""
    for item in made if isinstance(made, (tuple, list)) else [made]:
        for kind in type(item).__mro__:
            if room := _ROOMS.get((kind.__module__.partition(".")[0], kind.__name__)):
                return f"; for {kind.__name__}, call findlr.{room}.find_lr in your script"
    return ""


def _described(made: Any) -> str:
    if isinstance(made, (tuple, list)):
        return f"a {type(made).__name__} of {len(made)} ({', '.join(type(item).__name__ for item in made[:6])})"
    if inspect.iscoroutine(made):
        made.close()
        return "a coroutine"
    if isinstance(made, type):
        return f"the class {made.__name__}"
    return "None" if made is None else f"something of type {type(made).__name__}"
