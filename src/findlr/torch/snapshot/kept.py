"""What functions and objects of the user's own keep of torch's: tensors, modules and optimizers, and NumPy's arrays."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from findlr.search import kept

_KEPT = (nn.Module, torch.optim.Optimizer, np.ndarray)


def is_kept(value: Any, least_dims: int) -> bool:
    """Whether it is one of these; a tensor only with so many dimensions at least."""
    return isinstance(value, _KEPT) or (isinstance(value, torch.Tensor) and value.dim() >= least_dims)


put_kept = partial(kept.put_kept, is_kept=is_kept)
"""``findlr.search.kept.put_kept``, for torch's."""
