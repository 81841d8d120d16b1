"""Families of optimizers: those of one family want the same rates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

RATE_FREE = ("Prodigy", "DAdaptation", "DoG")  # they estimate their rate; lr is a factor, and 1 unless tuned
QUASI_NEWTON = ("LBFGS",)  # their steps have the size of the curvature, and a full one is at 1

_FAMILIES = (
    "SGD", "ASGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "SparseAdam", "RMSprop", "Rprop", "Adagrad", "Adadelta",
    "LBFGS", "Adafactor", "Muon", "Lion", "Sophia", "AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree",
    *RATE_FREE,
)  # fmt: skip
_OTHER_NAMES = {
    "NAdam": ("NAdamW",),
    "RAdam": ("RAdamW",),
    "Muon": ("MuonWithAuxAdam", "SingleDeviceMuon", "SingleDeviceMuonWithAuxAdam", "DistributedMuon"),
    "Sophia": ("SophiaG", "SophiaH"),
    "DoG": ("LDoG", "DoWG"),
    "DAdaptation": (
        "DAdaptAdam", "DAdaptAdamW", "DAdaptAdamIP", "DAdaptAdamPreprint", "DAdaptSGD", "DAdaptAdaGrad", "DAdaptLion",
        "DAdaptAdan", "DAdaptAdanIP",
    ),
}  # fmt: skip
# What a name says of memory or of who computes, not of the algorithm: bitsandbytes', torchao's, DeepSpeed's, apex's,
# and those of transformers' ``optim=``.
_IMPLEMENTATION = re.compile(
    "paged|fused|foreach|deepspeed|cpu|apex|bnb|torchao|torch|hf|xla|anyprecision|8bit|4bit|32bit|fp8"
)
_SCHEDULE_FREE = re.compile("(.*)schedulefree(.*?)(closure|reference|paper)?")


def _key(name: str) -> str:
    key = _IMPLEMENTATION.sub("", re.sub(r"[^a-z0-9]", "", name.lower()))
    free = _SCHEDULE_FREE.fullmatch(key)  # schedulefree's AdamWScheduleFree is pytorch_optimizer's ScheduleFreeAdamW
    return f"{free[1]}{free[2]}schedulefree" if free else key


_NAMES: Mapping[str, str] = {_key(other): name for name in _FAMILIES for other in (name, *_OTHER_NAMES.get(name, ()))}


@lru_cache
def family(name: str) -> str | None:
    """The family that an optimizer's name tells, whatever its case; None if the name is not known.

    Args:
        name: a class name, or one of transformers' names.

    Returns:
        The name that the family goes by here, which is PyTorch's where PyTorch has the optimizer.

    Example:
        >>> [family(name) for name in ("adamw", "PagedAdamW8bit", "SophiaG", "Mine")]
        ['AdamW', 'AdamW', 'Sophia', None]

    Source: the classes of bitsandbytes, transformers, schedulefree, prodigyopt, dadaptation and pytorch_optimizer.
    """
    return _NAMES.get(_key(name))


def rate_free(name: str) -> str:
    """What to do with the rate of an optimizer of ``RATE_FREE``: a clause."""
    return f"{name} finds its rate by itself, and lr is a factor on it: 1, as its authors advise"
