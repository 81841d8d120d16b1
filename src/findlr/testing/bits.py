"""What a nested value is, bit for bit and by place: so that two trainings can be compared, in two processes, too."""

from __future__ import annotations

import random
import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from hashlib import sha256
from typing import Any

import numpy as np

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def bits(value: Any, where: str = "") -> dict[str, str]:
    """A digest of each part of a nested value, by its place.

    Args:
        value: containers, arrays, tensors and plain values, nested as you like.
        where: the place of ``value`` itself.

    Returns:
        The same for values that are the same, bit for bit: NaN is NaN, and 0.0 is not -0.0.

    Example:
        >>> bits({"a": [1, 2]}) == bits({"a": [1, 2]})
        True
        >>> list(bits({"a": [1, 2]}))
        ['the value (its keys)', 'a (its length)', 'a[0]', 'a[1]']
    """
    if isinstance(value, Mapping):
        found = {f"{where or 'the value'} (its keys)": _digest([str(key) for key in value])}
        for key, item in value.items():
            found |= bits(item, f"{where}.{key}".lstrip("."))
        return found
    if isinstance(value, (list, tuple, deque)):
        found = {f"{where or 'the value'} (its length)": str(len(value))}
        for i, item in enumerate(value):
            found |= bits(item, f"{where}[{i}]")
        return found
    return {where or "the value": _digest(value)}


def differing(one: Any, other: Any) -> Iterator[str]:
    """The places at which two nested values are not the same, bit for bit.

    Example:
        >>> list(differing({"a": [1, 2]}, {"a": [1, 3]}))
        ['a[1]']
    """
    first, second = bits(one), bits(other)
    return (place for place in first | second if first.get(place) != second.get(place))


def draws() -> dict[str, Any]:
    """The global random states: Python's, NumPy's, and torch's on each device, if it is loaded."""
    states: dict[str, Any] = {"random": repr(random.getstate()), "numpy": np.random.get_state()}  # noqa: NPY002
    torch = sys.modules.get("torch")
    if torch is None:
        return states
    states["torch"] = torch.get_rng_state()
    return states | ({"cuda": torch.cuda.get_rng_state_all()} if torch.cuda.is_initialized() else {})


def _digest(value: Any) -> str:
    return sha256(_bytes(value)).hexdigest()


def _bytes(value: Any) -> bytes:
    kind = type(value).__name__.encode()
    if hasattr(value, "detach"):  # a tensor
        torch, value = sys.modules["torch"], value.detach().cpu()
        kind = f"{value.dtype} {tuple(value.shape)}".encode()
        if value.layout is not torch.strided:
            return kind + _bytes(value.to_dense())
        if value.is_quantized:
            return kind + _bytes(value.int_repr())
        plain = value.resolve_conj().resolve_neg().contiguous().reshape(-1)
        return kind + bytes(plain.view(torch.uint8).numpy().tobytes())
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        kind = f"{array.dtype.str} {array.shape}".encode()
        return kind + (repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
    text = repr(sorted(map(repr, value)) if isinstance(value, AbstractSet) else value)
    return kind + _ADDRESS.sub("", text).encode()
