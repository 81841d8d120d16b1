"""What a scheduler will make of the rates: read from a private copy, by attributes, so that nothing is imported."""

# ruff: noqa: SLF001 - what a scheduler holds, torch tells by private names only

from __future__ import annotations

import inspect
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

from findlr.analysis.numbers import whole
from findlr.analysis.schedules import follows_a_metric
from findlr.analysis.text import told
from findlr.errors import ConfigurationError

_LENGTHS = ("total_steps", "T_max", "num_training_steps", "max_steps", "max_iters", "max_iter", "max_epochs")
_PLACES = {"epoch", "step", "t", "iteration", "num_updates"}  # what a scheduler that is told its place may call it
# Besides those that PyTorch gives a closed form.
_DIRECT = {"LambdaLR", "OneCycleLR", "CyclicLR", "CosineAnnealingWarmRestarts"}

Rates = list[float]  # of each param group


def unwrapped(scheduler: Any) -> Any:
    """The scheduler that a wrapper such as accelerate's holds."""
    inner = getattr(scheduler, "scheduler", None)
    return inner if is_scheduler(inner) else scheduler


def is_scheduler(thing: Any) -> bool:
    """Whether it drives an optimizer's rates: a scheduler of PyTorch's, transformers', timm's or one like them."""
    has_groups = isinstance(getattr(getattr(thing, "optimizer", None), "param_groups", None), (list, tuple))
    return has_groups and not isinstance(thing, type) and callable(getattr(thing, "step", None))


def follows_metric(scheduler: Any) -> bool:
    """Whether its rates depend on how the training goes."""
    return any(follows_a_metric(kind.__name__) for kind in type(scheduler).__mro__)


def flattened(scheduler: Any) -> list[Any]:
    """A scheduler and those that it is made of."""
    inner = getattr(scheduler, "_schedulers", ())
    return [scheduler, *(deep for each in inner for deep in flattened(each))]


def length_of(scheduler: Any) -> int | None:
    """The steps of the whole schedule, where the scheduler knows them.

    Args:
        scheduler: ``OneCycleLR`` has ``total_steps``, ``CosineAnnealingLR`` ``T_max``, transformers' lambdas
            ``num_training_steps``; timm's count as they are stepped, in updates or in epochs.

    Returns:
        The steps; None for one such as ``StepLR``, which goes on for ever.
    """
    inner = getattr(scheduler, "_schedulers", ())
    if inner:
        lengths = [length_of(each) for each in inner]
        milestones = getattr(scheduler, "_milestones", ())
        if milestones:
            return None if lengths[-1] is None else int(milestones[-1]) + lengths[-1]
        return max((length for length in lengths if length), default=None)
    if hasattr(scheduler, "get_cycle_length"):
        return whole(scheduler.get_cycle_length())
    falls = getattr(scheduler, "end_factor", 0.0) < getattr(scheduler, "start_factor", 1.0)
    if hasattr(scheduler, "total_iters") and not hasattr(scheduler, "factor") and falls:  # no warmup
        return whole(scheduler.total_iters)
    known = [vars(scheduler), *map(_variables, getattr(scheduler, "lr_lambdas", ()))]
    found = (whole(names[name]) for names in known for name in _LENGTHS if name in names)
    return next((length for length in found if length and length > 0), None)


def counts_epochs(scheduler: Any, epochs: float) -> bool:
    """Whether a ``StepLR`` or ``MultiStepLR``, or one made of such, has all its turns within so many of its steps.

    Then, in a training of that many epochs, it is stepped once an epoch.
    """
    turns = []
    for each in flattened(scheduler):
        turns += [*getattr(each, "_milestones", ()), *getattr(each, "milestones", ())]
        turns += [getattr(each, name) for name in ("step_size", "total_iters") if hasattr(each, name)]
    falls = any(hasattr(each, "step_size") or hasattr(each, "milestones") for each in flattened(scheduler))
    return falls and all(turn <= epochs for turn in turns)


def _variables(function: Any) -> dict[str, Any]:
    """What a function of the step has in itself: a partial's arguments, a lambda's variables, an object's fields."""
    if hasattr(function, "keywords"):
        names = dict(function.keywords)
        phases = [names.get(f"num_{phase}_steps") for phase in ("warmup", "stable", "decay")]
        return names if None in phases else {"total_steps": sum(phases), **names}
    if inspect.isfunction(function):
        try:
            closure = inspect.getclosurevars(function)
        except ValueError:  # a variable that has no value yet
            return {}
        return {**closure.globals, **closure.nonlocals}
    return dict(getattr(function, "__dict__", {}))


def rates_at(scheduler: Any, steps: Sequence[int], bases: Sequence[float] | None = None) -> Iterator[Rates]:
    """The rates that a scheduler sets, from its start on; the scheduler and its optimizer are not touched.

    Args:
        scheduler: one of PyTorch's or timm's, or one like them.
        steps: which steps, ascending.
        bases: the base rate of each group, in place of the one that it has.

    Yields:
        The rate of each group, at each of ``steps``.

    Raises:
        ConfigurationError: the scheduler cannot be copied.
        Exception: what the scheduler raises at a step.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of schedulers that are stepped without their optimizer
        copy = _copied(scheduler)
        if bases is not None:
            _rebase(copy, bases)
        if bases is not None or any(getattr(each, "last_epoch", 0) > 0 for each in flattened(copy)):
            _rewind(copy)
    at_once, taken = is_direct(copy), 0
    for step in steps:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if at_once:
                rates = _direct(copy, step)
            else:
                for _ in range(step - taken):
                    copy.step()
                taken = step
                rates = [group["lr"] for group in copy.optimizer.param_groups]
        yield [float(rate) for rate in rates]


class _StandIn:
    """An optimizer's param groups without its parameters, for a scheduler to write into."""

    def __init__(self, optimizer: Any) -> None:
        self.param_groups = [
            {key: deepcopy(value) for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]
        self.defaults = dict(getattr(optimizer, "defaults", {}))

    def step(self) -> None:
        """Train nothing."""


def _copied(scheduler: Any) -> Any:
    optimizer = scheduler.optimizer
    shared = {id(p): p for group in optimizer.param_groups for p in group["params"]}  # a function may hold the model
    try:
        return deepcopy(scheduler, {**shared, id(optimizer): _StandIn(optimizer)})
    except Exception as error:
        raise ConfigurationError(
            f"this {type(scheduler).__name__} cannot be copied, so its rates cannot be read ({told(error)}): give a "
            "function of the progress"
        ) from error


def _rebase(copy: Any, bases: Sequence[float]) -> None:
    for group, base in zip(copy.optimizer.param_groups, bases, strict=True):
        group["initial_lr"] = base
    for each in flattened(copy):
        if hasattr(each, "base_lrs"):
            each.base_lrs = list(bases)


def _rewind(copy: Any) -> None:
    """Bring a copy to its first step, as its constructor does."""
    for group in copy.optimizer.param_groups:
        group["lr"] = group.get("initial_lr", group["lr"])
    for each in flattened(copy):
        each.last_epoch = -1
        if hasattr(each, "T_0"):
            each.T_cur, each.T_i = -1, each.T_0
    _start(copy)


def _start(copy: Any, *, is_inner: bool = False) -> None:
    if hasattr(copy, "_milestones"):
        copy.last_epoch = 0
        if is_inner:  # PyTorch's outer sequence steps an inner one that is at 0 already
            copy._initial_step()
        else:
            _start(copy._schedulers[0], is_inner=True)
    elif hasattr(copy, "_schedulers"):
        for each in copy._schedulers:
            _start(each)
    elif hasattr(copy, "_initial_step"):
        copy._initial_step()


def is_direct(scheduler: Any) -> bool:
    """Whether the rates at any step can be asked for; others must be stepped to it."""
    if hasattr(scheduler, "base_values") or _is_told(scheduler):  # timm's, or like them
        return True
    name = type(scheduler).__name__
    if type(scheduler).__module__ != "torch.optim.lr_scheduler":
        return False
    if name == "SequentialLR":
        return all(is_direct(each) and not hasattr(each, "_schedulers") for each in scheduler._schedulers)
    return hasattr(scheduler, "_get_closed_form_lr") or name in _DIRECT


def _is_told(scheduler: Any) -> bool:
    """Whether its ``step`` must be told which one it is."""
    code = getattr(getattr(scheduler.step, "__func__", None), "__code__", None)
    if code is None:
        return False
    needed = code.co_varnames[1 : code.co_argcount - len(scheduler.step.__defaults__ or ())]
    return len(needed) == 1 and needed[0] in _PLACES


def _direct(copy: Any, step: int) -> Any:
    """The rates at a step of a scheduler that ``is_direct``."""
    if hasattr(copy, "base_values"):
        return copy._get_lr(step)
    if _is_told(copy):
        copy.step(step)
        return [group["lr"] for group in copy.optimizer.param_groups]
    if hasattr(copy, "_milestones"):
        index = bisect_right(copy._milestones, step)
        return _direct(copy._schedulers[index], step - (copy._milestones[index - 1] if index else 0))
    copy.last_epoch = step
    if hasattr(copy, "T_0"):
        copy.step(step)
        return copy.get_last_lr()
    return copy._get_closed_form_lr() if hasattr(copy, "_get_closed_form_lr") else copy.get_lr()
