"""Which processes train a model together, as its wrappers tell."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from findlr.errors import ConfigurationError
from findlr.torch.processes.apart import Apart
from findlr.torch.processes.calls import Calls
from findlr.torch.processes.group import Group
from findlr.torch.ranks import ALONE, Ranks, is_fully_sharded, is_sharded

logger = logging.getLogger("findlr")


def ranks_of(modules: Iterable[nn.Module], device: torch.device) -> Ranks:
    """The processes that a model is trained by, which are initialized.

    Returns:
        A ``Group``; or one that is ``Alone``, where nothing wraps the model.

    Raises:
        ConfigurationError: it is wrapped in a way whose steps can't be put back.
    """
    inside = list({id(each): each for module in modules for each in module.modules()}.values())
    wrapped = [each for each in inside if isinstance(each, DistributedDataParallel)]
    sharded = [p for each in inside for p in each.parameters(recurse=False) if is_sharded(p)]
    if any(type(each).__name__ == "FullyShardedDataParallel" for each in inside):
        raise ConfigurationError(
            "FullyShardedDataParallel keeps its parameters in flat ones of its own, which can't be put back: shard the "
            "model by torch.distributed.fsdp.fully_shard instead"
        )
    if not wrapped and not sharded:
        if dist.get_world_size() > 1:
            logger.warning(
                "%d processes run, and neither DistributedDataParallel nor fully_shard wraps the model: each searches "
                "by itself",
                dist.get_world_size(),
            )
            return Apart()
        return ALONE
    if wrapped and sharded:
        raise ConfigurationError(
            "DistributedDataParallel around sharded parameters (DTensor) can't be searched: shard by fully_shard on a "
            "mesh of two dimensions instead"
        )
    for module in wrapped:
        _check_wrapper(module)
    groups = [module.process_group for module in wrapped] or [_group_of(sharded)]
    if any(group is not groups[0] for group in groups):
        raise ConfigurationError("the models are trained by different process groups: give all of them the same one")
    calls_only = bool(wrapped) and not any(isinstance(each, nn.SyncBatchNorm) for each in inside)
    by_gloo = device.type == "cpu" or "gloo" in str(dist.get_backend(groups[0]))
    calls = Calls(groups[0], device, by_device=not by_gloo, calls_only=calls_only)
    same_batches = not wrapped and not any(map(is_fully_sharded, inside))
    roots = [root for module in modules for root in ([module] if same_batches else _outermost(module))]
    roots = [root for root in roots if any(map(is_sharded, root.parameters()))]
    return Group(calls, wrapped, roots, same_batches=same_batches)


def _outermost(module: nn.Module) -> list[nn.Module]:
    """The outermost modules in it that are fully sharded, or itself."""
    if is_fully_sharded(module):
        return [module]
    return [root for child in module.children() for root in _outermost(child)]


def _check_wrapper(module: Any) -> None:
    """Refuse what can't be done past a reducer."""
    reason = None
    if module.mixed_precision is not None:
        reason = "mixed_precision= of its own: use torch.autocast (autocast='bf16') instead"
    elif getattr(module, "_delay_all_reduce_params", None):
        reason = "delay_all_reduce_named_params=: leave it out"
    elif any(getattr(each, "sparse", False) for each in module.modules() if isinstance(each, _SPARSE)):
        reason = "sparse gradients: build the Embedding with sparse=False"
    if reason is not None:
        raise ConfigurationError(f"DistributedDataParallel can't be searched with {reason}")


_SPARSE = (nn.Embedding, nn.EmbeddingBag)


def _group_of(sharded: Iterable[Any]) -> Any:
    """The processes that hold the shards; None is all."""
    mesh = max((parameter.device_mesh for parameter in sharded), key=lambda mesh: mesh.size())
    if mesh.size() == dist.get_world_size():
        return None
    if mesh.ndim == 1:
        return mesh.get_group()
    raise ConfigurationError(
        f"the model is sharded over {mesh.size()} of {dist.get_world_size()} processes, in {mesh.ndim} dimensions: "
        "search it on a mesh of all of them"
    )
