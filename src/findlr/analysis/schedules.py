"""Shapes of schedules, and the names that people give them."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial

from findlr.errors import ConfigurationError

Shape = Callable[[float], float]

WARMUP = 0.05  # of the run, where a name asks for a warmup and nobody says how long it is


def constant(progress: float) -> float:
    """The peak rate from the first step to the last."""
    return 1.0


def one_cycle(progress: float, warmup: float = 0.3) -> float:
    """A cosine from 1/25 up to the peak over 30 % of the run, then a cosine down to 1/250,000.

    Source: Smith 2018 (arXiv:1803.09820); the numbers are ``torch.optim.lr_scheduler.OneCycleLR``'s defaults.
    """
    if progress <= warmup:
        return _half_cosine(1 / 25, 1.0, progress / warmup)
    return _half_cosine(1.0, 1 / 250_000, (progress - warmup) / (1.0 - warmup))


def cosine(progress: float) -> float:
    """Half a cosine from the peak to zero. Source: Loshchilov and Hutter 2017 (arXiv:1608.03983)."""
    return _half_cosine(1.0, 0.0, progress)


def cosine_with_min_lr(progress: float) -> float:
    """Half a cosine from the peak to a tenth of it. Source: Hoffmann et al. 2022 (arXiv:2203.15556)."""
    return _half_cosine(1.0, 0.1, progress)


def linear(progress: float) -> float:
    """A straight line from the peak to zero."""
    return 1.0 - progress


def polynomial(progress: float) -> float:
    """A polynomial of power 1, the default of PyTorch and of transformers: a straight line from the peak to zero."""
    return linear(progress)


def inverse_sqrt(progress: float, warmup: float = WARMUP) -> float:
    """A straight line up to the peak, then one over the root of the steps.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), whose warmup is 4 % of the run.
    """
    return progress / warmup if progress < warmup else math.sqrt(warmup / progress)


def wsd(progress: float, warmup: float = 0.05) -> float:
    """Warmup, stable, decay: up over 5 % of the run, the peak, then a straight line to zero over the last 20 %.

    Source: Hu et al. 2024 (arXiv:2404.06395).
    """
    decay = min(1.0, (1.0 - progress) / 0.2)
    if progress < warmup:
        return min(0.05 + 0.95 * progress / warmup, decay)  # not from zero: a first step at rate 0 would be lost
    return decay


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * progress)) / 2.0


SCHEDULES: Mapping[str, Shape] = {
    shape.__name__: shape
    for shape in (constant, one_cycle, cosine, linear, wsd, cosine_with_min_lr, polynomial, inverse_sqrt)
}
OWN_WARMUP: Mapping[str, Callable[..., float]] = {shape.__name__: shape for shape in (one_cycle, wsd, inverse_sqrt)}

_OTHER_NAMES = {
    "constant": ("fixed", "flat", ""),
    "one_cycle": ("1cycle",),
    "cosine": ("cosine_annealing", "cosine_decay", "cosine_with_restarts", "cosine_with_hard_restarts"),
    "linear": ("linear_decay", "decay"),
    "wsd": ("warmup_stable_decay", "trapezoid", "trapezoidal"),
    "polynomial": ("poly", "polynomial_decay"),
    "inverse_sqrt": ("inv_sqrt", "inverse_square_root", "rsqrt", "noam"),
}
_NEED_NUMBERS = (
    "LinearLR", "StepLR", "MultiStepLR", "ExponentialLR", "LambdaLR", "MultiplicativeLR", "CyclicLR",
    "CosineAnnealingWarmRestarts", "SequentialLR", "ChainedScheduler", "TanhLR",
)  # fmt: skip
_FOLLOW_A_METRIC = ("ReduceLROnPlateau", "ReduceOnPlateau", "PlateauLR", "GreedyLR")


@lru_cache
def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _key(name: str) -> str:
    """A name without what people write in more than one way."""
    return re.sub("schedule(r)?", "", _letters(name).removeprefix("get")).removesuffix("lr")


_NAMES: Mapping[str, str] = {_key(other): name for name in SCHEDULES for other in (name, *_OTHER_NAMES.get(name, ()))}
_INCOMPLETE = {_key(name) for name in _NEED_NUMBERS} - {"linear"}  # "linear" falls to zero, LinearLR warms up
_METRIC_DRIVEN = {_key(name) for name in _FOLLOW_A_METRIC}


def canonical(name: str) -> tuple[str, bool]:
    """The one name of a schedule, and whether the name that was given asks for a warmup.

    Case, underscores, hyphens, "get", "schedule" and a trailing "LR" do not matter.

    Args:
        name: as people, PyTorch, transformers and timm write it.

    Returns:
        A key of ``SCHEDULES``, and True for a name such as "cosine_with_warmup".

    Raises:
        ConfigurationError: the name is not known, or does not tell the shape.

    Example:
        >>> canonical("OneCycleLR"), canonical("linear_with_warmup")
        (('one_cycle', False), ('linear', True))
    """
    key = _key(name)
    if key in _METRIC_DRIVEN:
        raise ConfigurationError(metric_driven(name))
    if key in _INCOMPLETE or _letters(name) == "linearlr":
        raise ConfigurationError(
            f"the name {name!r} alone does not tell how the rate changes: give the scheduler itself, or a function of "
            "the progress"
        )
    if key and key in _NAMES:
        return _NAMES[key], False
    for warmup in ("withwarmup", "warmup", "linearwarmup"):
        rest = key.replace(warmup, "", 1)
        if rest != key and rest in _NAMES:
            return _NAMES[rest], True
    close = difflib.get_close_matches(key, _NAMES, n=1)
    meant = f" (did you mean {_NAMES[close[0]]!r}?)" if close else ""
    raise ConfigurationError(
        f"schedule {name!r} is not known{meant}; use one of {', '.join(SCHEDULES)}, with or without _with_warmup, a "
        "scheduler of PyTorch's or transformers', or a function of the progress"
    )


def follows_a_metric(name: str) -> bool:
    """Whether the rates of a scheduler of this name depend on how the training goes."""
    return _key(name) in _METRIC_DRIVEN


def metric_driven(name: str) -> str:
    """Why a scheduler that follows a metric is no plan."""
    return (
        f"{name} follows a metric that is not known before the training: give schedule='constant', which it is until "
        "the metric stalls"
    )


def shape_of(schedule: str, warmup: float | None) -> Shape:
    """The shape of a schedule.

    Args:
        schedule: a key of ``SCHEDULES``.
        warmup: the share of the run in which the rate rises, above 0 and below 1; None is the schedule's own.

    Returns:
        A function of the progress (0 to 1) that returns the share of the peak (0 to 1).

    Example:
        >>> [shape_of("linear", 0.2)(progress) for progress in (0.1, 0.2, 0.6)]
        [0.5, 1.0, 0.5]
    """
    if warmup is None:
        return SCHEDULES[schedule]
    if schedule in OWN_WARMUP:
        return partial(OWN_WARMUP[schedule], warmup=warmup)
    return partial(_warmed_up, SCHEDULES[schedule], warmup)


def _warmed_up(shape: Shape, warmup: float, progress: float) -> float:
    return progress / warmup if progress < warmup else shape((progress - warmup) / (1.0 - warmup))
