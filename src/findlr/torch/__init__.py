"""PyTorch: ``find_lr``, ``RangeTest`` and ``TorchTrainable``."""

from __future__ import annotations

from findlr.errors import MissingExtraError

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise MissingExtraError.of("PyTorch", "torch") from None

from findlr.torch.data.rewind import rewindable
from findlr.torch.loop import RangeTest
from findlr.torch.schedules import cyclic, one_cycle
from findlr.torch.search import find_lr
from findlr.torch.trainable import TorchTrainable

__all__ = ["RangeTest", "TorchTrainable", "cyclic", "find_lr", "one_cycle", "rewindable"]


def __dir__() -> list[str]:
    return __all__  # what a notebook completes
