"""What a search asks of the C library's allocator."""

from __future__ import annotations

from contextlib import suppress

import torch

_BLOCK_BYTES = 31 << 20  # just below the most that glibc adapts to, 32 MiB


def keep_freed_memory() -> None:
    """Let glibc keep the memory that steps free for the steps to come.

    glibc returns large freed blocks to the system, so that each step takes their pages anew. It stops once the process
    has freed a block of 31 MiB, which is done here. The block is never written to, so it takes no memory. Other
    allocators behave as before.

    Example:
        >>> keep_freed_memory()

    Source: M_MMAP_THRESHOLD in mallopt(3), "Note: Nowadays, glibc uses a dynamic mmap threshold by default".
    """
    with suppress(RuntimeError):  # under a tight limit of memory the search goes on without
        torch.UntypedStorage(_BLOCK_BYTES, device="cpu")  # type: ignore[no-untyped-call]
