"""What a search asks of the C library's allocator."""

from __future__ import annotations

from contextlib import suppress

import torch

_BLOCK_BYTES = 31 << 20  # just below the most that glibc adapts to, 32 MiB


def keep_freed_memory() -> None:
    """Let glibc keep the memory that steps free for the steps to come.

    glibc gives freed blocks back to the system, and takes each page again in the next step, until the process has freed
    a block as large; what a search keeps moves the heap's top, and can make that worse. So such a block is freed here,
    untouched, which takes no memory. Other allocators do as they did.

    Example:
        >>> keep_freed_memory()

    Source: M_MMAP_THRESHOLD in mallopt(3), "Note: Nowadays, glibc uses a dynamic mmap threshold by default".
    """
    with suppress(RuntimeError):  # a process that may not have so much does without
        torch.UntypedStorage(_BLOCK_BYTES, device="cpu")  # type: ignore[no-untyped-call]
