"""Large arrays and tensors that a search writes into: they may be the user's data, and are not put back."""

# ruff: noqa: SLF001 - whether a tensor was written to, torch tells by a private name only

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch

from findlr.search.memory import Memory
from findlr.search.objects import MOST_ITEMS, is_small_array

logger = logging.getLogger("findlr")

_MOST = 20  # arrays or tensors that are looked at
_MOST_NUMBERS = 1 << 17  # that are looked at, of each


def warn_of_writes(arrays: Iterable[Any], memory: Memory) -> None:
    """Warn, once ``memory`` is put back, of those of ``arrays`` that are too large to be in it and have changed.

    An array has no count of what was written into it, so some of its numbers are compared, all along it: a row that is
    replaced here and there, as in a replay buffer, may be missed, and many rows are not.

    Args:
        arrays: all that a training's functions use.
        memory: of the training; its ``left`` takes what could not be put back.
    """
    large = [each for each in arrays if _is_large(each)][:_MOST]
    if large:
        memory.add(partial(_look, [(array, _sum_of(array)) for array in large], memory.left))


def warn_of_changes(tensors: Iterable[torch.Tensor], memory: Memory) -> None:
    """The same for large tensors, which count what is written into them, but not what their ``.data`` is used for."""
    before = [(tensor, tensor._version, _some_of(tensor) if i < _MOST else None) for i, tensor in enumerate(tensors)]
    memory.add(partial(_look_at_tensors, before, memory.left))


def warn_of_many(tensors: Iterable[torch.Tensor], memory: Memory) -> None:
    """The same for tensors in lists that are too long to be looked into, such as averages of 2,000 weights; at once."""
    before = [(tensor, tensor._version) for tensor in tensors if not tensor.is_inference()]
    if before:
        memory.add(partial(_look_at_many, before, memory.left))


def _is_large(value: Any) -> bool:
    may_change = type(value) is np.ndarray and value.flags.writeable and value.flags.c_contiguous
    return may_change and not (value.dtype.hasobject or is_small_array(value))


def _sum_of(array: Any) -> int:
    """A check sum of numbers that lie as far apart as each other."""
    numbers = array.reshape(-1)
    return zlib.crc32(numbers[:: -(-numbers.size // _MOST_NUMBERS)].tobytes())


def _some_of(tensor: torch.Tensor) -> torch.Tensor | None:
    """Such numbers of a tensor, on its device; None where its class may make something else of them."""
    plain = type(tensor) is torch.Tensor and tensor.layout is torch.strided and tensor.is_contiguous()
    if not plain or tensor.is_meta or tensor.is_quantized or tensor.is_complex():
        return None
    return tensor.detach().view(-1)[:: -(-tensor.numel() // _MOST_NUMBERS) or 1].clone()


def _is_other(tensor: torch.Tensor, some: torch.Tensor | None) -> bool:
    now = None if some is None else _some_of(tensor)
    return some is not None and now is not None and not same_bits(now, some)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors have the same numbers, of which NaN is one."""
    flat = (tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(*flat)


def _look(before: list[tuple[Any, int]], left: list[str]) -> None:
    for i, (array, was) in enumerate(before):
        if (now := _sum_of(array)) != was:
            logger.warning(
                "an array of shape %s that the training's function uses has changed, and is not put back: give what "
                "holds it, with a state_dict, in restore=",
                array.shape,
            )
            before[i] = (array, now)
            left.append(f"an array of shape {array.shape}, which the log names")


def _look_at_tensors(before: list[tuple[torch.Tensor, int, torch.Tensor | None]], left: list[str]) -> None:
    for i, (tensor, version, some) in enumerate(before):
        if tensor._version != version or _is_other(tensor, some):
            logger.warning(
                "a tensor of shape %s that the training's function uses has changed, and is not put back: "
                "let it be a buffer of a module, or give what holds it in restore=",
                tuple(tensor.shape),
            )
            before[i] = (tensor, tensor._version, _some_of(tensor))
            left.append(f"a tensor of shape {tuple(tensor.shape)}, which the log names")


def _look_at_many(before: list[tuple[torch.Tensor, int]], left: list[str]) -> None:
    changed = [i for i, (tensor, version) in enumerate(before) if tensor._version != version]
    if changed:
        logger.warning(
            "%d tensors in a list of more than %s items that the training's function uses have changed, and are not "
            "put back: let them be buffers of a module, or give what holds them, with a state_dict, in restore=",
            len(changed),
            f"{MOST_ITEMS:,}",
        )
        left.append(f"{len(changed)} tensors in a long list, which the log names")
    for i in changed:
        before[i] = (before[i][0], before[i][0]._version)
