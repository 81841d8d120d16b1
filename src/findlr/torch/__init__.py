"""PyTorch's room."""

from __future__ import annotations

from findlr.errors import MissingExtraError

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise MissingExtraError.of("PyTorch", "torch") from None

from findlr.torch.search import find_lr
from findlr.torch.trainable import TorchTrainable

__all__ = ["TorchTrainable", "find_lr"]
