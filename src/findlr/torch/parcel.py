"""A PyTorch training on its way to another process, with torch's random states and modes.

What only a snapshot needs stays at home: the loader where a race's batches are kept, and what is restored.
"""

# ruff: noqa: SLF001 - what a training's parts hold is theirs, and is left out here alone

from __future__ import annotations

import copyreg
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import chain
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.utils.data import DataLoader

from findlr.errors import ConfigurationError
from findlr.search.memory import Memory
from findlr.search.parcel import (
    Base,
    Looks,
    Parcel,
    here,
    pickler_of,
    refused_if_not_opened,
    refused_if_not_pickled,
)
from findlr.torch.baseline import Baseline
from findlr.torch.compiled import NoNewGraphs, compiled_in
from findlr.torch.ranks import Alone
from findlr.torch.snapshot.heap import keep_freed_memory
from findlr.torch.snapshot.hooks import Called
from findlr.torch.snapshot.notes import remember_rng
from findlr.torch.training import Training

if TYPE_CHECKING:
    from findlr.torch.trainable import TorchTrainable

_MODES: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "deterministic": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    **{
        f"cudnn.{name}": (partial(getattr, torch.backends.cudnn, name), partial(setattr, torch.backends.cudnn, name))
        for name in ("benchmark", "deterministic", "allow_tf32")
    },
}


def why_not_packed(trainable: TorchTrainable, *, forked: bool) -> str | None:
    """Why a training can't be sent to other processes, as far as it is known before its first step; or None.

    ``forked`` says that those processes are forks of this one.
    """
    training = trainable.training
    if not isinstance(training.ranks, Alone):
        return "it is a training of several processes"
    if compiled_in(training.modules):
        return "the model is compiled, and a worker would have to compile it anew: give the model before torch.compile"
    if forked and torch.get_num_threads() > 1:
        return (
            f"torch computes in {torch.get_num_threads()} threads, with which a forked process hangs: give "
            "ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('spawn')), or call torch.set_num_threads(1)"
        )
    if forked and training.device.type != "cpu":
        return (
            f"a forked process can't use {training.device.type}: give ProcessPoolExecutor(2, "
            "mp_context=multiprocessing.get_context('spawn'))"
        )
    reason: Callable[[], str | None] = getattr(trainable.taker, "why_not_packed", lambda: None)
    return reason()


def try_out(trainable: TorchTrainable, base: Base) -> None:
    """Pickle a training without its numbers, and throw the result away.

    Raises:
        ConfigurationError: it can't be pickled.
    """
    kind = pickler_of(base, _TriedOut)
    with refused_if_not_pickled():
        kind(BytesIO(), protocol=pickle.HIGHEST_PROTOCOL).dump(_light(trainable, ()))


def packed(trainable: TorchTrainable, base: Base) -> TorchParcel | str:
    """The parcel of a training that is about to begin a run; or why it can't be made."""
    reason = trainable.batches.why_not_sent()
    if reason is not None:
        return reason
    training = trainable.training
    tensors: dict[int, torch.Tensor] = {id(p): p for module in training.modules for p in module.parameters()}
    tensors |= {id(p): p for p in training.swept_parameters()}
    gradients = [(p, p.grad) for p in tensors.values() if p.grad is not None]  # which a pickled tensor is without
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - users draw from it
    there = [(d, torch.get_device_module(d).get_rng_state(d)) for d in training.devices if d.type != "cpu"]
    modes = {name: read() for name, (read, _) in _MODES.items()}
    content, kind = BytesIO(), pickler_of(base, _Torchs)
    module: Any = SimpleNamespace(Pickler=kind, __name__="pickle")
    with refused_if_not_pickled():
        whole = (_light(trainable, trainable.batches), gradients, states, there, modes)
        torch.save(whole, content, pickle_module=module, pickle_protocol=pickle.HIGHEST_PROTOCOL)
    return TorchParcel(content.getvalue(), kind.numbers, here())


def _light(trainable: TorchTrainable, batches: Any) -> TorchTrainable:
    """A training without what a run of a race does not need."""
    light = copy(trainable)
    light.batches, light.see_together, light.no_new_graphs, light._told = batches, None, NoNewGraphs(), {}
    light._baseline = Baseline(light.training, light.taker, ())
    light._held_out = copy(light._held_out)
    light._held_out._validation, light._held_out._no_new_graphs = None, light.no_new_graphs
    return light


class _Torchs(Looks):
    """Pickles what torch's own way would take something from."""

    def reduced(self, thing: Any) -> Any:
        if isinstance(thing, torch.Tensor):
            if getattr(thing, "_post_accumulate_grad_hooks", None):
                raise ConfigurationError(
                    "executor= can't be had where a parameter has a hook that runs once its gradient is there: a "
                    "worker would have none; leave executor out"
                )
        elif isinstance(thing, torch.optim.Optimizer):
            if type(thing).__getstate__ is torch.optim.Optimizer.__getstate__:  # which leaves out all but three
                wrapped = hasattr(vars(thing).get("step"), "_wrapped_by_lr_sched")
                return _made_anew(thing, ("step",) if wrapped else ())
        elif isinstance(thing, Training):
            own: dict[str, Any] = {
                "restore": thing.scalers,
                "tensors": [],
                "generators": [],
                "called": Called(),
                "watched": [],
                "_parameters": {},
                "_buffers": {},
            }
            return _made_anew(thing, (), **own)
        elif isinstance(thing, DataLoader):
            return _made_anew(thing, (), _iterator=None)  # which may have workers
        return NotImplemented

    def is_another(self, value: Any) -> bool:
        if isinstance(value, nn.Module):
            return any(True for _ in chain(value.parameters(), value.buffers()))
        if isinstance(value, torch.Tensor):
            return value.requires_grad
        return isinstance(value, (torch.optim.Optimizer, torch.Generator, GradScaler)) or super().is_another(value)


class _TriedOut(_Torchs):
    """The same, without the tensors' numbers."""

    def persistent_id(self, thing: Any) -> str | None:
        return "" if torch.is_storage(thing) or isinstance(thing, torch.storage.TypedStorage) else None


def _made_anew(thing: Any, but: Iterable[str], **changes: Any) -> Any:
    """How an object is pickled by its attributes: all but some, and some changed."""
    state = {name: value for name, value in vars(thing).items() if name not in but}
    return copyreg.__newobj__, (type(thing),), {**state, **changes}  # type: ignore[attr-defined]


@dataclass(frozen=True)
class TorchParcel(Parcel[Any]):
    """A PyTorch training as another process gets it."""

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """A block with the training; random states and modes are put back after it.

        Raises:
            ConfigurationError: it can't be opened, or would not be the same.
        """
        self.check()
        before, modes = Memory(), {name: read() for name, (read, _) in _MODES.items()}
        with refused_if_not_opened():
            whole = torch.load(BytesIO(self.content), weights_only=False)
        trainable, gradients, (python, numpy, on_cpu), there, own = whole
        keep_freed_memory()
        remember_rng([device for device, _ in there], before)
        try:
            _set(own)
            for parameter, gradient in gradients:
                parameter.grad = gradient
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            torch.set_rng_state(on_cpu)
            for device, state in there:
                torch.get_device_module(device).set_rng_state(state, device)
            yield trainable
        finally:
            _set(modes)
            before.put_back()


def _set(modes: dict[str, Any]) -> None:
    for name, value in modes.items():
        _MODES[name][1](value)
