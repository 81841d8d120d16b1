"""Where a snapshot's copies of tensors live: on the tensors' device, in the host's memory, or on disk."""

# ruff: noqa: SLF001 - the parts of a sparse tensor that isn't coalesced, and calls for many tensors, have no public names

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from findlr.analysis.text import told
from findlr.errors import ConfigurationError
from findlr.search.failure import is_of_memory, is_the_trainings, note
from findlr.torch.snapshot import staging
from findlr.torch.snapshot.files import Place, TensorFile, has_bytes

logger = logging.getLogger("findlr")

StoreKind = Literal["auto", "device", "cpu", "disk"]
Kind = tuple[torch.dtype, torch.device, torch.Size]

RELIEF = (
    "a search keeps copies of the weights and of the optimizer's state on their device, and one of the weights for the "
    'control variate: snapshot="cpu" keeps the copies on the host, and goes without the control variate'
)

_FEW_BYTES = 1 << 22  # a step needs as many, and asking for the free memory takes longer than copying them

# torch has no public calls for many tensors at once. Its optimizers use these; torch 2.9 lacks _foreach_clone.
_clones: Callable[[list[torch.Tensor]], Iterable[torch.Tensor]] = getattr(
    torch, "_foreach_clone", lambda tensors: map(torch.clone, tensors)
)


class Store:
    """Keeps copies on the tensors' own device."""

    on_device = True

    def keep(self, tensors: list[torch.Tensor]) -> list[Any]:
        """Copy tensors."""
        if len(tensors) == 1:  # of any class
            return [tensors[0].clone()]
        with torch.inference_mode():  # a sixth faster than no_grad, and nothing writes into the copies
            return list(_clones(tensors))

    def read(self, copy: Any) -> torch.Tensor:
        """A copy as a tensor; not to be written to."""
        kept: torch.Tensor = copy
        return kept

    def copy_back(self, tensors: list[torch.Tensor], copies: list[Any]) -> None:
        """Write copies into their tensors."""
        if len(tensors) == 1:
            tensors[0].copy_(copies[0])
        else:
            torch._foreach_copy_(tensors, copies)

    def close(self) -> None:
        """Let go of what is not memory."""


class Stored:
    """Stands for a tensor in a copy of a state dict; its deep copy is a tensor again."""

    def __init__(self, store: Store, copy: Any) -> None:
        self._store, self._copy = store, copy

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        return self._store.read(self._copy).clone()


class HostStore(Store):
    """Keeps copies in the host's memory."""

    on_device = False

    def keep(self, tensors: list[torch.Tensor]) -> list[Any]:
        """Copy tensors."""
        large = [tensor for tensor in tensors if staging.staged(tensor)]
        copies = {id(tensor): copy for tensor, copy in zip(large, staging.to_host(large), strict=True)}
        return [copies[id(t)] if id(t) in copies else _on_host(t) for t in tensors]

    def copy_back(self, tensors: list[torch.Tensor], copies: list[Any]) -> None:
        """Write copies into their tensors."""
        large: list[tuple[torch.Tensor, Any]] = []
        small: list[tuple[torch.Tensor, Any]] = []
        for pair in zip(tensors, copies, strict=True):
            (large if staging.staged(pair[0]) else small).append(pair)
        staging.to_device(large)
        if small:
            super().copy_back(*map(list, zip(*small, strict=True)))


class DiskStore(Store):
    """Keeps copies in one temporary file without a name, so that the system frees it however the process ends.

    A tensor of a subclass is written as what it is without it. One that holds no data of its own, but other tensors,
    and one that is sparse or quantized, is kept in the host's memory.

    Raises:
        ConfigurationError: the temporary folder can't be written, or is full.
    """

    on_device = False

    def __init__(self) -> None:
        try:
            self._file = TensorFile()
        except OSError as error:
            raise _refused(error) from error

    def keep(self, tensors: list[torch.Tensor]) -> list[Any]:
        """Write each tensor behind those before it."""
        try:
            return [self._file.write(t) if has_bytes(t) else HostStore().keep([t])[0] for t in tensors]
        except OSError as error:
            self.close()
            raise _refused(error) from error

    def read(self, copy: Any) -> torch.Tensor:
        """The tensor at a place of the file."""
        return self._file.read(copy) if isinstance(copy, Place) else copy

    def copy_back(self, tensors: list[torch.Tensor], copies: list[Any]) -> None:
        """Read the file into the tensors."""
        for tensor, copy in zip(tensors, copies, strict=True):
            if isinstance(copy, Place):
                self._file.read_into(tensor, copy)
            else:
                tensor.copy_(copy)

    def close(self) -> None:
        """Close the file, which frees it."""
        self._file.close()


def keep_all(
    store: Store, once: list[list[torch.Tensor]], groups: Iterable[list[torch.Tensor]]
) -> tuple[list[list[Any]], list[list[Kind]]]:
    """Copy tensors, a list at a time, and say what they are.

    Args:
        store: keeps the copies.
        once: what is copied: the tensors, or views that name each place in memory once.
        groups: the tensors.

    Raises:
        ConfigurationError: one can't be copied.
    """
    try:
        kinds = [[(tensor.dtype, tensor.device, tensor.shape) for tensor in tensors] for tensors in groups]
        return list(map(store.keep, once)), kinds
    except Exception as error:
        if is_the_trainings(error):
            for tensor in chain.from_iterable(once):
                _try_copying(tensor)
        elif is_of_memory(error) and store.on_device and not all(t.is_cpu for t in chain.from_iterable(once)):
            note(error, RELIEF)
        raise


def _try_copying(tensor: torch.Tensor) -> None:
    try:
        _ = tensor.shape, tensor.detach().clone()  # a nested tensor of the older layout has no shape
    except Exception as error:
        raise ConfigurationError(
            f"a {type(tensor).__name__} can't be copied ({told(error)}), so it could not be put back; nothing was "
            "changed. Let its class have shape and clone, or replace it by a plain tensor"
        ) from error


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone() if tensor.is_mkldnn else tensor.to("cpu", copy=True)  # which has no kernel for that layout


def nbytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """The bytes that copies of ``tensors`` take."""
    return sum([t.nbytes if t.layout is torch.strided else bytes_of(t) for t in tensors])


def bytes_of(tensor: Any) -> int:
    """The bytes of a tensor, of its parts if it is sparse; or of an array."""
    if not isinstance(tensor, torch.Tensor):
        return int(tensor.nbytes)
    if tensor.layout is torch.sparse_coo:
        return tensor._values().nbytes + tensor._indices().nbytes
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.values().nbytes + tensor.crow_indices().nbytes + tensor.col_indices().nbytes
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.values().nbytes + tensor.ccol_indices().nbytes + tensor.row_indices().nbytes
    return tensor.values().nbytes if tensor.is_nested else tensor.nbytes


def _refused(error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"snapshot='disk' can't write to the temporary folder: {error}; nothing was changed. Make room there, point "
        "TMPDIR to another folder, or choose snapshot='cpu' or 'device'"
    )


def check(snapshot: str) -> None:
    """Refuse what does not name a store.

    Raises:
        ConfigurationError: it is none of "auto", "device", "cpu", "disk".
    """
    if not isinstance(snapshot, str) or snapshot not in get_args(StoreKind):
        raise ConfigurationError(f"snapshot must be one of {', '.join(get_args(StoreKind))}, got {snapshot!r}")


def store_for(snapshot: StoreKind, nbytes: int, free: Callable[[str], list[int | None]]) -> Store:
    """The store that was asked for; "auto" takes the first of device, cpu and disk with twice the room.

    For less than 4 MiB it takes the device without asking for the free memory.

    Args:
        snapshot: "auto", "device", "cpu" or "disk".
        nbytes: what is to be kept.
        free: gives the free bytes where copies of a kind would live; None if they are not known.
    """
    kind: str = snapshot
    if snapshot == "auto":
        kind, why = _chosen(nbytes, free)
        logger.info("snapshot='auto': %.1f MB of copies are kept on %s, %s", nbytes / 1e6, kind, why)
    return {"device": Store, "cpu": HostStore, "disk": DiskStore}[kind]()


def _chosen(nbytes: int, free: Callable[[str], list[int | None]]) -> tuple[str, str]:
    if nbytes < _FEW_BYTES:
        return "device", "because that is little"
    for kind in ("device", "cpu"):
        known = [room for room in free(kind) if room is not None]
        if not known:
            return kind, "whose free memory is not known"
        if min(known) >= 2 * nbytes:  # because the sweep's steps need some, too
            return kind, f"where {min(known) / 1e6:.0f} MB are free"
    return "disk", "because there is too little free memory"


def free_memory(device: torch.device) -> int | None:
    """The bytes that are still free on a device; None if that is not known."""
    if device.type == "cpu":
        return _free_on_host()
    backend = torch.get_device_module(device)
    try:
        free, total = backend.mem_get_info(device)
        held = int(backend.memory_allocated(device))
        share: float = getattr(backend, "get_per_process_memory_fraction", lambda _: 1.0)(device)  # torch 2.8, CUDA's
        return min(int(free) + int(backend.memory_reserved(device)), int(share * total)) - held
    except (AttributeError, RuntimeError):
        return None


def _free_on_host() -> int | None:
    """The bytes that Linux says are available, within the limit of the container."""
    rooms: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        rooms += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):  # "max" is no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        rooms.append(limit - used)
    return min(rooms, default=None)


def named(tensor: torch.Tensor) -> str:
    """A tensor by its class and shape."""
    return f"a {type(tensor).__name__} of shape {tuple(tensor.shape)}"


def writable(tensor: torch.Tensor) -> torch.Tensor:
    """A view that names each place in memory once: an expanded tensor can't be copied into."""
    if tensor.layout is not torch.strided or tensor.is_contiguous():
        return tensor
    tensor = tensor.detach()
    reach, overlaps = 1, False
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        overlaps |= size > 1 and stride < reach
        reach += stride * (size - 1)
    return tensor.as_strided((reach,), (1,)) if overlaps else tensor


def put_kinds(tensors: list[torch.Tensor], kinds: list[Kind]) -> None:
    """Give tensors their type, their device and their shape again."""
    for tensor, (dtype, device, shape) in zip(tensors, kinds, strict=True):
        if tensor.dtype is not dtype or tensor.device != device:
            tensor.data = tensor.data.to(device, dtype)
        if tensor.shape != shape and not tensor.requires_grad:
            tensor.resize_(shape)  # a buffer that a forward pass has made larger
