"""Tensors in one temporary file without a name: the system frees it however the process ends."""

# ruff: noqa: SLF001 - a tensor without its subclass has no public name

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

BUFFER = 1 << 20  # bytes that are read or written at once


@dataclass(frozen=True)
class Place:
    """Where in the file a tensor is, and what it was: its bytes in the order of its memory."""

    start: int
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    kind: type[torch.Tensor]


class TensorFile:
    """A file for tensors that are their bytes; see ``has_bytes``.

    What is read and written goes through one buffer, which is there before the first step: after a step that ran out of
    memory there is none to be had for putting back.

    Raises:
        OSError: the temporary folder can't be written.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - open as long as this
        self._end = 0
        self._buffer = torch.empty(BUFFER, dtype=torch.uint8, device="cpu")
        numbers: Any = self._buffer.numpy()  # of a tensor itself not: what NumPy has seen can't be resized
        self._bytes = memoryview(numbers)
        self.close = weakref.finalize(self, self._file.close)  # by itself, too, when nobody has this any more

    def write(self, tensor: torch.Tensor) -> Place:
        """Write a tensor behind those before it; of a subclass, what it is without it.

        Raises:
            OSError: the disk is full.
        """
        bare = _bare(tensor)
        dense = torch.empty_like(bare, device="meta").stride()  # a view's, without what lies between its elements
        if bare.stride() != dense or bare.is_conj() or bare.is_neg():
            bare = bare.clone().resolve_conj().resolve_neg()
        kind = torch.Tensor if type(tensor) is torch.nn.Parameter else type(tensor)
        place = Place(self._end, bare.shape, bare.stride(), bare.dtype, kind)
        self._file.seek(self._end)
        for part, buffered, content in self._parts(bare):
            buffered.copy_(part)
            written = 0
            while written < len(content):
                written += self._file.write(content[written:])
        self._end += bare.nbytes
        return place

    def read(self, place: Place) -> torch.Tensor:
        """The tensor at a place."""
        tensor = torch.empty_strided(place.shape, place.stride, dtype=place.dtype)
        self._fill(tensor, place.start)
        return tensor if place.kind is torch.Tensor else tensor.as_subclass(place.kind)

    def read_into(self, tensor: torch.Tensor, place: Place) -> None:
        """The same into a tensor that is there, a few bytes at a time where both lie alike."""
        alike = (tensor.shape, tensor.stride()) == (place.shape, place.stride)
        if alike and not (tensor.is_conj() or tensor.is_neg()):
            self._fill(_bare(tensor), place.start)
        else:
            tensor.copy_(self.read(place))

    def _fill(self, tensor: torch.Tensor, start: int) -> None:
        self._file.seek(start)
        for part, buffered, content in self._parts(tensor):
            read = 0
            while read < len(content):
                read += self._file.readinto(content[read:])
            part.copy_(buffered)

    def _parts(self, dense: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, memoryview]]:
        """The elements in the order of their memory, some at a time, and their place in the buffer: as bytes, too."""
        flat = dense.as_strided((dense.numel(),), (1,))
        for part in torch.split(flat, BUFFER // flat.element_size()):
            yield part, self._buffer[: part.nbytes].view(part.dtype), self._bytes[: part.nbytes]


def has_bytes(tensor: torch.Tensor) -> bool:
    """Whether a tensor is its bytes: it wraps no other tensors, and has no parts."""
    wraps = type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
    return not wraps and tensor.layout is torch.strided and not tensor.is_quantized


def _bare(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor without its subclass, and without its gradient's graph."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        with torch._C.DisableTorchFunctionSubclass():
            tensor = tensor.as_subclass(torch.Tensor)
    return tensor.detach()
