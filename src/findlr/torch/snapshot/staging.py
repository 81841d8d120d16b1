"""Copies between a CUDA device and the host at the speed of the link, without pinning what is kept.

A copy into memory that is not pinned goes through a small buffer of the driver's, and waits for each piece: on an H100
1.7 GB/s for a snapshot and 10 for a restore, where the link has 55 (docs/performance.md). Pinning the copies
themselves is no way out: torch rounds each pinned block up to a power of two and keeps it once freed, and what is
pinned can't be swapped out. So two pinned buffers take turns: while one crosses the link, the host copies the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

_BUFFER = 1 << 25  # bytes; halves and doubles were no faster
_WORTH = 1 << 20  # bytes of a tensor from which on its pieces are worth an event each
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def staged(tensor: torch.Tensor) -> bool:
    """Whether a tensor is copied in pieces: it is large, on a CUDA device, and its numbers lie side by side."""
    return tensor.is_cuda and type(tensor) in _PLAIN and _flat(tensor) is not None and tensor.nbytes >= _WORTH


def to_host(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Copy tensors of which ``staged`` is true into the host's memory, strides and all."""
    # numpy asks Linux for huge pages, and torch does not: that more than halves the time of a first copy.
    memories = [torch.from_numpy(np.empty(t.nbytes, np.uint8)).view(t.dtype) for t in tensors]
    copies = [memory.as_strided(t.shape, t.stride()) for memory, t in zip(memories, tensors, strict=True)]
    if tensors:
        ring = _Ring()
        for here, there, buffer in ring.pieces(zip(tensors, copies, strict=True)):
            buffer.copy_(there, non_blocking=True)
            ring.afterwards(here, buffer)
        ring.close()
    return copies


def to_device(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Write what ``to_host`` gave back into its tensors: pairs of a tensor and its copy."""
    if pairs:
        ring = _Ring()
        for here, there, buffer in ring.pieces(pairs):
            buffer.copy_(here)
            there.copy_(buffer, non_blocking=True)
            ring.afterwards(None, buffer)
        ring.close()


class _Ring:
    """Pinned buffers in turn; each is free again once the device is through with it."""

    def __init__(self) -> None:
        self._turn = 0
        self._buffers = [torch.empty(_BUFFER, dtype=torch.uint8, device="cpu", pin_memory=True) for _ in range(2)]
        self._due: list[tuple[torch.cuda.Event, torch.Tensor | None, torch.Tensor] | None] = [None, None]

    def pieces(
        self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Pieces of each copy and its tensor, with the buffer of each."""
        for tensor, copy in pairs:
            here, there = _flat(copy), _flat(tensor)
            assert here is not None
            assert there is not None
            most = _BUFFER // there.element_size()
            with torch.cuda.device(tensor.device):
                for piece, other in zip(torch.split(here, most), torch.split(there, most), strict=True):
                    self._turn ^= 1
                    self._wait()
                    yield piece, other, self._buffers[self._turn].view(other.dtype)[: len(other)]

    def afterwards(self, here: torch.Tensor | None, buffer: torch.Tensor) -> None:
        """The buffer of this turn is under way; ``here`` takes what is in it then."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._due[self._turn] = event, here, buffer

    def _wait(self) -> None:
        due, self._due[self._turn] = self._due[self._turn], None
        if due is not None:
            event, here, buffer = due
            event.synchronize()
            if here is not None:
                here.copy_(buffer)

    def close(self) -> None:
        """Wait for what is still under way."""
        for _ in range(2):
            self._turn ^= 1
            self._wait()


def _flat(tensor: torch.Tensor) -> torch.Tensor | None:
    """A tensor's numbers in the order of its memory; None if there are gaps, or another tensor's between them."""
    if tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
        return None
    formats = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)
    if not any(tensor.is_contiguous(memory_format=each) for each in formats):
        return None
    return tensor.detach().as_strided((tensor.numel(),), (1,))
