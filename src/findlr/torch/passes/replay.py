"""Operations that are recorded once and then run again, without the Python and the wrappers that led to them.

Under ``torch.func.vmap`` a small net's step is mostly wrapping and unwrapping. torch's own ``make_fx`` records the same
with symbolic shapes, but takes longer than a race of a small net can win back.
"""

# ruff: noqa: SLF001 - an operation's schema has no public name

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

Tensors = Sequence[torch.Tensor]

_REFUSED = {
    torch.Tag.data_dependent_output: "depends on the values in a batch",
    torch.Tag.dynamic_output_shape: "has a shape that depends on the values in a batch",
}


class CannotRecordError(Exception):
    """What was recorded would not do the same when it is run again."""


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs every operation, and adds it to a graph."""

    def __init__(self, inputs: Tensors) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self.constants = nn.Module()
        self._nodes: dict[int, fx.Node] = {}
        self._outside: set[int] = set()  # tensors that were there before
        self._alive: list[torch.Tensor] = []  # because an id stands for a tensor only while that lives
        for i, tensor in enumerate(inputs):
            self._name(tensor, self.graph.placeholder(f"input{i}"))
            self._outside.add(id(tensor))

    def node_of(self, value: Any) -> Any:
        """The node that stands for a tensor; anything else stands for itself."""
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in self._nodes:
            name = f"constant{len(self._outside)}"
            setattr(self.constants, name, value.detach())
            self._name(value, self.graph.get_attr(name))
            self._outside.add(id(value))
        return self._nodes[id(value)]

    def _name(self, tensor: torch.Tensor, node: fx.Node) -> None:
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for tag, why in _REFUSED.items():
            if tag in func.tags:
                raise CannotRecordError(f"{func.name()} {why}")
        given, how = tree_map(self.node_of, (args, kwargs))
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.is_write and id(value) in self._outside:
                raise CannotRecordError(f"{func.name()} writes into a weight, a buffer or a batch")
        result = func(*args, **kwargs)
        node = self.graph.call_function(func, given, how)
        if isinstance(result, torch.Tensor):
            self._name(result, node)
        elif isinstance(result, (tuple, list)) and all(one is None or isinstance(one, torch.Tensor) for one in result):
            for i, one in enumerate(result):
                if one is not None:
                    self._name(one, self.graph.call_function(operator.getitem, (node, i)))
        else:
            raise CannotRecordError(f"{func.name()} gives a {type(result).__name__}, not a tensor")
        return result


def recorded(
    function: Callable[..., Tensors], inputs: Tensors
) -> tuple[list[torch.Tensor], Callable[..., list[torch.Tensor]]]:
    """Run ``function(*inputs)``, and make a function that does the same with other inputs of the same shapes.

    Args:
        function: takes and returns tensors; any others that it reads are read anew each time.
        inputs: the tensors for the first time.

    Returns:
        The results of the first time, and the new function, which gives no gradients.

    Raises:
        CannotRecordError: something in it would not do the same again.
    """
    with _Recorder(inputs) as recorder:
        results = list(function(*inputs))
    recorder.graph.output([recorder.node_of(result) for result in results])
    recorder.graph.eliminate_dead_code()
    return results, fx.GraphModule(recorder.constants, recorder.graph).forward


def leaves(value: Any) -> tuple[Tensors, Callable[[Tensors], Any], Any]:
    """The tensors of a nested value, a function that puts others in their place, and the form of the rest.

    Returns:
        Tensors, a function, and something that is equal for values that differ in their tensors' numbers only.

    Raises:
        CannotRecordError: something in ``value`` is neither a tensor, a number, a string nor None.
    """
    flat, form = tree_flatten(value)
    for one in flat:
        if not (one is None or isinstance(one, (torch.Tensor, int, float, str))):
            raise CannotRecordError(f"a batch holds a {type(one).__name__}")
    places = [i for i, one in enumerate(flat) if isinstance(one, torch.Tensor)]
    tensors = [flat[i] for i in places]
    rest = [("tensor", one.shape, one.dtype, one.stride()) if isinstance(one, torch.Tensor) else one for one in flat]

    def rebuilt(others: Tensors) -> Any:
        own = list(flat)
        for place, other in zip(places, others, strict=True):
            own[place] = other
        return form.unflatten(own)

    return tensors, rebuilt, (form, rest)
