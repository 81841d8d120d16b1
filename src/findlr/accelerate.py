"""A range test whose steps an Accelerator of Hugging Face's takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Unpack

import torch
from torch import nn

from findlr.errors import ConfigurationError, MissingExtraError, OptimizerError
from findlr.finding import Finding
from findlr.search.find import find
from findlr.search.settings import Search
from findlr.torch.arguments import How
from findlr.torch.planned import planned
from findlr.torch.scaler import Stepper
from findlr.torch.step import Criterion, LossFn
from findlr.torch.trainable import TorchTrainable
from findlr.torch.training import Optimizers, Training

try:
    import accelerate
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.state import AcceleratorState
except ImportError:
    raise MissingExtraError.of("accelerate", "accelerate") from None


_KINDS = ("NO", "MULTI_CPU", "MULTI_GPU")  # of accelerator.distributed_type


class Asked(How, Search, total=False):
    """The keywords of ``findlr.find_lr`` that are handed on."""


def find_lr(
    accelerator: accelerate.Accelerator,
    model: nn.Module,
    optimizer: Optimizers,
    criterion: Criterion | None = None,
    loader: Iterable[Any] | None = None,
    *,
    loss_fn: LossFn | None = None,
    schedule: Any = "constant",
    total_steps: int | str | None = None,
    warmup: float | None = None,
    restore: Sequence[Any] = (),
    **how: Unpack[Asked],
) -> Finding:
    """Find a good learning rate by an accelerator's own steps, and put everything back.

    It makes the gradients, over as many batches as it accumulates, clips them, and steps through its scaler. Training
    after the call is bit-identical to training without it.

    Args:
        accelerator: of one process, or of several that DistributedDataParallel joins.
        model: what ``accelerator.prepare`` gave for it.
        optimizer: the same; several, as a list or dict, are swept together, with their ratio kept.
        criterion: ``criterion(outputs, targets)``, for a loader of pairs.
        loader: the training batches, prepared or not.
        loss_fn: ``loss_fn(model, batch)``, in place of ``criterion``.
        schedule: of the training that is planned, as in ``findlr.find_lr``; a prepared scheduler, too.
        total_steps: optimizer steps of that training, or a text such as "5 epochs".
        warmup: of a schedule given by its name: a share of the training (0 to 1), or a whole number of steps.
        restore: what else a step changes: anything with state_dict and load_state_dict.
        **how: any other keyword of ``findlr.find_lr`` but train_step, autocast, scaler and accumulation_steps.

    Returns:
        The Finding; where the curve gives no suggestion, its ``verdict`` and ``why`` say what to change.

    Raises:
        ConfigurationError: an argument that cannot work, such as an optimizer that is not prepared.
        LossError: the loss is not one number with a graph; the model is put back.

    Example:
        >>> import torch
        >>> from accelerate import Accelerator
        >>> accelerator = Accelerator(cpu=True)
        >>> net = torch.nn.Linear(2, 1)
        >>> net, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1))
        >>> batches = [(torch.ones(4, 2), torch.zeros(4, 1))]
        >>> finding = find_lr(accelerator, net, optimizer, torch.nn.MSELoss(), batches, progress=False)
        >>> len(finding.curve) > 20
        True
    """
    if not isinstance(accelerator, accelerate.Accelerator):
        raise ConfigurationError(f"the accelerator comes first, got {type(accelerator).__name__}: give an Accelerator")
    if accelerator.distributed_type not in _KINDS:
        raise ConfigurationError(
            f"the accelerator trains by {accelerator.distributed_type.value}, whose steps are not known to be put "
            "back: search with accelerate launch --num_processes 1, and train at that rate"
        )
    given: dict[str, Any] = {**how}
    if decided := [name for name in ("autocast", "scaler", "accumulation_steps") if name in given]:
        raise ConfigurationError(f"the accelerator says {decided[0]}: leave it out, and make the Accelerator with it")
    taken = {name: given.pop(name) for name in How.__annotations__ if name in given}
    taken |= {"accumulation_steps": accelerator.gradient_accumulation_steps, "stepper": partial(_Stepper, accelerator)}
    trainable = _Trainable(model, optimizer, criterion, loader, loss_fn=loss_fn, restore=restore, **taken)
    trainable.training.framework = "accelerate"
    trainable.ends_short = accelerator.gradient_state.sync_with_dataloader
    return find(trainable, planned(schedule, total_steps, warmup, trainable.steps_per_epoch), **given)


class _Stepper(Stepper):
    """Takes steps by Accelerate's own calls."""

    def __init__(self, accelerator: Any, training: Training) -> None:
        super().__init__(training.swept, accelerator.scaler)
        self._accelerator = accelerator
        prepared = {id(each.optimizer): each for each in training.wrappers if isinstance(each, AcceleratedOptimizer)}
        if any(id(optimizer) not in prepared for optimizer in training.swept):
            raise OptimizerError("the optimizer is not prepared: give what accelerator.prepare(model, optimizer) gave")
        self._prepared = [prepared[id(optimizer)] for optimizer in training.swept]

    def zero_grad(self) -> None:
        self._accelerator.sync_gradients = True  # as at the end of an accumulation: only then its optimizers act
        for optimizer in self._prepared:
            optimizer.zero_grad()

    def backward(self, loss: torch.Tensor, batches: int = 1) -> None:
        if self.with_graph:
            super().backward(loss, batches)
        else:
            self._accelerator.backward(loss)  # which divides by the batches

    def clip(self, parameters: list[torch.Tensor], norm: float | None, value: float | None) -> None:
        if norm is not None:
            self._accelerator.clip_grad_norm_(parameters, norm)
        if value is not None:
            self._accelerator.clip_grad_value_(parameters, value)

    def step(self) -> bool:
        if self.scaler is not None:
            return self._watched(lambda optimizer: optimizer.step(), self._prepared)
        for optimizer in self._prepared:
            optimizer.step()
        return True


class _Trainable(TorchTrainable):
    def facts(self) -> dict[str, Any]:
        facts = super().facts()
        precision = AcceleratorState().mixed_precision
        return {**facts, "autocast": {"bf16": "bfloat16", "fp16": "float16"}.get(precision)}
