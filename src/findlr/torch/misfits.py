"""What is wrong where a first batch does not fit the model or the criterion, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from traceback import walk_tb
from typing import Any

import numpy as np
import torch
from torch import nn

from findlr.analysis.text import told
from findlr.errors import ConfigurationError, LoaderError
from findlr.search.failure import is_the_trainings

_TORCH = str(Path(torch.__file__).parent)
_MOST_ITEMS = 6  # of a container that are described
_OF_CLASSES = {"CrossEntropyLoss", "NLLLoss", "cross_entropy", "nll_loss"}


def no_pair(batch: Any) -> LoaderError:
    """The error for a batch that is no pair of inputs and targets, and so nothing for a criterion."""
    one_pair = ""
    seen = f"{type(batch).__name__}" + (f" of {len(batch)}" if isinstance(batch, (tuple, list, dict)) else "")
    if isinstance(batch, Mapping):
        instead = "model(**batch).loss, or what your training computes,"
    elif isinstance(batch, (tuple, list)) and len(batch) > 2:
        instead = "criterion(model(*batch[:-1]), batch[-1]), say,"
    elif isinstance(batch, (tuple, list)):
        instead = "criterion(model(batch[0]), batch[0]), say,"
    else:
        instead = "criterion(model(batch), batch), say,"
        one_pair = "; or, if the loader is a pair itself, [(inputs, targets)]"
    return LoaderError(
        f"with a criterion the loader's items must be pairs (inputs, targets), got a {seen}: give "
        f"loss_fn=lambda model, batch: {instead} in its place{one_pair}"
    )


def layer_misfit(error: Exception, batch: str) -> LoaderError | None:
    """The error for a layer of torch's own that raised on the first batch.

    Returns:
        The error to raise in its place; None if anybody else's code raised it, or it is the memory's fault.
    """
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    layer = None
    while frames and frames[-1].f_code.co_filename.startswith(_TORCH) and layer is None:
        owner = frames.pop().f_locals.get("self")
        if isinstance(owner, nn.Module) and type(owner).__module__.startswith("torch.nn."):
            layer = owner
    if layer is None or not is_the_trainings(error):
        return None
    kind, settings = type(layer).__name__, layer.extra_repr()
    return LoaderError(
        f"the model can't take the first batch, {batch}: its layer {kind}({settings}) raised {told(error)}; give it "
        "inputs of the shape and type that it wants, from the dataset or the collate_fn, or change the layer"
    )


def described(batch: Any) -> str:
    """The types and shapes in a batch.

    Example:
        >>> described((torch.zeros(8, 4), {"ids": [1, 2, 3]}, ["a", "b"], None))
        '(float32 (8, 4), {ids: 3 x int}, 2 x str, None)'
    """
    if isinstance(batch, torch.Tensor):
        has_no_shape = batch.is_nested and batch.layout is torch.strided
        return f"{_type(batch)} {f'nested ({batch.size(0)}, ...)' if has_no_shape else tuple(batch.shape)}"
    if isinstance(batch, np.ndarray):
        return f"a NumPy array {batch.dtype} {batch.shape}"
    if isinstance(batch, Mapping):
        keys = [key if isinstance(key, str) else type(key).__name__ for key in batch]
        items = [
            f"{key}: {described(item)}" for key, item in list(zip(keys, batch.values(), strict=False))[:_MOST_ITEMS]
        ]
        return f"{{{', '.join([*items, *['...'] * (len(keys) > _MOST_ITEMS)])}}}"
    if isinstance(batch, (tuple, list)):
        kinds = set(map(type, batch))
        if len(batch) > 1 and len(kinds) == 1 and kinds <= {str, bytes, bool, int, float}:
            return f"{len(batch)} x {kinds.pop().__name__}"
        items = [described(item) for item in batch[:_MOST_ITEMS]]
        return f"({', '.join([*items, *['...'] * (len(batch) > _MOST_ITEMS)])})"
    return "None" if batch is None else type(batch).__name__


def misfit(criterion: Any, outputs: Any, targets: Any, error: Exception) -> ConfigurationError | None:
    """The error for a criterion of torch's own that raised on the first batch.

    Returns:
        The error to raise in its place; None if it is somebody else's criterion, or the memory's fault.
    """
    module = getattr(criterion, "__module__", "")
    if module not in ("torch.nn.modules.loss", "torch.nn.functional") or not is_the_trainings(error):
        return None
    name = getattr(criterion, "__name__", type(criterion).__name__)
    if not isinstance(outputs, torch.Tensor):
        part = "outputs.loss" if hasattr(outputs, "loss") else "the loss that is made of it"
        return ConfigurationError(
            f"the model returns a {type(outputs).__name__}, and {name} needs a tensor: give loss_fn=lambda model, "
            f"batch: ... in place of the criterion, and let it return {part}"
        )
    if not isinstance(targets, torch.Tensor):
        return LoaderError(
            f"the loader's targets are a {type(targets).__name__}, and {name} needs a tensor: let its dataset or its "
            "collate_fn make one"
        )
    return LoaderError(
        f"{name} can't take the first batch: the model's outputs have shape {tuple(outputs.shape)} and type "
        f"{_type(outputs)}, the loader's targets {tuple(targets.shape)} and {_type(targets)} ({told(error)})"
        f"{_advice(name, outputs, targets, str(error))}"
    )


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _advice(name: str, outputs: torch.Tensor, targets: torch.Tensor, raised: str) -> str:
    """What would make them fit, where that is plain."""
    if "should be between 0 and 1" in raised:  # BCELoss
        return ": take BCEWithLogitsLoss, or end the model with a Sigmoid"
    if "out of bounds" in raised and outputs.dim() > 1:
        return f": the model tells {outputs.shape[1]} classes apart, so the targets must be 0 to {outputs.shape[1] - 1}"
    changes = ""
    if targets.shape != outputs.shape:
        if targets.dim() == outputs.dim() == 2 and targets.shape[1] == 1 and name in _OF_CLASSES:
            changes += ".squeeze(1)"
        elif targets.numel() == outputs.numel() and name not in _OF_CLASSES:
            changes += ".view_as(outputs)"
    if name in _OF_CLASSES and targets.dtype != torch.long and targets.shape != outputs.shape:
        changes += ".long()"
    elif name in _OF_CLASSES and targets.dim() > 1 and targets.shape == outputs.shape:
        changes += ".argmax(1)"
    elif targets.numel() != outputs.numel() and name not in _OF_CLASSES:
        return f": {name} needs outputs and targets of the same shape"
    elif name not in _OF_CLASSES and not targets.is_floating_point():
        changes += ".float()"
    return f": give it targets{changes}, in the dataset or by loss_fn" if changes else ""
