"""A PyTorch training: its modules, its optimizers, and everything that a step of it can change."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import LRScheduler

from findlr.analysis.plan import Plan
from findlr.errors import ConfigurationError, OptimizerError
from findlr.torch.data.batches import TorchBatches
from findlr.torch.given import check_free, check_made, chosen, listed, restorable, steps_by_itself, warn_of_strangers
from findlr.torch.losses import read_losses
from findlr.torch.pretrained import pretrained
from findlr.torch.ranks import ALONE, Ranks, computes_on
from findlr.torch.rates import (
    JointRates,
    Rates,
    described,
    family_of,
    momentum_of,
    needs_closure,
    parameters_of,
    trained_parameters,
    versions,
)
from findlr.torch.snapshot.drawn import warn_of_cudnn
from findlr.torch.snapshot.heap import keep_freed_memory
from findlr.torch.snapshot.hooks import Called, look_into
from findlr.torch.snapshot.memory import TorchMemory
from findlr.torch.snapshot.modes import remember_modes
from findlr.torch.snapshot.notes import Watched, Watches, note_optimizer, note_stateful, note_tensors, remember_rng
from findlr.torch.snapshot.reach import Reached, reached_from
from findlr.torch.snapshot.stores import Store, StoreKind, check, free_memory, store_for

Models = nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module]
Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | Mapping[str, torch.optim.Optimizer]
Sweep = int | str | Sequence[int | str] | None


class Training:
    """What every search of a PyTorch training needs, whoever takes its steps.

    Args:
        models: a module; or several, as a list or dict.
        optimizers: an optimizer; or several, as a list or dict. Wrappers around torch's are seen through.
        sweep: the index or key of the optimizer that is swept, or a list of them to sweep together, their ratio kept;
            None is the only one.
        together: sweep all of them together where ``sweep`` is None.
        restore: what else a step changes: anything with state_dict and load_state_dict.
        snapshot: where the copies live: "device", "cpu", "disk", or "auto", which goes by the free memory.
        framework: the package that takes the steps, if it is not torch; its version is among the facts.

    Raises:
        ConfigurationError: the parts do not fit; the message says which, and what to do.
    """

    def __init__(
        self,
        models: Models,
        optimizers: Optimizers,
        *,
        sweep: Sweep = None,
        together: bool = False,
        restore: Sequence[Any] = (),
        snapshot: StoreKind = "auto",
        framework: str = "",
    ) -> None:
        self.framework = framework
        self.models: list[nn.Module] = listed("model", models, nn.Module)
        self.modules = list({id(module): module for module in self.models}.values())
        self.wrappers: list[Any] = []
        self.scaler: GradScaler | None = None  # that a wrapper steps with
        given = self._unwrapped(optimizers)
        self.optimizers: list[torch.optim.Optimizer] = listed("optimizer", given, torch.optim.Optimizer)
        self.swept = list(self.optimizers) if together and sweep is None else chosen(given, sweep)
        self.rates: Rates | JointRates = Rates(self.swept[0]) if len(self.swept) == 1 else JointRates(self.swept)
        check(snapshot)
        self.snapshot_kind = snapshot
        self.restore = restorable(restore)
        self._parameters: dict[int, torch.Tensor] = {}  # of the modules, by id
        self._buffers: dict[int, torch.Tensor] = {}
        self.called = Called()
        self._knows_hooks = False
        look_into(self.modules, self._parameters, self._buffers, self.called)
        tensors = [*self._parameters.values(), *self._buffers.values(), *self.swept_parameters()]
        self.device = computes_on(tensors[0]) if tensors else torch.device("cpu")
        """Of the first parameter: batches go there."""
        self.devices = sorted({self.device, *[tensor.device for tensor in tensors]}, key=str)
        self.tensors: list[torch.Tensor] = []
        self.generators: list[Any] = []
        self.loaders: list[TorchBatches] = []
        self._out_of_reach: list[str] = []
        self.watched: list[Watches] = []
        self.batch_size: int | None = None
        """Examples in the first batch: this rank's or, once losses were read, those of all ranks."""
        self._is_of_all, self._lr = False, math.nan

    def _unwrapped(self, optimizers: Any) -> Any:
        """The torch optimizers inside wrappers that hold one as ``.optimizer``, such as Accelerate's; keeps these."""
        if isinstance(optimizers, Mapping):
            return {name: self._unwrapped(each) for name, each in optimizers.items()}
        if isinstance(optimizers, (list, tuple)):
            return [self._unwrapped(each) for each in optimizers]
        inner = getattr(optimizers, "optimizer", None)
        if isinstance(inner, torch.optim.Optimizer) and not steps_by_itself(optimizers):
            self.wrappers.append(optimizers)
            scaler = getattr(optimizers, "scaler", None)
            self.scaler = scaler if isinstance(scaler, GradScaler) else self.scaler
            return self._unwrapped(inner)
        return optimizers

    @cached_property
    def ranks(self) -> Ranks:
        """The processes that train together; asked once all that is trained is known."""
        if not (dist.is_available() and dist.is_initialized()):
            return ALONE
        from findlr.torch.processes.wrapped import ranks_of  # which loads much

        return ranks_of(self.modules, self.device)

    def swept_parameters(self) -> list[torch.Tensor]:
        """The parameters of the optimizers that are swept."""
        return parameters_of(self.swept)

    @property
    def scalers(self) -> list[GradScaler]:
        """The gradient scalers that may make an optimizer skip a step."""
        return [each for each in self.restore if isinstance(each, GradScaler)]

    @property
    def schedulers(self) -> list[LRScheduler]:
        """The schedulers that may end before a sweep does."""
        return [each for each in self.restore if isinstance(each, LRScheduler)]

    def write(self, lr: float) -> None:
        """Write a rate into the optimizers that are swept."""
        self._lr = lr
        self.rates.write(lr)

    def rewrite(self, *_: Any) -> None:
        """Write the same rate again: a hook of an optimizer's steps, so that nothing can override it."""
        self.rates.write(self._lr)

    def include(self, reached: Reached, but: Any = None) -> None:
        """Remember what a function of the user's own reaches, too, ``but`` one loader; let its modules be evaluated."""
        if reached.modules:
            inside = {id(module) for root in self.modules for module in root.modules()}
            new = [module for module in reached.modules if id(module) not in inside]
            self.modules += new
            look_into(new, self._parameters, self._buffers, self.called)
        self.optimizers += [each for each in reached.optimizers if not _among(each, self.optimizers)]
        self.restore += [each for each in reached.statefuls if not _among(each, self.restore)]
        theirs = self._parameters.keys() | self._buffers.keys()
        self.tensors += [tensor for tensor in reached.tensors if id(tensor) not in theirs]
        self.generators += reached.generators
        if reached.loaders:
            self.loaders += [TorchBatches(each) for each in reached.loaders if each is not but]

    def check_parameters(self) -> None:
        """Check that the optimizer fits the modules, and that all of it has numbers.

        Raises:
            ConfigurationError: something does not fit.
        """
        theirs = self._parameters
        swept = self.swept_parameters()
        check_made((*theirs.values(), *self._buffers.values(), *swept))
        if not swept:
            raise OptimizerError("the optimizer has no parameters: unfreeze some, or build it with model.parameters()")
        if {*theirs, *map(id, self.tensors)}.isdisjoint(map(id, swept)):  # a function may use tensors of no module
            raise OptimizerError(
                "none of the optimizer's parameters are the model's or the criterion's: build it with "
                "model.parameters()"
            )
        if not any([p.requires_grad for p in swept]):  # noqa: C419 - a list takes fewer calls
            raise OptimizerError("none of the optimizer's parameters requires grad: unfreeze those to be trained")
        check_free(self.swept)
        warn_of_strangers(theirs, self.optimizers, self.tensors)
        self._out_of_reach = warn_of_cudnn(self.modules, self.optimizers)
        if torch.device("meta") in self.devices:
            raise ConfigurationError("the model is on the meta device, where tensors have no numbers: give it some")

    def check_verify(self, *, by_closure: bool = False) -> None:
        """Refuse a race of an optimizer whose step may cost any number of passes.

        Args:
            by_closure: its first step has shown that it wants a closure.

        Raises:
            OptimizerError: it is one.
        """
        for optimizer in self.swept:
            if by_closure or needs_closure(optimizer):
                raise OptimizerError(
                    f"verify=True needs an optimizer whose step is one pass, and {type(optimizer).__name__} takes as "
                    "many as it likes, past any budget: leave verify out"
                )

    def read(self, losses: list[float | torch.Tensor]) -> list[float]:
        """The losses as numbers, the mean over the ranks; waits for the device, once."""
        if not (self._is_of_all or self.ranks.is_alone):
            self.batch_size, self._is_of_all = self.ranks.examples(self.batch_size), True
        return self.ranks.mean(read_losses(losses))

    def snapshot(self, places: Iterable[TorchBatches] = ()) -> TorchMemory:
        """Copies of everything that a step can change.

        Args:
            places: data whose place is remembered, too.
        """
        keep_freed_memory()
        memory = TorchMemory()
        try:
            if self.ranks is ALONE:
                self._remember(memory, places)
            else:
                with self.ranks.alike():
                    self.ranks.remember(memory)
                    self._remember(memory, places)
                self.ranks.any(False)  # all have one
        except BaseException:
            memory.close()  # what is only half remembered will not be put back
            raise
        return memory

    def _remember(self, memory: TorchMemory, places: Iterable[TorchBatches]) -> None:
        if not self._knows_hooks:  # before findlr adds some of its own
            self._knows_hooks = True
            self.called.add_steps(self.optimizers)
            for called, own in ((self.called.functions, False), (self.called.objects, True)):
                if called:
                    self.watched.append(Watched(*called, own=own))
                    reached = reached_from(*called)
                    self.restore += reached.modules if own else []  # whose modes no evaluation changes
                    self.include(replace(reached, modules=[] if own else reached.modules, loaders=[]))
        memory.note_modules(self.modules)
        for optimizer in self.optimizers:
            note_optimizer(optimizer, memory)
        if self.wrappers:
            memory.note(*self.wrappers, objects=True)
        for stateful in self.restore:
            note_stateful(stateful, memory)
        if self.tensors:
            note_tensors(self.tensors, memory)
        for watched in self.watched:
            watched.remember(memory)
        memory.note(*self.generators)
        memory.copy(self._store)
        for batches in (*self.loaders, *places):
            batches.remember(memory)
        remember_modes(self.devices, memory)
        remember_rng(self.devices, memory)
        memory.left += self._out_of_reach

    def _store(self, nbytes: int) -> Store:
        """Where so many bytes are kept; the same kind of place on all ranks."""
        return store_for(self.snapshot_kind, nbytes if self.ranks.is_alone else self.ranks.most(nbytes), self._free)

    def _free(self, kind: str) -> list[int | None]:
        """The free bytes where copies would live: the least of any rank."""
        where = self.devices if kind == "device" else [torch.device("cpu")]
        return [self.ranks.least(free_memory(device)) for device in where]

    def planned(self, plan: Plan) -> Plan:
        """``plan`` with what is known of the optimizer, the parameters and the start, where it leaves them open."""
        first, trained = self.swept[0], sum(map(trained_parameters, self.swept))
        return replace(
            plan,
            optimizer=plan.optimizer or family_of(first),
            momentum=momentum_of(first) if plan.momentum is None else plan.momentum,
            parameters=plan.parameters or trained or None,
            pretrained=pretrained(self.models, self.swept) if plan.pretrained is None else plan.pretrained,
        )

    def facts(self) -> dict[str, Any]:
        """The model, the batch size, the optimizer and its settings, ratios of its groups, versions."""
        ranks = {"world_size": self.ranks.world_size} if self.ranks.world_size > 1 else {}
        return {
            **(ranks if len(self.swept) == 1 else {"optimizers": len(self.swept), **ranks}),
            "model": ", ".join(type(model).__name__ for model in self.models),
            "parameters": sum([p.numel() for model in self.models for p in model.parameters()]),
            "device": ", ".join(sorted({device.type for device in self.devices})),
            "optimizer": described(self.swept),
            "ratios": list(self.rates.ratios),
            "versions": versions(self.framework),
            "batch_size": self.batch_size if self._is_of_all or self.ranks.is_alone else None,  # the same on all ranks
        }


def _among(thing: Any, things: Iterable[Any]) -> bool:
    return any(thing is each for each in things)
