"""DistributedDataParallel past its reducer: the gradients are averaged here, at the end of each backward pass.

A reducer rebuilds its buckets after its first backward pass, which changes the order of the sums of the training that
follows; and one that a backward pass has failed in can't be used again.
"""

# ruff: noqa: SLF001 - a wrapper that has not begun has no public name for that, nor has its reducer's making

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd import Variable

from findlr.torch.processes.calls import Calls


class PastReducers:
    """Takes the place of the reducers of DistributedDataParallel modules.

    Args:
        modules: the wrappers; a call of one goes to the module inside it as before.
        calls: sums the gradients.
    """

    def __init__(self, modules: Sequence[nn.parallel.DistributedDataParallel], calls: Calls) -> None:
        self._modules, self._calls = modules, calls
        self._kept: list[tuple[Any, dict[str, Any]]] = []
        self._handles: list[Any] = []
        self._parameters: list[nn.Parameter] = []
        self._buffers: list[torch.Tensor] = []
        self._pass: Any = None  # the backward pass whose end is waited for

    def begin(self) -> None:
        """From here on, the gradients are averaged here."""
        found: dict[int, nn.Parameter] = {}
        for module in self._modules:
            self._kept.append((module, {name: vars(module)[name] for name in _FLAGS if name in vars(module)}))
            module.require_backward_grad_sync = module.require_forward_param_sync = False
            if module.static_graph:
                module._static_graph_delay_allreduce_enqueued = True
            ignored = module.parameters_to_ignore
            named = module.module.named_parameters()
            found |= {id(p): p for name, p in named if p.requires_grad and name not in ignored}
            if module.broadcast_buffers:
                self._buffers += [
                    buffer
                    for name, buffer in module.module.named_buffers()
                    if name not in ignored and buffer.is_floating_point()
                ]
        self._parameters = list(found.values())
        hooked: list[Any] = self._parameters  # torch has no types for hooks
        self._handles = [p.register_post_accumulate_grad_hook(self._accumulated) for p in hooked]

    def end(self) -> None:
        """From here on, the reducers average them again; one that would be another than before is made anew."""
        for handle in self._handles:
            handle.remove()
        for module, flags in self._kept:
            for name, value in flags.items():
                setattr(module, name, value)
            if module.static_graph:
                is_as_before = module._static_graph_delay_allreduce_enqueued
            else:
                is_as_before = not module.find_unused_parameters
            if not is_as_before:
                _make_reducer(module)
        self._kept, self._handles, self._parameters, self._buffers = [], [], [], []

    def _accumulated(self, _: torch.Tensor) -> None:
        """A gradient is there: average all, once the backward pass has ended."""
        task = torch._C._current_graph_task_id()
        if task != self._pass:
            self._pass = task
            Variable._execution_engine.queue_callback(self._average)

    @torch.no_grad()
    def _average(self) -> None:
        """Let each gradient be its mean over the processes, and each buffer the first process's."""
        unused = self._unused()
        groups: dict[Any, tuple[list[torch.Tensor], list[torch.Tensor]]] = defaultdict(lambda: ([], []))
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            groups[parameter.grad.device, parameter.grad.dtype][0].append(parameter.grad)
        for buffer in self._buffers:
            groups[buffer.device, buffer.dtype][1].append(buffer)
        for gradients, buffers in groups.values():
            self._send(gradients, buffers)
        for parameter in unused:
            parameter.grad = None

    def _unused(self) -> list[nn.Parameter]:
        """The parameters without a gradient on any process, where a wrapper looks for them: they keep none."""
        if not any(module.find_unused_parameters or module.static_graph for module in self._modules):
            return []
        used = torch.tensor([*[float(p.grad is not None) for p in self._parameters], 0.0], device=self._calls.device)
        self._calls.sum(used)
        return [p for p, count in zip(self._parameters, used[:-1].tolist(), strict=True) if not count]

    def _send(self, gradients: list[torch.Tensor], buffers: list[torch.Tensor]) -> None:
        """Sum the gradients, as shares of a mean, and the first process's buffers, in one call."""
        shares = [gradient.reshape(-1) / self._calls.world_size for gradient in gradients]
        first = self._calls.rank == 0
        values = [(buffer if first else torch.zeros_like(buffer)).reshape(-1) for buffer in buffers]
        takers = [*gradients, *buffers]
        flat = torch.cat([*shares, *values, takers[0].new_zeros(1)])
        self._calls.sum(flat, wait=False)
        for part, taker in zip(torch.split(flat[:-1], [each.numel() for each in takers]), takers, strict=True):
            taker.copy_(part.view_as(taker))


_FLAGS = ("require_backward_grad_sync", "require_forward_param_sync", "_static_graph_delay_allreduce_enqueued")


def _make_reducer(module: Any) -> None:
    """A new reducer, as a wrapper makes one where it is unpickled; with its hooks."""
    parameters, expects_sparse = module._build_params_for_reducer()
    names = module._build_debug_param_to_name_mapping(parameters)
    module._ddp_init_helper(parameters, expects_sparse, names, module.static_graph)
    if module.static_graph:
        module.reducer._set_static_graph()
        module.logger._set_static_graph()
    for hook, state in module._comm_hooks:
        dist._register_comm_hook(module.reducer, state, hook)  # type: ignore[attr-defined]
