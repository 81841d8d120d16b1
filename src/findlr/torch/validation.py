"""The held-out loss: in eval mode, with no statistics touched and no random state moved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from findlr.errors import LoaderError
from findlr.torch.data.nesting import batch_size


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Eval mode without gradients; each module's own mode comes back."""
    modes = [(module, module.training) for root in modules for module in root.modules()]
    try:
        for root in modules:
            root.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def mean_loss(loss: Callable[[Any], torch.Tensor], batches: Iterable[Any]) -> tuple[torch.Tensor, int]:
    """The mean loss of all examples, on its device, and the number of batches; a smaller batch counts for less.

    Raises:
        LoaderError: there is no batch.
    """
    losses, sizes = [], []
    for batch in batches:
        losses.append(loss(batch).detach().reshape(()))
        sizes.append(batch_size(batch) or 1)
    if not losses:
        raise LoaderError("validation_loader is empty: it gave no batch; give one that has data")
    stacked = torch.stack(losses)
    shares = torch.tensor(sizes, dtype=stacked.dtype, device=stacked.device) * (len(sizes) / sum(sizes))
    return (stacked * shares).mean(), len(losses)
